//! Events of calls that are known by Exotel's CallSid only.

use futures::future::join_all;
use ringback_core::call::Event;
use ringback_core::ids::{CallId, CallSid, Extension, Leg};
use ringback_core::timestamp::Timestamp;

use super::inbound::MAX_RINGS;
use super::{Effects, EventOutcome, Switchboard, SwitchboardError};
use crate::store::calls::{CallStore, find_when_replicated};

impl<S: CallStore + Sync, E: Effects + Sync> Switchboard<S, E> {
    /// Handles an event of all calls with this CallSid, or of those that call `extension`. The result is empty if there is no such
    /// call.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. Each of them may be answered by repeating the event.
    pub async fn handle_by_sid(
        &self,
        sid: &CallSid,
        extension: Option<&Extension>,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Vec<EventOutcome>, SwitchboardError<E::Error>> {
        let look = || async {
            let found = self.store.find_by_sid(sid, extension).await?;
            Ok::<_, SwitchboardError<E::Error>>((!found.is_empty()).then_some(found))
        };
        let found = find_when_replicated(&self.store, None, now, look).await?;
        let found = found.unwrap_or_default();
        let handled = join_all(found.iter().map(|id| self.handle(*id, event, now, until))).await;
        // The process that indexed a call may have crashed before it stored the call.
        let known = |handled: &Result<_, _>| !matches!(handled, Err(SwitchboardError::NoSuchCall));
        handled.into_iter().filter(known).collect()
    }

    /// Handles an event of a caller's leg if the PBX does not know the call's id. Tries each ring of this CallSid and extension until one
    /// of them has the leg.
    ///
    /// # Errors
    /// See [`SwitchboardError`]. Each of them may be answered by repeating the event.
    pub async fn handle_leg(
        &self,
        (sid, extension): (&CallSid, &Extension),
        leg: &Leg,
        event: &Event,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<EventOutcome, SwitchboardError<E::Error>> {
        let mut last = Err(SwitchboardError::NoSuchCall);
        for ring in 1..=MAX_RINGS {
            let id = CallId::of_ring(sid, extension, ring);
            match self.handle(id, event, now, until).await {
                Ok(outcome) if outcome.call.is_callers_leg(leg) => return Ok(outcome),
                Ok(outcome) => last = Ok(outcome),
                Err(SwitchboardError::NoSuchCall) => break,
                Err(error) => return Err(error),
            }
        }
        last
    }
}
