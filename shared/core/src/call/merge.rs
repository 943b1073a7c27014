//! Two regions keep the same call, and replication keeps the later of two versions of it (DynamoDB global tables: the
//! last writer wins, the item as a whole). What the other version knew is told again as [`Event::ReplicaOverwritten`]: facts
//! about a call only ever become more, so that both versions together are what has happened.

use super::verdict::{Verdict, ended};
use super::{Call, CallStatus, Effect, EndReason, Set, inbound, outbound};
use crate::timestamp::Timestamp;

impl Call {
    /// Whether `overwritten`, another version of this call, knows something that this one does not.
    #[must_use]
    pub fn has_lost(&self, overwritten: &Self) -> bool {
        !found(self, overwritten, overwritten.created_at).is_empty()
    }
}

pub(super) fn verdict(call: &Call, overwritten: &Call, now: Timestamp) -> Verdict {
    let found = found(call, overwritten, now);
    if found.is_empty() {
        Verdict::Repeat
    } else {
        Verdict::Change(found)
    }
}

/// What the state asks for that the call has come to, where that is owed from now on.
pub(super) fn effects_after(call: &Call, now: Timestamp) -> Vec<Effect> {
    match call.effects_pending_since {
        Some(since) if since == now && call.is_outbound() => outbound::owed(call),
        Some(since) if since == now => inbound::owed(call),
        _ => Vec::new(),
    }
}

/// What `call` becomes by what `other` knows besides.
fn found(call: &Call, other: &Call, now: Timestamp) -> Vec<Set> {
    let mut sets = witnessed(call, other);
    sets.extend(devices(call, other));
    let answered = answered(call, other);
    let advanced = advanced(call, other, now);
    // A leg may have been called for whoever answered, or waits where nobody knew of it.
    let has_legs = sets.iter().any(|set| matches!(set, Set::CallerLeg(_))) || !answered.is_empty();
    if advanced.is_empty() && has_legs && call.status != CallStatus::WaitingForMobile {
        sets.push(Set::EffectsPendingSince(now));
    }
    sets.extend(answered);
    sets.extend(advanced);
    sets
}

fn witnessed(call: &Call, other: &Call) -> Vec<Set> {
    let mut sets = Vec::new();
    if call.caller_leg.is_none() {
        sets.extend(other.caller_leg.clone().map(Set::CallerLeg));
    }
    // Where the call is follows the leg that it has.
    let gains_leg = call.caller_leg.is_none() && other.caller_leg.is_some();
    let lacks_pbx = call.pbx.is_none() && call.caller_leg == other.caller_leg;
    if (gains_leg && call.pbx != other.pbx) || lacks_pbx {
        sets.extend(other.pbx.clone().map(Set::Pbx));
    }
    if call.call_sid.is_none() {
        sets.extend(other.call_sid.clone().map(Set::CallSid));
    }
    // It may start and stop any number of times: which of two versions is right, the standing one or the other, is not
    // to be seen.
    if call.stream.is_none() {
        sets.extend(other.stream.map(Set::Stream));
    }
    sets
}

fn devices(call: &Call, other: &Call) -> Vec<Set> {
    let mut sets = Vec::new();
    if let Some(rang) = &other.rang
        && !call
            .rang
            .as_ref()
            .is_some_and(|known| rang.is_subset(known))
    {
        let known = call.rang.iter().flatten();
        sets.push(Set::PushedTo(known.chain(rang).cloned().collect()));
    }
    if !other.declined_by.is_subset(&call.declined_by) {
        let all = call.declined_by.union(&other.declined_by);
        sets.push(Set::DeclinedBy(all.cloned().collect()));
    }
    sets
}

fn answered(call: &Call, other: &Call) -> Vec<Set> {
    let mut sets = Vec::new();
    if call.answered_by.is_none() {
        sets.extend(other.answered_by.clone().map(Set::AnsweredBy));
    }
    if call.ready_at.is_none() {
        sets.extend(other.ready_at.map(Set::ReadyAt));
    }
    if call.bridged_at.is_none() {
        sets.extend(other.bridged_at.map(Set::BridgedAt));
    }
    sets
}

/// How far the call has come, if `other` has come further. Of two ends with the same rank, the standing version keeps its own.
fn advanced(call: &Call, other: &Call, now: Timestamp) -> Vec<Set> {
    if rank(other.status) > rank(call.status) {
        if let (true, Some(why)) = (other.status.is_final(), other.end_reason) {
            // The other region knows when the call ended.
            let ended_at = other.ended_at.unwrap_or(now);
            return vec![
                Set::Status(other.status),
                Set::Ended(ended_at, why),
                Set::EffectsPendingSince(now),
            ];
        }
        return vec![Set::Status(other.status), Set::EffectsPendingSince(now)];
    }
    if call.status == CallStatus::WaitingForMobile && all_declined(call, other) {
        return ended(CallStatus::Declined, EndReason::CalleeDeclined, now);
    }
    Vec::new()
}

/// Each region has seen some devices decline, and none of them all.
fn all_declined(call: &Call, other: &Call) -> bool {
    let mut rang = call.rang.iter().chain(&other.rang).flatten().peekable();
    rang.peek().is_some()
        && rang
            .all(|device| call.declined_by.contains(device) || other.declined_by.contains(device))
}

const fn rank(status: CallStatus) -> u8 {
    match status {
        CallStatus::WaitingForMobile | CallStatus::Initiated => 0,
        CallStatus::MobileReady | CallStatus::Ringing => 1,
        CallStatus::InProgress => 2,
        CallStatus::Declined | CallStatus::TimedOut | CallStatus::Canceled | CallStatus::Failed => {
            3
        }
        // One region knows that the two talked. The other one ended the call without knowing it, for example by a timer that
        // fired while the regions were apart.
        CallStatus::Completed => 4,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::call::properties::{START, any_call, any_event, any_life, effects_of, live};
    use crate::call::{Decision, Event, Readiness, decide};
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn after(call: &Call, event: &Event, now: Timestamp) -> Call {
        match decide(call, event, now) {
            Decision::Advance { change, .. } => call.apply(&change),
            Decision::Stay { .. } | Decision::Refuse(_) => call.clone(),
        }
    }

    fn overwritten(version: &Call) -> Event {
        Event::ReplicaOverwritten(Box::new(version.clone()))
    }

    fn anybody(call: &Call) -> crate::call::CallParty {
        crate::call::CallParty {
            extension: call.extension.clone(),
            device: None,
        }
    }

    fn accepted(call: &Call) -> Event {
        let by = anybody(call);
        let readiness = Readiness::Woken;
        Event::Accepted { by, readiness }
    }

    fn caller_leg() -> crate::ids::Leg {
        crate::testing::leg("pbx1", "leg-a")
    }

    /// The PBX told one region that the caller's leg has come, while the app told the other that it is ready.
    #[test]
    fn a_leg_and_an_answer_that_two_regions_heard_of_are_bridged() {
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
    fn a_call_that_ended_in_one_region_is_over_in_both_and_no_phone_rings_on() {
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
                effects_of(&decision).contains(&Effect::HangUpPhone),
                "{decision:?}"
            );
            let both = after(standing, &overwritten(lost), NOW);
            assert_eq!(
                (both.status, both.end_reason),
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
            answered: true,
            cause: 16,
            by: crate::call::CallSide::Callee,
        };
        let completed = after(&talking, &left, over);
        for (standing, lost) in [(&timed_out, &completed), (&completed, &timed_out)] {
            let both = after(standing, &overwritten(lost), late);
            assert_eq!(
                (both.status, both.end_reason, both.ended_at),
                (
                    CallStatus::Completed,
                    Some(EndReason::CalleeHungUp),
                    Some(over)
                )
            );
        }
    }

    /// The PBX tells one region of the busy that the other has asked it for: that is the other's to explain, in time.
    #[test]
    fn a_busy_that_another_region_asked_for_is_no_caller_who_gave_up() {
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
        let declined = after(&call, &Event::Declined { by: anybody(&call) }, NOW);
        let both = after(&call, &overwritten(&declined), NOW);
        assert_eq!(both.status, CallStatus::Declined);
        // Where it never comes, because its region was lost at that moment, the call is over by now.
        let over = after(&call, &busy, call.rings_until);
        assert_eq!(
            (over.status, over.end_reason),
            (CallStatus::TimedOut, Some(EndReason::NoAnswer))
        );
    }

    /// Of a conversation that began in the region that was lost, the other one hears the end alone.
    #[test]
    fn who_leaves_a_leg_that_was_answered_has_talked() {
        let call = a_call(NOW);
        let left = Event::CallerLegEnded {
            leg: None,
            answered: true,
            by: crate::call::CallSide::Caller,
        };
        assert_eq!(after(&call, &left, NOW).status, CallStatus::Completed);
    }

    /// The other region took the accept at the ring's last moment, and replication is slow: the phone rings already.
    #[test]
    fn a_late_timer_waits_for_the_word_of_a_phone_that_rings() {
        let mut call = a_call(NOW);
        call.caller_leg = Some(caller_leg().channel);
        let late = call.rings_until + Duration::from_secs(2);
        let asked = after(&call, &Event::TimerFired, late);
        let rings = decide(&asked, &Event::NotBridged { rings: true }, late);
        assert!(matches!(rings, Decision::Stay { effects } if effects.is_empty()));
        let alone = after(&asked, &Event::NotBridged { rings: false }, late);
        assert_eq!(alone.status, CallStatus::TimedOut);
        let next = late + super::super::ABANDONED_AFTER;
        assert_eq!(
            after(&asked, &Event::TimerFired, next).status,
            CallStatus::TimedOut
        );
    }

    /// The PBX's word that they talk may reach a region before the app's that it is ready does.
    #[test]
    fn who_talks_has_answered() {
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
        fn what_was_overwritten_is_lost_no_longer(first in any_life(), events in prop::collection::vec(any_event(), 0..12)) {
            let start = first.0.clone();
            let standing = live(first, |_, _, _, _, _| {});
            let other = events.iter().fold(start, |call, event| after(&call, event, START));
            let now = START + Duration::from_secs(1);
            let both = after(&standing, &overwritten(&other), now);
            prop_assert!(!both.has_lost(&other), "{both:?} {other:?}");
            prop_assert!(!both.has_lost(&standing));
            let again = decide(&both, &overwritten(&other), now);
            prop_assert!(!matches!(again, Decision::Advance { .. }), "{again:?}");
            if standing.status.is_final() && both.status != CallStatus::Completed {
                prop_assert_eq!((both.status, both.end_reason), (standing.status, standing.end_reason));
            }
            if other.status == CallStatus::Completed {
                prop_assert_eq!(both.status, CallStatus::Completed);
            }
        }

        /// Whatever each region hears, and whenever replication brings it to the other: in the end both have the same
        /// call, it is over if it was over anywhere, and what anybody knew is known.
        #[test]
        fn two_regions_settle_on_one_truth(call in any_call(), steps in prop::collection::vec(any_step(), 0..25)) {
            let mut regions = Regions::of(call);
            for (pause, which, event, replicates) in steps {
                regions.now = regions.now + Duration::from_millis(pause);
                regions.hear(which, &event);
                if replicates {
                    regions.replicate(1 - which);
                }
            }
            regions.settle();
            let [here, there] = &regions.versions;
            prop_assert_eq!(&here.call, &there.call);
            prop_assert!(here.call.status.is_final() || !regions.was_over, "{:?}", here.call);
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

    /// The call as each region has it, the last writer winning.
    struct Regions {
        versions: [Version; 2],
        writes: usize,
        now: Timestamp,
        was_over: bool,
        known: Vec<Call>,
    }

    impl Regions {
        fn of(call: Call) -> Self {
            let versions = [call.clone(), call].map(|call| Version { call, written: 0 });
            Self {
                versions,
                writes: 0,
                now: START,
                was_over: false,
                known: Vec::new(),
            }
        }

        fn hear(&mut self, which: usize, event: &Event) {
            let version = &mut self.versions[which];
            if let Decision::Advance { change, .. } = decide(&version.call, event, self.now) {
                self.writes += 1;
                version.call = version.call.apply(&change);
                version.written = self.writes;
                self.was_over |= version.call.status.is_final();
                self.known.push(version.call.clone());
            }
        }

        /// Brings to a region what the other has, if that was written later. Its stream shows both versions.
        fn replicate(&mut self, to: usize) -> bool {
            let from = &self.versions[1 - to];
            if from.written <= self.versions[to].written {
                return false;
            }
            let came = Version {
                call: from.call.clone(),
                written: from.written,
            };
            let before = std::mem::replace(&mut self.versions[to], came);
            if self.versions[to].call.has_lost(&before.call) {
                self.hear(to, &overwritten(&before.call));
            }
            true
        }

        fn settle(&mut self) {
            for _ in 0..10 {
                let (first, second) = (self.replicate(0), self.replicate(1));
                if !first && !second {
                    return;
                }
            }
            panic!("the regions go on telling each other");
        }
    }
}
