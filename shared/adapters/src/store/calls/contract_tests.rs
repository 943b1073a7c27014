//! Tests that every [`CallStore`] passes. They run here on [`MemoryCallStore`](super::MemoryCallStore), and on a real table in the
//! end-to-end tests.

#![allow(
    clippy::expect_used,
    clippy::missing_panics_doc,
    clippy::unwrap_used,
    reason = "these are tests"
)]

mod allowances;
mod updates;

use std::collections::HashSet;
use std::time::Duration;

use ringback_core::call::{
    Call, CallKind, CallParty, CallStatus, CallType, ConditionalUpdate, CorrelationKey, Decision,
    Event, Readiness, decide, unread_update,
};
use ringback_core::ids::{CallId, CallSid, DeviceId, Extension};
use ringback_core::phone_number::{CallerName, PhoneNumber};
use ringback_core::testing::{leg, without_number};
use ringback_core::timestamp::Timestamp;

use super::{
    AllowanceRequest, AllowanceResult, CallStore, CorrelationClaim, CreateResult, UpdateResult,
};
use crate::platform::clock;

/// Runs all tests, one after the other. Each test uses fresh calls and extensions, so the table may be in use.
pub async fn run_all(store: &(impl CallStore + Sync)) {
    a_stored_call_is_found_unchanged(store).await;
    a_call_is_created_once(store).await;
    one_of_two_equal_creates_is_new(store).await;
    reports_of_one_caller_and_extension_share_a_call(store).await;
    withheld_numbers_that_call_different_extensions_do_not_share_a_call(store).await;
    a_correlation_claim_expires_after_the_ring(store).await;
    a_new_call_replaces_the_claim_of_an_ended_call(store).await;
    an_alias_finds_updates_and_creates_the_same_call(store).await;
    an_alias_does_not_replace_another_call(store).await;
    the_check_field_of_an_id_does_not_matter(store).await;
    all_calls_of_a_call_sid_are_found(store).await;
    live_calls_are_counted_by_the_extension_that_started_them(store).await;
    updates::run_all(store).await;
    allowances::run_all(store).await;
}

#[cfg(test)]
#[tokio::test]
async fn the_memory_store_passes_all_contract_tests() {
    run_all(&super::MemoryCallStore::default()).await;
}

/// A new call with every field set. Each call has its own extension, so that the tests do not share correlation keys.
fn new_call(now: Timestamp) -> Call {
    let call = ringback_core::testing::a_call(now);
    let call_id = call.call_id;
    Call {
        extension: Extension::try_from(call_id.key()).expect("hex digits and dashes"),
        kind: CallKind::FromTrunk {
            number: PhoneNumber::parse("9876543210", "IN"),
            name: CallerName::parse("आशा \"A\" 📞"),
        },
        call_sid: CallSid::try_from(format!("sid-{call_id}")).ok(),
        ..call
    }
}

/// A second report of the same caller and extension, without the id of the call.
fn second_report(call: &Call) -> Call {
    Call {
        call_id: CallId::fresh(),
        ..call.clone()
    }
}

fn claim(call: &Call, now: Timestamp) -> CorrelationClaim {
    CorrelationClaim {
        key: CorrelationKey {
            extension: call.extension.clone(),
            caller: call.caller().number,
        },
        now,
        instead_of: None,
    }
}

fn callee_app(call: &Call, device: Option<&str>) -> CallParty {
    CallParty {
        extension: call.extension.clone(),
        device: device.map(device_id),
    }
}

fn device_id(name: &str) -> DeviceId {
    DeviceId::try_from(name).unwrap()
}

fn accepted(call: &Call, device: &str) -> Event {
    Event::Accepted {
        by: callee_app(call, Some(device)),
        readiness: Readiness::Woken,
    }
}

/// The update that is tried without reading the call.
fn unread(event: &Event, now: Timestamp) -> ConditionalUpdate {
    unread_update(event, now).expect("an unread update").update
}

async fn create(
    store: &impl CallStore,
    call: &Call,
    claim: Option<&CorrelationClaim>,
) -> CreateResult {
    store.create(call, claim).await.expect("create")
}

async fn create_new(store: &impl CallStore, call: &Call, claim: Option<&CorrelationClaim>) {
    let created = create(store, call, claim).await;
    assert!(matches!(created, CreateResult::New), "{created:?}");
}

async fn stored_call(store: &impl CallStore, now: Timestamp) -> Call {
    let call = new_call(now);
    create_new(store, &call, None).await;
    call
}

async fn find(store: &impl CallStore, id: CallId) -> Option<Call> {
    store.find(id).await.expect("find")
}

async fn find_by_key(store: &impl CallStore, claim: &CorrelationClaim) -> Option<CallId> {
    let found = store.find_by_correlation_key(&claim.key).await;
    found.expect("find_by_correlation_key")
}

async fn update(store: &impl CallStore, id: CallId, update: &ConditionalUpdate) -> UpdateResult {
    store.update(id, update).await.expect("update")
}

/// Makes an update that must be saved, and returns the call as it is then.
async fn save(store: &impl CallStore, id: CallId, change: &ConditionalUpdate) -> Call {
    match update(store, id, change).await {
        UpdateResult::Saved(call) => call,
        rejected => panic!("{rejected:?}: {change:?}"),
    }
}

async fn add_alias(store: &impl CallStore, alias: CallId, call: &Call) -> bool {
    let added = store.add_alias(alias, call.call_id, call.expires_at);
    added.await.expect("add_alias")
}

async fn a_stored_call_is_found_unchanged(store: &impl CallStore) {
    let call = stored_call(store, clock::now()).await;
    assert_eq!(find(store, call.call_id).await, Some(call));
    assert_eq!(find(store, CallId::fresh()).await, None);
}

async fn a_call_is_created_once(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let other = Call {
        call_type: CallType::Video,
        ..call.clone()
    };
    for claim in [None, Some(claim(&call, now))] {
        let created = create(store, &other, claim.as_ref()).await;
        let CreateResult::Existing(existing) = created else {
            panic!("created twice: {created:?}")
        };
        assert_eq!(*existing, call);
    }
}

/// Two processes may create the same call in the same millisecond.
async fn one_of_two_equal_creates_is_new(store: &impl CallStore) {
    let call = stored_call(store, clock::now()).await;
    let second = create(store, &call, None).await;
    assert!(matches!(second, CreateResult::Existing(_)), "{second:?}");
}

async fn reports_of_one_caller_and_extension_share_a_call(store: &impl CallStore) {
    let now = clock::now();
    for number in [PhoneNumber::parse("9876543210", "IN"), None] {
        let first = Call {
            kind: CallKind::FromTrunk { number, name: None },
            ..new_call(now)
        };
        let claim = claim(&first, now);
        create_new(store, &first, Some(&claim)).await;
        let second = second_report(&first);
        let created = create(store, &second, Some(&claim)).await;
        assert!(
            matches!(created, CreateResult::KeyHeldBy(holder) if holder == first.call_id),
            "{created:?}"
        );
        assert_eq!(find(store, second.call_id).await, None);
        assert_eq!(find_by_key(store, &claim).await, Some(first.call_id));
    }
}

async fn withheld_numbers_that_call_different_extensions_do_not_share_a_call(
    store: &impl CallStore,
) {
    let now = clock::now();
    for _ in 0..2 {
        let mut call = new_call(now);
        call.kind = without_number(call.kind);
        create_new(store, &call, Some(&claim(&call, now))).await;
    }
}

async fn a_correlation_claim_expires_after_the_ring(store: &impl CallStore) {
    let now = clock::now();
    let first = new_call(now);
    create_new(store, &first, Some(&claim(&first, now))).await;
    let later = Call {
        rings_until: first.rings_until + first.settings.ring,
        ..second_report(&first)
    };
    let claim = claim(&later, first.claims_caller_until());
    create_new(store, &later, Some(&claim)).await;
}

async fn a_new_call_replaces_the_claim_of_an_ended_call(store: &impl CallStore) {
    let now = clock::now();
    let first = new_call(now);
    create_new(store, &first, Some(&claim(&first, now))).await;
    let redial = second_report(&first);
    let claim = CorrelationClaim {
        instead_of: Some(first.call_id),
        ..claim(&redial, now)
    };
    create_new(store, &redial, Some(&claim)).await;
    assert_eq!(find_by_key(store, &claim).await, Some(redial.call_id));
}

async fn an_alias_finds_updates_and_creates_the_same_call(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let alias = CallId::fresh();
    for _ in 0..2 {
        assert!(add_alias(store, alias, &call).await);
    }
    let found = find(store, alias).await.expect("a call");
    assert_eq!(found.call_id, call.call_id);
    let saved = save(store, alias, &unread(&accepted(&call, "phone"), now)).await;
    assert_eq!(
        (saved.call_id, saved.status),
        (call.call_id, CallStatus::MobileReady)
    );
    let again = Call {
        call_id: alias,
        ..call
    };
    let created = create(store, &again, None).await;
    assert!(matches!(created, CreateResult::Existing(existing) if *existing == saved));
}

async fn an_alias_does_not_replace_another_call(store: &impl CallStore) {
    let now = clock::now();
    let (call, other) = (stored_call(store, now).await, stored_call(store, now).await);
    let alias = CallId::fresh();
    assert!(add_alias(store, alias, &call).await);
    for taken in [alias, call.call_id] {
        assert!(!add_alias(store, taken, &other).await);
        assert_eq!(find(store, taken).await.as_ref(), Some(&call));
    }
}

async fn the_check_field_of_an_id_does_not_matter(store: &impl CallStore) {
    let now = clock::now();
    let call = stored_call(store, now).await;
    let [first, second] = [[1; 4], [2; 4]].map(|check| call.call_id.with_check(check));
    assert_eq!(find(store, first).await, Some(call.clone()));
    let again = Call {
        call_id: second,
        ..call.clone()
    };
    let created = create(store, &again, None).await;
    assert!(matches!(created, CreateResult::Existing(existing) if *existing == call));
    let saved = save(store, second, &unread(&accepted(&call, "phone"), now)).await;
    assert_eq!(saved.call_id.to_string(), call.call_id.to_string());
}

async fn all_calls_of_a_call_sid_are_found(store: &impl CallStore) {
    let now = clock::now();
    let first = new_call(now);
    let sid = first.call_sid.clone().expect("a CallSid");
    let again = second_report(&first);
    let elsewhere = Call {
        extension: new_call(now).extension,
        ..second_report(&first)
    };
    let unrelated = new_call(now);
    // The first report may be repeated, also by the region that did not store the call.
    for call in [&first, &again, &elsewhere, &unrelated, &first] {
        store.index_by_sid(call).await.expect("index_by_sid");
    }
    let find = async |extension| {
        let found = store.find_by_sid(&sid, extension).await;
        found
            .expect("find_by_sid")
            .into_iter()
            .collect::<HashSet<_>>()
    };
    let (first_id, again_id, elsewhere_id) = (first.call_id, again.call_id, elsewhere.call_id);
    assert_eq!(find(None).await, [first_id, again_id, elsewhere_id].into());
    assert_eq!(
        find(Some(&first.extension)).await,
        [first_id, again_id].into()
    );
    assert_eq!(
        find(Some(&elsewhere.extension)).await,
        [elsewhere_id].into()
    );
    assert_eq!(find(Some(&unrelated.extension)).await, [].into());
    let unnamed = Call {
        call_sid: None,
        ..new_call(now)
    };
    store
        .index_by_sid(&unnamed)
        .await
        .expect("nothing to index");
}

async fn live_calls_are_counted_by_the_extension_that_started_them(store: &impl CallStore) {
    let now = clock::now();
    // This extension is called too, which does not count.
    let called = new_call(now);
    let starter = called.extension.clone();
    let count_live = async |at_most, now| {
        let count = store.count_live(&starter, at_most, now).await;
        count.expect("count_live")
    };
    assert_eq!(count_live(5, now).await, 0);
    let to_app = call_started_by(&starter, now);
    let number = |text| PhoneNumber::parse(text, "IN").unwrap();
    let to_telephone = Call {
        extension: starter.clone(),
        kind: CallKind::ToNumber {
            from: number("9876543210"),
            to: number("9876543211"),
        },
        ..call_started_by(&starter, now)
    };
    for call in [&to_app, &to_telephone, &called] {
        create_new(store, call, None).await;
    }
    assert_eq!((count_live(5, now).await, count_live(1, now).await), (2, 1));
    // If the end of a call is lost, the call counts until its time limit.
    let limit = to_app.ends_by();
    let just_before = limit.before(Duration::from_millis(1));
    assert_eq!(count_live(5, just_before).await, 2);
    assert_eq!(count_live(5, limit).await, 0);
    // The write that ends a call stops counting it.
    let by = CallParty {
        extension: starter.clone(),
        device: None,
    };
    let Decision::Advance { change, .. } = decide(&to_app, &Event::HungUp { by }, now) else {
        panic!("hanging up does not end the call")
    };
    let ended = save(store, to_app.call_id, &to_app.update(change)).await;
    assert!(ended.status.is_final());
    assert_eq!(count_live(5, now).await, 1);
}

/// A new call that an app of `starter` starts to another app.
fn call_started_by(starter: &Extension, now: Timestamp) -> Call {
    Call {
        kind: CallKind::BetweenApps {
            caller: starter.clone(),
            device: None,
        },
        caller_leg: None,
        pbx: None,
        call_sid: None,
        ..new_call(now)
    }
}
