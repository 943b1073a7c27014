//! What every store of calls promises. Run on [`MemoryCallStore`](super::MemoryCallStore) beside it, and on a real table by
//! the end-to-end tests.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "these are tests"
)]

use crate::platform::clock;
use std::time::Duration;

use futures::future::join_all;

use super::{
    AllowanceRequest, AllowanceResult, CallStore, CorrelationClaim, CreateResult, UpdateResult,
};
use crate::store::allowance::{Allowance, Purpose};
use ringback_core::call::{
    Call, CallKind, CallLimits, CallParty, CallSide, CallStatus, CallType, ConditionalUpdate,
    CorrelationKey, Decision, Event, NewCall, Readiness, decide, unread_update,
};
use ringback_core::ids::{CallId, CallSid, ChannelId, DeviceId, Extension, Leg, PbxName};
use ringback_core::phone_number::{CallerName, PhoneNumber};
use ringback_core::timestamp::Timestamp;

/// All promises, one after the other. Each uses calls and places of its own, so a table that is in use will do.
pub async fn all(calls: &(impl CallStore + Sync)) {
    what_is_stored_is_found_as_it_was(calls).await;
    a_call_is_created_once(calls).await;
    a_change_is_saved_as_the_rules_say(calls).await;
    a_life_leaves_the_same_call_in_every_store(calls).await;
    a_failed_check_answers_with_the_call_as_it_is(calls).await;
    a_call_is_on_one_pbx(calls).await;
    of_ten_rivals_one_saves(calls).await;
    of_two_who_do_the_same_at_the_same_time_one_is_first(calls).await;
    nobody_changes_a_call_that_is_not_there(calls).await;
    two_witnesses_meet_by_caller_and_extension(calls).await;
    callers_of_other_extensions_never_meet(calls).await;
    a_claim_ends_with_the_ring(calls).await;
    a_claim_that_lost_stores_nothing(calls).await;
    a_call_that_is_over_gives_its_place_up(calls).await;
    a_second_name_leads_to_the_same_call(calls).await;
    a_second_name_takes_no_other_calls_place(calls).await;
    a_call_is_the_same_whatever_its_ids_check_field(calls).await;
    a_starter_has_so_many_calls_and_then_has_to_wait(calls).await;
    the_same_call_is_allowed_once(calls).await;
    tokens_are_taken_as_the_rule_says(calls).await;
    of_twenty_calls_at_once_only_as_many_are_allowed_as_may_be(calls).await;
    each_purpose_has_tokens_of_its_own(calls).await;
    the_live_calls_of_a_starter_are_counted(calls).await;
}

fn leg(pbx: &str, channel: &str) -> Option<Leg> {
    let pbx = PbxName::try_from(pbx).expect("a name");
    let channel = ChannelId::try_from(channel).expect("a channel id");
    Some(Leg { pbx, channel })
}

/// A call with every field that a new one can have.
fn a_call(now: Timestamp) -> Call {
    let call_id = CallId::fresh();
    let new = NewCall {
        call_id,
        // An extension of its own for each call, so that promises do not meet each other.
        extension: Extension::try_from(call_id.key()).expect("hex digits and dashes"),
        kind: CallKind::FromTrunk {
            number: PhoneNumber::parse("9876543210", "IN"),
            name: CallerName::parse("आशा \"A\" 📞"),
        },
        call_type: CallType::Voice,
        caller_leg: leg("pbx1", "1732175943.12"),
        call_sid: CallSid::try_from(format!("sid-{call_id}")).ok(),
    };
    let limits = CallLimits {
        ring: Duration::from_secs(30),
        connect: Duration::from_secs(15),
        talk: Duration::from_secs(3600),
        check: Duration::from_secs(300),
    };
    Call::new(new, limits, now)
}

fn claim(call: &Call, now: Timestamp) -> CorrelationClaim {
    let key = CorrelationKey {
        extension: call.extension.clone(),
        caller: call.caller().number,
    };
    CorrelationClaim {
        key,
        now,
        instead_of: None,
    }
}

fn accepted(call: &Call, device: &str) -> Event {
    let by = CallParty {
        extension: call.extension.clone(),
        device: DeviceId::try_from(device).ok(),
    };
    Event::Accepted {
        by,
        readiness: Readiness::Woken,
    }
}

fn unread(event: &Event, now: Timestamp) -> Option<ConditionalUpdate> {
    unread_update(event, now).map(|unread| unread.update)
}

async fn stored(calls: &impl CallStore, now: Timestamp) -> Call {
    let call = a_call(now);
    assert!(matches!(
        calls.create(&call, None).await,
        Ok(CreateResult::New)
    ));
    call
}

async fn what_is_stored_is_found_as_it_was(calls: &impl CallStore) {
    let call = stored(calls, clock::now()).await;
    assert_eq!(calls.find(call.call_id).await.expect("find"), Some(call));
    assert_eq!(calls.find(CallId::fresh()).await.expect("find"), None);
}

async fn a_call_is_created_once(calls: &impl CallStore) {
    let now = clock::now();
    let call = stored(calls, now).await;
    let again = Call {
        call_type: CallType::Video,
        ..call.clone()
    };
    for claim in [None, Some(claim(&call, now))] {
        let created = calls.create(&again, claim.as_ref()).await.expect("create");
        let CreateResult::Existing(known) = created else {
            panic!("created twice: {created:?}")
        };
        assert_eq!(*known, call);
    }
}

async fn a_change_is_saved_as_the_rules_say(calls: &impl CallStore) {
    let now = clock::now();
    let call = stored(calls, now).await;
    let attempt = unread(&accepted(&call, "phone"), now).expect("accepting has a usual state");
    let UpdateResult::Saved(saved) = calls.update(call.call_id, &attempt).await.expect("attempt")
    else {
        panic!("not saved")
    };
    assert_eq!(saved, call.apply(&attempt.change));
    assert_eq!(calls.find(call.call_id).await.expect("find"), Some(saved));
}

/// Takes a call through every kind of change, and compares with what [`Call::apply`] says after each.
async fn a_life_leaves_the_same_call_in_every_store(calls: &impl CallStore) {
    let now = clock::now();
    let mut call = stored(calls, now).await;
    let devices = ["phone", "tablet"].map(|name| DeviceId::try_from(name).expect("a device id"));
    let declined = Event::Declined {
        by: CallParty {
            extension: call.extension.clone(),
            device: Some(devices[1].clone()),
        },
    };
    let life = [
        Event::CallerReported {
            caller_leg: leg("pbx2", "1732175944.7"),
            call_sid: call.call_sid.clone(),
        },
        Event::PushSent {
            devices: devices.into(),
            finished_at: now,
        },
        declined,
        accepted(&call, "phone"),
        Event::EffectsCompleted {
            effects_pending_since: now,
        },
        Event::Bridged,
        Event::CallerLegEnded {
            leg: leg("pbx2", "1732175944.7"),
            answered: true,
            by: CallSide::Caller,
        },
    ];
    for event in life {
        let Decision::Advance { change, .. } = decide(&call, &event, now) else {
            panic!("{event:?} changes nothing")
        };
        let saved = calls
            .update(call.call_id, &call.update(change.clone()))
            .await
            .expect("attempt");
        let UpdateResult::Saved(saved) = saved else {
            panic!("{event:?} was not saved")
        };
        call = call.apply(&change);
        assert_eq!(saved, call, "after {event:?}");
    }
    assert_eq!(call.status, CallStatus::Completed);
}

async fn a_failed_check_answers_with_the_call_as_it_is(calls: &impl CallStore) {
    let now = clock::now();
    let call = stored(calls, now).await;
    let late = call.rings_until;
    let foreign = CallParty {
        extension: Extension::try_from("someone-else").expect("an extension"),
        device: None,
    };
    let refused = [
        unread(&accepted(&call, "phone"), late),
        unread(&Event::TimerFired, now),
        unread(&Event::Bridged, now),
        unread(
            &Event::EffectsCompleted {
                effects_pending_since: Timestamp::from_millis(1),
            },
            now,
        ),
        unread(&Event::Declined { by: foreign }, now),
    ];
    for attempt in refused.into_iter().flatten() {
        let saved = calls.update(call.call_id, &attempt).await.expect("attempt");
        let UpdateResult::Rejected(Some(stored)) = saved else {
            panic!("saved: {attempt:?}")
        };
        assert_eq!(stored, call);
    }
}

async fn a_call_is_on_one_pbx(calls: &impl CallStore) {
    let now = clock::now();
    let mut call = a_call(now);
    let caller = Extension::try_from("1003").expect("an extension");
    call.kind = CallKind::BetweenApps { caller };
    (call.caller_leg, call.pbx) = (None, None);
    assert!(matches!(
        calls.create(&call, None).await,
        Ok(CreateResult::New)
    ));
    let save = async |event: Event| {
        let attempt = unread(&event, now).expect("has a usual state");
        calls.update(call.call_id, &attempt).await.expect("attempt")
    };
    let found = |pbx| Event::CallerPhoneLocated(PbxName::try_from(pbx).expect("a name"));
    let UpdateResult::Saved(saved) = save(found("pbx1")).await else {
        panic!("not saved")
    };
    assert_eq!(saved.pbx.as_ref().map(PbxName::as_str), Some("pbx1"));
    let left = Event::CallerLegEnded {
        leg: leg("pbx2", "1732175943.12"),
        answered: false,
        by: CallSide::Caller,
    };
    let phone_left = Event::PhoneLegEnded {
        pbx: PbxName::try_from("pbx2").expect("a name"),
        answered: true,
        cause: 16,
        by: CallSide::Callee,
    };
    for elsewhere in [found("pbx2"), left, phone_left] {
        assert!(matches!(
            save(elsewhere).await,
            UpdateResult::Rejected(Some(_))
        ));
    }
    let left = Event::CallerLegEnded {
        leg: leg("pbx1", "1732175943.12"),
        answered: false,
        by: CallSide::Caller,
    };
    assert!(matches!(save(left).await, UpdateResult::Saved(_)));
}

async fn of_ten_rivals_one_saves(calls: &impl CallStore) {
    let now = clock::now();
    let call = stored(calls, now).await;
    let attempts: Vec<_> = (0..10)
        .filter_map(|rival| unread(&accepted(&call, &format!("phone-{rival}")), now))
        .collect();
    let results = join_all(
        attempts
            .iter()
            .map(|attempt| calls.update(call.call_id, attempt)),
    )
    .await;
    let saved = results
        .iter()
        .filter(|result| matches!(result, Ok(UpdateResult::Saved(_))))
        .count();
    let refused = results
        .iter()
        .filter(|result| matches!(result, Ok(UpdateResult::Rejected(Some(_)))))
        .count();
    assert_eq!((saved, refused), (1, 9));
}

/// Two processes that make the same call, or the same change of it, in the same millisecond.
async fn of_two_who_do_the_same_at_the_same_time_one_is_first(calls: &(impl CallStore + Sync)) {
    let now = clock::now();
    let call = a_call(now);
    let both = [
        calls.create(&call, None).await,
        calls.create(&call, None).await,
    ];
    let new = both
        .iter()
        .filter(|one| matches!(one, Ok(CreateResult::New)))
        .count();
    assert_eq!(new, 1, "{both:?}");
    let attempt = unread(&accepted(&call, "phone"), now).expect("accepting is usual");
    let both = [
        calls.update(call.call_id, &attempt).await,
        calls.update(call.call_id, &attempt).await,
    ];
    let saved = both
        .iter()
        .filter(|one| matches!(one, Ok(UpdateResult::Saved(_))))
        .count();
    assert_eq!(saved, 1, "{both:?}");
}

async fn nobody_changes_a_call_that_is_not_there(calls: &impl CallStore) {
    let attempt = unread(&Event::Bridged, clock::now()).expect("bridging has a usual state");
    assert!(matches!(
        calls.update(CallId::fresh(), &attempt).await,
        Ok(UpdateResult::Rejected(None))
    ));
}

/// The second witness of a call, who does not know its id: the same caller, the same extension.
fn second_witness(call: &Call) -> Call {
    Call {
        call_id: CallId::fresh(),
        ..call.clone()
    }
}

async fn two_witnesses_meet_by_caller_and_extension(calls: &impl CallStore) {
    let now = clock::now();
    for caller in [PhoneNumber::parse("9876543210", "IN"), None] {
        let mut first = a_call(now);
        let name = None;
        first.kind = CallKind::FromTrunk {
            number: caller,
            name,
        };
        let claim = claim(&first, now);
        assert!(matches!(
            calls.create(&first, Some(&claim)).await,
            Ok(CreateResult::New)
        ));
        let created = calls
            .create(&second_witness(&first), Some(&claim))
            .await
            .expect("create");
        assert!(
            matches!(created, CreateResult::KeyHeldBy(met) if met == first.call_id),
            "{created:?}"
        );
        assert_eq!(
            calls
                .find_by_correlation_key(&claim.key)
                .await
                .expect("met_at"),
            Some(first.call_id)
        );
    }
}

async fn callers_of_other_extensions_never_meet(calls: &impl CallStore) {
    let now = clock::now();
    for _ in 0..2 {
        let mut withheld = a_call(now);
        withheld.kind = ringback_core::testing::without_number(withheld.kind);
        assert!(matches!(
            calls.create(&withheld, Some(&claim(&withheld, now))).await,
            Ok(CreateResult::New)
        ));
    }
}

async fn a_claim_ends_with_the_ring(calls: &impl CallStore) {
    let now = clock::now();
    let first = a_call(now);
    assert!(matches!(
        calls.create(&first, Some(&claim(&first, now))).await,
        Ok(CreateResult::New)
    ));
    let later = Call {
        rings_until: first.rings_until + first.limits.ring,
        ..second_witness(&first)
    };
    let claim = claim(&later, first.rings_until);
    assert!(matches!(
        calls.create(&later, Some(&claim)).await,
        Ok(CreateResult::New)
    ));
}

async fn a_claim_that_lost_stores_nothing(calls: &impl CallStore) {
    let now = clock::now();
    let first = a_call(now);
    let claim = claim(&first, now);
    assert!(matches!(
        calls.create(&first, Some(&claim)).await,
        Ok(CreateResult::New)
    ));
    let second = second_witness(&first);
    assert!(matches!(
        calls.create(&second, Some(&claim)).await,
        Ok(CreateResult::KeyHeldBy(_))
    ));
    assert_eq!(calls.find(second.call_id).await.expect("find"), None);
}

async fn a_call_that_is_over_gives_its_place_up(calls: &impl CallStore) {
    let now = clock::now();
    let first = a_call(now);
    assert!(matches!(
        calls.create(&first, Some(&claim(&first, now))).await,
        Ok(CreateResult::New)
    ));
    let redial = second_witness(&first);
    let instead = CorrelationClaim {
        instead_of: Some(first.call_id),
        ..claim(&redial, now)
    };
    assert!(matches!(
        calls.create(&redial, Some(&instead)).await,
        Ok(CreateResult::New)
    ));
    assert_eq!(
        calls
            .find_by_correlation_key(&instead.key)
            .await
            .expect("met_at"),
        Some(redial.call_id)
    );
}

async fn a_second_name_leads_to_the_same_call(calls: &impl CallStore) {
    let now = clock::now();
    let call = stored(calls, now).await;
    let alias = CallId::fresh();
    // Once more, and it stays so.
    for _ in 0..2 {
        let stands = calls.add_alias(alias, call.call_id, call.expires_at);
        assert!(stands.await.expect("alias"));
    }
    assert_eq!(
        calls
            .find(alias)
            .await
            .expect("find")
            .map(|call| call.call_id),
        Some(call.call_id)
    );
    let attempt = unread(&accepted(&call, "phone"), now).expect("accepting has a usual state");
    let Ok(UpdateResult::Saved(saved)) = calls.update(alias, &attempt).await else {
        panic!("not saved")
    };
    assert_eq!(
        (saved.call_id, saved.status),
        (call.call_id, CallStatus::MobileReady)
    );
    let known = calls
        .create(
            &Call {
                call_id: alias,
                ..call
            },
            None,
        )
        .await
        .expect("create");
    assert!(matches!(known, CreateResult::Existing(known) if *known == saved));
}

async fn a_second_name_takes_no_other_calls_place(calls: &impl CallStore) {
    let now = clock::now();
    let (call, other) = (stored(calls, now).await, stored(calls, now).await);
    let alias = CallId::fresh();
    let stands = calls.add_alias(alias, call.call_id, call.expires_at).await;
    assert!(stands.expect("alias"));
    for taken in [alias, call.call_id] {
        let stands = calls
            .add_alias(taken, other.call_id, other.expires_at)
            .await;
        assert!(!stands.expect("alias"));
        let found = calls.find(taken).await.expect("find");
        assert_eq!(found.as_ref(), Some(&call));
    }
}

async fn a_call_is_the_same_whatever_its_ids_check_field(calls: &impl CallStore) {
    let now = clock::now();
    let call = stored(calls, now).await;
    let (first, second) = (
        call.call_id.with_check([1; 4]),
        call.call_id.with_check([2; 4]),
    );
    assert_eq!(calls.find(first).await.expect("find"), Some(call.clone()));
    let again = Call {
        call_id: second,
        ..call.clone()
    };
    let known = calls.create(&again, None).await.expect("create");
    assert!(matches!(known, CreateResult::Existing(known) if *known == call));
    let attempt = unread(&accepted(&call, "phone"), now).expect("accepting has a usual state");
    let saved = calls.update(second, &attempt).await;
    assert!(
        matches!(saved, Ok(UpdateResult::Saved(saved)) if saved.call_id.to_string() == call.call_id.to_string())
    );
}

/// An extension of its own, which may start three calls at once and one a second.
fn starter() -> AllowanceRequest {
    AllowanceRequest {
        extension: a_call(clock::now()).extension,
        purpose: Purpose::Calls,
        allowance: Allowance::per_minute(60, 3),
    }
}

async fn a_starter_has_so_many_calls_and_then_has_to_wait(calls: &impl CallStore) {
    let (now, starter) = (clock::now(), starter());
    let another = |now| calls.take_allowance(CallId::fresh(), &starter, now);
    for _ in 0..3 {
        assert_eq!(another(now).await.expect("allow"), AllowanceResult::Granted);
    }
    let wait = Duration::from_secs(1);
    for _ in 0..3 {
        let allowed = another(now).await.expect("allow");
        assert_eq!(allowed, AllowanceResult::Exhausted(wait));
    }
    let allowed = another(now + wait).await.expect("allow");
    assert_eq!(allowed, AllowanceResult::Granted);
}

async fn the_same_call_is_allowed_once(calls: &impl CallStore) {
    let (now, starter) = (clock::now(), starter());
    for call in [CallId::fresh(), CallId::fresh(), CallId::fresh()] {
        let allow = || calls.take_allowance(call, &starter, now);
        assert_eq!(allow().await.expect("allow"), AllowanceResult::Granted);
        for _ in 0..3 {
            assert_eq!(
                allow().await.expect("allow"),
                AllowanceResult::GrantedBefore
            );
        }
    }
    let allowed = calls.take_allowance(CallId::fresh(), &starter, now).await;
    assert!(
        matches!(allowed, Ok(AllowanceResult::Exhausted(_))),
        "{allowed:?}"
    );
}

/// The same answers as the rule gives on a bucket that it keeps itself.
async fn tokens_are_taken_as_the_rule_says(calls: &impl CallStore) {
    let (began, starter) = (clock::now(), starter());
    let mut bucket = None;
    // A burst, the edge of a token's coming, a rest, a clock that is behind.
    for millis in [
        0, 0, 500, 500, 999, 1000, 1001, 2000, 2400, 2999, 3000, 9000, 9000, 9000, 9000, 8000,
        10_000, 7000, 11_000,
    ] {
        let now = began + Duration::from_millis(millis);
        let expected = starter.allowance.take(bucket, now);
        let allowed = calls.take_allowance(CallId::fresh(), &starter, now).await;
        match (expected, allowed.expect("allow")) {
            (Ok(take), AllowanceResult::Granted) => bucket = Some(take.applied(bucket)),
            (Err(expected), AllowanceResult::Exhausted(wait)) => {
                assert_eq!(expected, wait, "at {millis}")
            }
            (expected, allowed) => panic!("{allowed:?}, not {expected:?}, at {millis}"),
        }
    }
}

async fn of_twenty_calls_at_once_only_as_many_are_allowed_as_may_be(
    calls: &(impl CallStore + Sync),
) {
    let (now, starter) = (clock::now(), starter());
    let at_once = (0..20).map(|_| calls.take_allowance(CallId::fresh(), &starter, now));
    let allowed = join_all(at_once).await.into_iter();
    let allowed = allowed.filter(|allowed| matches!(allowed, Ok(AllowanceResult::Granted)));
    assert_eq!(allowed.count(), 3);
}

async fn each_purpose_has_tokens_of_its_own(calls: &impl CallStore) {
    let (now, for_calls) = (clock::now(), starter());
    let for_phone_calls = AllowanceRequest {
        purpose: Purpose::PhoneCalls,
        ..for_calls.clone()
    };
    let call = CallId::fresh();
    for starter in [&for_calls, &for_phone_calls] {
        let allowed = calls
            .take_allowance(call, starter, now)
            .await
            .expect("allow");
        assert_eq!(allowed, AllowanceResult::Granted);
    }
}

/// A new call that an app of `starter` starts: to another app, or to a telephone.
fn started_by(starter: &Extension, to_telephone: bool, now: Timestamp) -> Call {
    let mut call = a_call(now);
    (call.caller_leg, call.pbx, call.call_sid) = (None, None, None);
    if to_telephone {
        call.extension = starter.clone();
        let number = |text| PhoneNumber::parse(text, "IN").expect("a number");
        call.kind = CallKind::ToNumber {
            from: number("9876543210"),
            to: number("9876543211"),
        };
    } else {
        call.kind = CallKind::BetweenApps {
            caller: starter.clone(),
        };
    }
    call
}

async fn the_live_calls_of_a_starter_are_counted(calls: &impl CallStore) {
    let now = clock::now();
    let starter = a_call(now).extension;
    let live = async |at_most, now| {
        calls
            .count_live(&starter, at_most, now)
            .await
            .expect("live")
    };
    assert_eq!(live(5, now).await, 0);
    let [to_app, to_telephone, mut of_others] =
        [false, true, false].map(|to_telephone| started_by(&starter, to_telephone, now));
    // The extension that is called has started nothing.
    of_others.extension = starter.clone();
    of_others.kind = a_call(now).kind;
    for call in [&to_app, &to_telephone, &of_others] {
        assert!(matches!(
            calls.create(call, None).await,
            Ok(CreateResult::New)
        ));
    }
    assert_eq!((live(5, now).await, live(1, now).await), (2, 1));
    // A call whose end was lost stops counting at its time limit.
    let last = to_app.ends_by();
    assert_eq!(live(5, last.before(Duration::from_millis(1))).await, 2);
    assert_eq!(live(5, last).await, 0);
    // The write that ends it takes it out.
    let declined = Event::HungUp {
        by: CallParty {
            extension: starter.clone(),
            device: None,
        },
    };
    let Decision::Advance { change, .. } = decide(&to_app, &declined, now) else {
        panic!("hanging up ends nothing")
    };
    let ended = calls.update(to_app.call_id, &to_app.update(change)).await;
    assert!(matches!(ended, Ok(UpdateResult::Saved(call)) if call.status.is_final()));
    assert_eq!(live(5, now).await, 1);
}

#[cfg(test)]
#[tokio::test]
async fn memory_keeps_every_promise() {
    all(&super::MemoryCallStore::default()).await;
}
