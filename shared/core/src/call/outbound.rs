//! The rules of an outbound call: an app asked for it, and Exotel connects two numbers.
//!
//! Exotel tells of an answer and of the end, each once or more often and in any order, or never. So a call only ever
//! moves on ([`OutboundProgress::after`]), and one of which nothing is heard is looked up until its end is known.

use std::time::Duration;

use super::inbound::{Incoming, ring};
use super::verdict::{
    GONE_ANOTHER_WAY, NOTHING_TO_DO, Refusal, Verdict, ended, settled, streaming, talking,
};
use super::{
    ABANDONED_AFTER, Call, CallType, Check, Effect, Event, Limits, OutboundProgress, Set, Status,
    Why,
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

/// The beginning of an outbound call's life: it is to be stored, and then Exotel is to be asked ([`Effect::Place`]
/// and a timer are owed). Both numbers may ring, one after the other.
#[must_use]
pub fn initiate(outgoing: Outgoing, limits: Limits, now: Timestamp) -> Call {
    let limits = Limits {
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
    call.status = Status::Initiated;
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
        Event::Reported { call_sid, progress } => reported(call, call_sid, *progress, now),
        Event::NotPlaced(why) => not_placed(call, *why, now),
        Event::ExotelSilent => exotel_silent(call),
        Event::TimerFired => timer_fired(call, now),
        Event::StreamStarted | Event::StreamStopped(_) => streaming(call, event),
        Event::Settled { owed_since } => settled(call, *owed_since),
        // The same request again.
        Event::Announced { .. } => Verdict::Repeat,
        Event::HungUp { .. } | Event::Declined { .. } if call.status.is_final() => Verdict::Repeat,
        // Exotel's API ends no call.
        Event::HungUp { .. } | Event::Declined { .. } => Verdict::Refuse(Refusal::EndsAtThePhones),
        Event::Accepted { .. } => GONE_ANOTHER_WAY,
        Event::Rang { .. }
        | Event::NobodyRang(_)
        | Event::CallerFound(_)
        | Event::CallerCalled
        | Event::PhoneCalled
        | Event::CallerUnreachable
        | Event::CallerLeft { .. }
        | Event::PhoneLeft { .. }
        | Event::Bridged
        | Event::NotBridged { .. }
        | Event::Overwritten(_) => NOTHING_TO_DO,
    }
}

/// The change that a report makes of a call that is where Exotel's reports normally find it: with its CallSid, not
/// answered yet, or talking.
pub(super) fn usual(
    sid: &CallSid,
    progress: OutboundProgress,
    now: Timestamp,
) -> Option<(Vec<Check>, Vec<Set>)> {
    let from = match progress {
        OutboundProgress::Initiated | OutboundProgress::Ringing => return None,
        OutboundProgress::InProgress => Status::Initiated,
        OutboundProgress::Completed
        | OutboundProgress::Busy
        | OutboundProgress::NoAnswer
        | OutboundProgress::Failed
        | OutboundProgress::Canceled => Status::InProgress,
    };
    let checks = vec![
        Check::StatusIs(from),
        Check::IsOutbound(true),
        Check::CallSidIs(sid.clone()),
    ];
    Some((checks, come_to(progress, now)))
}

pub(super) fn effects_after(call: &Call, event: &Event) -> Vec<Effect> {
    match event {
        Event::TimerFired if !call.status.is_final() => {
            let mut effects = vec![Effect::LookUp];
            effects.extend(owed(call));
            effects
        }
        // The timer of a call that rings was armed when it began.
        Event::Reported { .. } if matches!(call.status, Status::Initiated | Status::Ringing) => {
            Vec::new()
        }
        Event::Reported { .. } | Event::NotPlaced(_) | Event::TimerFired => owed(call),
        Event::Announced { .. }
        | Event::Rang { .. }
        | Event::NobodyRang(_)
        | Event::CallerFound(_)
        | Event::CallerCalled
        | Event::PhoneCalled
        | Event::CallerUnreachable
        | Event::ExotelSilent
        | Event::Accepted { .. }
        | Event::Declined { .. }
        | Event::HungUp { .. }
        | Event::CallerLeft { .. }
        | Event::PhoneLeft { .. }
        | Event::Bridged
        | Event::NotBridged { .. }
        | Event::StreamStarted
        | Event::StreamStopped(_)
        | Event::Overwritten(_)
        | Event::Settled { .. } => Vec::new(),
    }
}

/// What being in its state asks for: that somebody looks after it until it is over. Asking Exotel is not among it,
/// for nobody knows whether that was done. Nothing, once it has been done.
pub(super) fn owed(call: &Call) -> Vec<Effect> {
    let Some(owed_since) = call.owed_since else {
        return Vec::new();
    };
    let settle = Effect::Settle(owed_since);
    match next_check(call) {
        Some(next) => vec![Effect::ArmTimer(next), settle],
        None => vec![settle, Effect::DisarmTimer],
    }
}

fn reported(call: &Call, sid: &CallSid, progress: OutboundProgress, now: Timestamp) -> Verdict {
    if call.call_sid.as_ref().is_some_and(|known| known != sid) {
        return Verdict::Refuse(Refusal::AnotherCall);
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

fn not_placed(call: &Call, why: Why, now: Timestamp) -> Verdict {
    // Exotel has named it, so it was placed after all.
    let was_placed = call.call_sid.is_some();
    if was_placed || call.status.is_final() {
        return NOTHING_TO_DO;
    }
    Verdict::Change(ended(Status::Failed, why, now))
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
            Status::InProgress => ended(Status::Completed, Why::TalkedTooLong, now),
            Status::WaitingForMobile
            | Status::MobileReady
            | Status::Initiated
            | Status::Ringing
            | Status::Completed
            | Status::Declined
            | Status::TimedOut
            | Status::Canceled
            | Status::Failed => ended(Status::Failed, Why::NeverReported, now),
        });
    }
    // One of the timers that look after the call anyway: they must not become more by each.
    let was_just_asked = call
        .checked_at
        .is_some_and(|asked| now < asked + ABANDONED_AFTER);
    if now + CLOCKS_DIFFER < next_check || was_just_asked {
        return Verdict::Repeat;
    }
    Verdict::Change(vec![Set::CheckedAt(now), Set::OwedSince(now)])
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

fn progress_of(status: Status) -> OutboundProgress {
    match status {
        Status::WaitingForMobile | Status::MobileReady | Status::Initiated => {
            OutboundProgress::Initiated
        }
        Status::Ringing => OutboundProgress::Ringing,
        Status::InProgress => OutboundProgress::InProgress,
        Status::Completed => OutboundProgress::Completed,
        Status::Declined => OutboundProgress::Busy,
        Status::TimedOut => OutboundProgress::NoAnswer,
        Status::Canceled => OutboundProgress::Canceled,
        Status::Failed => OutboundProgress::Failed,
    }
}

fn come_to(progress: OutboundProgress, now: Timestamp) -> Vec<Set> {
    match progress {
        OutboundProgress::Initiated => Vec::new(),
        OutboundProgress::Ringing => vec![Set::Status(Status::Ringing)],
        OutboundProgress::InProgress => {
            let mut sets = talking(now);
            sets.push(Set::OwedSince(now));
            sets
        }
        OutboundProgress::Completed => ended(Status::Completed, Why::HungUp, now),
        OutboundProgress::Busy => ended(Status::Declined, Why::NumberBusy, now),
        OutboundProgress::NoAnswer => ended(Status::TimedOut, Why::NoAnswer, now),
        OutboundProgress::Failed => ended(Status::Failed, Why::NetworkFailed, now),
        OutboundProgress::Canceled => ended(Status::Canceled, Why::CallerHungUp, now),
    }
}
