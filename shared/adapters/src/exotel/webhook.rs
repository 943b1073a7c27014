//! Exotel's reports on a call: the request of the Passthru applet, the StatusCallback, and the popup URL of the Connect applet.
//!
//! - <https://support.exotel.com/support/solutions/articles/48283-working-with-passthru-applet>
//! - <https://support.exotel.com/support/solutions/articles/48284-agent-pass-through-knowing-when-an-agent-gets-a-call>: the popup
//!   URL reports one *agent*, and not the call. `Status=busy` means that the agent begins to be called, rings or talks, and
//!   `Status=free` that Exotel is done with him: he did not answer, or the conversation is over.
//!
//! docs/compatibility.md says in which forms these reports were seen.

use std::time::Duration;

use ringback_core::call::{CallSide, CallStatus, Event};
use ringback_core::ids::{BadName, CallId, CallSid};
use ringback_core::phone_number::{Caller, CallerName, PhoneNumber};
use ringback_core::timestamp::Timestamp;

use super::india_time::parse_india_time;
use super::status_words::{means_ended, progress_of_word};
use crate::form_fields::FormFields;

/// A report older than a ring, but younger than this, is a repetition. An older one is taken as new: its clock is probably
/// in another time zone, because Exotel's dates have none.
const MAX_REPETITION_AGE: Duration = Duration::from_secs(60 * 60);

/// A report on one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExotelWebhook {
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// Who started the call.
    pub direction: CallDirection,
    /// The caller.
    pub caller: Caller,
    /// The number that was dialled.
    pub to: Option<PhoneNumber>,
    /// The agent's number, in a report of the popup URL.
    pub agent: Option<PhoneNumber>,
    /// Whether the call has ended.
    pub stage: CallStage,
    /// The progress of a call that Ringback placed; `None` for every other call.
    pub progress: Option<CallStatus>,
    /// Ringback's id of a call that it placed, from the `CustomField` that Exotel repeats.
    pub call_id: Option<CallId>,
    /// The kind of this report.
    pub source: WebhookSource,
    /// When Exotel sent the report.
    pub reported_at: Option<Timestamp>,
}

/// Who started a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallDirection {
    /// A caller dialled one of the deployment's numbers.
    Inbound,
    /// Ringback placed the call, or another user of the Exotel account did.
    Outbound,
}

/// Whether a call has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallStage {
    /// The caller is on the line.
    Ongoing,
    /// Exotel is done with one agent. The caller may be on the line.
    AgentDone,
    /// The call has ended.
    Ended,
}

/// The kind of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WebhookSource {
    /// The Passthru applet. The call flow waits for the answer and branches on its status code.
    Passthru,
    /// A StatusCallback. Exotel repeats it after 5 and 15 minutes unless the answer is 200.
    StatusCallback,
}

impl ExotelWebhook {
    /// Parses a report. `country` (ISO 3166) is the country of numbers without a country code.
    ///
    /// # Errors
    /// When `CallSid` is missing or malformed.
    pub fn parse(fields: &FormFields, country: &str) -> Result<Self, BadName> {
        let missing = BadName {
            what: "CallSid",
            rule: "is missing",
        };
        let call_sid = CallSid::try_from(fields.text("CallSid").ok_or(missing)?)?;
        let either = |first, second| fields.text(first).or_else(|| fields.text(second));
        let agent_stage = agent_stage(fields);
        let number = |name| fields.phone_number(name, country);
        Ok(Self {
            call_sid,
            direction: match agent_stage {
                // Exotel's help says `outbound-dial` here, and its users got `incoming`.
                Some(_) => CallDirection::Inbound,
                None => direction(fields),
            },
            caller: Caller::on_network(
                number(if fields.text("CallFrom").is_some() {
                    "CallFrom"
                } else {
                    "From"
                }),
                fields.with_quotes("CallerName").and_then(caller_name),
            ),
            to: number("CallTo").or_else(|| number("To")),
            agent: agent_stage.and_then(|_| number("DialWhomNumber")),
            stage: agent_stage.unwrap_or_else(|| stage(fields)),
            progress: progress(fields),
            call_id: fields
                .text("CustomField")
                .and_then(|text| CallId::try_from(text).ok()),
            source: source(fields),
            reported_at: either("CurrentTime", "DateUpdated").and_then(parse_india_time),
        })
    }

    /// Whether the report is older than a phone rings, so that its caller has hung up long ago. `ring` is the longest ring.
    #[must_use]
    pub fn is_repetition(&self, ring: Duration, now: Timestamp) -> bool {
        let age = self
            .reported_at
            .map_or(Duration::ZERO, |reported| now.since(reported));
        age > ring && age < MAX_REPETITION_AGE
    }

    /// The event for a call that Ringback placed; `None` for every other call.
    #[must_use]
    pub fn progress_event(&self) -> Option<Event> {
        self.progress.map(|progress| Event::ExotelProgress {
            call_sid: self.call_sid.clone(),
            status: progress,
        })
    }

    /// The event of a report that an inbound call has ended, or that Exotel has stopped calling its agent. `None` for other reports.
    #[must_use]
    pub const fn end_event(&self) -> Option<Event> {
        match self.stage {
            CallStage::Ongoing => None,
            CallStage::AgentDone => Some(Event::AgentDone),
            // Exotel also reports "completed" when it only played a greeting, so this does not say that the legs were
            // bridged.
            CallStage::Ended => Some(Event::CallerLegEnded {
                leg: None,
                answered: false,
                by: CallSide::Caller,
            }),
        }
    }
}

/// Exotel writes `null` for a value that it does not have.
fn caller_name(text: &str) -> Option<CallerName> {
    let is_missing = matches!(text.trim_matches('"'), "" | "null");
    (!is_missing).then(|| CallerName::parse(text)).flatten()
}

/// `Direction` is `incoming` (Passthru), `inbound` (StatusCallback), `outbound-dial` or `outbound-api`.
fn direction(fields: &FormFields) -> CallDirection {
    match fields.text("Direction") {
        Some(text) if text.starts_with("outbound") => CallDirection::Outbound,
        _ => CallDirection::Inbound,
    }
}

/// What the popup URL reports of an agent; `None` for every other report. Without the events, which Exotel switches on for an account
/// on request, only `Status` and `DialWhomNumber` say that the report is one of the popup URL.
fn agent_stage(fields: &FormFields) -> Option<CallStage> {
    let names_agent = fields.text("DialWhomNumber").is_some();
    let status = fields.text("Status").unwrap_or_default();
    let is_free = status.eq_ignore_ascii_case("free");
    let is_busy = status.eq_ignore_ascii_case("busy");
    let is_being_called = ["dial", "ringing", "answered"]
        .into_iter()
        .any(|event| is_event(fields, event));
    let has_event = fields.text("EventType").is_some();
    let says_busy = is_busy && names_agent && !has_event;
    let says_called = is_being_called && (is_busy || is_free || (names_agent && status.is_empty()));
    if fields.text("Direction") == Some("outbound-api") {
        None
    } else if says_called || says_busy {
        Some(CallStage::Ongoing)
    } else if is_free || (is_event(fields, "terminal") && names_agent && status.is_empty()) {
        Some(CallStage::AgentDone)
    } else {
        None
    }
}

fn stage(fields: &FormFields) -> CallStage {
    let words = [
        fields.text("Status"),
        fields.text("CallType"),
        fields.text("DialCallStatus"),
    ];
    let has_ended = is_event(fields, "terminal") || words.into_iter().flatten().any(means_ended);
    if has_ended {
        CallStage::Ended
    } else {
        CallStage::Ongoing
    }
}

/// Ringback places calls through the API only.
fn progress(fields: &FormFields) -> Option<CallStatus> {
    if fields.text("Direction") != Some("outbound-api") {
        return None;
    }
    let by_status = fields.text("Status").and_then(progress_of_word);
    if let Some(end) = by_status.filter(|progress| progress.is_final()) {
        Some(end)
    } else if is_event(fields, "terminal") {
        // The call has ended with a status that Exotel does not document.
        Some(CallStatus::Failed)
    } else if is_event(fields, "ringing") {
        // AgentStream reports it. Exotel says `in-progress` from the start.
        Some(CallStatus::Ringing)
    } else if is_event(fields, "answered") && second_number_rings(fields) {
        Some(CallStatus::Ringing)
    } else if is_event(fields, "answered") {
        Some(CallStatus::InProgress)
    } else {
        by_status
    }
}

/// Whether the first number has answered and the second one has not. Exotel sends the event `answered` in both cases, and
/// its reference does not distinguish them. Its users do, by the status of the legs.
fn second_number_rings(fields: &FormFields) -> bool {
    let is_answered = |leg| fields.text(leg) == Some("in-progress");
    is_answered("Legs[0][Status]") && fields.text("Legs[1][Status]").is_none()
}

fn is_event(fields: &FormFields, event: &str) -> bool {
    fields
        .text("EventType")
        .is_some_and(|text| text.eq_ignore_ascii_case(event))
}

/// Only StatusCallbacks have one of these fields.
fn source(fields: &FormFields) -> WebhookSource {
    let has_status = fields
        .text("EventType")
        .or_else(|| fields.text("Status"))
        .is_some();
    if has_status {
        WebhookSource::StatusCallback
    } else {
        WebhookSource::Passthru
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SID: &str = "5a1e0f9c2b3d4e5f60718293a4b5c6d7";

    fn webhook(query: &str) -> ExotelWebhook {
        let query = format!("CallSid={SID}&{query}");
        ExotelWebhook::parse(&FormFields::from_form(query.as_bytes()), "IN").unwrap()
    }

    #[test]
    fn a_passthru_request_reports_a_waiting_caller() {
        let webhook = webhook(
            "CallFrom=09876543210&CallTo=08047491899&Direction=incoming&CallType=call-attempt",
        );
        assert_eq!(webhook.source, WebhookSource::Passthru);
        assert_eq!(
            (webhook.direction, webhook.stage),
            (CallDirection::Inbound, CallStage::Ongoing)
        );
        assert_eq!(webhook.caller.shown(), "+919876543210");
        assert_eq!(webhook.to.unwrap().as_str(), "+918047491899");
    }

    #[test]
    fn every_final_status_means_that_the_call_has_ended() {
        for ended in [
            "Status=no-answer",
            "EventType=terminal&Status=busy",
            "CallType=client-hangup",
            "DialCallStatus=canceled",
        ] {
            assert_eq!(webhook(ended).stage, CallStage::Ended, "{ended}");
        }
        assert_eq!(
            webhook("EventType=terminal&Status=completed").stage,
            CallStage::Ended
        );
        for ongoing in [
            "",
            "Status=in-progress",
            "EventType=answered&Status=in-progress",
            "Status=ringing",
        ] {
            assert_eq!(webhook(ongoing).stage, CallStage::Ongoing, "{ongoing}");
        }
    }

    /// The order in which the popup URL reports one agent, in the forms that Exotel documents (`outbound-dial`) and that its users got
    /// (`incoming`), with and without the events.
    #[test]
    fn the_popup_url_reports_an_agent_and_not_the_end_of_the_call() {
        for (fields, stage) in [
            ("Status=busy&EventType=Dial", CallStage::Ongoing),
            ("Status=busy&EventType=Ringing", CallStage::Ongoing),
            ("Status=busy&EventType=Answered", CallStage::Ongoing),
            ("Status=free&EventType=Terminal", CallStage::AgentDone),
            ("Status=busy", CallStage::Ongoing),
            ("Status=free", CallStage::AgentDone),
            ("EventType=Terminal", CallStage::AgentDone),
        ] {
            for direction in ["", "&Direction=incoming", "&Direction=outbound-dial"] {
                let popup = webhook(&format!(
                    "{fields}{direction}&CallFrom=09876543210&CallTo=08047491899&DialWhomNumber=08047491800"
                ));
                let is = (popup.direction, popup.stage, popup.progress);
                let expected = (CallDirection::Inbound, stage, None);
                assert_eq!(is, expected, "{fields}{direction}");
                assert_eq!(popup.agent.unwrap().as_str(), "+918047491800");
                assert_eq!(popup.source, WebhookSource::StatusCallback);
            }
        }
        // The agent of a trunk has no number.
        let popup = webhook("Status=busy&EventType=Dial&DialWhomNumber=sip%3Atrunk-1");
        assert_eq!((popup.stage, popup.agent), (CallStage::Ongoing, None));
    }

    #[test]
    fn a_busy_call_has_ended() {
        for ended in ["Status=busy", "Status=busy&EventType=terminal"] {
            let inbound = webhook(&format!("{ended}&Direction=inbound"));
            assert_eq!(inbound.stage, CallStage::Ended, "{ended}");
            let placed = webhook(&format!("{ended}&Direction=outbound-api"));
            assert_eq!(placed.progress, Some(CallStatus::Declined), "{ended}");
        }
        let after_connect = "DialWhomNumber=08047491800&DialCallStatus=busy&CallType=incomplete";
        assert_eq!(webhook(after_connect).stage, CallStage::Ended);
    }

    proptest! {
        #[test]
        fn an_agent_who_is_called_or_free_ends_no_call(
            event in prop::sample::select(vec!["Dial", "Ringing", "Answered", "dial", "ANSWERED", " Dial", "Terminal", ""]),
            status in prop::sample::select(vec!["busy", "free", "Busy", "FREE"]),
            direction in prop::sample::select(vec!["incoming", "inbound", "outbound-dial", ""]),
            agent in prop::sample::select(vec!["08047491800", "sip:trunk-1", "null"]),
        ) {
            let is_end_of_call = event == "Terminal" && status.eq_ignore_ascii_case("busy");
            let report = webhook(&format!(
                "Status={status}&EventType={event}&Direction={direction}&DialWhomNumber={agent}"
            ));
            prop_assert_eq!(report.stage == CallStage::Ended, is_end_of_call);
            let is_free = status.eq_ignore_ascii_case("free");
            prop_assert_eq!(report.stage == CallStage::AgentDone, is_free && matches!(event, "Terminal" | ""));
        }
    }

    #[test]
    fn a_repetition_after_5_or_15_minutes_is_recognised_by_its_time() {
        let webhook = webhook("CurrentTime=2024-03-14+17%3A30%3A00");
        let reported = Timestamp::from_millis(1_710_417_600_000);
        assert_eq!(webhook.reported_at, Some(reported));
        let ring = Duration::from_secs(30);
        for (minutes, is_repetition) in [(0, false), (5, true), (15, true), (150, false)] {
            let now = reported + Duration::from_secs(minutes * 60);
            assert_eq!(
                webhook.is_repetition(ring, now),
                is_repetition,
                "{minutes} min"
            );
        }
    }

    #[test]
    fn a_call_placed_through_the_api_is_outbound() {
        assert_eq!(
            webhook("Direction=outbound-api").direction,
            CallDirection::Outbound
        );
    }

    #[test]
    fn the_progress_of_a_placed_call_follows_from_its_status_and_event() {
        for (fields, progress) in [
            ("Status=queued", Some(CallStatus::Initiated)),
            ("Status=ringing", Some(CallStatus::Ringing)),
            (
                "EventType=answered&Status=in-progress",
                Some(CallStatus::InProgress),
            ),
            ("EventType=ringing", Some(CallStatus::Ringing)),
            (
                "EventType=Ringing&Status=in-progress",
                Some(CallStatus::Ringing),
            ),
            (
                "EventType=ringing&Status=no-answer",
                Some(CallStatus::TimedOut),
            ),
            ("EventType=answered", Some(CallStatus::InProgress)),
            (
                "EventType=answered&Status=in-progress&Legs[0][Status]=in-progress&Legs[1][Status]=",
                Some(CallStatus::Ringing),
            ),
            (
                "EventType=answered&Legs[0][Status]=in-progress&Legs[1][Status]=in-progress",
                Some(CallStatus::InProgress),
            ),
            (
                "EventType=terminal&Status=no-answer&Legs[0][Status]=in-progress&Legs[1][Status]=",
                Some(CallStatus::TimedOut),
            ),
            (
                "EventType=terminal&Status=completed",
                Some(CallStatus::Completed),
            ),
            ("EventType=terminal&Status=busy", Some(CallStatus::Declined)),
            ("Status=no-answer", Some(CallStatus::TimedOut)),
            ("Status=canceled", Some(CallStatus::Canceled)),
            ("EventType=Terminal", Some(CallStatus::Failed)),
            (
                "EventType=terminal&Status=in-progress",
                Some(CallStatus::Failed),
            ),
            ("Status=free", None),
        ] {
            let placed = webhook(&format!("Direction=outbound-api&{fields}"));
            assert_eq!(placed.progress, progress, "{fields}");
            for other in ["inbound", "outbound-dial"] {
                let other = webhook(&format!("Direction={other}&{fields}"));
                assert_eq!(other.progress, None, "{fields}");
            }
        }
    }

    #[test]
    fn null_is_not_the_name_of_a_caller() {
        let name = |text: &str| {
            let caller = webhook(&format!("CallFrom=09876543210&CallerName={text}")).caller;
            caller.name.map(|name| name.as_str().to_owned())
        };
        for missing in ["null", "%22null%22", "+null+", "", "%22%22"] {
            assert_eq!(name(missing), None, "{missing}");
        }
        for shown in ["Asha", "Null", "Jennifer+Null"] {
            assert_eq!(name(shown), Some(shown.replace('+', " ")), "{shown}");
        }
    }

    #[test]
    fn a_placed_call_repeats_its_call_id() {
        let ours = CallId::fresh();
        let webhook_with = |field: &str| webhook(&format!("CustomField={field}")).call_id;
        assert_eq!(webhook_with(&ours.to_string()), Some(ours));
        assert_eq!(webhook_with("order+17"), None);
    }

    #[test]
    fn a_report_without_a_valid_call_sid_is_rejected() {
        for query in ["", "CallSid=", "CallSid=a%2Fb"] {
            assert_eq!(
                ExotelWebhook::parse(&FormFields::from_form(query.as_bytes()), "IN")
                    .unwrap_err()
                    .what,
                "CallSid"
            );
        }
    }
}
