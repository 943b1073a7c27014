//! Rules and assignments that are the same for all kinds of calls.

use super::rule::{Rule, otherwise, when, when_read};
use super::{Assignment, CallStatus, Condition, EndReason, Event, StreamState};
use crate::timestamp::Timestamp;

/// The rules for a stream of the call's audio.
pub(super) fn stream_rules(event: &Event) -> Vec<Rule<'_>> {
    let starts = *event == Event::StreamStarted;
    let state = if starts {
        StreamState::Started
    } else {
        StreamState::Stopped
    };
    vec![
        when_read("says nothing new", move |call| {
            let is_meaningless = if starts {
                call.status.is_final()
            } else {
                call.stream.is_none()
            };
            is_meaningless || call.stream == Some(state)
        })
        .nothing(),
        otherwise().set([Assignment::Stream(state)]).then_nothing(),
    ]
}

/// The rules for completed effects.
pub(super) fn completed_effects(pending_since: Timestamp) -> Vec<Rule<'static>> {
    vec![
        when([Condition::EffectsPendingSince(pending_since)])
            .set([
                Assignment::EffectsCompleted(pending_since),
                Assignment::AnswerUnannounced(false),
            ])
            .then_nothing(),
        otherwise().nothing(),
    ]
}

/// The assignments of a conversation that begins.
pub(super) fn talking(now: Timestamp) -> Vec<Assignment> {
    vec![
        Assignment::Status(CallStatus::InProgress),
        Assignment::BridgedAt(now),
    ]
}

/// Why a conversation ended that was assumed to be unanswered. If a person has hung up, that stays the reason.
pub(super) const fn reason_of_conversation(known: EndReason, otherwise: EndReason) -> EndReason {
    match known {
        EndReason::CallerHungUp | EndReason::CalleeHungUp => known,
        _ => otherwise,
    }
}

/// The assignments of a call that ends.
pub(super) fn ended(status: CallStatus, reason: EndReason, now: Timestamp) -> Vec<Assignment> {
    vec![
        Assignment::Status(status),
        Assignment::Ended(now, reason),
        Assignment::EffectsPendingSince(now),
    ]
}

/// The call rings.
pub(super) const fn waiting() -> Condition {
    Condition::StatusIs(CallStatus::WaitingForMobile)
}
