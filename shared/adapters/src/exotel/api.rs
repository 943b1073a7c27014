//! Exotel's voice API, version 1: two numbers are connected, and a call is looked up.
//!
//! <https://developer.exotel.com/api/make-a-call-api>, <https://developer.exotel.com/api/call-details>

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode, Url, retry};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::indian_time;
use super::status_words::status_of_word;
use crate::auth::signing::Signing;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::https;
use crate::platform::secrets::{ExotelAccount, Secret, SecretError};
use crate::telemetry::requests;
use crate::telemetry::xray;
use ringback_core::call::Call;
use ringback_core::call::CallStatus;
use ringback_core::ids::{CallId, CallSid};
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;

/// As metrics and traces call it.
const SYSTEM: &str = "Exotel";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Until the whole answer is there. Exotel answers a connect before it dials.
const REPLY_TIMEOUT: Duration = Duration::from_secs(6);

/// The longest that Exotel lets a phone ring.
const LONGEST_RING: Duration = Duration::from_secs(60);
/// The longest that Exotel lets a call last.
const LONGEST_CALL: Duration = Duration::from_secs(4 * 60 * 60);

/// As much of a refusal's message as is kept.
const LONGEST_MESSAGE: usize = 200;

/// Why Exotel did not do what it was asked to, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ExotelError {
    /// The request is at fault, or the account may not do this. The same request will be refused again.
    #[error("Exotel refused with {status}: {message}")]
    Refused {
        /// Exotel's status code.
        status: StatusCode,
        /// Exotel's reason, without the numbers that it repeats.
        message: String,
    },
    /// The account has no money left, or its plan does not include this. Somebody has to pay.
    #[error("Exotel wants to be paid first (402)")]
    NoBalance,
    /// The API key or token is wrong. Somebody has to correct the secret.
    #[error("Exotel does not accept the API key and token (401)")]
    Unauthorized,
    /// The account's requests of this minute are used up. The same request may be made later.
    #[error("Exotel was asked too often (429)")]
    TooMany {
        /// When to try again, if Exotel said so.
        retry_after: Option<Duration>,
    },
    /// Exotel was not reached, or failed. As far as is known no call was placed, and trying again may help.
    #[error("Exotel is not available")]
    Unavailable(#[source] NoAnswer),
    /// The request went out, and what became of it is not known: **the call may have been placed**. Exotel knows no
    /// idempotency key, so it must not be asked again before the call has been looked for.
    #[error("it is not known whether Exotel placed the call")]
    Unknown(#[source] NoAnswer),
    /// Exotel knows no call with this CallSid.
    #[error("Exotel knows no such call")]
    NoSuchCall,
    /// The secret lacks what placing and looking up calls needs, or what stands there makes no sense.
    #[error("the secret of EXOTEL has no usable {0}, which calls to phone numbers need")]
    NotConfigured(&'static str),
    /// The HTTP client could not be built.
    #[error("the HTTP client for Exotel could not be built")]
    NoClient(#[source] reqwest::Error),
    /// The secret is not at hand.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// What came instead of an answer.
#[derive(Debug, thiserror::Error)]
pub enum NoAnswer {
    /// Nothing, or not all of it.
    #[error("no answer came, or not in time")]
    Broken(#[source] reqwest::Error),
    /// A failure of Exotel's own.
    #[error("the answer was {0}")]
    Failed(StatusCode),
    /// An answer that holds no call.
    #[error("the answer holds no call")]
    NoCall,
}

/// A call to be placed. `from` is called first; once it has answered, `to` is called, and the two are connected.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// Who is called first.
    pub from: PhoneNumber,
    /// Who is called then.
    pub to: PhoneNumber,
    /// The ExoPhone that both see, see [`Exotel::caller_id`].
    pub caller_id: PhoneNumber,
    /// Our own id of the call, which comes back in the report of its end.
    pub custom_field: CallId,
    /// Where Exotel reports. The URL holds a token for this call.
    pub status_callback: SecretString,
    /// How long the two may talk; four hours at most.
    pub time_limit: Duration,
    /// How long each phone may ring; a minute at most.
    pub ring_timeout: Duration,
}

/// A call that Exotel has taken on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// [`CallStatus::Initiated`], or the end of a call that was over at once.
    pub status: CallStatus,
}

/// What Exotel knows of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallDetails {
    /// Exotel's id of the call.
    pub call_sid: CallSid,
    /// How far the call has come; `None` where Exotel uses a word that it does not document.
    pub status: Option<CallStatus>,
    /// When the call began.
    pub started_at: Option<Timestamp>,
    /// When the call was over. It may be missing until some minutes after the end.
    pub ended_at: Option<Timestamp>,
    /// Who was called first.
    pub from: Option<PhoneNumber>,
    /// Who was called then.
    pub to: Option<PhoneNumber>,
}

/// Our own webhook, where Exotel reports on calls that it places for us.
#[derive(Debug)]
struct Webhook {
    url: Url,
    signing: Arc<Signing>,
}

/// Exotel, as one account.
#[derive(Debug)]
pub struct Exotel {
    url: Url,
    webhook: Option<Webhook>,
    country: String,
    secret: Secret<ExotelAccount>,
    client: OnceCell<Client>,
}

impl Exotel {
    /// Exotel at `EXOTEL_BASE_URL`, such as `https://api.in.exotel.com`. It writes numbers as they are dialled within
    /// `country` (ISO 3166). To place calls, it needs [`Exotel::reporting_to_webhook`] too.
    ///
    /// # Errors
    /// When the variable is missing, or holds no URL.
    pub fn from_environment(
        environment: &Environment,
        secret: Secret<ExotelAccount>,
        country: String,
    ) -> Result<Self, ConfigError> {
        let base = url_in(environment, "EXOTEL_BASE_URL")?;
        Ok(Self::new(base, secret, country))
    }

    /// The same, which reports on the calls that it places to `EXOTEL_WEBHOOK_URL`.
    ///
    /// # Errors
    /// When the variable is missing, or holds no URL.
    pub fn reporting_to_webhook(
        self,
        environment: &Environment,
        signing: Arc<Signing>,
    ) -> Result<Self, ConfigError> {
        let url = url_in(environment, "EXOTEL_WEBHOOK_URL")?;
        Ok(Self {
            webhook: Some(Webhook { url, signing }),
            ..self
        })
    }

    /// An Exotel for tests.
    #[cfg(any(test, feature = "testing"))]
    #[must_use]
    pub fn at(url: Url, secret: ExotelAccount) -> Self {
        Self::new(url, Secret::known(secret), "IN".to_owned())
    }

    fn new(url: Url, secret: Secret<ExotelAccount>, country: String) -> Self {
        Self {
            url,
            webhook: None,
            country,
            secret,
            client: OnceCell::new(),
        }
    }

    /// Places an outbound call, once: see [`Exotel::connect`].
    ///
    /// # Errors
    /// See [`ExotelError`], above all [`ExotelError::Unknown`].
    pub async fn place(&self, call: &Call) -> Result<Placed, ExotelError> {
        self.with_secret(|secret| async move { self.place_with(&secret, call).await })
            .await
    }

    async fn place_with(&self, secret: &ExotelAccount, call: &Call) -> Result<Placed, ExotelError> {
        let ringback_core::call::CallKind::ToNumber { from, to } = &call.kind else {
            return Err(ExotelError::NotConfigured("number to call"));
        };
        let request = ConnectRequest {
            from: from.clone(),
            to: to.clone(),
            caller_id: self.caller_id_of(secret)?,
            custom_field: call.call_id,
            status_callback: self.status_callback(call.call_id).await?,
            time_limit: call.limits.talk,
            ring_timeout: call.limits.ring,
        };
        self.connect_with(secret, &request).await
    }

    /// Our webhook's URL for the reports on one call. It says itself which call that is, for no report is known to
    /// repeat everything that it was asked with. Its token is good for this call alone.
    async fn status_callback(&self, call: CallId) -> Result<SecretString, ExotelError> {
        let webhook = self.webhook.as_ref();
        let Webhook { url, signing } =
            webhook.ok_or(ExotelError::NotConfigured("EXOTEL_WEBHOOK_URL"))?;
        let token = signing.callback_token(call).await?;
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("call_token", token.expose_secret())
            .append_pair("CustomField", &call.to_string())
            .append_pair("Direction", "outbound-api");
        Ok(String::from(url).into())
    }

    /// The ExoPhone that calls are shown to come from.
    ///
    /// # Errors
    /// [`ExotelError::NotConfigured`] when the secret has none.
    pub async fn caller_id(&self) -> Result<PhoneNumber, ExotelError> {
        self.with_secret(|secret| async move { self.caller_id_of(&secret) })
            .await
    }

    fn caller_id_of(&self, secret: &ExotelAccount) -> Result<PhoneNumber, ExotelError> {
        let text = secret.caller_id.as_deref();
        text.and_then(|text| PhoneNumber::parse(text, &self.country))
            .ok_or(ExotelError::NotConfigured("caller_id"))
    }

    /// Places a call. It is asked for once: nothing is repeated but what Exotel did not look at, because it did not
    /// accept the API key.
    ///
    /// # Errors
    /// See [`ExotelError`], above all [`ExotelError::Unknown`].
    pub async fn connect(&self, request: &ConnectRequest) -> Result<Placed, ExotelError> {
        self.with_secret(|secret| async move { self.connect_with(&secret, request).await })
            .await
    }

    async fn connect_with(
        &self,
        secret: &ExotelAccount,
        request: &ConnectRequest,
    ) -> Result<Placed, ExotelError> {
        let asking = self.request(secret, Method::POST, "connect.json").await?;
        let asking = asking.form(&request.fields()).send();
        let answer = match xray::part(SYSTEM, "placing a call", asking).await {
            Ok(answer) => answer,
            Err(error) if error.is_connect() => {
                return Err(ExotelError::Unavailable(broken(error)));
            }
            Err(error) => return Err(ExotelError::Unknown(broken(error))),
        };
        let call = match answer.status() {
            status if status.is_success() => read(answer).await.map_err(ExotelError::Unknown)?,
            // A gateway speaks, and says nothing about what the API behind it has done.
            status @ (StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT) => {
                return Err(ExotelError::Unknown(NoAnswer::Failed(status)));
            }
            _ => return Err(refusal(answer).await),
        };
        Ok(call.placed())
    }

    /// Looks a call up. This may be repeated at will, within 200 requests a minute for the whole account.
    ///
    /// # Errors
    /// See [`ExotelError`]; never [`ExotelError::Unknown`].
    pub async fn details(&self, call: &CallSid) -> Result<CallDetails, ExotelError> {
        self.with_secret(|secret| async move { self.details_with(&secret, call).await })
            .await
    }

    async fn details_with(
        &self,
        secret: &ExotelAccount,
        call: &CallSid,
    ) -> Result<CallDetails, ExotelError> {
        let path = format!("{call}.json");
        let asking = self.request(secret, Method::GET, &path).await?;
        let answer = xray::part(SYSTEM, "looking a call up", asking.send()).await;
        let answer = answer.map_err(|error| ExotelError::Unavailable(broken(error)))?;
        match answer.status() {
            status if status.is_success() => {
                let call = read(answer).await.map_err(ExotelError::Unavailable)?;
                Ok(call.details(&self.country))
            }
            StatusCode::NOT_FOUND => Err(ExotelError::NoSuchCall),
            _ => Err(refusal(answer).await),
        }
    }

    /// Asks with the account that we have and, if Exotel does not accept it or it lacks something, with the one that has
    /// replaced it.
    async fn with_secret<A, Asking>(
        &self,
        ask: impl Fn(Arc<ExotelAccount>) -> Asking,
    ) -> Result<A, ExotelError>
    where
        Asking: Future<Output = Result<A, ExotelError>>,
    {
        let secret = self.secret.value().await?;
        let answer = ask(Arc::clone(&secret)).await;
        let Err(refusal @ (ExotelError::Unauthorized | ExotelError::NotConfigured(_))) = answer
        else {
            return answer;
        };
        match self.secret.after_refusal(&secret).await {
            Some(newer) => {
                requests::again(SYSTEM, refusal);
                ask(newer).await
            }
            None => Err(refusal),
        }
    }

    async fn request(
        &self,
        secret: &ExotelAccount,
        method: Method,
        call: &str,
    ) -> Result<RequestBuilder, ExotelError> {
        let account = configured(secret.account_sid.as_deref(), "account_sid")?;
        let key = configured(exposed(&secret.api_key), "api_key")?;
        let token = configured(exposed(&secret.api_token), "api_token")?;
        let client = self.client.get_or_try_init(|| async { client() }).await?;
        Ok(client
            .request(method, self.url_of(account, call))
            .basic_auth(key, Some(token)))
    }

    fn url_of(&self, account: &str, call: &str) -> Url {
        let mut url = self.url.clone();
        // Only what is no http(s) URL has no path.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["v1", "Accounts", account, "Calls", call]);
        }
        url
    }
}

impl ConnectRequest {
    fn fields(&self) -> [(&'static str, String); 13] {
        let seconds = |wanted: Duration, most: Duration| wanted.min(most).as_secs().max(1);
        [
            ("From", self.from.to_string()),
            ("To", self.to.to_string()),
            ("CallerId", self.caller_id.to_string()),
            ("CallType", "trans".to_owned()),
            (
                "TimeLimit",
                seconds(self.time_limit, LONGEST_CALL).to_string(),
            ),
            (
                "TimeOut",
                seconds(self.ring_timeout, LONGEST_RING).to_string(),
            ),
            // Otherwise Exotel would call somebody who does not answer three times more.
            ("MaxRetries", "0".to_owned()),
            ("Record", "false".to_owned()),
            ("CustomField", self.custom_field.to_string()),
            (
                "StatusCallback",
                self.status_callback.expose_secret().to_owned(),
            ),
            ("StatusCallbackEvents[0]", "terminal".to_owned()),
            ("StatusCallbackEvents[1]", "answered".to_owned()),
            ("StatusCallbackContentType", "application/json".to_owned()),
        ]
    }
}

/// A call as Exotel shows it, as far as it matters here.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct CallRecord {
    sid: CallSid,
    status: Option<String>,
    from: Option<String>,
    to: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
}

impl CallRecord {
    fn status(&self) -> Option<CallStatus> {
        self.status.as_deref().and_then(status_of_word)
    }

    /// The answer to a connect already says `in-progress`, while nobody has been called yet.
    fn placed(self) -> Placed {
        let end = self.status().filter(|status| status.is_final());
        Placed {
            call_sid: self.sid,
            status: end.unwrap_or(CallStatus::Initiated),
        }
    }

    /// What stands there as the end of a call that is not over is a dummy.
    fn details(self, country: &str) -> CallDetails {
        let status = self.status();
        let is_over = status.is_some_and(CallStatus::is_final);
        let time = |text: Option<&str>| text.and_then(indian_time);
        let number = |text: Option<&str>| text.and_then(|text| PhoneNumber::parse(text, country));
        CallDetails {
            status,
            started_at: time(self.start_time.as_deref()),
            ended_at: time(self.end_time.as_deref()).filter(|_| is_over),
            from: number(self.from.as_deref()),
            to: number(self.to.as_deref()),
            call_sid: self.sid,
        }
    }
}

async fn read(answer: Response) -> Result<CallRecord, NoAnswer> {
    call_in(&answer.bytes().await.map_err(broken)?)
}

fn call_in(body: &[u8]) -> Result<CallRecord, NoAnswer> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "Call")]
        call: CallRecord,
    }
    serde_json::from_slice(body)
        .map(|answer: Answer| answer.call)
        // What is wrong with it may repeat what stands in it.
        .map_err(|_| NoAnswer::NoCall)
}

/// Reads what may be an answer of Exotel's.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    let _placed = call_in(body).map(CallRecord::placed);
    let _details = call_in(body).map(|call| call.details("IN"));
    let message = message(body);
    assert!(!message.contains(char::is_numeric) && !message.contains(char::is_control));
}

async fn refusal(answer: Response) -> ExotelError {
    match answer.status() {
        StatusCode::UNAUTHORIZED => ExotelError::Unauthorized,
        StatusCode::PAYMENT_REQUIRED => ExotelError::NoBalance,
        StatusCode::TOO_MANY_REQUESTS => ExotelError::TooMany {
            retry_after: retry_after(&answer),
        },
        status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
            ExotelError::Unavailable(NoAnswer::Failed(status))
        }
        status => ExotelError::Refused {
            status,
            message: message(&answer.bytes().await.unwrap_or_default()),
        },
    }
}

fn retry_after(answer: &Response) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The `Message` of Exotel's error envelope.
fn message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "RestException")]
        exception: Exception,
    }
    #[derive(Deserialize)]
    struct Exception {
        #[serde(rename = "Message")]
        message: String,
    }
    serde_json::from_slice(body).map_or_else(
        |_| "without a reason".to_owned(),
        |envelope: Envelope| without_numbers(&envelope.exception.message),
    )
}

/// Exotel's messages repeat the number that they complain of, and numbers are personal: no digit is kept.
fn without_numbers(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .map(|letter| if letter.is_numeric() { '#' } else { letter })
        .take(LONGEST_MESSAGE)
        .collect()
}

fn url_in(environment: &Environment, name: &'static str) -> Result<Url, ConfigError> {
    let invalid = |_| ConfigError::Invalid {
        name,
        rule: "a URL",
    };
    Url::parse(&environment.url(name)?).map_err(invalid)
}

fn exposed(secret: &Option<SecretString>) -> Option<&str> {
    secret.as_ref().map(ExposeSecret::expose_secret)
}

fn configured<'a>(value: Option<&'a str>, name: &'static str) -> Result<&'a str, ExotelError> {
    value
        .filter(|value| !value.is_empty())
        .ok_or(ExotelError::NotConfigured(name))
}

/// Every request has a connection of its own (TLS sessions are resumed). One that has been idle may be dead, which a
/// function that was frozen meanwhile notices only after it has sent the request: nobody could say then whether the
/// call was placed. For the same reason a request is never repeated or sent on to elsewhere.
fn client() -> Result<Client, ExotelError> {
    Client::builder()
        .tls_backend_preconfigured(https::public())
        .connect_timeout(CONNECT_TIMEOUT)
        .timeout(REPLY_TIMEOUT)
        .pool_max_idle_per_host(0)
        .redirect(Policy::none())
        .retry(retry::never())
        .build()
        .map_err(ExotelError::NoClient)
}

/// The URL is not shown: an account stands in it.
fn broken(error: reqwest::Error) -> NoAnswer {
    NoAnswer::Broken(error.without_url())
}
