//! The rules of a call to a telephone number: an app starts it, and Exotel connects two numbers.
//!
//! Exotel reports an answer and the end, each once or more often, in any order, or never. So a call only moves to a higher rank
//! ([`CallStatus::rank`]), and Exotel is asked about a call of which it reports nothing, until its end is known.

use super::common_rules::{completed_effects, ended, stream_rules, talking};
use super::deadline::next_check;
use super::rule::{Rule, otherwise, when, when_read};
use super::{
    ABANDONED_AFTER, Assignment, CLOCK_DIFFERENCE, Call, CallStatus, Condition, Effect, EndReason,
    Event, RejectReason, pending,
};
use crate::ids::CallSid;
use crate::timestamp::Timestamp;

/// The rules for an event, in order.
pub(super) fn rules(event: &Event, now: Timestamp) -> Vec<Rule<'_>> {
    match event {
        Event::ExotelProgress { call_sid, status } => exotel_progress(call_sid, *status, now),
        Event::OutboundCallRejected(reason) => {
            let failed = ended(CallStatus::Failed, *reason, now);
            vec![
                // Exotel has reported the call, so it was placed after all.
                when_read("is placed or ended", |call| {
                    call.call_sid.is_some() || call.status.is_final()
                })
                .nothing(),
                otherwise().set(failed).then_pending(),
            ]
        }
        Event::ExotelNoAnswer => vec![
            when_read(
                "is placed or ended, or Exotel has not answered before",
                |call| call.status.is_final() || call.call_sid.is_some() || call.exotel_unanswered,
            )
            .nothing(),
            // A report or the deadline decides.
            otherwise()
                .set([Assignment::ExotelUnanswered])
                .then_nothing(),
        ],
        Event::TimerFired => timer_fired(now),
        Event::StreamStarted | Event::StreamStopped(_) => stream_rules(event),
        Event::EffectsCompleted {
            effects_pending_since,
        } => completed_effects(*effects_pending_since),
        Event::RequestedAgain => {
            vec![otherwise().only(
                "unfinished without timer",
                pending::unfinished_without_timer,
            )]
        }
        Event::HungUp { .. } | Event::Declined { .. } => vec![
            when_read("has ended", |call| call.status.is_final()).repeat(),
            otherwise().reject(RejectReason::EndsAtThePhones),
        ],
        Event::Accepted { .. } => vec![otherwise().reject(RejectReason::WrongStatus)],
        Event::CallerReported { .. } => vec![otherwise().repeat()],
        Event::PushSent(_)
        | Event::DeviceRings { .. }
        | Event::PushNotSent(_)
        | Event::CalleeUnavailable(_)
        | Event::CallerPhoneLocated(_)
        | Event::CallerPhoneDialed
        | Event::CallerUnreachable
        | Event::CallerLegEnded { .. }
        | Event::PhoneMoved { .. }
        | Event::AgentDone
        | Event::PhoneLegEnded { .. }
        | Event::Bridged
        | Event::NotBridged { .. }
        | Event::BridgeEnded
        | Event::TimerRepeated
        | Event::ReplicaOverwritten(_) => vec![otherwise().nothing()],
    }
}

fn exotel_progress(sid: &CallSid, status: CallStatus, now: Timestamp) -> Vec<Rule<'_>> {
    let mut rules = Vec::new();
    // Reports normally find the call with its CallSid: initiated when it is answered, in progress when it ends.
    let usual = match status {
        CallStatus::InProgress => Some(CallStatus::Initiated),
        _ if status.is_final() => Some(CallStatus::InProgress),
        _ => None,
    };
    if let Some(usual) = usual {
        let conditions = [
            Condition::StatusIs(usual),
            Condition::IsToNumber(true),
            Condition::CallSidIs(sid.clone()),
        ];
        rules.push(when(conditions).set(reach(status, now)).then_pending());
    }
    rules.extend([
        when_read("has another CallSid", move |call| {
            call.call_sid.as_ref().is_some_and(|known| known != sid)
        })
        .reject(RejectReason::AnotherCall),
        when_read(
            "has the CallSid and this status or a later one",
            move |call| call.call_sid.is_some() && !is_later(call, status),
        )
        .repeat(),
        otherwise()
            .set_of("the CallSid and the status if it is later", move |call| {
                let mut set = Vec::new();
                if call.call_sid.is_none() {
                    set.push(Assignment::CallSid(sid.clone()));
                }
                if is_later(call, status) {
                    set.extend(reach(status, now));
                    match call.ended {
                        Some(_) if status.is_final() => {
                            // The end that was assumed had no other effects.
                            set.retain(|set| !matches!(set, Assignment::EffectsPendingSince(_)));
                        }
                        Some(_) => set.push(Assignment::NotEnded(now + call.settings.talk)),
                        None => {}
                    }
                }
                set
            })
            .then("pending, once answered", |call, _| match call.status {
                // The timer of a ringing call was armed when the call began.
                CallStatus::Initiated | CallStatus::Ringing => Vec::new(),
                _ => pending::effects(call),
            }),
    ]);
    rules
}

/// Whether a call to a number has not come as far as Exotel reports. What a timer assumed gives way to a report of an answer or an
/// end.
fn is_later(call: &Call, reported: CallStatus) -> bool {
    let is_answer_or_end = reported.rank() >= CallStatus::InProgress.rank();
    reported.rank() > call.status.rank() || (call.end_is_assumed() && is_answer_or_end)
}

fn timer_fired(now: Timestamp) -> Vec<Rule<'static>> {
    vec![
        when_read("has ended", |call| call.status.is_final()).repeat(),
        when_read(
            "its time limit has passed, and Exotel was asked or never reported it",
            move |call| {
                let deadline = call.deadline().unwrap_or(now);
                let asked_at_the_end = call
                    .checked_at
                    .is_some_and(|asked| asked + ABANDONED_AFTER >= deadline);
                now >= deadline && (asked_at_the_end || call.call_sid.is_none())
            },
        )
        .set_of("the end", move |call| match call.status {
            CallStatus::InProgress => ended(CallStatus::Completed, EndReason::TalkedTooLong, now),
            _ => ended(CallStatus::Failed, EndReason::NeverReported, now),
        })
        .then_pending(),
        // Several timers may fire for one call. Each of them must not arm another one.
        when_read("is not due, or was just checked", move |call| {
            let was_just_checked = call
                .checked_at
                .is_some_and(|asked| now < asked + ABANDONED_AFTER);
            was_just_checked || next_check(call).is_none_or(|next| now + CLOCK_DIFFERENCE < next)
        })
        .repeat(),
        otherwise()
            .set([
                Assignment::CheckedAt(now),
                Assignment::EffectsPendingSince(now),
            ])
            .then("query Exotel, then pending", |call, _| {
                let mut effects = vec![Effect::QueryExotel];
                effects.extend(pending::effects(call));
                effects
            }),
    ]
}

/// The assignments that bring a call to the status that Exotel reports.
fn reach(status: CallStatus, now: Timestamp) -> Vec<Assignment> {
    let reason = match status {
        // These are no statuses of a call to a number, or its first one.
        CallStatus::WaitingForMobile | CallStatus::MobileReady | CallStatus::Initiated => {
            return Vec::new();
        }
        CallStatus::Ringing => return vec![Assignment::Status(CallStatus::Ringing)],
        CallStatus::InProgress => {
            let mut set = talking(now);
            set.push(Assignment::EffectsPendingSince(now));
            return set;
        }
        CallStatus::Completed => EndReason::HungUp,
        CallStatus::Declined => EndReason::NumberBusy,
        CallStatus::TimedOut => EndReason::NoAnswer,
        CallStatus::Failed => EndReason::NetworkFailed,
        CallStatus::Canceled => EndReason::CallerHungUp,
    };
    ended(status, reason, now)
}
