//! Firebase Cloud Messaging, HTTP v1.
//!
//! <https://firebase.google.com/docs/reference/fcm/rest/v1/projects.messages>

#[cfg(test)]
mod tests;

use crate::platform::clock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, Response, StatusCode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::{Mutex, OnceCell};

use super::message::{Message, PushError};
use crate::platform::config::{ConfigError, Environment};
use crate::platform::https;
use crate::platform::secrets::{Secret, ServiceAccount};
use crate::telemetry::requests;
use crate::telemetry::xray;
use ringback_core::timestamp::Timestamp;

/// As metrics and traces call it.
const SYSTEM: &str = "FCM";

const SCOPE: &str = "https://www.googleapis.com/auth/firebase.messaging";

/// The lifetime that is asked for; Google grants no more.
const ASSERTION_LIFETIME: Duration = Duration::from_secs(3600);

/// An access token is replaced a little before it runs out.
const RENEW_BEFORE: Duration = Duration::from_secs(120);

/// Access token and push together must take less than [`ABANDONED_AFTER`](ringback_core::call::ABANDONED_AFTER), or somebody
/// else rings a second time.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// A caller is waiting: a pause longer than this is as good as a failure.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
const USUAL_PAUSE: Duration = Duration::from_secs(1);

/// As much of an error's code as is kept.
const LONGEST_CODE: usize = 40;

/// FCM, as one service account.
#[derive(Debug)]
pub struct Fcm {
    base_url: String,
    account: Secret<ServiceAccount>,
    client: OnceCell<Client>,
    access: Mutex<Access>,
    got_ready: AtomicBool,
}

#[derive(Debug, Clone)]
struct AccessToken {
    token: SecretString,
    renew_at: Timestamp,
}

/// The access token of one account, or how it was last asked for in vain.
#[derive(Debug, Default)]
struct Access {
    of: Option<Arc<ServiceAccount>>,
    token: Option<AccessToken>,
    failed: Option<(Timestamp, NoAccess)>,
}

/// Why there is no access token.
#[derive(Debug, Clone, PartialEq, Eq)]
enum NoAccess {
    /// Google does not accept the account's key, or it is no key at all.
    KeyRefused(String),
    /// No answer came, or none of use.
    Unavailable(String),
}

/// How one attempt to send ended, if it did not succeed.
enum Failure {
    Dead,
    /// The access token, or the account itself, is no longer good.
    AccessRefused {
        account: Arc<ServiceAccount>,
        access: Option<SecretString>,
        what: String,
    },
    Busy {
        pause: Duration,
        what: String,
    },
    Refused(String),
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
        let base_url = environment.url("FCM_BASE_URL")?;
        Ok(Self {
            base_url,
            account,
            client: OnceCell::new(),
            access: Mutex::default(),
            got_ready: AtomicBool::new(false),
        })
    }

    /// Fetches what the first push will need, the service account and access in its name, if that has not been tried yet.
    pub async fn get_ready(&self) {
        if self.got_ready.load(Ordering::Relaxed) {
            return;
        }
        if let (Ok(account), Ok(client)) = (self.account.value().await, self.client().await)
            && self.access_token(client, &account).await.is_err()
        {
            // The push asks for itself, and says what comes of it.
            self.access.lock().await.failed = None;
        }
        self.got_ready.store(true, Ordering::Relaxed);
    }

    /// Sends a message to one registration token. Access that was refused is renewed once, and a busy FCM is asked once more,
    /// until `until` at most. The one does not use up the other.
    ///
    /// # Errors
    /// [`PushError::Dead`] when FCM says that the token is unregistered; no other answer costs a phone its token.
    pub async fn send(
        &self,
        token: &str,
        message: &Message,
        until: Timestamp,
    ) -> Result<(), PushError> {
        let until = until.min(message.expires_at);
        let (mut renewed, mut waited) = (false, false);
        let mut attempt = self.attempt(token, message).await?;
        loop {
            let before = match attempt {
                Ok(()) => return Ok(()),
                Err(Failure::Dead) => return Err(PushError::Dead),
                Err(Failure::AccessRefused {
                    account,
                    access,
                    what,
                }) if !renewed => {
                    renewed = true;
                    if !self.renew_access(&account, access).await {
                        return Err(PushError::NotTaken(what));
                    }
                    what
                }
                Err(Failure::Busy { pause, what }) if !waited => {
                    waited = true;
                    if pause > LONGEST_PAUSE || clock::now() + pause >= until {
                        return Err(PushError::NotTaken(what));
                    }
                    tokio::time::sleep(pause).await;
                    what
                }
                Err(
                    Failure::AccessRefused { what, .. }
                    | Failure::Busy { what, .. }
                    | Failure::Refused(what),
                ) => return Err(PushError::NotTaken(what)),
            };
            requests::log_retry(SYSTEM, before);
            let left = until.since(clock::now());
            let next = tokio::time::timeout(left, self.attempt(token, message)).await;
            attempt = next.map_err(|_| PushError::NotTaken("no answer in time".to_owned()))??;
        }
    }

    /// Whether another attempt may have other access: with a new token, or with a newer service account.
    async fn renew_access(
        &self,
        account: &Arc<ServiceAccount>,
        refused: Option<SecretString>,
    ) -> bool {
        let newer = self.account.after_rejection(account).await;
        match refused {
            Some(refused) => {
                self.forget(&refused).await;
                true
            }
            None => newer.is_some(),
        }
    }

    async fn attempt(
        &self,
        token: &str,
        message: &Message,
    ) -> Result<Result<(), Failure>, PushError> {
        let account = self.account.value().await.map_err(not_taken)?;
        let client = self.client().await?;
        let access = match self.access_token(client, &account).await {
            Ok(access) => access,
            Err(NoAccess::Unavailable(what)) => return Err(PushError::NotTaken(what)),
            Err(NoAccess::KeyRefused(what)) => {
                return Ok(Err(Failure::AccessRefused {
                    account,
                    access: None,
                    what,
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
            .json(&body(token, message));
        Ok(
            match xray::trace_request(SYSTEM, "sending a push", request.send()).await {
                Ok(answer) => outcome(answer, account, access).await,
                Err(error) => Err(Failure::Busy {
                    pause: Duration::ZERO,
                    what: requests::error_chain(&error.without_url()),
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
        self.client.get_or_try_init(build).await.map_err(not_taken)
    }

    /// The cached access token, or a new one. Pushes that start together wait for the one request, and share its
    /// failure: phone after phone must not wait for an endpoint that hangs.
    async fn access_token(
        &self,
        client: &Client,
        account: &Arc<ServiceAccount>,
    ) -> Result<SecretString, NoAccess> {
        let mut access = self.access.lock().await;
        if !access.is_of(account) {
            *access = Access::none_yet(account);
        }
        let now = clock::now();
        if let Some(cached) = access.token.as_ref().filter(|token| now < token.renew_at) {
            return Ok(cached.token.clone());
        }
        if let Some((failed_at, why)) = &access.failed
            && now.since(*failed_at) < REPLY_TIMEOUT
        {
            return Err(why.clone());
        }
        match request_access(client, account, now).await {
            Ok(granted) => Ok(access.token.insert(granted).token.clone()),
            Err(why) => {
                access.failed = Some((clock::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// Forgets an access token that was refused, unless another push has replaced it meanwhile.
    async fn forget(&self, refused: &SecretString) {
        let cached = &mut self.access.lock().await.token;
        cached.take_if(|access| access.token.expose_secret() == refused.expose_secret());
    }
}

impl Access {
    fn none_yet(account: &Arc<ServiceAccount>) -> Self {
        Self {
            of: Some(Arc::clone(account)),
            ..Self::default()
        }
    }

    fn is_of(&self, account: &Arc<ServiceAccount>) -> bool {
        self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, account))
    }
}

/// Trades an assertion signed by the service account for an access token (RFC 7523).
async fn request_access(
    client: &Client,
    account: &ServiceAccount,
    now: Timestamp,
) -> Result<AccessToken, NoAccess> {
    let assertion = assertion(account, now)
        .map_err(|error| NoAccess::KeyRefused(format!("the service account's key: {error}")))?;
    let form = [
        ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
        ("assertion", &assertion),
    ];
    let asking = client.post(&account.token_uri).form(&form).send();
    let answer = xray::trace_request(SYSTEM, "asking for access", asking).await;
    let answer = answer.map_err(unavailable)?;
    // `invalid_grant` (400) for a key that was taken back, `invalid_client` (401) for an account that is gone.
    if answer.status().is_client_error() && answer.status() != StatusCode::TOO_MANY_REQUESTS {
        let status = answer.status();
        let code = oauth_error(&answer.text().await.unwrap_or_default());
        return Err(NoAccess::KeyRefused(format!(
            "no access token: {status} {code}"
        )));
    }
    let answer = answer.error_for_status().map_err(unavailable)?;
    let granted: Granted = answer.json().await.map_err(unavailable)?;
    Ok(granted.access_token(now))
}

#[derive(Deserialize)]
struct Granted {
    access_token: SecretString,
    expires_in: u64,
}

impl Granted {
    fn access_token(self, now: Timestamp) -> AccessToken {
        let lifetime = Duration::from_secs(self.expires_in).saturating_sub(RENEW_BEFORE);
        AccessToken {
            token: self.access_token,
            renew_at: now + lifetime,
        }
    }
}

/// Reads what may be an answer of FCM's, or of the endpoint that grants access to it.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    let granted = serde_json::from_slice::<Granted>(body);
    let _token = granted.map(|granted| granted.access_token(Timestamp::from_millis(0)));
    let text = String::from_utf8_lossy(body);
    let _codes = (error_code(&text), oauth_error(&text));
}

/// The `error` of OAuth's error answer (RFC 6749): a code, and nothing that describes it.
fn oauth_error(body: &str) -> String {
    let answer: Value = serde_json::from_str(body).unwrap_or_default();
    let code = answer["error"].as_str().unwrap_or_default();
    code.chars()
        .filter(|letter| letter.is_ascii_lowercase() || *letter == '_')
        .take(LONGEST_CODE)
        .collect()
}

fn assertion(
    account: &ServiceAccount,
    now: Timestamp,
) -> Result<String, jsonwebtoken::errors::Error> {
    #[derive(Serialize)]
    struct Claims<'a> {
        iss: &'a str,
        scope: &'a str,
        aud: &'a str,
        iat: u64,
        exp: u64,
    }
    let iat = now.as_millis() / 1000;
    let claims = Claims {
        iss: &account.client_email,
        scope: SCOPE,
        aud: &account.token_uri,
        iat,
        exp: iat + ASSERTION_LIFETIME.as_secs(),
    };
    let mut header = Header::new(Algorithm::RS256);
    header.kid = Some(account.private_key_id.clone());
    let key = EncodingKey::from_rsa_pem(account.private_key.expose_secret().as_bytes())?;
    jsonwebtoken::encode(&header, &claims, &key)
}

/// The message as FCM wants it. Data only: a `notification` would be shown by the system instead of waking the app.
///
/// Unlike S1: `ttl` and every header are strings; and a background push to iOS has priority 5, since Apple refuses
/// `content-available` with 10. It does not start a terminated app: that is what `apns_voip` devices are for.
fn body(token: &str, message: &Message) -> Value {
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
                    "apns-push-type": "background",
                    "apns-priority": "5",
                    "apns-expiration": message.expires_at.as_secs_rounded_up().to_string(),
                    "apns-collapse-id": message.collapse_key,
                },
                "payload": { "aps": { "content-available": 1 } },
            },
        }
    })
}

async fn outcome(
    answer: Response,
    account: Arc<ServiceAccount>,
    access: SecretString,
) -> Result<(), Failure> {
    let status = answer.status();
    if status.is_success() {
        return Ok(());
    }
    let pause = answer
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map_or(USUAL_PAUSE, Duration::from_secs);
    let code = error_code(&answer.text().await.unwrap_or_default());
    let what = format!("{status} {code}");
    Err(match status {
        StatusCode::NOT_FOUND if code == "UNREGISTERED" => Failure::Dead,
        // 403 also says that a phone has registered with another project (SENDER_ID_MISMATCH): no account helps there.
        // The project's APNs or web push credential is wrong. The access token is good, and a new one changes nothing:
        // https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode
        StatusCode::UNAUTHORIZED if code == "THIRD_PARTY_AUTH_ERROR" => Failure::Refused(what),
        StatusCode::UNAUTHORIZED => Failure::AccessRefused {
            account,
            access: Some(access),
            what,
        },
        StatusCode::FORBIDDEN if code == "PERMISSION_DENIED" => Failure::AccessRefused {
            account,
            access: None,
            what,
        },
        StatusCode::TOO_MANY_REQUESTS => Failure::Busy { pause, what },
        status if status.is_server_error() => Failure::Busy { pause, what },
        _ => Failure::Refused(what),
    })
}

/// The `errorCode` of FCM's error envelope, or its `status`.
fn error_code(body: &str) -> String {
    let envelope: Value = serde_json::from_str(body).unwrap_or_default();
    let error = &envelope["error"];
    let detail = error["details"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|detail| detail["errorCode"].as_str());
    detail
        .or_else(|| error["status"].as_str())
        .unwrap_or("without a code")
        .to_owned()
}

fn unavailable(error: reqwest::Error) -> NoAccess {
    NoAccess::Unavailable(error.without_url().to_string())
}

fn not_taken(error: impl std::fmt::Display) -> PushError {
    PushError::NotTaken(error.to_string())
}
