//! The calls that an invocation handles. Code that logs an error or a trace reads the call's id from here.

use std::sync::{Mutex, PoisonError};

use crate::platform::clock;
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

tokio::task_local! {
    /// The calls of this invocation, each with the time at which it was noted.
    static NOTED: Mutex<Vec<(CallId, Timestamp)>>;
    /// The call that the current future handles, when one invocation handles several calls at the same time.
    static CURRENT: CallId;
}

/// Runs an invocation. At its beginning, no call is noted.
pub(crate) async fn scope<T>(invocation: impl Future<Output = T>) -> T {
    NOTED.scope(Mutex::default(), invocation).await
}

/// Notes that the invocation handles this call. Outside an invocation it does nothing.
pub fn note_call(call: CallId) {
    let _outside = NOTED.try_with(|noted| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.iter().all(|(known, _)| *known != call) {
            noted.push((call, clock::now()));
        }
    });
}

/// Notes this call and handles it. Other futures of the invocation may handle other calls at the same time.
pub async fn with_call<T>(call: CallId, handling: impl Future<Output = T>) -> T {
    note_call(call);
    CURRENT.scope(call, handling).await
}

/// The call of [`with_call`]. Outside of it, the call that the invocation noted last: a call that was requested by an alias is
/// known by its own id only after it has been read.
pub(crate) fn current_call() -> Option<CallId> {
    let current = CURRENT.try_with(|call| *call).ok();
    current.or_else(|| noted_calls().pop().map(|(call, _)| call))
}

/// All calls of this invocation, each with the time at which it was noted.
pub(crate) fn noted_calls() -> Vec<(CallId, Timestamp)> {
    let noted = NOTED.try_with(|noted| {
        let noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.clone()
    });
    noted.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_call_that_was_noted_last_is_current() {
        let (alias, call) = (CallId::fresh(), CallId::fresh());
        let handling = async {
            assert_eq!(current_call(), None);
            for noted in [alias, call, alias] {
                note_call(noted);
            }
            assert_eq!(current_call(), Some(call));
        };
        scope(handling).await;
        assert_eq!(current_call(), None);
    }

    #[tokio::test]
    async fn each_of_several_concurrent_calls_is_current_in_its_own_future() {
        let calls = [CallId::fresh(), CallId::fresh()];
        let handling = calls.map(|call| {
            with_call(call, async move {
                tokio::task::yield_now().await;
                (current_call() == Some(call)).then_some(())
            })
        });
        let known = scope(futures::future::join_all(handling)).await;
        assert_eq!(known, [Some(()), Some(())]);
    }
}
