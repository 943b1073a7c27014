//! The log line of an ended call. It contains the call's history. So the lines of single events have the level `debug`.

use ringback_core::call::Call;

/// Whether this change ends the call, or changes how it has ended.
pub(crate) fn is_end(before: Option<&Call>, after: &Call) -> bool {
    let before = before.map(|call| call.status);
    after.status.is_final() && before != Some(after.status)
}

/// Logs the call: its ids, its end, and what happened when.
pub(crate) fn log(call: &Call) {
    tracing::info!(
        call_id = %call.call_id,
        call_sid = call.call_sid.as_ref().map(tracing::field::display),
        extension = %call.extension,
        status = call.status.as_str(),
        reason = call.end_reason().map(|reason| reason.as_str()),
        history = story(call),
        "call ended"
    );
}

/// Each line of the call's history, with the seconds since the call began.
fn story(call: &Call) -> String {
    let lines = call.history.iter().map(|line| {
        let seconds = line.at.since(call.created_at).as_secs_f64();
        match &line.by {
            Some(by) => format!("{seconds:.2} {} ({by})", line.event),
            None => format!("{seconds:.2} {}", line.event),
        }
    });
    lines.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ringback_core::call::{CallStatus, HistoryEntry};
    use ringback_core::testing::a_call;
    use ringback_core::timestamp::Timestamp;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    #[test]
    fn the_story_has_each_event_with_its_time() {
        let mut call = a_call(NOW);
        let line = |millis, event: &str, by: Option<&str>| HistoryEntry {
            at: NOW + Duration::from_millis(millis),
            event: event.to_owned(),
            by: by.map(ToOwned::to_owned),
        };
        call.history = vec![
            line(0, "ring", None),
            line(3_216, "accept_ready", Some("1001/pixel")),
        ];
        assert_eq!(story(&call), "0.00 ring, 3.22 accept_ready (1001/pixel)");
    }

    #[test]
    fn a_call_is_told_when_it_ends_and_when_its_end_changes() {
        let ringing = a_call(NOW);
        let ended_as = |status| {
            let mut call = ringing.clone();
            call.status = status;
            call
        };
        let timed_out = ended_as(CallStatus::TimedOut);
        let completed = ended_as(CallStatus::Completed);
        assert!(is_end(Some(&ringing), &timed_out));
        assert!(is_end(Some(&timed_out), &completed));
        assert!(is_end(None, &completed));
        assert!(!is_end(Some(&completed), &completed));
        assert!(!is_end(None, &ringing));
    }
}
