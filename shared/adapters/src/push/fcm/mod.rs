//! Firebase Cloud Messaging (FCM), HTTP v1.
//!
//! <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>

mod access_token;
mod send_reply;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::Client;
use ringback_core::timestamp::Timestamp;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use super::push_message::{PushError, PushKind, PushMessage, RetryAfter};
use crate::platform::clock;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::https;
use crate::platform::secrets::{Secret, SecretError, ServiceAccount};
use crate::telemetry::requests;
use crate::telemetry::xray;
use access_token::{TokenCache, TokenError};
use send_reply::{SendFailure, read_reply};

/// The name in metrics and traces.
const SYSTEM: &str = "FCM";

/// An access token and a push together must take less than [`ABANDONED_AFTER`](ringback_core::call::ABANDONED_AFTER).
/// Otherwise another process takes this one for crashed, and sends the push again.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// The longest pause that this process waits before a retry. After a longer one, another process sends the push.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The pause before a cancellation is sent again after a server error.
const CANCELLATION_PAUSE: Duration = Duration::from_secs(1);

/// FCM, with one service account.
#[derive(Debug)]
pub struct Fcm {
    base_url: String,
    account: Secret<ServiceAccount>,
    client: OnceCell<Client>,
    tokens: Mutex<TokenCache>,
    is_ready: AtomicBool,
}

impl Fcm {
    /// FCM at `FCM_BASE_URL`.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn from_environment(
        environment: &Environment,
        account: Secret<ServiceAccount>,
    ) -> Result<Self, ConfigError> {
        Ok(Self::new(environment.url("FCM_BASE_URL")?, account))
    }

    fn new(base_url: String, account: Secret<ServiceAccount>) -> Self {
        Self {
            base_url,
            account,
            client: OnceCell::new(),
            tokens: Mutex::default(),
            is_ready: AtomicBool::new(false),
        }
    }

    /// Fetches the service account and an access token for the first push. Does this once per process.
    pub async fn get_ready(&self) {
        if self.is_ready.load(Ordering::Relaxed) {
            return;
        }
        if let (Ok(account), Ok(client)) = (self.account.value().await, self.client().await)
            && self.access_token(client, &account).await.is_err()
        {
            // The push requests a token again, and reports the failure.
            self.tokens.lock().await.drop_failure();
        }
        self.is_ready.store(true, Ordering::Relaxed);
    }

    /// Sends a message to one registration token.
    ///
    /// Retries once with renewed access if Google rejects the access, and once if the connection fails or FCM asks for a short pause.
    /// Stops at `until`, and when the message expires.
    ///
    /// # Errors
    /// [`PushError::AddressExpired`] when FCM says that the token is unregistered. No other reply means that.
    /// [`PushError::Delayed`] when a later push may succeed.
    pub async fn send(
        &self,
        token: &str,
        message: &PushMessage,
        until: Timestamp,
    ) -> Result<(), PushError> {
        let until = until.min(message.expires_at);
        let (mut renewed, mut waited) = (false, false);
        let body = request_body(token, message);
        let mut attempt = self.attempt(&body).await?;
        loop {
            let retry_reason = match attempt {
                Ok(()) => return Ok(()),
                Err(SendFailure::AccessRefused {
                    account,
                    access,
                    description,
                }) if !renewed => {
                    renewed = true;
                    if !self.renew_access(&account, access).await {
                        return Err(PushError::NotAccepted(description));
                    }
                    description
                }
                // A kept connection may have been closed since the last push.
                Err(SendFailure::NoReply { description, .. }) if !waited => {
                    waited = true;
                    description
                }
                Err(SendFailure::Busy { retry, description })
                    if !waited
                        && let Some(pause) = pause_before_retry(retry, message.kind)
                        && clock::now() + pause < until =>
                {
                    waited = true;
                    tokio::time::sleep(pause).await;
                    description
                }
                Err(failure) => return Err(failure.into()),
            };
            requests::log_retry(SYSTEM, retry_reason);
            let time_left = until.since(clock::now());
            let retry = tokio::time::timeout(time_left, self.attempt(&body)).await;
            let too_late = |_| delayed(RetryAfter::SERVER_ERROR, "no reply in time");
            attempt = retry.map_err(too_late)??;
        }
    }

    /// Whether a retry will use other access: a new token, or a newer service account.
    async fn renew_access(
        &self,
        account: &Arc<ServiceAccount>,
        rejected: Option<SecretString>,
    ) -> bool {
        let newer = self.account.after_rejection(account).await;
        match rejected {
            Some(rejected) => {
                self.tokens.lock().await.drop_token(&rejected);
                true
            }
            None => newer.is_some(),
        }
    }

    /// Checks that FCM accepts the service account. FCM only validates this message, and its topic has no subscribers.
    ///
    /// # Errors
    /// [`PushError::NotAccepted`] when FCM refuses, [`PushError::Delayed`] when it cannot be reached or fails.
    pub async fn validate(&self) -> Result<(), PushError> {
        let message = json!({ "topic": "ringback-doctor", "data": { "type": "doctor" } });
        let body = json!({ "validate_only": true, "message": message });
        self.attempt(&body).await?.map_err(PushError::from)
    }

    async fn attempt(&self, body: &Value) -> Result<Result<(), SendFailure>, PushError> {
        let account = self.account.value().await.map_err(without_account)?;
        let client = self.client().await?;
        let access = match self.access_token(client, &account).await {
            Ok(access) => access,
            Err(TokenError::Unavailable(description)) => {
                return Err(delayed(RetryAfter::SERVER_ERROR, description));
            }
            Err(TokenError::KeyRefused(description)) => {
                return Ok(Err(SendFailure::AccessRefused {
                    account,
                    access: None,
                    description,
                }));
            }
        };
        let url = format!(
            "{}/v1/projects/{}/messages:send",
            self.base_url, account.project_id
        );
        let request = client
            .post(url)
            .bearer_auth(access.expose_secret())
            .json(body);
        Ok(
            match xray::trace_request(SYSTEM, "sending a push", request.send()).await {
                Ok(reply) => read_reply(reply, account, access).await,
                Err(error) => Err(SendFailure::NoReply {
                    retry: if error.is_connect() {
                        RetryAfter::NO_CONNECTION
                    } else {
                        RetryAfter::SERVER_ERROR
                    },
                    description: requests::error_chain(&error.without_url()),
                }),
            },
        )
    }

    async fn client(&self) -> Result<&Client, PushError> {
        let build = || async {
            Client::builder()
                .tls_backend_preconfigured(https::public())
                .connect_timeout(CONNECT_TIMEOUT)
                .timeout(REPLY_TIMEOUT)
                .build()
        };
        let client = self.client.get_or_try_init(build).await;
        client.map_err(not_accepted)
    }

    /// The lock makes pushes that start together wait for one token request, and share its result.
    async fn access_token(
        &self,
        client: &Client,
        account: &Arc<ServiceAccount>,
    ) -> Result<SecretString, TokenError> {
        self.tokens.lock().await.get(client, account).await
    }
}

/// The request body. Data only: Android shows a `notification` itself instead of waking the app.
///
/// `ttl` and all headers are strings. The push to iOS is a background push with priority 5, because Apple rejects
/// `content-available` with priority 10. It does not start a terminated app; devices with an `apns_voip` address are for that. A
/// missed-call notice is an alert.
fn request_body(token: &str, message: &PushMessage) -> Value {
    let (push_type, priority, aps) = match message.missed_calls_alert() {
        Some(alert) => ("alert", "10", alert),
        None => ("background", "5", json!({ "content-available": 1 })),
    };
    json!({
        "message": {
            "token": token,
            "data": message.data,
            "android": {
                "priority": "HIGH",
                "ttl": format!("{}s", message.ttl_seconds()),
                "collapse_key": message.collapse_key,
            },
            "apns": {
                "headers": {
                    "apns-push-type": push_type,
                    "apns-priority": priority,
                    "apns-expiration": message.expires_at.as_secs_rounded_up().to_string(),
                    "apns-collapse-id": message.collapse_key,
                },
                "payload": { "aps": aps },
            },
        }
    })
}

/// Parses any bytes as a reply of FCM or of the token endpoint, for the fuzzers.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    access_token::read_any_answer(body);
    let _code = send_reply::error_code(&String::from_utf8_lossy(body));
}

fn not_accepted(error: impl std::fmt::Display) -> PushError {
    PushError::NotAccepted(error.to_string())
}

/// How long this process waits before it sends the push again. `None` if it does not.
fn pause_before_retry(retry: RetryAfter, kind: PushKind) -> Option<Duration> {
    match retry {
        RetryAfter::AsTold(pause) => (pause <= MAX_PAUSE).then_some(pause),
        // No timer sends a cancellation again, and a phone that misses it continues to ring.
        RetryAfter::SERVER_ERROR if kind != PushKind::IncomingCall => Some(CANCELLATION_PAUSE),
        RetryAfter::AtLeast(_) => None,
    }
}

fn delayed(retry: RetryAfter, description: impl Into<String>) -> PushError {
    let description = description.into();
    PushError::Delayed { retry, description }
}

fn without_account(error: SecretError) -> PushError {
    match error {
        SecretError::Unavailable(..) => delayed(RetryAfter::NO_CONNECTION, error.to_string()),
        SecretError::NoValue(_) | SecretError::Malformed(_) => not_accepted(error),
    }
}
