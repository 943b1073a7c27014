//! What Exotel reports of a call: the Passthru applet's request and the StatusCallback.
//!
//! <https://support.exotel.com/support/solutions/articles/48283-working-with-passthru-applet>

use std::time::Duration;

use super::indian_time;
use super::status_words::status_of_word;
use crate::api::form::Fields;
use ringback_core::call::CallStatus;
use ringback_core::call::{CallSide, Event};
use ringback_core::ids::{BadName, CallId, CallSid};
use ringback_core::phone_number::{Caller, CallerName, PhoneNumber};
use ringback_core::timestamp::Timestamp;

/// What Exotel reports of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExotelWebhook {
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// Who asked for the call.
    pub direction: Direction,
    /// Who calls.
    pub caller: Caller,
    /// The number that was dialled.
    pub to: Option<PhoneNumber>,
    /// How far the call has come.
    pub stage: Stage,
    /// How far a call has come that we asked for; `None` for every other call.
    pub progress: Option<CallStatus>,
    /// Our own id of a call that we asked for: the `CustomField` that we gave Exotel with it.
    pub call_id: Option<CallId>,
    /// Which of Exotel's two ways of reporting this is.
    pub source: Source,
    /// When Exotel made the report.
    pub reported_at: Option<Timestamp>,
}

/// Who asked for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// A caller dialled one of our numbers.
    Inbound,
    /// We asked for it.
    Outbound,
}

/// How far a call has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// The caller is on the line.
    UnderWay,
    /// The call is over.
    Over,
}

/// Exotel's ways of reporting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The Passthru applet: the call's flow waits for the answer and branches on it.
    Passthru,
    /// A StatusCallback: anything but 200 makes Exotel repeat it after 5 and after 15 minutes.
    StatusCallback,
}

/// A report that is older than a ring, but not by more than this, is a repetition. One that is older still is taken
/// for a clock in another time zone, since Exotel writes no zone.
const OLDEST_REPETITION: Duration = Duration::from_secs(60 * 60);

impl ExotelWebhook {
    /// Reads a report.
    ///
    /// # Errors
    /// When `CallSid` is missing or malformed.
    pub fn parse(fields: &Fields, country: &str) -> Result<Self, BadName> {
        let missing = BadName {
            what: "CallSid",
            rule: "is missing",
        };
        let call_sid = CallSid::try_from(fields.text("CallSid").ok_or(missing)?)?;
        let either = |first, second| fields.text(first).or_else(|| fields.text(second));
        let number = |text: Option<&str>| text.and_then(|text| PhoneNumber::parse(text, country));
        Ok(Self {
            call_sid,
            direction: direction(fields),
            caller: Caller::on_network(
                number(either("CallFrom", "From")),
                fields.as_sent("CallerName").and_then(CallerName::parse),
            ),
            to: number(either("CallTo", "To")),
            stage: stage(fields),
            progress: progress(fields),
            call_id: fields
                .text("CustomField")
                .and_then(|text| CallId::try_from(text).ok()),
            source: source(fields),
            reported_at: either("CurrentTime", "DateUpdated").and_then(indian_time),
        })
    }

    /// Whether this is a repetition of a report that was made longer ago than a phone rings. The caller has long
    /// gone, so no phone must ring for it.
    #[must_use]
    pub fn is_repetition(&self, ring: Duration, now: Timestamp) -> bool {
        let age = self
            .reported_at
            .map_or(Duration::ZERO, |reported| now.since(reported));
        age > ring && age < OLDEST_REPETITION
    }

    /// What the report means for a call that we asked for; `None` for every other call.
    #[must_use]
    pub fn reported(&self) -> Option<Event> {
        self.progress.map(|progress| Event::ExotelProgress {
            call_sid: self.call_sid.clone(),
            status: progress,
        })
    }

    /// What the end of the call means for it; `None` while it is under way.
    #[must_use]
    pub const fn end(&self) -> Option<Event> {
        match self.stage {
            Stage::UnderWay => None,
            // That Exotel counts it as completed does not mean that our legs were joined: it may have played a greeting.
            Stage::Over => Some(Event::CallerLegEnded {
                leg: None,
                answered: false,
                by: CallSide::Caller,
            }),
        }
    }
}

fn direction(fields: &Fields) -> Direction {
    // `incoming` (Passthru), `inbound` (StatusCallback), `outbound-dial`, `outbound-api`.
    match fields.text("Direction") {
        Some(text) if text.starts_with("outbound") => Direction::Outbound,
        _ => Direction::Inbound,
    }
}

fn stage(fields: &Fields) -> Stage {
    let is_terminal = is_event(fields, "terminal");
    let words = [
        fields.text("Status"),
        fields.text("CallType"),
        fields.text("DialCallStatus"),
    ];
    let mut words = words.into_iter().flatten();
    let is_over = is_terminal || words.any(is_final_word);
    if is_over {
        Stage::Over
    } else {
        Stage::UnderWay
    }
}

/// Only calls placed through the API are ours. In what a Connect applet reports of itself (`outbound-dial`), `busy`
/// means that an agent is being called.
fn progress(fields: &Fields) -> Option<CallStatus> {
    if fields.text("Direction") != Some("outbound-api") {
        return None;
    }
    let said = fields.text("Status").and_then(status_of_word);
    if let Some(end) = said.filter(|said| said.is_final()) {
        Some(end)
    } else if is_event(fields, "terminal") {
        // Over, and not in a way that Exotel documents.
        Some(CallStatus::Failed)
    } else if is_event(fields, "answered") && second_number_rings(fields) {
        Some(CallStatus::Ringing)
    } else if is_event(fields, "answered") {
        Some(CallStatus::InProgress)
    } else {
        said
    }
}

/// The first number has answered, the second has not. Exotel's reference does not tell such an `answered` from the one
/// that means that both have; those who work with it tell them apart by the legs.
fn second_number_rings(fields: &Fields) -> bool {
    let answered = |leg| fields.text(leg) == Some("in-progress");
    answered("Legs[0][Status]") && fields.text("Legs[1][Status]").is_none()
}

fn is_event(fields: &Fields, event: &str) -> bool {
    fields
        .text("EventType")
        .is_some_and(|text| text.eq_ignore_ascii_case(event))
}

/// `CallStatus`, and Passthru's `CallType`, which says how a Connect applet before it ended.
fn is_final_word(word: &str) -> bool {
    matches!(
        word,
        "completed"
            | "failed"
            | "busy"
            | "no-answer"
            | "canceled"
            | "client-hangup"
            | "incomplete"
            | "voicemail"
    )
}

fn source(fields: &Fields) -> Source {
    let has_status = fields
        .text("EventType")
        .or_else(|| fields.text("Status"))
        .is_some();
    if has_status {
        Source::StatusCallback
    } else {
        Source::Passthru
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SID: &str = "5a1e0f9c2b3d4e5f60718293a4b5c6d7";

    fn notice(query: &str) -> ExotelWebhook {
        let query = format!("CallSid={SID}&{query}");
        ExotelWebhook::parse(&Fields::from_form(query.as_bytes()), "IN").unwrap()
    }

    #[test]
    fn a_passthru_tells_of_a_waiting_caller() {
        let notice = notice(
            "CallFrom=09876543210&CallTo=08047491899&Direction=incoming&CallType=call-attempt",
        );
        assert_eq!(notice.source, Source::Passthru);
        assert_eq!(
            (notice.direction, notice.stage),
            (Direction::Inbound, Stage::UnderWay)
        );
        assert_eq!(notice.caller.shown(), "+919876543210");
        assert_eq!(notice.to.unwrap().as_str(), "+918047491899");
    }

    #[test]
    fn every_way_of_being_over_is_over() {
        for over in [
            "Status=no-answer",
            "EventType=terminal&Status=busy",
            "CallType=client-hangup",
            "DialCallStatus=canceled",
        ] {
            assert_eq!(notice(over).stage, Stage::Over, "{over}");
        }
        assert_eq!(
            notice("EventType=terminal&Status=completed").stage,
            Stage::Over
        );
        for under_way in [
            "",
            "Status=in-progress",
            "EventType=answered&Status=in-progress",
            "Status=ringing",
        ] {
            assert_eq!(notice(under_way).stage, Stage::UnderWay, "{under_way}");
        }
    }

    #[test]
    fn a_repetition_after_5_or_15_minutes_is_told_by_its_time() {
        let notice = notice("CurrentTime=2024-03-14+17%3A30%3A00");
        let reported = Timestamp::from_millis(1_710_417_600_000);
        assert_eq!(notice.reported_at, Some(reported));
        let ring = Duration::from_secs(30);
        for (minutes, is_repetition) in [(0, false), (5, true), (15, true), (150, false)] {
            let now = reported + Duration::from_secs(minutes * 60);
            assert_eq!(
                notice.is_repetition(ring, now),
                is_repetition,
                "{minutes} min"
            );
        }
    }

    #[test]
    fn our_own_calls_are_told_apart() {
        assert_eq!(
            notice("Direction=outbound-api").direction,
            Direction::Outbound
        );
    }

    #[test]
    fn a_call_that_we_asked_for_is_told_by_its_status_and_event() {
        for (fields, progress) in [
            ("Status=queued", Some(CallStatus::Initiated)),
            ("Status=ringing", Some(CallStatus::Ringing)),
            (
                "EventType=answered&Status=in-progress",
                Some(CallStatus::InProgress),
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
            let ours = notice(&format!("Direction=outbound-api&{fields}"));
            assert_eq!(ours.progress, progress, "{fields}");
            for other in ["inbound", "outbound-dial"] {
                let other = notice(&format!("Direction={other}&{fields}"));
                assert_eq!(other.progress, None, "{fields}");
            }
        }
    }

    #[test]
    fn a_call_that_we_asked_for_hands_our_own_id_back() {
        let ours = CallId::fresh();
        let notice_with = |field: &str| notice(&format!("CustomField={field}")).call_id;
        assert_eq!(notice_with(&ours.to_string()), Some(ours));
        assert_eq!(notice_with("order+17"), None);
    }

    #[test]
    fn without_a_call_sid_there_is_no_call() {
        for query in ["", "CallSid=", "CallSid=a%2Fb"] {
            assert_eq!(
                ExotelWebhook::parse(&Fields::from_form(query.as_bytes()), "IN")
                    .unwrap_err()
                    .what,
                "CallSid"
            );
        }
    }
}
