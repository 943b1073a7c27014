//! What a push says, whichever service carries it.

use std::fmt;

use serde_json::{Map, Value};

use ringback_core::call::{Call, CancelReason};
use ringback_core::timestamp::Timestamp;

/// What a push says.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Ring, or stop ringing.
    pub kind: Kind,
    /// The data that the app reads: every value a string (FCM accepts nothing else).
    pub data: Map<String, Value>,
    /// The call's id, under which a later push replaces an earlier one that has not been delivered.
    pub collapse_key: String,
    /// Until when it is worth delivering.
    pub expires_at: Timestamp,
    /// When it was made.
    pub sent_at: Timestamp,
}

/// Who calls is personal: the data does not show.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("call_id", &self.collapse_key)
            .field("expires_at", &self.expires_at)
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

/// What a push is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `incoming_call`
    IncomingCall,
    /// `call_cancelled`
    CallCancelled(CancelReason),
}

impl Message {
    /// Wakes a phone. It lives no longer than the ring does.
    #[must_use]
    pub fn incoming_call(call: &Call, now: Timestamp) -> Self {
        Self::of(call, Kind::IncomingCall, call.rings_until, now)
    }

    /// Tells a phone that it need not ring. It is worth delivering for as long as a ring may last.
    #[must_use]
    pub fn call_cancelled(call: &Call, reason: CancelReason, now: Timestamp) -> Self {
        let kind = Kind::CallCancelled(reason);
        let mut message = Self::of(call, kind, now + call.limits.ring, now);
        message
            .data
            .insert("reason".to_owned(), reason.as_str().into());
        message
    }

    /// Seconds left, at least 1: what FCM and SNS call TTL.
    #[must_use]
    pub fn ttl_seconds(&self) -> u64 {
        self.expires_at.since(self.sent_at).as_secs().max(1)
    }

    fn of(call: &Call, kind: Kind, expires_at: Timestamp, now: Timestamp) -> Self {
        let id = call.call_id.to_string();
        let caller = call.caller();
        let number = caller.shown();
        let name = caller.name.as_ref().map_or(number, |name| name.as_str());
        let kind_name = match kind {
            Kind::IncomingCall => "incoming_call",
            Kind::CallCancelled(_) => "call_cancelled",
        };
        let data = [
            ("type", kind_name.to_owned()),
            ("call_id", id.clone()),
            ("server_call_id", id.clone()),
            ("caller_name", name.to_owned()),
            ("caller_number", number.to_owned()),
            ("call_type", call.call_type.as_str().to_owned()),
            ("expires_at", call.rings_until.as_millis().to_string()),
            ("sent_at", now.as_millis().to_string()),
        ];
        let data = data
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        Self {
            kind,
            data,
            collapse_key: id,
            expires_at,
            sent_at: now,
        }
    }
}

/// Why a push did not go out.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The service says that this address will never work again.
    #[error("the address is dead")]
    Dead,
    /// The service did not take the push. It may another time.
    #[error("the push service did not take the push: {0}")]
    NotTaken(String),
}
