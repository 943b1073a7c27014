//! Calls in memory: the twin that fast tests run on.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    Allowed, Calls, CorrelationClaim, CorrelationKey, Created, Saved, Starter, StoreError,
};
use crate::store::allowance::Purpose;
use ringback_core::call::{Call, ConditionalUpdate};
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;

/// Calls kept in this process.
#[derive(Debug, Default)]
pub struct MemoryCalls {
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    calls: HashMap<CallId, Call>,
    aliases: HashMap<CallId, CallId>,
    claims: HashMap<CorrelationKey, (CallId, Timestamp)>,
    /// When the buckets of those who start calls are full, and what the last token was taken for.
    buckets: HashMap<(Extension, Purpose), (Timestamp, CallId)>,
}

impl Table {
    fn resolve(&self, id: CallId) -> CallId {
        self.aliases.get(&id).copied().unwrap_or(id)
    }
}

impl MemoryCalls {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls for MemoryCalls {
    async fn create(
        &self,
        call: &Call,
        meeting: Option<&CorrelationClaim>,
    ) -> Result<Created, StoreError> {
        let mut table = self.table();
        let id = table.resolve(call.call_id);
        if let Some(known) = table.calls.get(&id) {
            return Ok(Created::Known(Box::new(known.clone())));
        }
        if let Some(meeting) = meeting {
            let claim = table.claims.get(&meeting.place).copied();
            let standing = claim.filter(|(other, until)| {
                *until > meeting.now && *other != id && Some(*other) != meeting.instead_of
            });
            if let Some((other, _)) = standing {
                return Ok(Created::Meets(other));
            }
            table
                .claims
                .insert(meeting.place.clone(), (id, call.rings_until));
        }
        table.calls.insert(id, call.clone());
        Ok(Created::New)
    }

    async fn allow(
        &self,
        call: CallId,
        starter: &Starter,
        now: Timestamp,
    ) -> Result<Allowed, StoreError> {
        let mut table = self.table();
        let key = (starter.extension.clone(), starter.purpose);
        let bucket = table.buckets.get(&key).copied();
        if bucket.is_some_and(|(_, taken_for)| taken_for == call) {
            return Ok(Allowed::Before);
        }
        let full_at = bucket.map(|(full_at, _)| full_at);
        Ok(match starter.allowance.take(full_at, now) {
            Err(wait) => Allowed::TooSoon(wait),
            Ok(take) => {
                let bucket = (take.applied(full_at), call);
                table.buckets.insert(key, bucket);
                Allowed::Now
            }
        })
    }

    async fn attempt(&self, id: CallId, attempt: &ConditionalUpdate) -> Result<Saved, StoreError> {
        let mut table = self.table();
        let id = table.resolve(id);
        let Some(call) = table.calls.get_mut(&id) else {
            return Ok(Saved::Not(None));
        };
        if !attempt.checks.iter().all(|check| check.holds(call)) {
            return Ok(Saved::Not(Some(call.clone())));
        }
        *call = call.apply(&attempt.change);
        Ok(Saved::As(call.clone()))
    }

    async fn live(
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

    async fn met_at(&self, place: &CorrelationKey) -> Result<Option<CallId>, StoreError> {
        Ok(self.table().claims.get(place).map(|(id, _)| *id))
    }

    async fn alias(&self, alias: CallId, id: CallId, _expires_at: u64) -> Result<bool, StoreError> {
        let mut table = self.table();
        if table.calls.contains_key(&alias) {
            return Ok(false);
        }
        Ok(*table.aliases.entry(alias).or_insert(id) == id)
    }
}
