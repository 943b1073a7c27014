//! The store of calls, as a process of one region sees it.

use std::sync::Arc;
use std::time::Duration;

use ringback::store::StoreError;
use ringback::store::calls::{
    AllowanceRequest, AllowanceResult, CallStore, CorrelationClaim, CreateResult,
    PAUSES_FOR_REPLICATION, ReplicationWaitError, UpdateResult,
};
use ringback_core::call::{Call, ConditionalUpdate, CorrelationKey};
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;

use crate::faults::Fault;
use crate::invariants::check_refusal;
use crate::process::Process;
use crate::random::Part;
use crate::state::State;
use crate::state::table::{Key, Value};
use crate::table;

/// The store of one process.
pub struct Store(pub Arc<Process>);

/// An extension waits for one call at a time.
const NEXT_WAIT_AFTER: Duration = Duration::from_secs(4);

impl Store {
    /// What `broadcast` notes when a conversation begins or ends.
    pub async fn note_conversation(
        &self,
        before: Option<&Call>,
        after: &Call,
    ) -> Result<(), StoreError> {
        let Some(talks) = after.conversation_change(before) else {
            return Ok(());
        };
        for extension in after.participants() {
            let key = Key::During(extension.clone(), after.call_id);
            self.ask("noting a conversation", |state| {
                self.write(state, key, Value::Talks(talks));
            })
            .await?;
        }
        Ok(())
    }

    /// One request to the table, which the process may not survive.
    async fn ask<T>(
        &self,
        doing: &'static str,
        request: impl FnOnce(&mut State) -> T + Send,
    ) -> Result<T, StoreError> {
        let sim = &self.0.sim;
        self.0.step(doing).await;
        let way = if sim.fault(Fault::StoreSlow) {
            sim.between(Part::Stores, 500, 3_000)
        } else {
            sim.between(Part::Stores, 2, 12)
        };
        sim.sleep(way).await;
        if sim.fault(Fault::StoreFails) {
            return Err(unavailable(doing));
        }
        let answer = {
            let mut state = sim.state();
            if self.is_over() {
                None
            } else {
                Some(request(&mut state))
            }
        };
        let Some(answer) = answer else {
            self.0.step(doing).await;
            return Err(unavailable(doing));
        };
        sim.sleep(way.min(10)).await;
        if sim.fault(Fault::StoreAnswerLost) {
            return Err(unavailable(doing));
        }
        self.0.step("after the table answered").await;
        Ok(answer)
    }

    /// The region was lost on the way to the table.
    fn is_over(&self) -> bool {
        self.0.sim.is_lost(self.0.region)
    }

    fn write(&self, state: &mut State, key: Key, value: Value) {
        table::write(&self.0.sim, state, self.0.region, key, value);
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the table does not answer")]
struct NoAnswer;

fn unavailable(doing: &'static str) -> StoreError {
    let source = Box::new(NoAnswer);
    StoreError::Unavailable { doing, source }
}

impl CallStore for Store {
    async fn create(
        &self,
        call: &Call,
        claim: Option<&CorrelationClaim>,
    ) -> Result<CreateResult, StoreError> {
        let region = self.0.region;
        self.ask("storing a call", |state| {
            let table = &state.tables[region];
            if let Some((known, _)) = table.call(call.call_id) {
                return CreateResult::Existing(Box::new(known.clone()));
            }
            let id = table.resolve(call.call_id);
            if let Some(claim) = claim {
                let key = Key::Claim(claim.key.clone());
                if let Some(item) = table.get(&key)
                    && let Value::Claim(holder, until) = item.value
                    && claim.leaves_key_to(holder, until, id)
                {
                    return CreateResult::KeyHeldBy(holder);
                }
                self.write(state, key, Value::Claim(id, call.claims_caller_until()));
            }
            let value = Value::Call(Box::new(call.clone()), region);
            self.write(state, Key::Call(call.call_id), value);
            CreateResult::New
        })
        .await
    }

    /// Limits have tests of their own: each run starts one call.
    async fn take_allowance(
        &self,
        _call: CallId,
        _request: &AllowanceRequest,
        _now: Timestamp,
    ) -> Result<AllowanceResult, StoreError> {
        self.ask("taking an allowance", |_| AllowanceResult::Granted)
            .await
    }

    async fn update(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
    ) -> Result<UpdateResult, StoreError> {
        let region = self.0.region;
        self.ask("saving a change", |state| {
            let known = state.tables[region].call(id);
            let Some((call, stored_in)) = known.map(|(call, region)| (call.clone(), region)) else {
                return UpdateResult::Rejected(None);
            };
            if !update
                .conditions
                .iter()
                .all(|condition| condition.holds(&call))
            {
                return UpdateResult::Rejected(Some(call));
            }
            let next = call.apply(&update.change);
            let is_refusal = update.change.entry.event == "callee_unavailable";
            if let Some(refusal) = next.refusal().filter(|_| is_refusal) {
                check_refusal(&self.0.sim, state, &next, refusal);
            }
            let value = Value::Call(Box::new(next.clone()), stored_in);
            self.write(state, Key::Call(next.call_id), value);
            UpdateResult::Saved(next)
        })
        .await
    }

    async fn replication_pauses(
        &self,
        extension: Option<&Extension>,
        now: Timestamp,
    ) -> Result<&'static [Duration], ReplicationWaitError> {
        if self.0.sim.plan().regions == 1 {
            return Ok(&[]);
        }
        let Some(extension) = extension else {
            return Ok(&PAUSES_FOR_REPLICATION);
        };
        let region = self.0.region;
        let wait = self
            .ask("taking a wait", |state| {
                let waits = &mut state.tables[region].waits;
                let known = waits.iter_mut().find(|(known, _)| known == extension);
                match known {
                    Some((_, next)) if *next > now => return Some(next.since(now)),
                    Some((_, next)) => *next = now + NEXT_WAIT_AFTER,
                    None => waits.push((extension.clone(), now + NEXT_WAIT_AFTER)),
                }
                None
            })
            .await?;
        wait.map_or(Ok(&PAUSES_FOR_REPLICATION), |wait| {
            Err(ReplicationWaitError::WaitsAlready(wait))
        })
    }

    async fn count_live(
        &self,
        starter: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let region = self.0.region;
        self.ask("counting calls", |state| {
            let calls = state.tables[region].calls();
            let live = calls.filter(|call| call.is_live(now) && call.started_by() == Some(starter));
            u32::try_from(live.count()).unwrap_or(at_most).min(at_most)
        })
        .await
    }

    async fn find(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        let region = self.0.region;
        self.ask("reading a call", |state| {
            state.tables[region].call(id).map(|(call, _)| call.clone())
        })
        .await
    }

    async fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> Result<Option<CallId>, StoreError> {
        let region = self.0.region;
        self.ask("looking up a correlation key", |state| {
            match state.tables[region].get(&Key::Claim(key.clone()))?.value {
                Value::Claim(id, _) => Some(id),
                Value::Call(..) | Value::AliasOf(_) | Value::OfSid | Value::Talks(_) => None,
            }
        })
        .await
    }

    async fn index_by_sid(&self, call: &Call) -> Result<(), StoreError> {
        let Some(sid) = call.call_sid.clone() else {
            return Ok(());
        };
        self.ask("indexing a call by its CallSid", |state| {
            let key = Key::OfSid(sid, call.extension.clone(), call.call_id);
            self.write(state, key, Value::OfSid);
        })
        .await
    }

    async fn find_by_sid(
        &self,
        sid: &CallSid,
        extension: Option<&Extension>,
    ) -> Result<Vec<CallId>, StoreError> {
        let region = self.0.region;
        self.ask("finding calls by their CallSid", |state| {
            state.tables[region].of_sid(sid, extension)
        })
        .await
    }

    async fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        _expires_at: u64,
    ) -> Result<bool, StoreError> {
        let region = self.0.region;
        self.ask("adding an alias", |state| {
            let key = Key::Call(alias);
            match state.tables[region].get(&key).map(|item| &item.value) {
                Some(Value::AliasOf(known)) => *known == id,
                Some(Value::Call(..) | Value::Claim(..) | Value::OfSid | Value::Talks(_)) => false,
                None => {
                    self.write(state, key, Value::AliasOf(id));
                    true
                }
            }
        })
        .await
    }
}
