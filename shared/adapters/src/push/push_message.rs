//! The content of a push, which is the same for all push services.

use std::fmt;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value, json};

use ringback_core::call::{Call, CancelReason};
use ringback_core::ids::CallId;
use ringback_core::phone_number::Caller;
use ringback_core::timestamp::Timestamp;

/// A service that asks for no pause (`Retry-After: 0`) is asked again after this one.
const SHORTEST_PAUSE: Duration = Duration::from_secs(1);

/// A cancellation that stops the ring is of no use later than this after the ring.
const CANCELLED_UNTIL: Duration = Duration::from_secs(60);

/// The collapse key of missed-call notices. Push services keep the keys of each device apart.
pub(super) const MISSED_CALLS: &str = "missed_calls";

/// A push.
#[derive(Clone, PartialEq, Eq)]
pub struct PushMessage {
    /// Ring, or stop ringing.
    pub kind: PushKind,
    /// The data that the app reads. Every value is a string, because FCM accepts nothing else.
    pub data: Map<String, Value>,
    /// The call's id, or [`MISSED_CALLS`]. A later push to the device with the same key replaces an earlier one that has not been delivered.
    pub collapse_key: String,
    /// The push service discards the push if it has not delivered it by then.
    pub expires_at: Timestamp,
    /// When the push was created.
    pub sent_at: Timestamp,
}

/// Hides the data, which contains the caller's name and number.
impl fmt::Debug for PushMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushMessage")
            .field("kind", &self.kind)
            .field("collapse_key", &self.collapse_key)
            .field("expires_at", &self.expires_at)
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

/// The purpose of a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushKind {
    /// `incoming_call`
    IncomingCall,
    /// `call_cancelled`, which stops the ring.
    CallCancelled(CancelReason),
    /// `call_cancelled` with `missed_calls`, for a device that was offline during the ring.
    MissedCalls {
        /// How many, if that is known.
        count: Option<u64>,
    },
}

impl PushMessage {
    /// Wakes a phone and rings it. Expires at the end of the ring.
    #[must_use]
    pub fn incoming_call(call: &Call, now: Timestamp) -> Self {
        Self::new(call, PushKind::IncomingCall, call.rings_until, now)
    }

    /// Stops a phone from ringing. Expires a minute after the ring; with the ring, if a missed-call notice follows. FCM keeps messages of
    /// four keys for a device, so this key should not outlive that of the ring, which it replaces.
    #[must_use]
    pub fn call_cancelled(call: &Call, reason: CancelReason, now: Timestamp) -> Self {
        let kind = PushKind::CallCancelled(reason);
        let expires_at = if reason.is_missed_call() {
            call.rings_until
        } else {
            call.rings_until + CANCELLED_UNTIL
        };
        Self::new(call, kind, expires_at, now).with_reason(reason)
    }

    /// A notice of missed calls for a device that was offline, with their number. It replaces an earlier notice that has not been delivered:
    /// FCM keeps messages of four keys for a device, and APNs the last one. So the app asks for its recent calls.
    #[must_use]
    pub fn missed_calls(
        call: &Call,
        reason: CancelReason,
        count: Option<u64>,
        expires_at: Timestamp,
        now: Timestamp,
    ) -> Self {
        let kind = PushKind::MissedCalls { count };
        let mut message = Self::new(call, kind, expires_at, now).with_reason(reason);
        MISSED_CALLS.clone_into(&mut message.collapse_key);
        let count = count.map(|count| ("missed_calls".to_owned(), count.to_string().into()));
        message.data.extend(count);
        message
    }

    /// A test push. It ends a call that does not exist, so the device does not ring and shows nothing.
    #[must_use]
    pub fn test(now: Timestamp) -> Self {
        let reason = CancelReason::AnsweredElsewhere;
        let id = CallId::fresh().to_string();
        let at = now.as_millis().to_string();
        let data = json!({
            "type": "call_cancelled",
            "call_id": id,
            "server_call_id": id,
            "caller_name": "Ringback test",
            "caller_number": Caller::WITHHELD,
            "call_type": "voice",
            "reason": reason.as_str(),
            "expires_at": at,
            "sent_at": at,
        });
        Self {
            kind: PushKind::CallCancelled(reason),
            data: data.as_object().cloned().unwrap_or_default(),
            collapse_key: id,
            expires_at: now + CANCELLED_UNTIL,
            sent_at: now,
        }
    }

    fn with_reason(mut self, reason: CancelReason) -> Self {
        let reason = reason.as_str().into();
        self.data.insert("reason".to_owned(), reason);
        self
    }

    /// The `aps` of a missed-call notice: the only push about the end of a call that a person sees. `None` for any other push.
    #[must_use]
    pub fn missed_calls_alert(&self) -> Option<Value> {
        let PushKind::MissedCalls { count } = self.kind else {
            return None;
        };
        let title = match count {
            Some(count) if count > 1 => format!("{count} missed calls"),
            Some(_) | None => "Missed call".to_owned(),
        };
        let alert = json!({ "title": title, "body": self.data["caller_name"] });
        Some(json!({ "alert": alert, "content-available": 1 }))
    }

    /// The same push with the URL at which one device answers without a login.
    #[must_use]
    pub fn with_answer_url(&self, url: &SecretString) -> Self {
        let mut message = self.clone();
        let url = url.expose_secret().into();
        message.data.insert("answer_url".to_owned(), url);
        message
    }

    /// The seconds until it expires, at least 1: the TTL of FCM and SNS.
    #[must_use]
    pub fn ttl_seconds(&self) -> u64 {
        self.expires_at.since(self.sent_at).as_secs().max(1)
    }

    fn new(call: &Call, kind: PushKind, expires_at: Timestamp, now: Timestamp) -> Self {
        let id = call.call_id.to_string();
        let caller = call.caller();
        let number = caller.shown();
        let name = caller.name.as_ref().map_or(number, |name| name.as_str());
        let kind_name = match kind {
            PushKind::IncomingCall => "incoming_call",
            PushKind::CallCancelled(_) | PushKind::MissedCalls { .. } => "call_cancelled",
        };
        let data = [
            ("type", kind_name.to_owned()),
            // Apps may read either name of the id.
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

/// Why a push was not sent.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The push service says that this address is no longer valid and never will be again.
    #[error("the push address has expired")]
    AddressExpired,
    /// The push service cannot accept the push now. A later push may succeed.
    #[error("the push service cannot accept the push now: {description}")]
    Delayed {
        /// When.
        retry: RetryAfter,
        /// The service's answer, or why there is none.
        description: String,
    },
    /// The push service refused the push, and refuses the same push again.
    #[error("the push service did not accept the push: {0}")]
    NotAccepted(String),
}

/// When a push service may be asked again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// After this time, as the service says (`Retry-After`).
    AsTold(Duration),
    /// The service does not say. Each attempt waits longer than the one before, and the first one this long.
    AtLeast(Duration),
}

impl RetryAfter {
    /// After a server error, Google recommends at least this pause, and longer ones after further attempts.
    ///
    /// <https://firebase.google.com/docs/cloud-messaging/scale-fcm#handling-retries>
    pub const SERVER_ERROR: Self = Self::AtLeast(Duration::from_secs(10));
    /// If the quota is exhausted, and the answer has no `Retry-After`.
    pub const QUOTA_EXCEEDED: Self = Self::AtLeast(Duration::from_secs(60));
    /// Without a connection, the service has got nothing, so an early attempt does not load it.
    pub const NO_CONNECTION: Self = Self::AtLeast(Duration::from_secs(1));

    /// The moment of the next attempt, for a call that began at `began`. The pauses double: until then, as much time has passed since
    /// the call began, and the first pause more. Calls begin at random times, so their attempts do not come together.
    #[must_use]
    pub fn next_attempt(self, began: Timestamp, now: Timestamp) -> Timestamp {
        now + match self {
            Self::AsTold(pause) => pause.max(SHORTEST_PAUSE),
            Self::AtLeast(first) => first + now.since(began),
        }
    }
}
