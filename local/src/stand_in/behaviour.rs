//! How a stand-in is told to misbehave: the next answers of an operation, dead device tokens, delays.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use serde::{Deserialize, Serialize};

/// What the next requests get, until used up or replaced.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Behaviour {
    /// Answers to the next sends (FCM).
    pub send: Vec<Failure>,
    /// Answers to the next token requests (FCM).
    pub token: Vec<Failure>,
    /// What to say of single device tokens (FCM), for as long as it stands here.
    pub tokens: BTreeMap<String, DeviceError>,
    /// Answers to the next connects (Exotel).
    pub connect: Vec<Failure>,
    /// Answers to the next requests for a call's details (Exotel).
    pub details: Vec<Failure>,
    /// Every answer comes this much later.
    pub delay_ms: u64,
}

/// An answer other than the right one, some times over.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// HTTP status.
    pub status: u16,
    /// For how many requests.
    #[serde(default = "once")]
    pub times: u32,
    /// Seconds in a `Retry-After` header.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after: Option<u64>,
    /// The answer comes this much later: longer than a client waits, and it is lost.
    #[serde(default)]
    pub after_ms: u64,
    /// The call is placed all the same, and only the answer says otherwise (connect).
    #[serde(default)]
    pub placed: bool,
}

impl Failure {
    /// Until the answer is due.
    pub async fn wait(&self) {
        tokio::time::sleep(Duration::from_millis(self.after_ms)).await;
    }
}

fn once() -> u32 {
    1
}

/// What FCM says of a device token it will not send to.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DeviceError {
    /// The app is gone from the device: 404.
    Unregistered,
    /// Not a registration token at all: 400.
    InvalidArgument,
    /// Another project's token: 403.
    SenderIdMismatch,
    /// Too many messages to this device: 429.
    QuotaExceeded,
    /// Overloaded: 503.
    Unavailable,
    /// Broken: 500.
    Internal,
    /// The APNs certificate or key is wrong: 401.
    ThirdPartyAuthError,
}

/// The operations that can be made to fail.
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

/// The behaviour as it stands, shared between the handlers.
#[derive(Debug, Clone, Default)]
pub struct Behaving {
    current: Arc<Mutex<Behaviour>>,
}

impl Behaving {
    /// Waits as long as told, then says how this request has to fail, if it has to. What is done before it fails has to
    /// be done before the failure's own wait, or it would not be done for a client that has given up.
    pub async fn before(&self, operation: Operation) -> Option<Failure> {
        let (delay, failure) = self.next(operation);
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if let Some(failure) = failure.as_ref().filter(|failure| !failure.placed) {
            failure.wait().await;
        }
        failure
    }

    /// What to say of a device token.
    pub fn of_device(&self, token: &str) -> Option<DeviceError> {
        self.with(|behaviour| behaviour.tokens.get(token).copied())
    }

    fn next(&self, operation: Operation) -> (Duration, Option<Failure>) {
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

fn take_one(failures: &mut Vec<Failure>) -> Option<Failure> {
    failures.retain(|failure| failure.times > 0);
    let first = failures.first_mut()?;
    first.times -= 1;
    Some(first.clone())
}

/// `GET /behaviour`: what is left of it.
pub async fn show(State(behaving): State<Behaving>) -> Json<Behaviour> {
    Json(behaving.with(|behaviour| behaviour.clone()))
}

/// `PUT /behaviour`: replaces it.
pub async fn replace(
    State(behaving): State<Behaving>,
    Json(wanted): Json<Behaviour>,
) -> StatusCode {
    behaving.with(|behaviour| *behaviour = wanted);
    StatusCode::NO_CONTENT
}

/// `DELETE /behaviour`: behaves again.
pub async fn reset(State(behaving): State<Behaving>) -> StatusCode {
    behaving.with(|behaviour| *behaviour = Behaviour::default());
    StatusCode::NO_CONTENT
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn failures_are_used_up_in_order() {
        let behaving = Behaving::default();
        let wanted = r#"{"send":[{"status":503,"times":2,"retry_after":1},{"status":429}]}"#;
        replace(
            State(behaving.clone()),
            Json(serde_json::from_str(wanted).unwrap()),
        )
        .await;
        let mut seen = Vec::new();
        while let Some(failure) = behaving.before(Operation::Send).await {
            seen.push(failure.status);
        }
        assert_eq!(seen, [503, 503, 429]);
        assert!(behaving.before(Operation::Token).await.is_none());
    }

    #[test]
    fn a_misspelt_behaviour_is_refused() {
        assert!(serde_json::from_str::<Behaviour>(r#"{"sned":[]}"#).is_err());
        assert!(serde_json::from_str::<Behaviour>(r#"{"tokens":{"t":"GONE"}}"#).is_err());
    }
}
