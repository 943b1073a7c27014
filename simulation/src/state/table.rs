//! The table of one region.

use std::collections::VecDeque;

use fastrand::Rng;
use ringback_core::call::{Call, CorrelationKey};
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::timestamp::Timestamp;

/// The names of the regions.
pub const REGIONS: [&str; 2] = ["primary", "fallback"];

/// When and where an item was written. The later one wins.
pub type Written = (u64, usize);

/// The table of one region.
#[derive(Default)]
pub struct Table {
    pub items: Vec<(Key, Item)>,
    /// How far this region's clock is ahead, in milliseconds.
    pub ahead: u64,
    pub stream: VecDeque<Record>,
    pub stream_is_read: bool,
    /// When this extension may next wait for a call of the other region.
    pub waits: Vec<(Extension, Timestamp)>,
}

#[derive(Clone, PartialEq, Eq)]
pub enum Key {
    Call(CallId),
    Claim(CorrelationKey),
    /// A call with this CallSid.
    OfSid(CallSid, Extension, CallId),
    /// The extension may talk in this call.
    During(Extension, CallId),
}

#[derive(Clone)]
pub struct Item {
    pub value: Value,
    pub written: Written,
}

#[derive(Clone)]
pub enum Value {
    /// A call, and the region that stored it.
    Call(Box<Call>, usize),
    /// The id stands for another one.
    AliasOf(CallId),
    /// The call that holds a correlation key, until its ring ends.
    Claim(CallId, Timestamp),
    /// Its key says it all.
    OfSid,
    /// Whether the item exists or was deleted.
    Talks(bool),
}

/// One change of a call, as the stream shows it.
#[derive(Clone)]
pub struct Record {
    pub before: Option<Box<Call>>,
    pub after: Box<Call>,
    pub stored_in: usize,
}

impl Table {
    pub fn draw(rng: &mut Rng) -> Self {
        let ahead = rng.u64(0..200);
        Self {
            ahead,
            ..Self::default()
        }
    }

    pub fn get(&self, key: &Key) -> Option<&Item> {
        self.items
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, item)| item)
    }

    pub fn calls(&self) -> impl Iterator<Item = &Call> {
        self.items.iter().filter_map(|(_, item)| match &item.value {
            Value::Call(call, _) => Some(&**call),
            Value::AliasOf(_) | Value::Claim(..) | Value::OfSid | Value::Talks(_) => None,
        })
    }

    /// The calls with this CallSid, of all extensions or of this one.
    pub fn of_sid(&self, sid: &CallSid, extension: Option<&Extension>) -> Vec<CallId> {
        let is_meant = |called: &Extension| extension.is_none_or(|meant| meant == called);
        let keys = self.items.iter().filter_map(|(key, _)| match key {
            Key::OfSid(known, called, id) if known == sid && is_meant(called) => Some(*id),
            Key::OfSid(..) | Key::Call(_) | Key::Claim(_) | Key::During(..) => None,
        });
        keys.collect()
    }

    /// The id that this one stands for.
    pub fn resolve(&self, id: CallId) -> CallId {
        match self.get(&Key::Call(id)) {
            Some(Item {
                value: Value::AliasOf(meant),
                ..
            }) => *meant,
            _ => id,
        }
    }

    pub fn call(&self, id: CallId) -> Option<(&Call, usize)> {
        match &self.get(&Key::Call(self.resolve(id)))?.value {
            Value::Call(call, stored_in) => Some((call, *stored_in)),
            Value::AliasOf(_) | Value::Claim(..) | Value::OfSid | Value::Talks(_) => None,
        }
    }

    /// The calls in which this extension may talk.
    pub fn during_calls(&self, extension: &Extension) -> Vec<CallId> {
        let hints = self.items.iter().filter_map(|(key, item)| match key {
            Key::During(of, call)
                if of == extension && matches!(item.value, Value::Talks(true)) =>
            {
                Some(*call)
            }
            _ => None,
        });
        hints.collect()
    }

    pub fn put(&mut self, key: Key, item: Item) -> Option<Item> {
        match self.items.iter_mut().find(|(known, _)| *known == key) {
            Some((_, known)) => Some(std::mem::replace(known, item)),
            None => {
                self.items.push((key, item));
                None
            }
        }
    }
}

/// The last characters of an id. They differ for the calls of a run.
pub fn short(id: CallId) -> String {
    let key = id.key();
    key[key.len().saturating_sub(4)..].to_owned()
}
