//! CallStore in memory: the twin that fast tests run on.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    AllowanceRequest, AllowanceResult, CallStore, CorrelationClaim, CorrelationKey, CreateResult,
    StoreError, UpdateResult,
};
use crate::store::allowance::Purpose;
use ringback_core::call::{Call, ConditionalUpdate};
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;

/// CallStore kept in this process.
#[derive(Debug, Default)]
pub struct MemoryCallStore {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<CallId, Call>,
    aliases: HashMap<CallId, CallId>,
    claims: HashMap<CorrelationKey, (CallId, Timestamp)>,
    by_sid: BTreeSet<(CallSid, Extension, CallId)>,
    /// When each token bucket is full again, and the call that took its last token.
    buckets: HashMap<(Extension, Purpose), (Timestamp, CallId)>,
}

impl Table {
    fn resolve(&self, id: CallId) -> CallId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }
}

impl MemoryCallStore {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CallStore for MemoryCallStore {
    async fn create(
        &self,
        call: &Call,
        claim: Option<&CorrelationClaim>,
    ) -> Result<CreateResult, StoreError> {
        let mut table = self.table();
        let id = table.resolve(call.call_id);
        if let Some(known) = table.calls.get(&id) {
            return Ok(CreateResult::Existing(Box::new(known.clone())));
        }
        if let Some(claim) = claim {
            let holder = table.claims.get(&claim.key).copied();
            let holder = holder.filter(|(other, until)| claim.leaves_key_to(*other, *until, id));
            if let Some((holder, _)) = holder {
                return Ok(CreateResult::KeyHeldBy(holder));
            }
            table
                .claims
                .insert(claim.key.clone(), (id, call.claims_caller_until()));
        }
        table.calls.insert(id, call.clone());
        Ok(CreateResult::New)
    }

    async fn take_allowance(
        &self,
        call: CallId,
        starter: &AllowanceRequest,
        now: Timestamp,
    ) -> Result<AllowanceResult, StoreError> {
        let mut table = self.table();
        let key = (starter.extension.clone(), starter.purpose);
        let bucket = table.buckets.get(&key).copied();
        if bucket.is_some_and(|(_, taken_for)| taken_for == call) {
            return Ok(AllowanceResult::GrantedBefore);
        }
        let full_at = bucket.map(|(full_at, _)| full_at);
        Ok(match starter.allowance.take(full_at, now) {
            Err(wait) => AllowanceResult::Exhausted(wait),
            Ok(take) => {
                let bucket = (take.applied(full_at), call);
                table.buckets.insert(key, bucket);
                AllowanceResult::Granted
            }
        })
    }

    async fn update(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
    ) -> Result<UpdateResult, StoreError> {
        let mut table = self.table();
        let id = table.resolve(id);
        let Some(call) = table.calls.get_mut(&id) else {
            return Ok(UpdateResult::Rejected(None));
        };
        if !update
            .conditions
            .iter()
            .all(|condition| condition.holds(call))
        {
            return Ok(UpdateResult::Rejected(Some(call.clone())));
        }
        *call = call.apply(&update.change);
        Ok(UpdateResult::Saved(call.clone()))
    }

    async fn count_live(
        &self,
        starter: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let table = self.table();
        let live = table.calls.values();
        let live = live.filter(|call| call.is_live(now) && call.started_by() == Some(starter));
        let count = u32::try_from(live.count()).unwrap_or(at_most);
        Ok(count.min(at_most))
    }

    async fn find(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        let table = self.table();
        Ok(table.calls.get(&table.resolve(id)).cloned())
    }

    async fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> Result<Option<CallId>, StoreError> {
        Ok(self.table().claims.get(key).map(|(id, _)| *id))
    }

    async fn index_by_sid(&self, call: &Call) -> Result<(), StoreError> {
        if let Some(sid) = call.call_sid.clone() {
            let entry = (sid, call.extension.clone(), call.call_id);
            self.table().by_sid.insert(entry);
        }
        Ok(())
    }

    async fn find_by_sid(
        &self,
        sid: &CallSid,
        extension: Option<&Extension>,
    ) -> Result<Vec<CallId>, StoreError> {
        let table = self.table();
        let named = table.by_sid.iter().filter(|(known, called, _)| {
            known == sid && extension.is_none_or(|extension| called == extension)
        });
        Ok(named.map(|(_, _, id)| *id).collect())
    }

    async fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        _expires_at: u64,
    ) -> Result<bool, StoreError> {
        let mut table = self.table();
        if table.calls.contains_key(&alias) {
            return Ok(false);
        }
        Ok(*table.aliases.entry(alias).or_insert(id) == id)
    }
}
