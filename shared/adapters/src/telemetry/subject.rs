//! Which calls an invocation deals with, so that whatever goes wrong in it is found in the log by a call's id, and its trace by the
//! same, wherever that is noticed.

use crate::platform::clock;
use std::sync::{Mutex, PoisonError};

use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

tokio::task_local! {
    static CALLS: Mutex<Vec<(CallId, Timestamp)>>;
    static DEALT_WITH: CallId;
}

/// Deals with an invocation, of which nothing is known yet.
pub(crate) async fn noted<T>(dealing: impl Future<Output = T>) -> T {
    CALLS.scope(Mutex::default(), dealing).await
}

/// It is about this call.
pub fn is(call: CallId) {
    let _outside = CALLS.try_with(|calls| {
        let mut calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        if calls.iter().all(|(known, _)| *known != call) {
            calls.push((call, clock::now()));
        }
    });
}

/// Deals with this call, perhaps with others at the same time.
pub async fn dealing_with<T>(call: CallId, dealing: impl Future<Output = T>) -> T {
    is(call);
    DEALT_WITH.scope(call, dealing).await
}

/// The call that is dealt with just now; elsewhere, what the invocation is about: of several calls the last, as one that was asked
/// for by another id is known by its own only when it has been read.
pub(crate) fn call() -> Option<CallId> {
    let dealt_with = DEALT_WITH.try_with(|call| *call).ok();
    dealt_with.or_else(|| calls().pop().map(|(call, _)| call))
}

/// All of them, each with when it was first heard of.
pub(crate) fn calls() -> Vec<(CallId, Timestamp)> {
    let calls = CALLS.try_with(|calls| {
        let calls = calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.clone()
    });
    calls.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_invocation_is_about_the_call_that_it_came_upon_last() {
        let (by_another_id, itself) = (CallId::fresh(), CallId::fresh());
        let dealing = async {
            assert_eq!(call(), None);
            for heard_of in [by_another_id, itself, by_another_id] {
                is(heard_of);
            }
            assert_eq!(call(), Some(itself));
        };
        noted(dealing).await;
        assert_eq!(call(), None);
    }

    #[tokio::test]
    async fn of_several_calls_at_a_time_each_is_known_where_it_is_dealt_with() {
        let calls = [CallId::fresh(), CallId::fresh()];
        let dealing = calls.map(|one| {
            dealing_with(one, async move {
                tokio::task::yield_now().await;
                (call() == Some(one)).then_some(())
            })
        });
        let known = noted(futures::future::join_all(dealing)).await;
        assert_eq!(known, [Some(()), Some(())]);
    }
}
