//! Says in words what the API reports by name, and when. A name without words is shown with spaces: a newer deployment may have it.

use ringback_core::timestamp::Timestamp;
use serde_json::Value;

/// A call's status, of `GET /api/calls` or of an update.
pub(crate) fn status(name: &str) -> String {
    let words = match name {
        "waiting_for_mobile" => "ringing",
        "mobile_ready" => "connecting",
        "in_progress" | "in-progress" => "talking",
        "completed" => "ended",
        "timed_out" | "no-answer" => "not answered",
        "initiated" => "dialing",
        other => return readable(other),
    };
    words.to_owned()
}

/// Why a call ended.
pub(crate) fn reason(name: &str) -> String {
    let words = match name {
        "callee_hung_up" => "the callee hung up",
        "callee_declined" => "the callee declined",
        "busy" => "the callee was in another conversation",
        "do_not_disturb" => "the callee wanted no calls",
        "caller_hung_up" => "the caller hung up",
        "answered_elsewhere" => "it was answered at another destination",
        "declined_elsewhere" => "it was declined at another destination",
        "hung_up" => "one side hung up",
        "no_answer" => "nobody answered in time",
        "no_device" => "the extension has no device, and no app of it is connected",
        "push_failed" => "all push services refused the push",
        "phone_unreachable" => "the app was ready, but its phone was not reached over SIP",
        "caller_unreachable" => "the caller's own phone is not registered over SIP",
        "not_connected" => "the phone was ready, but the legs were not bridged in time",
        "talked_too_long" => "the conversation reached its time limit",
        "number_busy" => "the number was busy",
        "network_failed" => "the network could not connect the call",
        "exotel_refused" => "Exotel refused the call",
        "exotel_no_balance" => "the Exotel account has no balance left",
        "exotel_too_many" => "the Exotel account has placed too many calls within a minute",
        "exotel_unavailable" => "Exotel could not be reached",
        "exotel_not_configured" => "no usable Exotel account is configured",
        "never_reported" => "no report of the call arrived",
        other => return readable(other),
    };
    words.to_owned()
}

/// A line of a call's history.
pub(crate) fn event(name: &str, by: Option<&str>) -> String {
    let words = match name {
        "ring" => "the call begins",
        "initiate" => "an app starts the call",
        "ringing" => "a device rings",
        "call_reported" => "Exotel reports the call",
        "caller_leg_arrived" => "the caller's leg reaches the PBX",
        "caller_leg_ended" => "the caller's leg ends",
        "agent_done" => "Exotel is done with this agent",
        "phone_leg_ended" => "the phone's leg ends",
        "phone_moved" => "the call moves to the phone's new address",
        "caller_phone_located" => "the caller's phone is found",
        "caller_phone_dialed" => "the caller's phone is dialed",
        "caller_unreachable" => "the caller's phone is not reached",
        "push_sent" => "a push is sent",
        "push_not_sent" => "no push is sent",
        "push_delayed" => "no push service has accepted a push yet",
        "clients_rung" => "connected apps ring",
        "callee_unavailable" => "the callee takes no call",
        "accept" => "a running app accepts",
        "accept_ready" => "an app accepts and is ready",
        "decline" => "a device declines",
        "hangup" => "an app hangs up",
        "bridged" => "the legs are bridged: both sides talk",
        "bridge_ended" => "the bridge ends",
        "not_bridged" => "the legs are not bridged",
        "stream_started" => "Exotel streams the audio",
        "stream_stopped" => "Exotel stops streaming",
        "timer_fired" => "the timer fires",
        "timer_repeated" => "the timer fires again",
        "requested_again" => "the request is repeated",
        "exotel_progress" => "Exotel reports progress",
        "exotel_no_answer" => "Exotel does not answer",
        "outbound_call_rejected" => "Exotel rejects the call",
        "replica_overwritten" => "the other region's version replaces this one",
        other => return with_detail(&readable(other), by.map(str::to_owned)),
    };
    let detail = by.map(|by| match name {
        "push_not_sent" | "callee_unavailable" | "outbound_call_rejected" => reason(by),
        "caller_leg_ended" | "phone_leg_ended" => by
            .replace("answered=true", "answered")
            .replace("answered=false", "not answered")
            .replace(" cause=", ", cause "),
        "exotel_progress" | "replica_overwritten" => status(by),
        _ => by.to_owned(),
    });
    with_detail(words, detail)
}

fn with_detail(words: &str, detail: Option<String>) -> String {
    match detail {
        Some(detail) => format!("{words} ({detail})"),
        None => words.to_owned(),
    }
}

fn readable(name: &str) -> String {
    name.replace(['_', '-'], " ")
}

/// A time that the API writes in epoch milliseconds, in UTC.
pub(crate) fn time(value: &Value) -> Option<Timestamp> {
    value.as_u64().map(Timestamp::from_millis)
}

/// A time in UTC, to the second: `2026-11-21 08:00:00Z`.
pub(crate) fn utc(time: Timestamp) -> String {
    let seconds = Timestamp::from_millis(time.as_millis() / 1000 * 1000);
    seconds.to_iso().replace('T', " ")
}

/// How long after the begin of the call: `+0.25 s`, `+12.3 s`, `+3:05 min`.
pub(crate) fn elapsed(since: Timestamp, at: Timestamp) -> String {
    let elapsed = at.since(since).as_secs_f64();
    match elapsed {
        short if short < 9.995 => format!("+{short:.2} s"),
        short if short < 59.95 => format!("+{short:.1} s"),
        _ => format!("+{} min", clock(since, at)),
    }
}

/// A duration as a stopwatch shows it: `0:07`, `12:30`.
pub(crate) fn clock(from: Timestamp, to: Timestamp) -> String {
    let seconds = to.since(from).as_secs();
    format!("{}:{:02}", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_history_has_its_cause_in_words() {
        for (name, by, expected) in [
            ("bridged", None, "the legs are bridged: both sides talk"),
            ("push_sent", Some("2 devices"), "a push is sent (2 devices)"),
            (
                "push_not_sent",
                Some("no_device"),
                "no push is sent (the extension has no device, and no app of it is connected)",
            ),
            (
                "phone_leg_ended",
                Some("answered=false cause=17"),
                "the phone's leg ends (not answered, cause 17)",
            ),
            ("of_the_future", Some("x"), "of the future (x)"),
        ] {
            assert_eq!(event(name, by), expected);
        }
    }

    #[test]
    fn times_are_as_long_as_they_need_to_be() {
        let begin = Timestamp::from_millis(1_732_175_943_250);
        for (millis, expected) in [
            (0, "+0.00 s"),
            (250, "+0.25 s"),
            (12_340, "+12.3 s"),
            (59_990, "+0:59 min"),
            (185_000, "+3:05 min"),
        ] {
            let at = Timestamp::from_millis(begin.as_millis() + millis);
            assert_eq!(elapsed(begin, at), expected);
        }
        assert_eq!(utc(begin), "2024-11-21 07:59:03Z");
    }
}
