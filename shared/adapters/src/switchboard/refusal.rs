//! Whether the callee of a new call takes it.
//!
//! While the call is stored, the query of the callee's devices answers this. If the callee may talk in another call, that call is read,
//! and Asterisk says whether it still bridges it.

use std::time::Duration;

use futures::future::join_all;
use ringback_core::call::{Call, Effect, Event, Refusal};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;
use tokio::time::timeout;

use super::{EffectContext, Effects, Switchboard};
use crate::store::calls::CallStore;
use crate::store::devices::{Callee, Device};

/// How long the answer may take. After that the call rings: a person can decline a call, but not answer one that was refused.
const ASKS_WITHIN: Duration = Duration::from_secs(1);

/// What becomes of a new call.
pub(super) enum CalleeAnswer {
    /// It rings on these devices. `None` if they could not be read: the push reads them again, and the timers are armed in any case.
    Rings(Option<Vec<Device>>),
    /// It is refused.
    Refuses(Refusal),
}

impl<S: CallStore + Sync, E: Effects + Sync> Switchboard<S, E> {
    /// Whether the callee takes this new call.
    pub(super) async fn ask_callee(
        &self,
        call: &Call,
        now: Timestamp,
        until: Timestamp,
    ) -> CalleeAnswer {
        let asking = async {
            let callee = self.effects.callee(&call.extension).await.ok()?;
            Some(match self.refusal(&callee, call, now, until).await {
                Some(refusal) => CalleeAnswer::Refuses(refusal),
                None => CalleeAnswer::Rings(Some(callee.devices)),
            })
        };
        let answer = timeout(ASKS_WITHIN, asking).await;
        answer.ok().flatten().unwrap_or(CalleeAnswer::Rings(None))
    }

    async fn refusal(
        &self,
        callee: &Callee,
        call: &Call,
        now: Timestamp,
        until: Timestamp,
    ) -> Option<Refusal> {
        if callee.do_not_disturb_until.is_some_and(|until| now < until) {
            return Some(Refusal::DoNotDisturb);
        }
        let others = callee.other_calls(call);
        let talks = join_all(others.map(|other| self.talks(call, other, now, until))).await;
        talks.contains(&true).then_some(Refusal::Busy)
    }

    /// Whether the callee of `call` talks in the call `other`, which a hint names. After a crash of Asterisk, no report of its end arrives.
    /// So this asks Asterisk too.
    async fn talks(&self, call: &Call, other: CallId, now: Timestamp, until: Timestamp) -> bool {
        let Ok(Some(other)) = self.store.find(other).await else {
            return false;
        };
        if !other.occupies(&call.extension) || other.is_to_number() {
            return other.occupies(&call.extension);
        }
        let context = EffectContext {
            call: &other,
            devices: None,
            now,
            until,
        };
        match self.effects.run(&Effect::CheckBridge, &context).await {
            Ok(Some(Event::Bridged)) => true,
            Ok(Some(ended)) => {
                tracing::warn!(call_id = %other.call_id, "Asterisk does not know a conversation any more");
                let handling = self.handle(other.call_id, &ended, now, until);
                if let Err(error) = Box::pin(handling).await {
                    tracing::warn!(call_id = %other.call_id, %error, "lost conversation not ended");
                }
                false
            }
            Ok(None) | Err(_) => false,
        }
    }
}
