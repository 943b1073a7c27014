//! An event arrives, the rules say what follows, the change is saved, the effects are carried out.
//!
//! This is the only place that changes a call. `ringback_core::call` has the rules, [`CallStore`] keeps the calls, and
//! [`Effects`] carries the effects out.

mod by_sid;
mod effects;
mod error;
mod inbound;
mod refusal;
mod start_call;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use futures::future::{Either, select};
use ringback_core::call::{
    Assignment, Call, CallSettings, CorrelationKey, Decision, Event, decide, unread_update,
};
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;
use tokio::time::timeout;

pub use effects::{EffectContext, Effects};
pub use error::{EventOutcome, SwitchboardError};
pub use inbound::InboundCallReport;
pub use start_call::{Destination, NewCallRequest, StartLimit, StartLimits};

use crate::store::StoreError;
use crate::store::calls::{CallStore, UpdateResult, find_when_replicated};
use crate::telemetry::call_log_fields;

/// How often a change is tried again when another change was saved first. Each of those moves the call on, and a call has only a
/// handful of moves.
const SAVE_ATTEMPTS: usize = 8;

/// Preparation that takes longer than this has a problem. The effect that needs it tries again, with the time that is left.
const PREPARE_WITHIN: Duration = Duration::from_secs(1);

/// Handles the events of calls.
#[derive(Debug)]
pub struct Switchboard<S, E> {
    store: S,
    effects: E,
    settings: CallSettings,
}

impl<S: CallStore + Sync, E: Effects + Sync> Switchboard<S, E> {
    /// A switchboard that keeps its calls in `store` and has its effects carried out by `effects`. `settings` are those of new calls.
    pub const fn new(store: S, effects: E, settings: CallSettings) -> Self {
        Self {
            store,
            effects,
            settings,
        }
    }

    /// The settings of new calls.
    pub const fn settings(&self) -> CallSettings {
        self.settings
    }

    /// Handles an event of a call. `until` is when this process must be done.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. Each of them may be answered by repeating the event.
    pub async fn handle(
        &self,
        id: CallId,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        // The futures are large, and one contains another.
        let handling = Box::pin(self.handle_event(id, event, now, until));
        let handling = while_preparing(handling, self.effects.prepare(event));
        call_log_fields::with_call(id, handling).await
    }

    /// The call that was last reported for this caller and extension, for a report without an id.
    ///
    /// # Errors
    /// See [`StoreError`].
    pub async fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> Result<Option<CallId>, StoreError> {
        self.store.find_by_correlation_key(key).await
    }

    async fn handle_event(
        &self,
        id: CallId,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let unread = unread_update(event, now);
        let extension: Option<&Extension> = event.app().map(|app| &app.extension);
        let look = || async {
            match &unread {
                // One write both saves the change and answers with the call.
                Some(unread) => match self.store.update(id, &unread.update).await? {
                    UpdateResult::Saved(call) => Ok(Some(Found::Saved(call))),
                    UpdateResult::Rejected(call) => Ok(call.map(Found::Unchanged)),
                },
                None => Ok(self.store.find(id).await?.map(Found::Unchanged)),
            }
        };
        let found: Result<_, SwitchboardError<E::Error>> =
            find_when_replicated(&self.store, extension, now, look).await;
        let found = found?;
        match (found, &unread) {
            (Some(Found::Saved(call)), Some(unread)) => {
                let effects = unread.effects(&call, now);
                self.carry_out(call, event, effects, None, now, until).await
            }
            (Some(Found::Saved(call) | Found::Unchanged(call)), _) => {
                self.decide_and_save(call, event, now, until).await
            }
            (None, _) => Err(SwitchboardError::NoSuchCall),
        }
    }

    /// Decides about the call as it was read, until the decision could be saved.
    async fn decide_and_save(
        &self,
        mut call: Call,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        for _ in 0..SAVE_ATTEMPTS {
            match decide(&call, event, now) {
                Decision::Reject(reason) => {
                    call_log_fields::note_call(call.call_id);
                    return Ok(EventOutcome {
                        call,
                        rejected: Some(reason),
                    });
                }
                Decision::Stay { effects } => {
                    return self.carry_out(call, event, effects, None, now, until).await;
                }
                Decision::Advance { change, effects } => {
                    let is_call_sid = |set: &Assignment| matches!(set, Assignment::CallSid(_));
                    let learns_call_sid = change.assignments.iter().any(is_call_sid);
                    let update = call.update(change);
                    match self.store.update(call.call_id, &update).await? {
                        UpdateResult::Saved(next) => {
                            if learns_call_sid {
                                self.index_by_sid(&next).await;
                            }
                            return self.carry_out(next, event, effects, None, now, until).await;
                        }
                        UpdateResult::Rejected(stored) => {
                            call = stored.ok_or(SwitchboardError::NoSuchCall)?;
                        }
                    }
                }
            }
        }
        Err(SwitchboardError::Contended)
    }

    /// Lets reports and stream frames that carry only Exotel's id find the call. Most calls do not need it, so a failure is only
    /// logged, and the next report repeats it.
    async fn index_by_sid(&self, call: &Call) {
        if let Err(error) = self.store.index_by_sid(call).await {
            tracing::warn!(call_id = %call.call_id, %error, "call cannot be found by its CallSid");
        }
    }
}

/// How an event found its call.
enum Found {
    /// The unread update was saved. The call as it is now.
    Saved(Call),
    /// The call as it is stored.
    Unchanged(Call),
}

/// Runs both. Preparation that has not finished when the event is handled is dropped: nothing may keep running in a process that
/// is frozen until its next invocation. Preparation that takes too long is dropped too, with its locks, because the handling may wait
/// for one of them.
async fn while_preparing<T>(
    handling: impl Future<Output = T>,
    preparing: impl Future<Output = ()>,
) -> T {
    // In a box, which `select` drops. It would only forget a reference to it.
    let preparing = Box::pin(timeout(PREPARE_WITHIN, preparing));
    match select(pin!(handling), preparing).await {
        Either::Left((outcome, _)) => outcome,
        Either::Right((_, handling)) => handling.await,
    }
}
