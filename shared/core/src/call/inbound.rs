//! The rules of a call that wakes a phone: its caller came in by the trunk, or is another app.

use std::collections::BTreeSet;
use std::time::Duration;

use super::event::{ACCEPTED, PHONE_LEFT, SETTLED};
use super::verdict::{
    GONE_ANOTHER_WAY, NOTHING_TO_DO, RejectReason, Verdict, ended, settled, streaming, talking,
};
use super::{
    ABANDONED_AFTER, AnsweredBy, Audience, Call, CallLimits, CallParty, CallSide, CallStatus,
    CallType, CancelReason, Condition, Effect, EndReason, Event, HistoryEntry, Set,
};
use crate::ids::{CallId, CallSid, Extension, Leg, PbxName};
use crate::phone_number::Caller;
use crate::timestamp::Timestamp;

/// A call that comes in: somebody has witnessed its caller, or an app calls another.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// The id it is to have.
    pub call_id: CallId,
    /// Whose phone is wanted.
    pub extension: Extension,
    /// Who calls.
    pub caller: Caller,
    /// Voice or video.
    pub call_type: CallType,
    /// The leg on which the caller waits, if the PBX reports it.
    pub caller_leg: Option<Leg>,
    /// Exotel's id, if it is known.
    pub call_sid: Option<CallSid>,
}

/// The beginning of a call's life: it is to be stored, and then the phone is to be woken ([`Effect::SendPush`] and a
/// timer are owed). S1 pushed first; a fast phone could then answer a call that did not exist yet.
#[must_use]
pub fn ring(incoming: Incoming, limits: CallLimits, now: Timestamp) -> Call {
    let rings_until = now + limits.ring;
    let longest = rings_until + limits.connect + limits.talk;
    let by = incoming.caller_leg.as_ref().map(ToString::to_string);
    let leg = incoming.caller_leg.map(|leg| (leg.channel, leg.pbx));
    let (caller_leg, pbx) = leg.unzip();
    Call {
        call_id: incoming.call_id,
        version: 1,
        status: CallStatus::WaitingForMobile,
        extension: incoming.extension,
        caller: incoming.caller,
        to: None,
        call_type: incoming.call_type,
        created_at: now,
        rings_until,
        limits,
        history: vec![HistoryEntry {
            at: now,
            event: "ring".to_owned(),
            by,
        }],
        call_sid: incoming.call_sid,
        caller_leg,
        pbx,
        checked_at: None,
        stream: None,
        rang: None,
        declined_by: BTreeSet::new(),
        answered_by: None,
        ready_at: None,
        bridged_at: None,
        ended_at: None,
        end_reason: None,
        effects_pending_since: Some(now),
        expires_at: Set::expiry_after(longest),
    }
}

pub(super) fn verdict(call: &Call, event: &Event, now: Timestamp) -> Verdict {
    match event {
        Event::CallerReported {
            caller_leg,
            call_sid,
        } => announced(call, caller_leg.as_ref(), call_sid.as_ref(), now),
        Event::PushSent { devices, .. } => rang(call, devices, now),
        Event::PushNotSent(why) => nobody_rang(call, *why, now),
        Event::Accepted { by, .. } => accepted(call, by, now),
        Event::Declined { by } => declined(call, by, now),
        Event::HungUp { by } => hung_up(call, by, now),
        Event::CallerLegEnded { leg, answered, by } => {
            caller_left(call, leg.as_ref(), *answered, *by, now)
        }
        // A PBX that the call has left, as when the trunk tried another, has nothing more to say of it.
        Event::PhoneLegEnded { pbx, .. } if !call.pbx_can_be(pbx) => {
            Verdict::Refuse(RejectReason::AnotherCall)
        }
        Event::PhoneLegEnded {
            answered,
            cause,
            by,
            ..
        } => phone_left(call, *answered, *cause, *by, now),
        Event::Bridged => bridged(call, now),
        Event::NotBridged { rings } => not_bridged(call, *rings, now),
        Event::CallerPhoneLocated(pbx) => caller_found(call, pbx),
        Event::CallerPhoneDialed => called_in_vain(call, Effect::HangUpCaller),
        Event::PhoneDialed => called_in_vain(call, Effect::HangUpPhone),
        Event::CallerUnreachable => caller_unreachable(call, now),
        Event::StreamStarted | Event::StreamStopped(_) => streaming(call, event),
        Event::TimerFired => timer_fired(call, now),
        Event::EffectsCompleted {
            effects_pending_since,
        } => settled(call, *effects_pending_since),
        Event::ExotelProgress { .. }
        | Event::OutboundCallRejected(_)
        | Event::ExotelNoAnswer
        | Event::ReplicaOverwritten(_) => NOTHING_TO_DO,
    }
}

/// The change that `event` makes in the state in which it normally finds the call, and what must hold for it.
pub(super) fn usual(event: &Event, now: Timestamp) -> Option<(Vec<Condition>, Vec<Set>)> {
    let waiting = Condition::StatusIs(CallStatus::WaitingForMobile);
    Some(match event {
        Event::CallerReported { .. }
        | Event::CallerPhoneDialed
        | Event::PhoneDialed
        | Event::CallerUnreachable
        | Event::ExotelNoAnswer
        | Event::NotBridged { .. }
        | Event::ExotelProgress { .. }
        | Event::OutboundCallRejected(_)
        | Event::StreamStarted
        | Event::StreamStopped(_)
        | Event::ReplicaOverwritten(_) => return None,
        Event::PushSent { devices, .. } => (
            vec![
                waiting,
                Condition::PushNotRecorded,
                Condition::NobodyDeclined,
                Condition::CallerIsNotApp,
            ],
            vec![Set::PushedTo(devices.clone()), Set::NoEffectsPending],
        ),
        Event::PushNotSent(why) => (
            vec![waiting, Condition::PushNotRecorded],
            ended(CallStatus::Failed, *why, now),
        ),
        Event::Accepted { by, .. } => (
            vec![
                waiting,
                Condition::ExtensionIs(by.extension.clone()),
                Condition::RingsAfter(now),
            ],
            ready(by, now),
        ),
        Event::Declined { by } | Event::HungUp { by } => usual_decline(by, now),
        // What ended the wait is in another region's version of the call, or long overdue here.
        Event::CallerLegEnded {
            answered: false,
            by: CallSide::Neither,
            ..
        } => return None,
        Event::CallerLegEnded { leg, answered, by } => usual_end(leg.as_ref(), *answered, *by, now),
        Event::CallerPhoneLocated(pbx) => (
            vec![
                waiting,
                Condition::PbxUnknown,
                Condition::CallerIsAppWithoutLeg,
            ],
            vec![Set::Pbx(pbx.clone())],
        ),
        Event::PhoneLegEnded { pbx, by, .. } => (
            vec![
                Condition::StatusIs(CallStatus::InProgress),
                Condition::IsOutbound(false),
                Condition::PbxMayBe(pbx.clone()),
            ],
            ended(CallStatus::Completed, hung_up_by(*by), now),
        ),
        Event::Bridged => (
            vec![Condition::StatusIs(CallStatus::MobileReady)],
            talking(now),
        ),
        Event::TimerFired => (
            vec![
                waiting,
                Condition::RingOverAt(now),
                Condition::RingsAfter(now.before(LATE)),
            ],
            ended(CallStatus::TimedOut, EndReason::NoAnswer, now),
        ),
        Event::EffectsCompleted {
            effects_pending_since,
        } => (
            vec![Condition::EffectsPendingSince(*effects_pending_since)],
            vec![Set::NoEffectsPending],
        ),
    })
}

/// The only device that rang declines, or one that speaks for the extension.
fn usual_decline(by: &CallParty, now: Timestamp) -> (Vec<Condition>, Vec<Set>) {
    let mut checks = vec![
        Condition::StatusIs(CallStatus::WaitingForMobile),
        Condition::ExtensionIs(by.extension.clone()),
    ];
    if let Some(device) = &by.device {
        checks.extend([
            Condition::PushedOnlyTo(device.clone()),
            Condition::NobodyDeclined,
        ]);
    }
    let mut sets: Vec<Set> = by
        .device
        .iter()
        .map(|device| Set::DeclinedBy([device.clone()].into()))
        .collect();
    sets.extend(ended(CallStatus::Declined, EndReason::CalleeDeclined, now));
    (checks, sets)
}

/// The caller hangs up: a conversation, or the wait.
fn usual_end(
    leg: Option<&Leg>,
    answered: bool,
    by: CallSide,
    now: Timestamp,
) -> (Vec<Condition>, Vec<Set>) {
    let (from, sets) = if answered {
        let sets = ended(CallStatus::Completed, hung_up_by(by), now);
        (CallStatus::InProgress, sets)
    } else {
        let sets = ended(CallStatus::Canceled, EndReason::CallerHungUp, now);
        (CallStatus::WaitingForMobile, sets)
    };
    let mut checks = vec![Condition::StatusIs(from), Condition::IsOutbound(false)];
    checks.extend(leg.cloned().map(Condition::CallerLegMayBe));
    (checks, sets)
}

pub(super) fn effects_after(call: &Call, event: &Event, now: Timestamp) -> Vec<Effect> {
    match event {
        Event::CallerReported { .. } => after_announcement(call, event, now),
        // It was the last thing to know before all that rang had declined.
        Event::PushSent { devices, .. }
            if call.status == CallStatus::Declined && devices.is_subset(&call.declined_by) =>
        {
            owed(call)
        }
        Event::PushSent { finished_at, .. } => recall_late_rings(call, *finished_at),
        Event::Declined { .. } | Event::HungUp { .. } if !call.status.is_final() => Vec::new(),
        Event::EffectsCompleted { .. } => Vec::new(),
        Event::CallerPhoneLocated(_) => call_caller(call).into_iter().collect(),
        Event::PhoneLegEnded { .. } if call.status == CallStatus::MobileReady => {
            bridge_within_patience(call, now)
        }
        Event::TimerFired if call.status == CallStatus::MobileReady => {
            let mut effects = vec![Effect::CheckBridge];
            effects.extend(call.deadline().map(Effect::ArmTimer));
            effects
        }
        Event::TimerFired if call.status == CallStatus::WaitingForMobile => {
            vec![Effect::CheckBridge, Effect::ArmTimer(now + ABANDONED_AFTER)]
        }
        Event::PushNotSent(_)
        | Event::CallerUnreachable
        | Event::NotBridged { .. }
        | Event::Accepted { .. }
        | Event::Declined { .. }
        | Event::HungUp { .. }
        | Event::CallerLegEnded { .. }
        | Event::PhoneLegEnded { .. }
        | Event::TimerFired => owed(call),
        // What accepting the call owed is still owed by whoever carried that out.
        Event::Bridged => Vec::new(),
        Event::StreamStarted
        | Event::StreamStopped(_)
        | Event::CallerPhoneDialed
        | Event::PhoneDialed
        | Event::ExotelProgress { .. }
        | Event::OutboundCallRejected(_)
        | Event::ReplicaOverwritten(_)
        | Event::ExotelNoAnswer => Vec::new(),
    }
}

fn announced(call: &Call, leg: Option<&Leg>, sid: Option<&CallSid>, now: Timestamp) -> Verdict {
    let same_sid = sid.is_some() && sid == call.call_sid.as_ref();
    let other_sid = !same_sid && sid.is_some() && call.call_sid.is_some();
    let new_leg = leg.filter(|leg| !call.is_callers_leg(leg));
    let replaces_leg = new_leg.is_some() && call.caller_leg.is_some();
    let names_the_dead = call.status.is_final() && !same_sid && leg.is_none();
    // Two legs with one CallSid are the trunk's second try; without it, they are two callers.
    if other_sid || names_the_dead || (replaces_leg && !same_sid) {
        return Verdict::Refuse(RejectReason::AnotherCall);
    }
    let mut sets: Vec<Set> = new_leg.map_or_else(Vec::new, waits_on);
    if new_leg.is_some() && call.status != CallStatus::WaitingForMobile {
        sets.extend(owes_from(call, now));
    } else if call_caller(call).is_some() && new_leg.is_some() && call.rang.is_some() {
        sets.push(Set::NoEffectsPending);
    }
    if !same_sid {
        sets.extend(sid.cloned().map(Set::CallSid));
    }
    if sets.is_empty() {
        Verdict::Repeat
    } else {
        Verdict::Change(sets)
    }
}

fn rang(call: &Call, devices: &BTreeSet<crate::ids::DeviceId>, now: Timestamp) -> Verdict {
    let mut sets = vec![Set::PushedTo(devices.clone())];
    match (call.status, &call.rang) {
        (_, Some(_)) => return NOTHING_TO_DO,
        (CallStatus::WaitingForMobile, None) if devices.is_subset(&call.declined_by) => {
            sets.extend(ended(CallStatus::Declined, EndReason::CalleeDeclined, now));
        }
        (CallStatus::WaitingForMobile, None) if call_caller(call).is_none() => {
            sets.push(Set::NoEffectsPending);
        }
        (_, None) => {}
    }
    Verdict::Change(sets)
}

fn nobody_rang(call: &Call, why: EndReason, now: Timestamp) -> Verdict {
    let waits_in_vain = call.status == CallStatus::WaitingForMobile && call.rang.is_none();
    if waits_in_vain {
        Verdict::Change(ended(CallStatus::Failed, why, now))
    } else {
        NOTHING_TO_DO
    }
}

fn accepted(call: &Call, by: &CallParty, now: Timestamp) -> Verdict {
    match call.status {
        CallStatus::WaitingForMobile if now < call.rings_until => Verdict::Change(ready(by, now)),
        CallStatus::MobileReady | CallStatus::InProgress if is_answerer(call, by) => {
            Verdict::Repeat
        }
        // That they talk was told before who had answered: one region heard the phone, the other the PBX.
        CallStatus::InProgress if call.answered_by.is_none() => {
            Verdict::Change(answered_by(call, by, now))
        }
        CallStatus::WaitingForMobile
        | CallStatus::MobileReady
        | CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::InProgress
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => GONE_ANOTHER_WAY,
    }
}

fn declined(call: &Call, by: &CallParty, now: Timestamp) -> Verdict {
    match call.status {
        CallStatus::WaitingForMobile => decline_while_ringing(call, by, now),
        CallStatus::Declined => Verdict::Repeat,
        CallStatus::MobileReady
        | CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::InProgress
        | CallStatus::Completed
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => GONE_ANOTHER_WAY,
    }
}

/// A decline that names its device is that device's own: the others ring on until the last of them declines, which
/// may show only when it is known which devices rang. One that names none speaks for the extension.
fn decline_while_ringing(call: &Call, by: &CallParty, now: Timestamp) -> Verdict {
    let did_not_ring = |device| {
        call.rang
            .as_ref()
            .is_some_and(|rang| !rang.contains(device))
    };
    if by.device.as_ref().is_some_and(did_not_ring) {
        return NOTHING_TO_DO;
    }
    let mut declined_by = call.declined_by.clone();
    let is_new = by
        .device
        .as_ref()
        .is_none_or(|device| declined_by.insert(device.clone()));
    let others_ring = by.device.is_some()
        && call
            .rang
            .as_ref()
            .is_none_or(|rang| !rang.is_subset(&declined_by));
    if others_ring && !is_new {
        return NOTHING_TO_DO;
    }
    let mut sets = Vec::new();
    if by.device.is_some() {
        sets.push(Set::DeclinedBy(declined_by));
    }
    if !others_ring {
        sets.extend(ended(CallStatus::Declined, EndReason::CalleeDeclined, now));
    }
    Verdict::Change(sets)
}

fn hung_up(call: &Call, by: &CallParty, now: Timestamp) -> Verdict {
    if call.status.is_final() {
        return Verdict::Repeat;
    }
    if by.extension != call.extension {
        return caller_left(call, None, false, CallSide::Caller, now);
    }
    match call.status {
        CallStatus::WaitingForMobile => decline_while_ringing(call, by, now),
        // The device that lost the race says goodbye to a call that is another's.
        CallStatus::MobileReady | CallStatus::InProgress if !may_end(call, by) => NOTHING_TO_DO,
        CallStatus::MobileReady => {
            Verdict::Change(ended(CallStatus::Declined, EndReason::CalleeHungUp, now))
        }
        CallStatus::InProgress => {
            Verdict::Change(ended(CallStatus::Completed, EndReason::CalleeHungUp, now))
        }
        CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => Verdict::Repeat,
    }
}

fn caller_left(
    call: &Call,
    leg: Option<&Leg>,
    answered: bool,
    by: CallSide,
    now: Timestamp,
) -> Verdict {
    if leg.is_some_and(|leg| !call.callers_leg_can_be(leg)) {
        return Verdict::Refuse(RejectReason::AnotherCall);
    }
    match call.status {
        CallStatus::WaitingForMobile | CallStatus::MobileReady
            if by == CallSide::Neither && !answered =>
        {
            wait_was_ended(call, now)
        }
        // Only joining the legs answers the caller: this overtook the news that they had been joined, or that is in the
        // other region's version of the call.
        CallStatus::WaitingForMobile | CallStatus::MobileReady if answered => {
            Verdict::Change(ended(CallStatus::Completed, hung_up_by(by), now))
        }
        CallStatus::WaitingForMobile | CallStatus::MobileReady => {
            Verdict::Change(ended(CallStatus::Canceled, EndReason::CallerHungUp, now))
        }
        CallStatus::InProgress => {
            Verdict::Change(ended(CallStatus::Completed, hung_up_by(by), now))
        }
        CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => NOTHING_TO_DO,
    }
}

/// The caller heard busy, and it was not this region that said so: the other one did, and why is on its way here. If it
/// has not come by the deadline, its region was lost with it.
fn wait_was_ended(call: &Call, now: Timestamp) -> Verdict {
    match call.deadline() {
        Some(deadline) if now >= deadline => Verdict::Change(given_up(call, now)),
        _ => NOTHING_TO_DO,
    }
}

fn phone_left(call: &Call, answered: bool, cause: u16, by: CallSide, now: Timestamp) -> Verdict {
    let (status, why) = match call.status {
        CallStatus::MobileReady if answered => (CallStatus::Completed, hung_up_by(by)),
        CallStatus::MobileReady if is_no(cause) => {
            (CallStatus::Declined, EndReason::CalleeDeclined)
        }
        CallStatus::MobileReady if has_just_left(call, now) => return Verdict::Repeat,
        // It may have been called at an address that it has left since: an app that wakes registers anew.
        CallStatus::MobileReady if may_be_called_again(call, now) => {
            return Verdict::Change(owes_from(call, now).into_iter().collect());
        }
        CallStatus::MobileReady => (CallStatus::Failed, EndReason::PhoneUnreachable),
        CallStatus::InProgress => (CallStatus::Completed, hung_up_by(by)),
        CallStatus::WaitingForMobile
        | CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => return NOTHING_TO_DO,
    };
    Verdict::Change(ended(status, why, now))
}

fn bridged(call: &Call, now: Timestamp) -> Verdict {
    match call.status {
        CallStatus::MobileReady => Verdict::Change(talking(now)),
        CallStatus::InProgress => NOTHING_TO_DO,
        // Another region has heard the phone, and what it stored is not here yet.
        CallStatus::WaitingForMobile => {
            let mut sets = talking(now);
            sets.push(Set::ReadyAt(now));
            Verdict::Change(sets)
        }
        CallStatus::Initiated | CallStatus::Ringing => GONE_ANOTHER_WAY,
        // The legs met while the call was being ended.
        CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => Verdict::Only(vec![Effect::HangUpCaller, Effect::HangUpPhone]),
    }
}

fn timer_fired(call: &Call, now: Timestamp) -> Verdict {
    match call.deadline() {
        None => Verdict::Repeat,
        Some(deadline) if now < deadline => too_early(call, deadline, now),
        Some(_) if may_be_talking(call, now) => Verdict::Change(vec![Set::CheckedAt(now)]),
        Some(_) => Verdict::Change(given_up(call, now)),
    }
}

/// How a call ends whose time is up.
fn given_up(call: &Call, now: Timestamp) -> Vec<Set> {
    match call.status {
        CallStatus::MobileReady => ended(CallStatus::Failed, EndReason::NotConnected, now),
        CallStatus::InProgress => ended(CallStatus::Completed, EndReason::TalkedTooLong, now),
        CallStatus::WaitingForMobile
        | CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => ended(CallStatus::TimedOut, EndReason::NoAnswer, now),
    }
}

/// Timers come within a second. One that is later may be of a region that was away, or of the region that did not store
/// the call: the other one may have gone on with it, which is not known here yet.
const LATE: Duration = Duration::from_secs(1);

/// The legs should have been joined by now, and that they were may have been told in vain; or this timer is [`LATE`].
/// Asterisk is asked, once, before a conversation is ended for a lost report.
fn may_be_talking(call: &Call, now: Timestamp) -> bool {
    let is_due = match call.status {
        CallStatus::MobileReady => true,
        CallStatus::WaitingForMobile => now >= call.rings_until + LATE,
        CallStatus::Initiated
        | CallStatus::Ringing
        | CallStatus::InProgress
        | CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => false,
    };
    is_due && call.caller_leg.is_some() && call.checked_at.is_none()
}

/// When the legs should have been joined.
fn connects_until(call: &Call) -> Timestamp {
    let ready_at = call.ready_at.unwrap_or(call.created_at);
    call.rings_until.max(ready_at + call.limits.connect)
}

/// When a phone that is ready and does not talk is given up.
pub(super) fn gives_up_at(call: &Call) -> Timestamp {
    once_answered(call, connects_until(call))
}

/// Asterisk, once asked whether they talk, has a moment to answer.
pub(super) fn once_answered(call: &Call, due: Timestamp) -> Timestamp {
    let answered = call.checked_at.map(|asked| asked + ABANDONED_AFTER);
    answered.map_or(due, |answered| answered.max(due))
}

fn not_bridged(call: &Call, rings: bool, now: Timestamp) -> Verdict {
    match call.status {
        // Somebody has accepted in another region, and what it stored is on its way: the next timer comes soon enough.
        CallStatus::WaitingForMobile if rings => NOTHING_TO_DO,
        CallStatus::MobileReady if now >= connects_until(call) => {
            Verdict::Change(given_up(call, now))
        }
        CallStatus::WaitingForMobile if now >= call.rings_until => {
            Verdict::Change(given_up(call, now))
        }
        _ => NOTHING_TO_DO,
    }
}

/// A timer that comes before its time ends nothing, but finishes what somebody left undone. Once the ring's own
/// timers have come, it may be the last one there is, and sets itself anew.
fn too_early(call: &Call, deadline: Timestamp, now: Timestamp) -> Verdict {
    // Of a call that was abandoned while it rings, the timer that ends it may be among what was left undone.
    let mut effects = if call.was_abandoned(now) {
        owed(call)
    } else {
        Vec::new()
    };
    if now >= call.rings_until {
        effects.push(Effect::ArmTimer(deadline));
    }
    Verdict::Only(effects)
}

fn waits_on(leg: &Leg) -> Vec<Set> {
    vec![
        Set::CallerLeg(leg.channel.clone()),
        Set::Pbx(leg.pbx.clone()),
    ]
}

/// Where the phone is called is settled once: a second leg on another PBX would have the same id there.
fn caller_found(call: &Call, pbx: &PbxName) -> Verdict {
    match (call_caller(call), &call.pbx) {
        _ if call.status.is_final() => NOTHING_TO_DO,
        (None, _) => NOTHING_TO_DO,
        (Some(_), None) => Verdict::Change(vec![Set::Pbx(pbx.clone())]),
        (Some(call_caller), Some(_)) => Verdict::Only(vec![call_caller]),
    }
}

/// The call may have ended between the wish to call a phone and its leg, and what ended it found no leg to take down.
fn called_in_vain(call: &Call, hang_up: Effect) -> Verdict {
    if call.status.is_final() {
        Verdict::Only(vec![hang_up])
    } else {
        NOTHING_TO_DO
    }
}

/// The app that calls is told by the answer to its request; whoever's phone rings for it need not ring.
fn caller_unreachable(call: &Call, now: Timestamp) -> Verdict {
    if call.status.is_final() || call.caller_leg.is_some() {
        NOTHING_TO_DO
    } else {
        Verdict::Change(ended(CallStatus::Failed, EndReason::CallerUnreachable, now))
    }
}

fn ready(by: &CallParty, now: Timestamp) -> Vec<Set> {
    vec![
        Set::Status(CallStatus::MobileReady),
        Set::AnsweredBy(AnsweredBy {
            device: by.device.clone(),
        }),
        Set::ReadyAt(now),
        Set::EffectsPendingSince(now),
    ]
}

fn answered_by(call: &Call, by: &CallParty, now: Timestamp) -> Vec<Set> {
    let mut sets = vec![
        Set::AnsweredBy(AnsweredBy {
            device: by.device.clone(),
        }),
        Set::ReadyAt(now),
    ];
    sets.extend(owes_from(call, now));
    sets
}

/// All that being in its state asks to be done for a call: what a transition into that state is followed by, and
/// what is done over if whoever made the transition died.
pub(super) fn owed(call: &Call) -> Vec<Effect> {
    let mut effects = match call.status {
        CallStatus::WaitingForMobile => return rings(call),
        CallStatus::MobileReady => {
            let mut effects: Vec<Effect> = call.caller_leg.iter().map(|_| Effect::Bridge).collect();
            effects.extend(call_caller(call));
            effects.extend(answered_elsewhere(call));
            effects
        }
        CallStatus::Initiated | CallStatus::Ringing => Vec::new(),
        CallStatus::InProgress => answered_elsewhere(call).into_iter().collect(),
        // Who answered is known to the other region, and whether that has told the other devices is not.
        CallStatus::Completed if call.answered_by.is_none() => {
            with_cancel(call, Effect::HangUpCaller, CancelReason::AnsweredElsewhere)
        }
        CallStatus::Completed => take_down(call, Effect::HangUpCaller),
        CallStatus::Canceled => with_cancel(call, Effect::HangUpCaller, CancelReason::CallerHungUp),
        CallStatus::TimedOut => with_cancel(call, Effect::SendBusy, CancelReason::Timeout),
        CallStatus::Failed if call.end_reason == Some(EndReason::CallerUnreachable) => {
            with_cancel(call, Effect::HangUpCaller, CancelReason::CallerHungUp)
        }
        CallStatus::Failed if call.ready_at.is_some() => {
            with_cancel(call, Effect::SendBusy, CancelReason::Timeout)
        }
        CallStatus::Failed => take_down(call, Effect::SendBusy),
        CallStatus::Declined if call.ready_at.is_some() => take_down(call, Effect::SendBusy),
        CallStatus::Declined if rang_alone(call) => take_down(call, Effect::SendBusy),
        CallStatus::Declined => {
            with_cancel(call, Effect::SendBusy, CancelReason::AnsweredElsewhere)
        }
    };
    if call.status.is_final() {
        effects.extend(left_untold(call));
    }
    effects.extend(call.effects_pending_since.map(Effect::MarkEffectsCompleted));
    if call.status.is_final() {
        effects.push(Effect::DisarmTimer);
    }
    effects
}

/// What is owed since long. A phone that has not been rung while it might is not rung afterwards: its timer, armed
/// now, ends the call.
pub(super) fn overdue(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = owed(call);
    if now >= call.rings_until {
        effects.retain(|effect| !matches!(effect, Effect::SendPush | Effect::DialCallerPhone));
    }
    effects
}

fn rings(call: &Call) -> Vec<Effect> {
    let mut effects = vec![Effect::ArmTimer(call.rings_until)];
    effects.extend(call.rang.is_none().then_some(Effect::SendPush));
    effects.extend(call_caller(call));
    effects
}

/// The phone of the app that calls is called until it waits; its leg's id keeps it from being called twice.
fn call_caller(call: &Call) -> Option<Effect> {
    let is_missing = call.caller.extension.is_some() && call.caller_leg.is_none();
    is_missing.then_some(Effect::DialCallerPhone)
}

/// Somebody may have died over a young debt, and whoever is asked now may be the last to come.
pub(super) fn look_after(call: &Call) -> Option<Effect> {
    let effects_pending_since = call.effects_pending_since?;
    let rings = call.status == CallStatus::WaitingForMobile;
    rings.then_some(Effect::ArmTimer(effects_pending_since + ABANDONED_AFTER))
}

/// What is owed to a leg that arrives when its call has gone on without it: to be bridged, or to hear how it ended.
fn after_announcement(call: &Call, event: &Event, now: Timestamp) -> Vec<Effect> {
    let leg_arrived = matches!(
        event,
        Event::CallerReported {
            caller_leg: Some(_),
            ..
        }
    );
    match call.status {
        CallStatus::WaitingForMobile if call.was_abandoned(now) => overdue(call, now),
        CallStatus::WaitingForMobile => look_after(call).into_iter().collect(),
        CallStatus::InProgress => Vec::new(),
        CallStatus::Initiated | CallStatus::Ringing => Vec::new(),
        _ if !leg_arrived => Vec::new(),
        CallStatus::MobileReady => bridge_within_patience(call, now),
        CallStatus::Completed
        | CallStatus::Declined
        | CallStatus::TimedOut
        | CallStatus::Canceled
        | CallStatus::Failed => {
            let mut effects = vec![Effect::SendBusy];
            effects.extend(call.effects_pending_since.map(Effect::MarkEffectsCompleted));
            effects
        }
    }
}

/// An older debt stands: what it was made for may be undone yet, and whoever settled the new one would settle that.
fn owes_from(call: &Call, now: Timestamp) -> Option<Set> {
    call.effects_pending_since
        .is_none()
        .then_some(Set::EffectsPendingSince(now))
}

/// The PBX, which has reported a leg, waits for our answer for a few seconds only. If the phone takes longer to
/// register, the timer finds the bridging undone and goes on with it; and with an older debt, which is not ours to
/// settle.
fn bridge_within_patience(call: &Call, now: Timestamp) -> Vec<Effect> {
    let mut effects = vec![Effect::ArmTimer(now + ABANDONED_AFTER), Effect::Bridge];
    let own = call.effects_pending_since.filter(|since| *since == now);
    effects.extend(own.map(Effect::MarkEffectsCompleted));
    effects
}

/// A push that was handed over only after the call had stopped ringing may reach its phone after the cancellation
/// did: it is called back once more.
fn recall_late_rings(call: &Call, finished_at: Timestamp) -> Vec<Effect> {
    let stopped_ringing = call.ready_at.or(call.ended_at);
    if stopped_ringing.is_none_or(|stopped| finished_at < stopped) {
        return Vec::new();
    }
    match call.status {
        CallStatus::WaitingForMobile | CallStatus::Initiated | CallStatus::Ringing => Vec::new(),
        CallStatus::MobileReady | CallStatus::InProgress | CallStatus::Completed => {
            answered_elsewhere(call).into_iter().collect()
        }
        CallStatus::Canceled => vec![cancel(call, CancelReason::CallerHungUp)],
        CallStatus::TimedOut | CallStatus::Failed => vec![cancel(call, CancelReason::Timeout)],
        CallStatus::Declined => vec![cancel(call, CancelReason::AnsweredElsewhere)],
    }
}

fn take_down(call: &Call, caller: Effect) -> Vec<Effect> {
    let mut effects: Vec<Effect> = call
        .caller_channel()
        .iter()
        .map(|_| caller.clone())
        .collect();
    effects.extend(call.ready_at.map(|_| Effect::HangUpPhone));
    effects
}

fn with_cancel(call: &Call, caller: Effect, reason: CancelReason) -> Vec<Effect> {
    let mut effects = take_down(call, caller);
    effects.push(cancel(call, reason));
    effects
}

/// The cancellation for every device that may think it still has a part in the call.
fn cancel(call: &Call, reason: CancelReason) -> Effect {
    let answerer = call
        .answered_by
        .as_ref()
        .and_then(|answerer| answerer.device.clone());
    let to = match answerer {
        // The others were told when this one answered.
        Some(device) => Audience::Only(device),
        None => Audience::AllBut(call.declined_by.clone()),
    };
    Effect::CancelPush { reason, to }
}

/// Whoever carried the accept out may have died before the other devices were told of it, and the call have ended before
/// anybody came to finish that: no line of the history says that it was settled. Its end owes it, then.
fn left_untold(call: &Call) -> Option<Effect> {
    let last = |names: &[&str]| {
        let mut lines = call.history.iter();
        lines.rposition(|line| names.contains(&line.event.as_str()))
    };
    let is_untold = last(&ACCEPTED) > last(&[SETTLED]);
    is_untold.then(|| answered_elsewhere(call)).flatten()
}

/// The cancellation for the devices that did not answer. An app that named no device cannot be told from the
/// others, and must not be told that somebody else answered what it answered itself.
fn answered_elsewhere(call: &Call) -> Option<Effect> {
    let answerer = call.answered_by.as_ref()?.device.clone()?;
    if call
        .rang
        .as_ref()
        .is_some_and(|rang| rang.len() == 1 && rang.contains(&answerer))
    {
        return None;
    }
    let mut spared = call.declined_by.clone();
    spared.insert(answerer);
    Some(Effect::CancelPush {
        reason: CancelReason::AnsweredElsewhere,
        to: Audience::AllBut(spared),
    })
}

fn rang_alone(call: &Call) -> bool {
    call.rang.as_ref().is_some_and(|rang| rang.len() <= 1)
}

fn is_answerer(call: &Call, by: &CallParty) -> bool {
    call.answered_by
        .as_ref()
        .is_some_and(|answerer| answerer.device == by.device)
}

fn may_end(call: &Call, by: &CallParty) -> bool {
    by.device.is_none() || is_answerer(call, by)
}

const fn hung_up_by(side: CallSide) -> EndReason {
    match side {
        CallSide::Caller => EndReason::CallerHungUp,
        CallSide::Callee => EndReason::CalleeHungUp,
        CallSide::Neither => EndReason::HungUp,
    }
}

/// Whether a phone that ends its leg with this Q.850 cause said no: 17 user busy, 21 call rejected.
const fn is_no(cause: u16) -> bool {
    matches!(cause, 17 | 21)
}

/// How often a phone that did not answer is called. Each time that it did not is a line of the history.
const PHONE_CALLS: usize = 3;

/// Legs of one phone cannot be told apart, so a second end within this time counts as the same one told again.
const SAME_LEG_WITHIN: Duration = Duration::from_secs(1);

fn has_just_left(call: &Call, now: Timestamp) -> bool {
    let last = call.history.iter().rfind(|entry| entry.event == PHONE_LEFT);
    last.is_some_and(|entry| now.since(entry.at) < SAME_LEG_WITHIN)
}

fn may_be_called_again(call: &Call, now: Timestamp) -> bool {
    let lost = call
        .history
        .iter()
        .filter(|entry| entry.event == PHONE_LEFT)
        .count();
    let in_time = call.deadline().is_some_and(|deadline| now < deadline);
    in_time && call.caller_leg.is_some() && lost + 1 < PHONE_CALLS
}
