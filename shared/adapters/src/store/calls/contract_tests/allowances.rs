//! Allowances: how many calls an extension may start.

use futures::future::join_all;

use super::*;
use crate::store::allowance::{Allowance, Purpose};

pub(super) async fn run_all(store: &(impl CallStore + Sync)) {
    an_exhausted_allowance_returns_the_time_to_wait(store).await;
    a_repeated_call_takes_no_second_token(store).await;
    tokens_are_taken_as_the_rule_says(store).await;
    concurrent_calls_take_no_more_tokens_than_there_are(store).await;
    each_purpose_has_its_own_tokens(store).await;
}

/// A fresh extension, which may start three calls at once and one per second.
fn request() -> AllowanceRequest {
    AllowanceRequest {
        extension: new_call(clock::now()).extension,
        purpose: Purpose::Calls,
        allowance: Allowance::per_minute(60, 3),
    }
}

async fn take(
    store: &impl CallStore,
    call: CallId,
    request: &AllowanceRequest,
    now: Timestamp,
) -> AllowanceResult {
    let taken = store.take_allowance(call, request, now).await;
    taken.expect("take_allowance")
}

async fn an_exhausted_allowance_returns_the_time_to_wait(store: &impl CallStore) {
    let (now, request) = (clock::now(), request());
    let take_another = |now| take(store, CallId::fresh(), &request, now);
    for _ in 0..3 {
        assert_eq!(take_another(now).await, AllowanceResult::Granted);
    }
    let wait = Duration::from_secs(1);
    for _ in 0..3 {
        assert_eq!(take_another(now).await, AllowanceResult::Exhausted(wait));
    }
    assert_eq!(take_another(now + wait).await, AllowanceResult::Granted);
}

async fn a_repeated_call_takes_no_second_token(store: &impl CallStore) {
    let (now, request) = (clock::now(), request());
    for _ in 0..3 {
        let call = CallId::fresh();
        let first = take(store, call, &request, now).await;
        assert_eq!(first, AllowanceResult::Granted);
        for _ in 0..3 {
            let repeated = take(store, call, &request, now).await;
            assert_eq!(repeated, AllowanceResult::GrantedBefore);
        }
    }
    let next = take(store, CallId::fresh(), &request, now).await;
    assert!(matches!(next, AllowanceResult::Exhausted(_)), "{next:?}");
}

/// Compares the store with [`Allowance::take`] on a bucket in this test.
async fn tokens_are_taken_as_the_rule_says(store: &impl CallStore) {
    let (start, request) = (clock::now(), request());
    let mut bucket = None;
    // A burst, the edges of a token's return, a pause, and a clock that is behind.
    for millis in [
        0, 0, 500, 500, 999, 1000, 1001, 2000, 2400, 2999, 3000, 9000, 9000, 9000, 9000, 8000,
        10_000, 7000, 11_000,
    ] {
        let now = start + Duration::from_millis(millis);
        let expected = request.allowance.take(bucket, now);
        let actual = take(store, CallId::fresh(), &request, now).await;
        match (expected, actual) {
            (Ok(token), AllowanceResult::Granted) => bucket = Some(token.applied(bucket)),
            (Err(expected), AllowanceResult::Exhausted(wait)) => {
                assert_eq!(expected, wait, "at {millis} ms");
            }
            (expected, actual) => panic!("{actual:?}, not {expected:?}, at {millis} ms"),
        }
    }
}

async fn concurrent_calls_take_no_more_tokens_than_there_are(store: &(impl CallStore + Sync)) {
    let (now, request) = (clock::now(), request());
    let requests = (0..20).map(|_| store.take_allowance(CallId::fresh(), &request, now));
    let results = join_all(requests).await.into_iter();
    let granted = results.filter(|result| matches!(result, Ok(AllowanceResult::Granted)));
    assert_eq!(granted.count(), 3);
}

async fn each_purpose_has_its_own_tokens(store: &impl CallStore) {
    let (now, for_calls) = (clock::now(), request());
    let for_phone_calls = AllowanceRequest {
        purpose: Purpose::PhoneCalls,
        ..for_calls.clone()
    };
    let call = CallId::fresh();
    for request in [&for_calls, &for_phone_calls] {
        let taken = take(store, call, request, now).await;
        assert_eq!(taken, AllowanceResult::Granted);
    }
}
