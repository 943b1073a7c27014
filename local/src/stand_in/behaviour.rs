//! Controls how a stand-in fails: errors for the next requests, invalid device tokens, delays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

/// The configured failures, until they are used up or replaced.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// Failures of the next sends (FCM).
    pub send: Vec<ConfiguredFailure>,
    /// Failures of the next token requests (FCM).
    pub token: Vec<ConfiguredFailure>,
    /// Errors for single device tokens (FCM).
    pub tokens: BTreeMap<String, DeviceError>,
    /// Failures of the next connects (Exotel).
    pub connect: Vec<ConfiguredFailure>,
    /// Failures of the next requests for call details (Exotel).
    pub details: Vec<ConfiguredFailure>,
    /// A delay for every answer, in milliseconds.
    pub delay_ms: u64,
}

/// An error answer for one or more requests.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct ConfiguredFailure {
    /// The HTTP status.
    pub status: u16,
    /// The number of requests that get it.
    #[serde(default = "once")]
    pub times: u32,
    /// The `Retry-After` header in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// A delay for this answer, in milliseconds. With a delay above the client's timeout, the answer is lost.
    #[serde(default)]
    pub after_ms: u64,
    /// The call is placed although the answer is an error (connect only).
    #[serde(default)]
    pub placed: bool,
}

impl ConfiguredFailure {
    /// Waits for the delay of this failure.
    pub async fn wait(&self) {
        tokio::time::sleep(Duration::from_millis(self.after_ms)).await;
    }
}

fn once() -> u32 {
    1
}

/// The error that FCM returns for a device token.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeviceError {
    /// 404: the app is not installed any more.
    Unregistered,
    /// 400: not a registration token.
    InvalidArgument,
    /// 403: a token of another project.
    SenderIdMismatch,
    /// 429: too many messages to this device.
    QuotaExceeded,
    /// 503: overloaded.
    Unavailable,
    /// 500: an internal error.
    Internal,
    /// 401: the APNs certificate or key is wrong.
    ThirdPartyAuthError,
}

/// The operations that can fail.
#[derive(Debug, Clone, Copy)]
pub enum Operation {
    /// FCM's send.
    Send,
    /// Google's token endpoint.
    Token,
    /// Exotel's connect.
    Connect,
    /// Exotel's call details.
    Details,
}

/// The current behaviour, shared between the handlers.
#[derive(Debug, Clone, Default)]
pub struct SharedBehaviour {
    current: Arc<Mutex<Behaviour>>,
}

impl SharedBehaviour {
    /// Waits for the configured delay, and returns the failure for this request, if any. A failure with `placed` does
    /// not wait here: the handler places the call first and waits then, or a client that gives up would stop the
    /// handler before the call is placed.
    pub async fn next_failure(&self, operation: Operation) -> Option<ConfiguredFailure> {
        let (delay, failure) = self.take_next(operation);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(failure) = failure.as_ref().filter(|failure| !failure.placed) {
            failure.wait().await;
        }
        failure
    }

    /// The error for a device token.
    pub fn device_error(&self, token: &str) -> Option<DeviceError> {
        self.with(|behaviour| behaviour.tokens.get(token).copied())
    }

    fn take_next(&self, operation: Operation) -> (Duration, Option<ConfiguredFailure>) {
        self.with(|behaviour| {
            let delay = Duration::from_millis(behaviour.delay_ms);
            let failures = match operation {
                Operation::Send => &mut behaviour.send,
                Operation::Token => &mut behaviour.token,
                Operation::Connect => &mut behaviour.connect,
                Operation::Details => &mut behaviour.details,
            };
            (delay, take_one(failures))
        })
    }

    fn with<T>(&self, act: impl FnOnce(&mut Behaviour) -> T) -> T {
        act(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn take_one(failures: &mut Vec<ConfiguredFailure>) -> Option<ConfiguredFailure> {
    failures.retain(|failure| failure.times > 0);
    let first = failures.first_mut()?;
    first.times -= 1;
    Some(first.clone())
}

/// The control API for the failures of a stand-in, at `/behaviour`.
pub fn router(shared: SharedBehaviour) -> Router {
    Router::new()
        .route("/behaviour", get(show).put(replace).delete(reset))
        .with_state(shared)
}

/// `GET /behaviour`: the failures that are left.
async fn show(State(shared): State<SharedBehaviour>) -> Json<Behaviour> {
    Json(shared.with(|behaviour| behaviour.clone()))
}

/// `PUT /behaviour`: replaces the failures.
async fn replace(State(shared): State<SharedBehaviour>, Json(new): Json<Behaviour>) -> StatusCode {
    shared.with(|behaviour| *behaviour = new);
    StatusCode::NO_CONTENT
}

/// `DELETE /behaviour`: removes all failures.
async fn reset(State(shared): State<SharedBehaviour>) -> StatusCode {
    shared.with(|behaviour| *behaviour = Behaviour::default());
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_are_used_up_in_order() {
        let shared = SharedBehaviour::default();
        let failures = r#"{"send":[{"status":503,"times":2,"retry_after":1},{"status":429}]}"#;
        replace(
            State(shared.clone()),
            Json(serde_json::from_str(failures).unwrap()),
        )
        .await;
        let mut seen = Vec::new();
        while let Some(failure) = shared.next_failure(Operation::Send).await {
            seen.push(failure.status);
        }
        assert_eq!(seen, [503, 503, 429]);
        assert!(shared.next_failure(Operation::Token).await.is_none());
    }

    #[test]
    fn an_unknown_field_or_error_is_rejected() {
        assert!(serde_json::from_str::<Behaviour>(r#"{"sned":[]}"#).is_err());
        assert!(serde_json::from_str::<Behaviour>(r#"{"tokens":{"t":"GONE"}}"#).is_err());
    }
}
