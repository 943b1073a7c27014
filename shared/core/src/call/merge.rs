//! Two regions keep the same call, and replication keeps the later of two versions (DynamoDB global tables: the last writer wins,
//! and the item is replaced as a whole). What the replaced version knew comes back as [`Event::ReplicaOverwritten`]. Facts about a
//! call are only ever added, so both versions together are what has happened.
//!
//! [`Event::ReplicaOverwritten`]: super::Event::ReplicaOverwritten

use std::cmp::Ordering;
use std::collections::BTreeSet;

use super::common_rules::{ended, reason_of_conversation};
use super::rule::{Rule, otherwise, when_read};
use super::{
    Assignment, Call, CallEnd, CallStatus, Effect, EndReason, PushedDevices, pending, ring_receipt,
};
use crate::timestamp::Timestamp;

impl Call {
    /// Whether `overwritten`, another version of this call, knows something that this one does not.
    #[must_use]
    pub fn has_lost(&self, overwritten: &Self) -> bool {
        !learned(self, overwritten, overwritten.created_at).is_empty()
    }

    /// Which of two versions of a call has come further. Other than with [`CallStatus::rank`], a conversation beats every other end, and a
    /// report beats what a timer assumed: one region knows what happened, and the other one ended the call without knowing it while the
    /// regions were apart.
    #[must_use]
    pub fn merge_rank(&self) -> u8 {
        match self.status {
            CallStatus::WaitingForMobile | CallStatus::Initiated => 0,
            CallStatus::MobileReady | CallStatus::Ringing => 1,
            _ if self.end_is_assumed() => 2,
            CallStatus::InProgress => 3,
            CallStatus::Declined
            | CallStatus::TimedOut
            | CallStatus::Canceled
            | CallStatus::Failed => 4,
            CallStatus::Completed => 5,
        }
    }
}

/// The rules for a version that was overwritten.
pub(super) fn rules(overwritten: &Call, now: Timestamp) -> Vec<Rule<'_>> {
    vec![
        when_read("knows all that the other version knows", move |call| {
            learned(call, overwritten, now).is_empty()
        })
        .repeat(),
        otherwise()
            .set_of("what the other version knows besides", move |call| {
                learned(call, overwritten, now)
            })
            .then("pending, if pending from now on", effects_of_merge),
    ]
}

fn effects_of_merge(call: &Call, now: Timestamp) -> Vec<Effect> {
    if call.effects_pending_since != Some(now) {
        return Vec::new();
    }
    let mut effects = pending::effects(call);
    if call.status == CallStatus::InProgress && !call.is_to_number() {
        // This region may have ended the call, and its timers with it.
        effects.extend(call.deadline().map(Effect::ArmTimer));
    }
    effects
}

/// What `call` learns from `other`.
fn learned(call: &Call, other: &Call, now: Timestamp) -> Vec<Assignment> {
    name_every_field(other);
    let mut set = legs_and_names(call, other);
    set.extend(devices(call, other));
    let answer = answer(call, other);
    let progress = progress(call, other, now);
    // A phone may have been dialed for the app that answered, or at another address, or a leg waits that was unknown here.
    let has_new_leg = set
        .iter()
        .any(|set| matches!(set, Assignment::CallerLeg(_) | Assignment::PhoneAttempt(_)));
    let may_have_legs = has_new_leg || !answer.is_empty();
    let legs_wait = may_have_legs && call.status != CallStatus::WaitingForMobile;
    // With the CallSid, Exotel can be asked how a call to a number ended that was given up.
    let has_new_sid = set.iter().any(|set| matches!(set, Assignment::CallSid(_)));
    let may_be_queried = has_new_sid && call.is_to_number() && call.end_is_assumed();
    if progress.is_empty() && (legs_wait || may_be_queried) {
        set.push(Assignment::EffectsPendingSince(now));
    }
    set.extend(answer);
    set.extend(progress);
    set.extend(pending_cancellation(call, &set, now));
    let is_completed = |since| other.effects_completed == Some(since);
    let is_pending_again = set
        .iter()
        .any(|set| matches!(set, Assignment::EffectsPendingSince(_)));
    if !is_pending_again && call.effects_pending_since.is_some_and(is_completed) {
        set.extend(other.effects_completed.map(Assignment::EffectsCompleted));
    }
    set
}

/// One region has sent pushes after the call had stopped ringing in the other one.
fn pending_cancellation(call: &Call, learned: &[Assignment], now: Timestamp) -> Vec<Assignment> {
    let has_later_pushes = learned
        .iter()
        .any(|set| matches!(set, Assignment::Pushed(_)));
    // A region may know of the conversation and not of the accept.
    let has_stopped = call.answered_by.is_some() || call.status.is_final();
    let is_known = !has_later_pushes && has_stopped;
    let mut merged = call.clone();
    for assignment in learned {
        assignment.apply_to(&mut merged);
    }
    let is_missed = call.pushed.is_none() && has_ended_unpushed(&merged);
    let is_late = |at| !pending::cancel_late_pushes(&merged, at).is_empty();
    let pushed = merged.pushed.as_ref().filter(|_| !is_known);
    if !pushed.is_some_and(|pushed| is_missed || is_late(pushed.at)) {
        return Vec::new();
    }
    vec![
        Assignment::EffectsPendingSince(now),
        Assignment::AnswerUnannounced(merged.answered_by.is_some()),
    ]
}

/// Does nothing, but a new field of a call does not compile until it stands here: decide then what `learned` does with it.
fn name_every_field(call: &Call) {
    let Call {
        // Never change.
        call_id: _,
        extension: _,
        kind: _,
        call_type: _,
        created_at: _,
        rings_until: _,
        settings: _,
        // Each region has its own.
        version: _,
        checked_at: _,
        effects_pending_since: _,
        effects_completed: _,
        history: _,
        expires_at: _,
        // `legs_and_names`
        caller_leg: _,
        pbx: _,
        call_sid: _,
        stream: _,
        exotel_unanswered: _,
        phone_attempt: _,
        lost_phone_legs: _,
        // `devices`
        pushed: _,
        ring_receipts: _,
        declined_by: _,
        // `answer`
        answered_by: _,
        answer_unannounced: _,
        ready_at: _,
        bridged_at: _,
        // `progress`
        status: _,
        ended: _,
    } = call;
}

fn legs_and_names(call: &Call, other: &Call) -> Vec<Assignment> {
    let mut set = Vec::new();
    let gains_leg = is_leg_of_other(call, other);
    if gains_leg {
        set.extend(other.caller_leg.clone().map(Assignment::CallerLeg));
    }
    // The PBX of the call is that of its leg.
    let lacks_pbx = call.pbx.is_none() && call.caller_leg == other.caller_leg;
    if (gains_leg && call.pbx != other.pbx) || lacks_pbx {
        set.extend(other.pbx.clone().map(Assignment::Pbx));
    }
    if call.call_sid.is_none() {
        set.extend(other.call_sid.clone().map(Assignment::CallSid));
    }
    // A stream may start and stop any number of times, so nothing says which of two versions is right.
    if call.stream.is_none() {
        set.extend(other.stream.map(Assignment::Stream));
    }
    if other.exotel_unanswered && !call.exotel_unanswered {
        set.push(Assignment::ExotelUnanswered);
    }
    if other.phone_attempt > call.phone_attempt {
        set.push(Assignment::PhoneAttempt(other.phone_attempt));
    }
    if let Some(lost) = other.lost_phone_legs
        && call
            .lost_phone_legs
            .is_none_or(|known| known.count < lost.count)
    {
        set.push(Assignment::LostPhoneLegs(lost));
    }
    set
}

/// Whether the caller is on the other version's leg: that one talks, or is the trunk's later attempt.
fn is_leg_of_other(call: &Call, other: &Call) -> bool {
    let (Some(own), Some(theirs)) = (&call.caller_leg, &other.caller_leg) else {
        return other.caller_leg.is_some();
    };
    // The phone is dialed for the leg that was known when the app was ready.
    let progress = |call: &Call| (call.bridged_at.is_some(), call.ready_at.is_some());
    match progress(other).cmp(&progress(call)) {
        Ordering::Greater => own != theirs,
        Ordering::Less => false,
        Ordering::Equal => own.is_older_than(theirs),
    }
}

fn devices(call: &Call, other: &Call) -> Vec<Assignment> {
    let mut set = Vec::new();
    if let Some(pushed) = other
        .pushed
        .as_ref()
        .or(unrecorded_pushes(call, other).as_ref())
    {
        let known = call.pushed.as_ref();
        if !known.is_some_and(|known| known.include(pushed)) {
            set.push(Assignment::Pushed(pushed.added_to(known)));
        }
    }
    let receipts = ring_receipt::first_of_both(&call.ring_receipts, &other.ring_receipts);
    if receipts != call.ring_receipts {
        set.push(Assignment::RingReceipts(receipts));
    }
    if !other.declined_by.is_subset(&call.declined_by) {
        let all = call.declined_by.union(&other.declined_by);
        set.push(Assignment::DeclinedBy(all.cloned().collect()));
    }
    set
}

/// Both regions have stored the call, and a process of the other one may have crashed after it sent pushes and before it recorded them. It
/// matters if this region has ended the call without a cancellation.
fn unrecorded_pushes(call: &Call, other: &Call) -> Option<PushedDevices> {
    let rings = other.status == CallStatus::WaitingForMobile && !other.is_to_number();
    let at = other.effects_pending_since.filter(|_| rings)?;
    let is_stored_twice = call.created_at != other.created_at;
    let is_unknown = call.pushed.is_none() && has_ended_unpushed(call);
    (is_stored_twice && is_unknown).then(|| PushedDevices {
        devices: BTreeSet::new(),
        are_all: false,
        at,
        earlier: BTreeSet::new(),
        retry_at: None,
        clients: 0,
    })
}

/// A region that could send no push, or has refused the call, has ended it without a cancellation.
fn has_ended_unpushed(call: &Call) -> bool {
    call.end_reason() == Some(EndReason::PushFailed) || call.refusal().is_some()
}

fn answer(call: &Call, other: &Call) -> Vec<Assignment> {
    let mut set = Vec::new();
    let mut learns_moment = call.ready_at.is_none();
    if let (None, Some(answered_by)) = (&call.answered_by, &other.answered_by) {
        set.push(Assignment::AnsweredBy(answered_by.clone()));
        set.push(Assignment::AnswerUnannounced(other.answer_unannounced));
        // A region that hears of a conversation before it knows the accept takes that moment for the accept.
        learns_moment = true;
    }
    if learns_moment && call.ready_at != other.ready_at {
        set.extend(other.ready_at.map(Assignment::ReadyAt));
    }
    if call.bridged_at.is_none() {
        set.extend(other.bridged_at.map(Assignment::BridgedAt));
    }
    set
}

/// How far the call has come, if `other` has come further. Of two ends with the same rank, the standing version keeps its own.
fn progress(call: &Call, other: &Call, now: Timestamp) -> Vec<Assignment> {
    if lost_another_leg(other, call) {
        return Vec::new();
    }
    if lost_another_leg(call, other) {
        return vec![
            Assignment::Status(CallStatus::InProgress),
            Assignment::NotEnded(now + call.settings.talk),
            Assignment::EffectsPendingSince(now),
        ];
    }
    if let Some(end) = end_of_conversation(call, other) {
        return vec![
            Assignment::Status(CallStatus::Completed),
            Assignment::Ended(
                end.at,
                reason_of_conversation(end.reason, EndReason::HungUp),
            ),
            Assignment::EffectsPendingSince(now),
        ];
    }
    if other.merge_rank() > call.merge_rank() {
        let mut set = vec![Assignment::Status(other.status)];
        // The other region knows when the call ended.
        set.extend(other.ended.map(|end| Assignment::Ended(end.at, end.reason)));
        if call.ended.is_some() && other.ended.is_none() {
            set.push(Assignment::NotEnded(now + call.settings.talk));
        }
        set.push(Assignment::EffectsPendingSince(now));
        return set;
    }
    if call.status == CallStatus::WaitingForMobile && all_declined(call, other) {
        return ended(CallStatus::Declined, EndReason::CalleeDeclined, now);
    }
    Vec::new()
}

/// The end of a conversation, if one region knows that the two talked, and the other one that the call has ended.
fn end_of_conversation(call: &Call, other: &Call) -> Option<CallEnd> {
    let has_talked = call.bridged_at.is_some() || other.bridged_at.is_some();
    let is_completed = |call: &Call| call.status == CallStatus::Completed;
    if call.is_to_number() || !has_talked || is_completed(call) || is_completed(other) {
        return None;
    }
    let reported = [call, other]
        .into_iter()
        .filter(|call| !call.end_is_assumed());
    reported.filter_map(|call| call.ended).next()
}

/// Whether one version ended with a leg of its caller, who talks on another leg in the other version: the trunk brought the caller on two
/// legs, and canceled one of them when the other was answered.
fn lost_another_leg(ended: &Call, talking: &Call) -> bool {
    ended.status == CallStatus::Canceled
        && ended.bridged_at.is_none()
        && talking.status == CallStatus::InProgress
        && ended.caller_leg.is_some()
        && talking.caller_leg.is_some()
        && ended.caller_leg != talking.caller_leg
}

/// Each region has seen some devices decline, and neither has seen all of them.
fn all_declined(call: &Call, other: &Call) -> bool {
    let pushed = call.pushed.iter().chain(&other.pushed);
    let mut devices = pushed.flat_map(|pushed| &pushed.devices).peekable();
    devices.peek().is_some()
        && devices
            .all(|device| call.declined_by.contains(device) || other.declined_by.contains(device))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::call::properties::{
        START, after, an_outbound_call, any_call, any_event, any_life, effects_of, live,
    };
    use crate::call::{CancelAudience, CancelReason, Decision, Event, Readiness, decide};
    use crate::ids::{CallSid, DeviceId};
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn overwritten(version: &Call) -> Event {
        Event::ReplicaOverwritten(Box::new(version.clone()))
    }

    fn callee(call: &Call) -> crate::call::CallParty {
        crate::call::CallParty {
            extension: call.extension.clone(),
            device: None,
        }
    }

    fn accepted(call: &Call) -> Event {
        let by = callee(call);
        let readiness = Readiness::Woken;
        Event::Accepted { by, readiness }
    }

    fn device_ids<const N: usize>(ids: [&str; N]) -> [DeviceId; N] {
        ids.map(|id| DeviceId::try_from(id).unwrap())
    }

    fn accepted_on(call: &Call, device: &DeviceId) -> Event {
        let mut by = callee(call);
        by.device = Some(device.clone());
        let readiness = Readiness::Woken;
        Event::Accepted { by, readiness }
    }

    fn caller_leg() -> crate::ids::Leg {
        crate::testing::leg("pbx1", "leg-a")
    }

    /// The PBX reports the caller's leg to one region while the app accepts in the other.
    #[test]
    fn a_leg_in_one_region_and_an_answer_in_the_other_are_bridged() {
        let mut call = a_call(NOW);
        call.caller_leg = None;
        let arrival = Event::CallerReported {
            caller_leg: Some(caller_leg()),
            call_sid: None,
        };
        let with_leg = after(&call, &arrival, NOW);
        let ready = after(&call, &accepted(&call), NOW);
        for (standing, lost) in [(&ready, &with_leg), (&with_leg, &ready)] {
            assert!(standing.has_lost(lost));
            let decision = decide(standing, &overwritten(lost), NOW);
            assert!(
                effects_of(&decision).contains(&Effect::Bridge),
                "{decision:?}"
            );
            let both = after(standing, &overwritten(lost), NOW);
            assert_eq!(
                (both.status, both.is_callers_leg(&caller_leg())),
                (CallStatus::MobileReady, true)
            );
        }
    }

    #[test]
    fn a_call_that_ended_in_one_region_ends_in_both_and_stops_ringing() {
        let mut call = a_call(NOW);
        call.caller_leg = Some(caller_leg().channel);
        let left = Event::CallerLegEnded {
            leg: None,
            answered: false,
            by: crate::call::CallSide::Caller,
        };
        let (canceled, ready) = (
            after(&call, &left, NOW),
            after(&call, &accepted(&call), NOW),
        );
        for (standing, lost) in [(&ready, &canceled), (&canceled, &ready)] {
            let decision = decide(standing, &overwritten(lost), NOW);
            assert!(
                effects_of(&decision).contains(&Effect::HangUp),
                "{decision:?}"
            );
            let both = after(standing, &overwritten(lost), NOW);
            assert_eq!(
                (both.status, both.end_reason()),
                (CallStatus::Canceled, Some(EndReason::CallerHungUp))
            );
        }
    }

    /// The region that was lost comes back when the conversation is over. Its late timer finds no legs at the PBX.
    #[test]
    fn a_conversation_in_one_region_beats_a_timeout_in_the_other() {
        let call = a_call(NOW);
        let late = call.rings_until + Duration::from_secs(2);
        let asked = after(&call, &Event::TimerFired, late);
        let timed_out = after(&asked, &Event::NotBridged { rings: false }, late);
        assert_eq!(timed_out.status, CallStatus::TimedOut);
        let talking = after(&after(&call, &accepted(&call), NOW), &Event::Bridged, NOW);
        let over = call.rings_until + Duration::from_millis(200);
        let left = Event::PhoneLegEnded {
            pbx: call.pbx.clone().unwrap(),
            attempt: 1,
            answered: true,
            cause: 16,
            by: crate::call::CallSide::Callee,
        };
        let completed = after(&talking, &left, over);
        for (standing, lost) in [(&timed_out, &completed), (&completed, &timed_out)] {
            let both = after(standing, &overwritten(lost), late);
            assert_eq!(
                (both.status, both.end_reason(), both.ended_at()),
                (
                    CallStatus::Completed,
                    Some(EndReason::CalleeHungUp),
                    Some(over)
                )
            );
        }
    }

    /// The caller hangs up in one region. The other region does not get this change, and its timer ends the call as unanswered.
    #[test]
    fn a_reported_end_beats_an_assumed_one() {
        let call = a_call(NOW);
        let left = Event::CallerLegEnded {
            leg: None,
            answered: false,
            by: crate::call::CallSide::Caller,
        };
        let canceled = after(&call, &left, NOW);
        let timed_out = after(&call, &Event::TimerFired, call.rings_until);
        assert_eq!(timed_out.status, CallStatus::TimedOut);
        let late = call.rings_until + Duration::from_secs(9);
        for (standing, lost) in [(&timed_out, &canceled), (&canceled, &timed_out)] {
            let both = after(standing, &overwritten(lost), late);
            assert_eq!(
                (both.status, both.ended),
                (CallStatus::Canceled, canceled.ended)
            );
        }
    }

    /// The region that was lost comes back at the end of the ring, and does not know yet that the two talk.
    #[test]
    fn a_conversation_goes_on_when_the_other_region_gives_the_call_up() {
        let call = a_call(NOW);
        let timed_out = after(&call, &Event::TimerFired, call.rings_until);
        assert_eq!(timed_out.status, CallStatus::TimedOut);
        let talking = after(&after(&call, &accepted(&call), NOW), &Event::Bridged, NOW);
        for (standing, lost) in [(&timed_out, &talking), (&talking, &timed_out)] {
            let decision = decide(standing, &overwritten(lost), call.rings_until);
            let ends_legs = [Effect::SendBusy, Effect::HangUp];
            assert!(
                !effects_of(&decision)
                    .iter()
                    .any(|effect| ends_legs.contains(effect))
            );
            let both = after(standing, &overwritten(lost), call.rings_until);
            assert_eq!((both.status, both.ended), (CallStatus::InProgress, None));
        }
        // Its busy finds the two bridged.
        let bridged = decide(&timed_out, &Event::Bridged, call.rings_until);
        let talking_again = after(&timed_out, &Event::Bridged, call.rings_until);
        assert_eq!(talking_again.status, CallStatus::InProgress);
        let timer = Effect::ArmTimer(talking_again.deadline().unwrap());
        assert_eq!(effects_of(&bridged), [timer]);
    }

    /// The app hangs up a conversation, and the PBX has not reported its bridge.
    #[test]
    fn the_end_of_an_answered_leg_corrects_an_unanswered_end() {
        let call = a_call(NOW);
        let ready = after(&call, &accepted(&call), NOW);
        let by = callee(&call);
        let hung_up = after(&ready, &Event::HungUp { by }, NOW);
        assert_eq!(hung_up.status, CallStatus::Declined);
        let left = Event::CallerLegEnded {
            leg: None,
            answered: true,
            by: crate::call::CallSide::Neither,
        };
        for evidence in [left, Event::Bridged] {
            let completed = after(&hung_up, &evidence, NOW);
            assert_eq!(
                (completed.status, completed.end_reason()),
                (CallStatus::Completed, Some(EndReason::CalleeHungUp))
            );
        }
    }

    /// The PBX reports to one region the busy that the other region requested. The reason arrives by replication.
    #[test]
    fn a_busy_that_the_other_region_requested_is_not_a_hang_up_of_the_caller() {
        let call = a_call(NOW);
        let busy = Event::CallerLegEnded {
            leg: None,
            answered: false,
            by: crate::call::CallSide::Neither,
        };
        assert!(matches!(
            decide(&call, &busy, NOW),
            Decision::Stay { effects } if effects.is_empty()
        ));
        let declined = after(&call, &Event::Declined { by: callee(&call) }, NOW);
        let both = after(&call, &overwritten(&declined), NOW);
        assert_eq!(both.status, CallStatus::Declined);
        // The region was lost at that moment and the reason never arrives: the call ends at its deadline.
        let over = after(&call, &busy, call.rings_until);
        assert_eq!(
            (over.status, over.end_reason()),
            (CallStatus::TimedOut, Some(EndReason::NoAnswer))
        );
    }

    /// The conversation began in the region that was lost, and the other region gets only the report of its end.
    #[test]
    fn the_end_of_an_answered_leg_completes_the_call() {
        let call = a_call(NOW);
        let left = Event::CallerLegEnded {
            leg: None,
            answered: true,
            by: crate::call::CallSide::Caller,
        };
        assert_eq!(after(&call, &left, NOW).status, CallStatus::Completed);
    }

    /// The other region got the accept at the last moment of the ring, and replication is slow: the phone rings already.
    #[test]
    fn a_late_timer_waits_while_the_phone_rings() {
        let mut call = a_call(NOW);
        call.caller_leg = Some(caller_leg().channel);
        let late = call.rings_until + Duration::from_secs(2);
        let asked = after(&call, &Event::TimerFired, late);
        let rings = decide(&asked, &Event::NotBridged { rings: true }, late);
        assert!(matches!(rings, Decision::Stay { effects } if effects.is_empty()));
        let alone = after(&asked, &Event::NotBridged { rings: false }, late);
        assert_eq!(alone.status, CallStatus::TimedOut);
        // Asterisk is asked once more, in case it did not answer or the process that asked has crashed.
        let next = late + crate::call::ABANDONED_AFTER;
        let asked_again = decide(&asked, &Event::TimerFired, next);
        assert!(effects_of(&asked_again).contains(&Effect::CheckBridge));
        let last = next + crate::call::ABANDONED_AFTER;
        assert_eq!(
            after(&asked, &Event::TimerFired, last).status,
            CallStatus::TimedOut
        );
    }

    /// The first leg of the phone failed, the second one is bridged, and the report of the first one's end comes again.
    #[test]
    fn a_repeated_report_of_an_earlier_leg_ends_no_conversation() {
        let call = a_call(NOW);
        let talking = after(&after(&call, &accepted(&call), NOW), &Event::Bridged, NOW);
        let left = |answered, cause| Event::PhoneLegEnded {
            pbx: call.pbx.clone().unwrap(),
            attempt: 1,
            answered,
            cause,
            by: crate::call::CallSide::Callee,
        };
        let repeated = decide(&talking, &left(false, 20), NOW);
        assert!(matches!(repeated, Decision::Stay { effects } if effects.is_empty()));
        assert_eq!(
            after(&talking, &left(true, 16), NOW).status,
            CallStatus::Completed
        );
    }

    /// The timer's process has a clock that is behind that of the process that armed it.
    #[test]
    fn a_timer_that_fires_early_arms_the_next_one() {
        let call = a_call(NOW);
        let early = call.rings_until.before(Duration::from_millis(900));
        let decision = decide(&call, &Event::TimerFired, early);
        let again = Effect::ArmTimer(call.rings_until);
        assert!(effects_of(&decision).contains(&again), "{decision:?}");
    }

    /// Two people call from one number, and one of them hangs up. The report of the other one's bridge is lost.
    #[test]
    fn exotels_report_of_an_end_is_checked_once_the_phone_is_dialed() {
        let call = a_call(NOW);
        let ready = after(&call, &accepted(&call), NOW);
        let left = |leg| Event::CallerLegEnded {
            leg,
            answered: false,
            by: crate::call::CallSide::Caller,
        };
        let checked = decide(&ready, &left(None), NOW);
        assert!(matches!(&checked, Decision::Stay { .. }));
        assert_eq!(effects_of(&checked), [Effect::CheckBridge]);
        let reported_by_pbx = crate::ids::Leg {
            pbx: ready.pbx.clone().unwrap(),
            channel: ready.caller_leg.clone().unwrap(),
        };
        let canceled = after(&ready, &left(Some(reported_by_pbx)), NOW);
        assert_eq!(canceled.status, CallStatus::Canceled);
    }

    /// A process dials the phone just as the caller hangs up, and crashes before it looks for the caller.
    #[test]
    fn the_legs_of_an_unanswered_call_are_ended_once_more() {
        let call = a_call(NOW);
        let ready = after(&call, &accepted(&call), NOW);
        let by = callee(&call);
        let hang_up = Event::HungUp { by };
        let hung_up = decide(&ready, &hang_up, NOW);
        let looks_again_at = NOW + crate::call::ABANDONED_AFTER;
        assert!(effects_of(&hung_up).contains(&Effect::ArmTimer(looks_again_at)));
        let completed = Event::EffectsCompleted {
            effects_pending_since: NOW,
        };
        let pending = after(&ready, &hang_up, NOW);
        let ended = after(&pending, &completed, NOW);
        let timer = decide(&ended, &Event::TimerFired, looks_again_at);
        assert!(effects_of(&timer).contains(&Effect::SendBusy), "{timer:?}");
        // Asterisk fails for good: the message of the timer is repeated, and arms no other one.
        let timer = decide(&pending, &Event::TimerFired, looks_again_at);
        assert!(effects_of(&timer).contains(&Effect::SendBusy), "{timer:?}");
        let arms = |effect: &Effect| matches!(effect, Effect::ArmTimer(_));
        assert!(!effects_of(&timer).iter().any(arms), "{timer:?}");
    }

    /// One device accepts, the caller hangs up, and a stalled process sends the pushes again.
    #[test]
    fn late_pushes_are_canceled_on_all_devices() {
        let call = a_call(NOW);
        let [answering, other] = device_ids(["phone", "tablet"]);
        let mut canceled = after(&call, &accepted_on(&call, &answering), NOW);
        canceled.status = CallStatus::Canceled;
        canceled.ended = Some(CallEnd {
            at: NOW,
            reason: EndReason::CallerHungUp,
        });
        let sent = Event::PushSent(crate::call::PushedDevices {
            devices: [answering.clone(), other].into(),
            at: NOW,
            are_all: true,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
        });
        let canceled_for = |reason, to| Effect::CancelPush { reason, to };
        assert_eq!(
            effects_of(&decide(&canceled, &sent, NOW)),
            [
                canceled_for(
                    CancelReason::CallerHungUp,
                    CancelAudience::Only(answering.clone())
                ),
                canceled_for(
                    CancelReason::AnsweredElsewhere,
                    CancelAudience::AllExcept([answering].into())
                ),
            ]
        );
    }

    /// A device accepts in one region. The other region has not heard of it, and sends the pushes again.
    #[test]
    fn pushes_that_one_region_repeats_are_canceled_when_the_other_has_an_answer() {
        let call = a_call(NOW);
        let [answering, other] = device_ids(["phone", "tablet"]);
        let sent = |at| crate::call::PushedDevices {
            devices: [answering.clone(), other.clone()].into(),
            at,
            are_all: true,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
        };
        let rings = after(&call, &Event::PushSent(sent(NOW)), NOW);
        let ready = after(&rings, &accepted_on(&call, &answering), NOW);
        let later = NOW + Duration::from_millis(500);
        let rings_again = after(&rings, &Event::PushSent(sent(later)), later);
        let silenced = Effect::CancelPush {
            reason: CancelReason::AnsweredElsewhere,
            to: CancelAudience::AllExcept([answering.clone()].into()),
        };
        for (standing, lost) in [(&ready, &rings_again), (&rings_again, &ready)] {
            assert!(standing.has_lost(lost));
            let merged = decide(standing, &overwritten(lost), later);
            assert!(effects_of(&merged).contains(&silenced), "{merged:?}");
        }
    }

    /// Exotel's report is lost, and so is the answer to the query at the end.
    #[test]
    fn a_call_to_a_number_that_is_given_up_is_queried_once_more() {
        let mut call = an_outbound_call();
        call.call_sid = Some(CallSid::try_from("sid").unwrap());
        let over = call.deadline().unwrap();
        let asked = after(&call, &Event::TimerFired, over);
        let given_up = decide(&asked, &Event::TimerFired, asked.deadline().unwrap());
        assert!(
            effects_of(&given_up).contains(&Effect::QueryExotel),
            "{given_up:?}"
        );
    }

    /// One region gives the call up before it hears that Exotel has placed it.
    #[test]
    fn a_call_that_was_given_up_without_its_sid_is_queried_when_the_sid_is_known() {
        let call = an_outbound_call();
        let over = call.deadline().unwrap();
        let given_up = after(&call, &Event::TimerFired, over);
        assert_eq!(given_up.end_reason(), Some(EndReason::NeverReported));
        let mut placed = call;
        placed.call_sid = Some(CallSid::try_from("sid").unwrap());
        let merged = decide(&given_up, &overwritten(&placed), over);
        assert!(
            effects_of(&merged).contains(&Effect::QueryExotel),
            "{merged:?}"
        );
    }

    /// A device declines in a region that has not heard of another device's answer.
    #[test]
    fn a_decline_ends_no_conversation_of_the_other_region() {
        let call = a_call(NOW);
        let talking = after(&after(&call, &accepted(&call), NOW), &Event::Bridged, NOW);
        let mut by = callee(&call);
        by.device = Some(DeviceId::try_from("tablet").unwrap());
        let declined = after(&call, &Event::Declined { by }, NOW);
        assert_eq!(declined.status, CallStatus::Declined);
        // Its busy finds the two bridged.
        let found = after(&declined, &Event::Bridged, NOW);
        assert_eq!(found.status, CallStatus::InProgress);
        for (standing, lost) in [(&declined, &talking), (&talking, &declined)] {
            let both = after(standing, &overwritten(lost), NOW);
            assert_eq!(both.status, CallStatus::InProgress);
        }
    }

    /// The report of the bridge may arrive in a region before the accept.
    #[test]
    fn a_bridged_call_accepts_a_late_answer() {
        let call = a_call(NOW);
        let talking = after(&call, &Event::Bridged, NOW);
        assert_eq!(talking.status, CallStatus::InProgress);
        let both = after(&talking, &accepted(&call), NOW);
        assert!(both.answered_by.is_some());
        assert!(matches!(
            decide(&both, &accepted(&call), NOW),
            Decision::Stay { .. }
        ));
    }

    proptest! {
        #[test]
        fn merging_recovers_what_was_overwritten(first in any_life(), events in prop::collection::vec(any_event(), 0..12)) {
            let start = first.0.clone();
            let standing = live(first, |_, _, _, _, _| {});
            let other = events.iter().fold(start, |call, event| after(&call, event, START));
            let now = START + Duration::from_secs(1);
            let both = after(&standing, &overwritten(&other), now);
            prop_assert!(!both.has_lost(&other), "{both:?} {other:?}");
            prop_assert!(!both.has_lost(&standing));
            let again = decide(&both, &overwritten(&other), now);
            prop_assert!(!matches!(again, Decision::Advance { .. }), "{again:?}");
            let is_higher = other.merge_rank() > standing.merge_rank() || both.status == CallStatus::Completed;
            let talks_on_another_leg = other.status == CallStatus::InProgress && other.caller_leg != standing.caller_leg;
            if standing.status.is_final() && !is_higher && !talks_on_another_leg {
                prop_assert_eq!((both.status, both.end_reason()), (standing.status, standing.end_reason()));
            }
            if other.status == CallStatus::Completed {
                prop_assert_eq!(both.status, CallStatus::Completed);
            }
        }

        /// For any events in either region and any replication delay, both regions end with the same call. The call has ended if it
        /// had ended in one of them, and nothing that one of them knew is lost.
        #[test]
        fn two_regions_end_with_the_same_call(call in any_call(), steps in prop::collection::vec(any_step(), 0..25)) {
            let mut regions = Regions::of(call);
            for (pause, which, event, replicates) in steps {
                regions.now = regions.now + Duration::from_millis(pause);
                regions.handle(which, &event);
                if replicates {
                    regions.replicate(1 - which);
                }
            }
            regions.replicate_until_equal();
            let [here, there] = &regions.versions;
            prop_assert_eq!(&here.call, &there.call);
            prop_assert!(here.call.status.is_final() || !regions.had_ended, "{:?}", here.call);
            for known in &regions.known {
                prop_assert!(!here.call.has_lost(known), "{:?} has lost {known:?}", here.call);
            }
        }
    }

    fn any_step() -> impl Strategy<Value = (u64, usize, Event, bool)> {
        (0_u64..20_000, 0_usize..2, any_event(), any::<bool>())
    }

    struct Version {
        call: Call,
        written: usize,
    }

    /// The call in each region. The last writer wins.
    struct Regions {
        versions: [Version; 2],
        writes: usize,
        now: Timestamp,
        had_ended: bool,
        known: Vec<Call>,
    }

    impl Regions {
        fn of(call: Call) -> Self {
            let versions = [call.clone(), call].map(|call| Version { call, written: 0 });
            Self {
                versions,
                writes: 0,
                now: START,
                had_ended: false,
                known: Vec::new(),
            }
        }

        fn handle(&mut self, which: usize, event: &Event) {
            let version = &mut self.versions[which];
            if let Decision::Advance { change, .. } = decide(&version.call, event, self.now) {
                self.writes += 1;
                version.call = version.call.apply(&change);
                version.written = self.writes;
                let is_final = version.call.status.is_final();
                self.had_ended |= is_final && !version.call.end_is_assumed();
                self.known.push(version.call.clone());
            }
        }

        /// Copies the other region's version if it was written later. The stream shows both versions.
        fn replicate(&mut self, to: usize) -> bool {
            let from = &self.versions[1 - to];
            if from.written <= self.versions[to].written {
                return false;
            }
            let arrived = Version {
                call: from.call.clone(),
                written: from.written,
            };
            let before = std::mem::replace(&mut self.versions[to], arrived);
            if self.versions[to].call.has_lost(&before.call) {
                self.handle(to, &overwritten(&before.call));
            }
            true
        }

        fn replicate_until_equal(&mut self) {
            for _ in 0..10 {
                let (first, second) = (self.replicate(0), self.replicate(1));
                if !first && !second {
                    return;
                }
            }
            panic!("the regions keep overwriting each other");
        }
    }
}
