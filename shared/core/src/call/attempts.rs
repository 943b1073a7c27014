//! What holds for the attempts to call a phone, in any order of events.

use proptest::prelude::*;

use super::properties::{START, a_call, after, any_event, any_life, effects_of, live};
use super::*;

const LATER: Timestamp = Timestamp::from_millis(1_000_000_050_000);

/// An accepted call after this number of attempts to dial the phone.
fn ready(attempt: u32) -> Call {
    let call = a_call(Some("leg-a"));
    let by = CallParty {
        extension: call.extension.clone(),
        device: None,
    };
    let readiness = Readiness::Woken;
    let mut call = after(&call, &Event::Accepted { by, readiness }, START);
    call.phone_attempt = attempt;
    call.effects_pending_since = None;
    call
}

fn ended(attempt: u32, cause: u16) -> Event {
    Event::PhoneLegEnded {
        pbx: crate::testing::leg("pbx1", "leg-a").pbx,
        attempt,
        answered: false,
        cause,
        by: CallSide::Callee,
    }
}

fn any_cause() -> impl Strategy<Value = u16> {
    prop::sample::select(vec![0, 16, 17, 19, 20, 21, 26])
}

proptest! {
    #[test]
    fn attempts_never_go_back_and_grow_one_by_one((_, events) in any_life(), first in 1..4_u32) {
        live((ready(first), events), |before, event, _, _, after| {
            let next = match event {
                Event::PhoneMoved { attempt } => attempt + 1,
                _ => before.phone_attempt,
            };
            let is_next = after.phone_attempt == next && next > before.phone_attempt;
            assert!(after.phone_attempt == before.phone_attempt || is_next, "{event:?}");
        });
    }

    #[test]
    fn a_merge_keeps_the_later_attempt_and_dials_no_phone_that_talks(
        (start, first) in any_life(),
        second in prop::collection::vec(any_event(), 0..12),
        attempts in (1..4_u32, 1..4_u32),
    ) {
        let mut here = live((start.clone(), first), |_, _, _, _, _| {});
        let mut there = second.iter().fold(start, |call, event| after(&call, event, START));
        here.phone_attempt = here.phone_attempt.max(attempts.0);
        there.phone_attempt = there.phone_attempt.max(attempts.1);
        let decision = decide(&here, &Event::ReplicaOverwritten(Box::new(there.clone())), LATER);
        let merged = match &decision {
            Decision::Advance { change, .. } => here.apply(change),
            _ => here.clone(),
        };
        prop_assert_eq!(merged.phone_attempt, here.phone_attempt.max(there.phone_attempt));
        let has_talked = here.bridged_at.is_some() || there.bridged_at.is_some();
        prop_assert!(!has_talked || !effects_of(&decision).contains(&Effect::Bridge), "{merged:?}");
    }

    #[test]
    fn the_end_of_an_earlier_leg_changes_nothing(life in any_life(), later in 1..4_u32, cause in any_cause()) {
        let mut call = live(life, |_, _, _, _, _| {});
        let earlier = call.phone_attempt;
        call.phone_attempt += later;
        let decision = decide(&call, &ended(earlier, cause), LATER);
        prop_assert!(!matches!(decision, Decision::Advance { .. }), "{decision:?}");
    }

    #[test]
    fn a_phone_that_has_talked_is_not_dialed_again(life in any_life()) {
        live(life, |_, event, _, decision, after| {
            let is_dialed = effects_of(decision).contains(&Effect::Bridge);
            assert!(!is_dialed || after.bridged_at.is_none(), "{event:?}");
        });
    }
}

#[test]
fn a_phone_that_has_moved_is_dialed_once_more() {
    let moved = Event::PhoneMoved { attempt: 1 };
    let decision = decide(&ready(1), &moved, START);
    assert!(effects_of(&decision).contains(&Effect::Bridge));
    let next = after(&ready(1), &moved, START);
    assert_eq!(
        (next.phone_attempt, next.status),
        (2, CallStatus::MobileReady)
    );
    // Another process has watched the same leg, and the PBX reports that it was removed.
    for event in [moved, ended(1, 16), ended(1, 21)] {
        let decision = decide(&next, &event, START);
        assert_eq!(decision, Decision::Stay { effects: vec![] }, "{event:?}");
    }
    assert_eq!(
        after(&next, &ended(2, 21), START).end_reason(),
        Some(EndReason::CalleeDeclined)
    );
}

/// The report of a leg's end is so late that a timer has dialed the phone again, with the same attempt.
#[test]
fn a_late_decline_ends_no_conversation_that_asterisk_knows() {
    let declined = after(&ready(1), &ended(1, 21), START);
    assert_eq!(declined.status, CallStatus::Declined);
    let decision = decide(&declined, &Event::Bridged, START);
    assert!(!effects_of(&decision).contains(&Effect::HangUp));
    assert_eq!(
        after(&declined, &Event::Bridged, START).status,
        CallStatus::InProgress
    );
}
