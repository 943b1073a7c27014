//! The effects that a call's state requires: what its last transition started, and what must be done again if the process that
//! carried them out has crashed.

use super::deadline::next_check;
use super::{
    ABANDONED_AFTER, CLOCK_DIFFERENCE, Call, CallStatus, CancelAudience, CancelReason, Effect,
    EndReason, Refusal,
};
use crate::timestamp::Timestamp;

/// All effects that the state of the call requires.
pub(super) fn effects(call: &Call) -> Vec<Effect> {
    if call.is_to_number() {
        return until_ended(call);
    }
    let mut effects = match call.status {
        CallStatus::WaitingForMobile => return while_ringing(call),
        CallStatus::MobileReady => {
            let mut effects: Vec<Effect> = call.caller_leg.iter().map(|_| Effect::Bridge).collect();
            effects.extend(dial_caller_phone(call));
            effects.extend(answered_elsewhere(call));
            effects
        }
        CallStatus::Initiated | CallStatus::Ringing => Vec::new(),
        CallStatus::InProgress => answered_elsewhere(call).into_iter().collect(),
        // The other region knows who answered. Whether it has sent the cancellations is unknown here.
        CallStatus::Completed if call.answered_by.is_none() => {
            end_legs_and_ringing(call, Effect::HangUp, CancelReason::AnsweredElsewhere)
        }
        CallStatus::Completed => end_legs(call, Effect::HangUp),
        CallStatus::Canceled => end_legs_and_ringing(call, Effect::HangUp, reason_of_cancel(call)),
        CallStatus::TimedOut => end_legs_and_ringing(call, Effect::SendBusy, CancelReason::Timeout),
        CallStatus::Failed if call.end_reason() == Some(EndReason::CallerUnreachable) => {
            end_legs_and_ringing(call, Effect::HangUp, CancelReason::CallerHungUp)
        }
        // The other region may have sent pushes although this one could not.
        CallStatus::Failed if call.ready_at.is_some() || call.pushed.is_some() => {
            end_legs_and_ringing(call, Effect::SendBusy, CancelReason::Timeout)
        }
        CallStatus::Failed => end_legs(call, Effect::SendBusy),
        CallStatus::Declined if call.refusal().is_some() => refused(call),
        CallStatus::Declined if call.ready_at.is_some() || declined_where_it_rang(call) => {
            end_legs(call, Effect::SendBusy)
        }
        CallStatus::Declined => {
            end_legs_and_ringing(call, Effect::SendBusy, CancelReason::DeclinedElsewhere)
        }
    };
    if call.status.is_final() && call.answer_unannounced {
        // The process that carried the accept out may have crashed before it sent the cancellations.
        effects.extend(answered_elsewhere(call));
    }
    let looks_again_at = call.ended_at().filter(|_| phone_may_be_dialed_late(call));
    effects.extend(looks_again_at.map(|ended| Effect::ArmTimer(ended + ABANDONED_AFTER)));
    effects.extend(call.effects_pending_since.map(Effect::MarkEffectsCompleted));
    if call.status.is_final() {
        effects.push(Effect::DisarmTimer);
    }
    effects
}

/// Ends the legs of a call once more, in case a process dialed the phone just as the call ended and then crashed.
pub(super) fn end_late_legs(call: &Call) -> Vec<Effect> {
    if !phone_may_be_dialed_late(call) {
        return Vec::new();
    }
    let mut effects = effects(call);
    effects.retain(|effect| matches!(effect, Effect::HangUp | Effect::SendBusy));
    effects
}

/// The call was accepted and ended before it was bridged.
fn phone_may_be_dialed_late(call: &Call) -> bool {
    call.has_ended_unanswered() && call.ready_at.is_some()
}

/// A call to a number requires a timer until it has ended. The request to Exotel is not among it, because it is unknown
/// whether it was made.
fn until_ended(call: &Call) -> Vec<Effect> {
    let Some(pending_since) = call.effects_pending_since else {
        return Vec::new();
    };
    let completed = Effect::MarkEffectsCompleted(pending_since);
    if let Some(next) = next_check(call) {
        return vec![Effect::ArmTimer(next), completed];
    }
    // The answer to the last query may be lost.
    let is_assumed = call.call_sid.is_some() && call.end_is_assumed();
    let query = is_assumed.then_some(Effect::QueryExotel);
    let last = [completed, Effect::DisarmTimer];
    query.into_iter().chain(last).collect()
}

/// What a repeated event carries out: nothing once all effects are completed; what goes unnoticed twice while the first attempt
/// may still run; everything if the process of that attempt has crashed.
pub(super) fn unfinished(call: &Call, now: Timestamp) -> Vec<Effect> {
    if call.effects_pending_since.is_none() {
        return Vec::new();
    }
    if call.was_abandoned(now) {
        return abandoned(call, now);
    }
    let mut effects = effects(call);
    effects.retain(Effect::repeats_unnoticed);
    effects.extend(rearm_timer(call));
    effects
}

/// [`unfinished`] for an app that asks for its call again. The timer of such a call is armed before the call is stored, so asking
/// again, however often, arms no other one.
pub(super) fn unfinished_without_timer(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = unfinished(call, now);
    let arms_timer = |effect: &Effect| matches!(effect, Effect::ArmTimer(_));
    // A call to a number needs nothing but its timer, and the event that arms it completes the effects.
    if call.is_to_number() && effects.iter().any(arms_timer) {
        return Vec::new();
    }
    effects.retain(|effect| !arms_timer(effect));
    effects
}

/// The effects of a crashed process. A phone that could ring but did not is not rung after its time: the timer, armed now, ends
/// the call.
pub(super) fn abandoned(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = effects(call);
    // The timer of an ended call is for a later look at its legs, and this is that look. If it fails, its message is repeated.
    effects.retain(|effect| !call.status.is_final() || !matches!(effect, Effect::ArmTimer(_)));
    if now >= call.rings_until && call.status == CallStatus::WaitingForMobile {
        effects.retain(|effect| !matches!(effect, Effect::SendPush | Effect::DialCallerPhone));
    }
    effects
}

/// The process that owes these effects may have crashed, and no other report of the ringing call may follow, so re-arm the timer.
pub(super) fn rearm_timer(call: &Call) -> Option<Effect> {
    let pending_since = call.effects_pending_since?;
    let is_ringing = call.status == CallStatus::WaitingForMobile;
    is_ringing.then_some(Effect::ArmTimer(pending_since + ABANDONED_AFTER))
}

fn while_ringing(call: &Call) -> Vec<Effect> {
    let mut effects = vec![Effect::ArmTimer(call.rings_until)];
    effects.extend(call.pushed.is_none().then_some(Effect::SendPush));
    effects.extend(push_again(call));
    effects.extend(dial_caller_phone(call));
    effects
}

/// The timer of the next push. With it, the effects of the ring are completed, unless the caller's phone must be dialed.
pub(super) fn push_again(call: &Call) -> Vec<Effect> {
    let mut effects: Vec<Effect> = call
        .pushes_again_at()
        .map(Effect::ArmTimer)
        .into_iter()
        .collect();
    if call.pushed.is_some() && dial_caller_phone(call).is_none() {
        effects.extend(call.effects_pending_since.map(Effect::MarkEffectsCompleted));
    }
    effects
}

/// The phone of the calling app is dialed until it waits. Its channel id keeps it from being dialed twice.
pub(super) fn dial_caller_phone(call: &Call) -> Option<Effect> {
    let is_missing = call.kind.calling_app().is_some() && call.caller_leg.is_none();
    is_missing.then_some(Effect::DialCallerPhone)
}

/// The PBX, which has reported a leg, waits a few seconds at most for our answer. If the phone takes longer to register, the timer
/// finds the bridge missing and makes it. The timer also completes effects that were pending before.
pub(super) fn bridge_soon(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = vec![Effect::ArmTimer(now + ABANDONED_AFTER), Effect::Bridge];
    effects.extend(complete_own(call, now));
    effects
}

/// Completes the effects of a change that was saved at this moment. Older ones belong to another process.
pub(super) fn complete_own(call: &Call, now: Timestamp) -> Option<Effect> {
    let own = call.effects_pending_since.filter(|since| *since == now);
    own.map(Effect::MarkEffectsCompleted)
}

/// Pushes of which no record says whether they were sent may have reached their devices after the cancellation.
pub(super) fn cancel_unrecorded_pushes(call: &Call) -> Vec<Effect> {
    let could_not_push = matches!(
        call.end_reason(),
        Some(EndReason::NoDevice | EndReason::PushFailed)
    );
    if call.pushed.is_some() || could_not_push || call.was_refused_when_stored() {
        return Vec::new();
    }
    cancel_again(call)
}

/// A push that was accepted only after the call had stopped ringing may reach its phone after the cancellation did, so the
/// cancellation is sent once more.
pub(super) fn cancel_late_pushes(call: &Call, finished_at: Timestamp) -> Vec<Effect> {
    let stopped_ringing_at = call.ready_at.or(call.ended_at());
    // The other region's clock may be ahead of this one's.
    let is_early = |stopped| finished_at + CLOCK_DIFFERENCE < stopped;
    if stopped_ringing_at.is_none_or(is_early) {
        return Vec::new();
    }
    cancel_again(call)
}

/// The cancellations for all devices once the call rings no longer. A push that is late, or that no record names, may reach each of them.
pub(super) fn cancel_again(call: &Call) -> Vec<Effect> {
    let answered_by = call.answered_by.as_ref();
    let is_named = answered_by.is_some_and(|by| by.device.is_some());
    let reason = match call.status {
        CallStatus::WaitingForMobile | CallStatus::Initiated | CallStatus::Ringing => {
            return Vec::new();
        }
        CallStatus::MobileReady | CallStatus::InProgress => None,
        CallStatus::Completed | CallStatus::Declined if is_named => None,
        CallStatus::Completed => Some(CancelReason::AnsweredElsewhere),
        CallStatus::Declined if call.refusal().is_some() => Some(CancelReason::Timeout),
        CallStatus::Declined => Some(CancelReason::DeclinedElsewhere),
        CallStatus::Canceled => Some(reason_of_cancel(call)),
        CallStatus::TimedOut | CallStatus::Failed => Some(CancelReason::Timeout),
    };
    let ended = reason.map(|reason| cancel(call, reason));
    ended.into_iter().chain(answered_elsewhere(call)).collect()
}

/// Whether a canceled call is a missed one.
fn reason_of_cancel(call: &Call) -> CancelReason {
    match call.end_reason() {
        Some(EndReason::AnsweredElsewhere) => CancelReason::AnsweredElsewhere,
        Some(EndReason::DeclinedElsewhere) => CancelReason::DeclinedElsewhere,
        _ => CancelReason::CallerHungUp,
    }
}

fn end_legs(call: &Call, end: Effect) -> Vec<Effect> {
    let may_have_legs = call.caller_channel().is_some() || call.ready_at.is_some();
    may_have_legs.then_some(end).into_iter().collect()
}

fn end_legs_and_ringing(call: &Call, end: Effect, reason: CancelReason) -> Vec<Effect> {
    let mut effects = end_legs(call, end);
    effects.push(cancel(call, reason));
    effects
}

/// The caller hears busy, and the devices get the notice of a missed call. If the other region has rung them, they also stop.
fn refused(call: &Call) -> Vec<Effect> {
    let rang_nowhere = call.was_refused_when_stored() && call.pushed.is_none();
    let refusal = call.refusal().filter(|_| rang_nowhere);
    let reason = refusal.map_or(CancelReason::Timeout, Refusal::notice);
    end_legs_and_ringing(call, Effect::SendBusy, reason)
}

/// The cancellation for every device that may still show the call.
fn cancel(call: &Call, reason: CancelReason) -> Effect {
    let answering_device = call.answered_by.as_ref().and_then(|by| by.device.clone());
    let to = match answering_device {
        // The other devices got theirs when this one answered.
        Some(device) => CancelAudience::Only(device),
        None => CancelAudience::AllExcept(call.declined_by.clone()),
    };
    Effect::CancelPush { reason, to }
}

/// The cancellation for the devices that did not answer. `None` if the app that answered named no device: it is one of
/// them, and must not get "answered elsewhere" for its own answer.
pub(super) fn answered_elsewhere(call: &Call) -> Option<Effect> {
    let answering_device = call.answered_by.as_ref()?.device.clone()?;
    let rang_only_there = call.pushed.as_ref().is_some_and(|pushed| {
        pushed.are_all && pushed.devices.len() == 1 && pushed.devices.contains(&answering_device)
    });
    if rang_only_there {
        return None;
    }
    let mut excluded = call.declined_by.clone();
    excluded.insert(answering_device);
    Some(Effect::CancelPush {
        reason: CancelReason::AnsweredElsewhere,
        to: CancelAudience::AllExcept(excluded),
    })
}

/// The call rang on one device, and that device declined it.
fn declined_where_it_rang(call: &Call) -> bool {
    let pushed = call.pushed.as_ref();
    let has_declined = call.declined_by.is_empty()
        || pushed.is_some_and(|pushed| pushed.devices.is_subset(&call.declined_by));
    call.rang_on_one_device() && has_declined
}
