//! The rules of an outbound call: an app asked for it, and Exotel connects two numbers.
//!
//! Exotel tells of an answer and of the end, each once or more often and in any order, or never. So a call only ever
//! moves on ([`OutboundProgress::after`]), and one of which nothing is heard is looked up until its end is known.

use std::time::Duration;

use super::inbound::{Incoming, ring};
use super::verdict::{
    GONE_ANOTHER_WAY, NOTHING_TO_DO, RejectReason, Verdict, ended, settled, streaming, talking,
};
use super::{
    ABANDONED_AFTER, Call, CallLimits, CallStatus, CallType, Condition, Effect, EndReason, Event,
    OutboundProgress, Set,
};
use crate::ids::{CallId, CallSid, Extension};
use crate::phone_number::{Caller, PhoneNumber};
use crate::timestamp::Timestamp;

/// The longest that Exotel lets a call last.
const LONGEST_CALL: Duration = Duration::from_secs(4 * 60 * 60);

/// A call that an app asks for.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// The id it is to have.
    pub call_id: CallId,
    /// Whose app asks.
    pub extension: Extension,
    /// The number that is called first.
    pub from: PhoneNumber,
    /// The number that is called once the first has answered.
    pub to: PhoneNumber,
}

/// The beginning of an outbound call's life: it is to be stored, and then Exotel is to be asked ([`Effect::PlaceOutboundCall`]
/// and a timer are owed). Both numbers may ring, one after the other.
#[must_use]
pub fn initiate(outgoing: Outgoing, limits: CallLimits, now: Timestamp) -> Call {
    let limits = CallLimits {
        talk: limits.talk.min(LONGEST_CALL),
        ..limits
    };
    let rings_until = now + limits.ring + limits.ring + limits.connect;
    let incoming = Incoming {
        call_id: outgoing.call_id,
        extension: outgoing.extension,
        caller: Caller::on_network(Some(outgoing.from), None),
        call_type: CallType::Voice,
        caller_leg: None,
        call_sid: None,
    };
    let mut call = ring(incoming, limits, now);
    call.status = CallStatus::Initiated;
    call.to = Some(outgoing.to);
    call.rings_until = rings_until;
    call.expires_at = Set::expiry_after(rings_until + limits.talk);
    for entry in &mut call.history {
        "initiate".clone_into(&mut entry.event);
    }
    call
}

/// Until when a call may go unreported. One that Exotel has named is looked up before it is given up, and has a moment
/// for that; of one that it has not, it is not even known whether it was placed.
pub(super) fn report_due(call: &Call) -> Timestamp {
    let due = match (call.bridged_at, &call.call_sid) {
        (Some(answered), _) => answered + call.limits.talk,
        (None, Some(_)) => call.rings_until + call.limits.talk,
        (None, None) => call.rings_until,
    };
    let asked_at_the_end = call.checked_at.filter(|asked| *asked >= due);
    asked_at_the_end.map_or(due, |asked| asked + ABANDONED_AFTER)
}

pub(super) fn verdict(call: &Call, event: &Event, now: Timestamp) -> Verdict {
    match event {
        Event::ExotelProgress { call_sid, progress } => reported(call, call_sid, *progress, now),
        Event::OutboundCallRejected(why) => not_placed(call, *why, now),
        Event::ExotelNoAnswer => exotel_silent(call),
        Event::TimerFired => timer_fired(call, now),
        Event::StreamStarted | Event::StreamStopped(_) => streaming(call, event),
        Event::EffectsCompleted {
            effects_pending_since,
        } => settled(call, *effects_pending_since),
        // The same request again.
        Event::CallerReported { .. } => Verdict::Repeat,
        Event::HungUp { .. } | Event::Declined { .. } if call.status.is_final() => Verdict::Repeat,
        // Exotel's API ends no call.
        Event::HungUp { .. } | Event::Declined { .. } => {
            Verdict::Refuse(RejectReason::EndsAtThePhones)
        }
        Event::Accepted { .. } => GONE_ANOTHER_WAY,
        Event::PushSent { .. }
        | Event::PushNotSent(_)
        | Event::CallerPhoneLocated(_)
        | Event::CallerPhoneDialed
        | Event::PhoneDialed
        | Event::CallerUnreachable
        | Event::CallerLegEnded { .. }
        | Event::PhoneLegEnded { .. }
        | Event::Bridged
        | Event::NotBridged { .. }
        | Event::ReplicaOverwritten(_) => NOTHING_TO_DO,
    }
}

/// The change that a report makes of a call that is where Exotel's reports normally find it: with its CallSid, not
/// answered yet, or talking.
pub(super) fn usual(
    sid: &CallSid,
    progress: OutboundProgress,
    now: Timestamp,
) -> Option<(Vec<Condition>, Vec<Set>)> {
    let from = match progress {
        OutboundProgress::Initiated | OutboundProgress::Ringing => return None,
        OutboundProgress::InProgress => CallStatus::Initiated,
        OutboundProgress::Completed
        | OutboundProgress::Busy
        | OutboundProgress::NoAnswer
        | OutboundProgress::Failed
        | OutboundProgress::Canceled => CallStatus::InProgress,
    };
    let checks = vec![
        Condition::StatusIs(from),
        Condition::IsOutbound(true),
        Condition::CallSidIs(sid.clone()),
    ];
    Some((checks, come_to(progress, now)))
}

pub(super) fn effects_after(call: &Call, event: &Event) -> Vec<Effect> {
    match event {
        Event::TimerFired if !call.status.is_final() => {
            let mut effects = vec![Effect::QueryExotel];
            effects.extend(owed(call));
            effects
        }
        // The timer of a call that rings was armed when it began.
        Event::ExotelProgress { .. }
            if matches!(call.status, CallStatus::Initiated | CallStatus::Ringing) =>
        {
            Vec::new()
        }
        Event::ExotelProgress { .. } | Event::OutboundCallRejected(_) | Event::TimerFired => {
            owed(call)
        }
        Event::CallerReported { .. }
        | Event::PushSent { .. }
        | Event::PushNotSent(_)
        | Event::CallerPhoneLocated(_)
        | Event::CallerPhoneDialed
        | Event::PhoneDialed
        | Event::CallerUnreachable
        | Event::ExotelNoAnswer
        | Event::Accepted { .. }
        | Event::Declined { .. }
        | Event::HungUp { .. }
        | Event::CallerLegEnded { .. }
        | Event::PhoneLegEnded { .. }
        | Event::Bridged
        | Event::NotBridged { .. }
        | Event::StreamStarted
        | Event::StreamStopped(_)
        | Event::ReplicaOverwritten(_)
        | Event::EffectsCompleted { .. } => Vec::new(),
    }
}

/// What being in its state asks for: that somebody looks after it until it is over. Asking Exotel is not among it,
/// for nobody knows whether that was done. Nothing, once it has been done.
pub(super) fn owed(call: &Call) -> Vec<Effect> {
    let Some(effects_pending_since) = call.effects_pending_since else {
        return Vec::new();
    };
    let settle = Effect::MarkEffectsCompleted(effects_pending_since);
    match next_check(call) {
        Some(next) => vec![Effect::ArmTimer(next), settle],
        None => vec![settle, Effect::DisarmTimer],
    }
}

fn reported(call: &Call, sid: &CallSid, progress: OutboundProgress, now: Timestamp) -> Verdict {
    if call.call_sid.as_ref().is_some_and(|known| known != sid) {
        return Verdict::Refuse(RejectReason::AnotherCall);
    }
    let mut sets = Vec::new();
    if call.call_sid.is_none() {
        sets.push(Set::CallSid(sid.clone()));
    }
    let stands = progress_of(call.status);
    if stands.after(progress) != stands {
        sets.extend(come_to(progress, now));
    }
    if sets.is_empty() {
        NOTHING_TO_DO
    } else {
        Verdict::Change(sets)
    }
}

fn not_placed(call: &Call, why: EndReason, now: Timestamp) -> Verdict {
    // Exotel has named it, so it was placed after all.
    let was_placed = call.call_sid.is_some();
    if was_placed || call.status.is_final() {
        return NOTHING_TO_DO;
    }
    Verdict::Change(ended(CallStatus::Failed, why, now))
}

fn exotel_silent(call: &Call) -> Verdict {
    if call.status.is_final() || call.call_sid.is_some() || call.may_have_been_placed() {
        NOTHING_TO_DO
    } else {
        // The history tells of it, and the deadline, or a report, decides.
        Verdict::Change(Vec::new())
    }
}

fn timer_fired(call: &Call, now: Timestamp) -> Verdict {
    let (Some(deadline), Some(next_check)) = (call.deadline(), next_check(call)) else {
        return Verdict::Repeat;
    };
    let is_named = call.call_sid.is_some();
    let asked_at_the_end = call
        .checked_at
        .is_some_and(|asked| asked + ABANDONED_AFTER >= deadline);
    if now >= deadline && (asked_at_the_end || !is_named) {
        return Verdict::Change(match call.status {
            CallStatus::InProgress => ended(CallStatus::Completed, EndReason::TalkedTooLong, now),
            CallStatus::WaitingForMobile
            | CallStatus::MobileReady
            | CallStatus::Initiated
            | CallStatus::Ringing
            | CallStatus::Completed
            | CallStatus::Declined
            | CallStatus::TimedOut
            | CallStatus::Canceled
            | CallStatus::Failed => ended(CallStatus::Failed, EndReason::NeverReported, now),
        });
    }
    // One of the timers that look after the call anyway: they must not become more by each.
    let was_just_asked = call
        .checked_at
        .is_some_and(|asked| now < asked + ABANDONED_AFTER);
    if now + CLOCKS_DIFFER < next_check || was_just_asked {
        return Verdict::Repeat;
    }
    Verdict::Change(vec![Set::CheckedAt(now), Set::EffectsPendingSince(now)])
}

/// When the call is to be looked at next; `None` once it is over.
fn next_check(call: &Call) -> Option<Timestamp> {
    let deadline = call.deadline()?;
    let from = call.bridged_at.max(call.checked_at);
    let due = from.map_or(call.rings_until, |from| from + call.limits.check);
    Some(due.min(deadline))
}

/// A timer that comes early by no more than this is on time: the queue tells time by another clock than the table's
/// writers.
const CLOCKS_DIFFER: Duration = Duration::from_secs(2);

fn progress_of(status: CallStatus) -> OutboundProgress {
    match status {
        CallStatus::WaitingForMobile | CallStatus::MobileReady | CallStatus::Initiated => {
            OutboundProgress::Initiated
        }
        CallStatus::Ringing => OutboundProgress::Ringing,
        CallStatus::InProgress => OutboundProgress::InProgress,
        CallStatus::Completed => OutboundProgress::Completed,
        CallStatus::Declined => OutboundProgress::Busy,
        CallStatus::TimedOut => OutboundProgress::NoAnswer,
        CallStatus::Canceled => OutboundProgress::Canceled,
        CallStatus::Failed => OutboundProgress::Failed,
    }
}

fn come_to(progress: OutboundProgress, now: Timestamp) -> Vec<Set> {
    match progress {
        OutboundProgress::Initiated => Vec::new(),
        OutboundProgress::Ringing => vec![Set::Status(CallStatus::Ringing)],
        OutboundProgress::InProgress => {
            let mut sets = talking(now);
            sets.push(Set::EffectsPendingSince(now));
            sets
        }
        OutboundProgress::Completed => ended(CallStatus::Completed, EndReason::HungUp, now),
        OutboundProgress::Busy => ended(CallStatus::Declined, EndReason::NumberBusy, now),
        OutboundProgress::NoAnswer => ended(CallStatus::TimedOut, EndReason::NoAnswer, now),
        OutboundProgress::Failed => ended(CallStatus::Failed, EndReason::NetworkFailed, now),
        OutboundProgress::Canceled => ended(CallStatus::Canceled, EndReason::CallerHungUp, now),
    }
}
