//! Exotel's voice API, version 1: connects two phone numbers, and looks calls up.
//!
//! <https://developer.exotel.com/api/make-a-call-api>, <https://developer.exotel.com/api/call-details>

mod call_record;
mod connect_request;
mod error;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use reqwest::redirect::Policy;
use reqwest::{Client, Method, RequestBuilder, StatusCode, Url, retry};
use ringback_core::call::Call;
use ringback_core::ids::{CallId, CallSid};
use ringback_core::phone_number::PhoneNumber;
use secrecy::{ExposeSecret, SecretString};
use tokio::sync::OnceCell;

use crate::auth::signing::Signing;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::https;
use crate::platform::secrets::{ExotelAccount, Secret};
use crate::telemetry::requests;
use crate::telemetry::xray;
use call_record::CallRecord;

#[cfg(any(test, feature = "testing"))]
pub(crate) use call_record::read_any_answer;
pub use call_record::{CallDetails, PlacedCall};
pub use connect_request::ConnectRequest;
pub use error::{ExotelError, ReplyError};

/// The name in metrics and traces.
const SYSTEM: &str = "Exotel";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Until the reply is complete.
const REPLY_TIMEOUT: Duration = Duration::from_secs(6);
/// The same for a connect. Exotel replies only after it has handed the first call to an operator, and tries other routes before that:
/// 15 s and more were seen. `ws-message` has 25 s.
/// <https://support.exotel.com/support/solutions/articles/3000083306-why-does-the-response-time-of-connect-api-vary->
const CONNECT_REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// The voice API, with one account.
#[derive(Debug)]
pub struct Exotel {
    url: Url,
    webhook: Option<CallbackWebhook>,
    country: String,
    secret: Secret<ExotelAccount>,
    client: OnceCell<Client>,
    connect_reply_timeout: Duration,
}

/// Ringback's own webhook, to which Exotel reports the calls that Ringback places.
#[derive(Debug)]
struct CallbackWebhook {
    url: Url,
    signing: Arc<Signing>,
}

impl Exotel {
    /// The voice API at `EXOTEL_BASE_URL`, such as `https://api.in.exotel.com`. Exotel writes numbers as they are dialled
    /// within `country` (ISO 3166). To place calls, add [`Exotel::reporting_to_webhook`].
    ///
    /// # Errors
    /// When the variable is missing, or no URL.
    pub fn from_environment(
        environment: &Environment,
        secret: Secret<ExotelAccount>,
        country: String,
    ) -> Result<Self, ConfigError> {
        let base = url_in(environment, "EXOTEL_BASE_URL")?;
        Ok(Self::new(base, secret, country))
    }

    /// Lets Exotel report the calls that Ringback places to `EXOTEL_WEBHOOK_URL`.
    ///
    /// # Errors
    /// When the variable is missing, or no URL.
    pub fn reporting_to_webhook(
        self,
        environment: &Environment,
        signing: Arc<Signing>,
    ) -> Result<Self, ConfigError> {
        let url = url_in(environment, "EXOTEL_WEBHOOK_URL")?;
        Ok(Self {
            webhook: Some(CallbackWebhook { url, signing }),
            ..self
        })
    }

    /// The voice API at `url`, for tests.
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
            connect_reply_timeout: CONNECT_REPLY_TIMEOUT,
        }
    }

    /// Places an outbound call. Do not repeat this: see [`Exotel::connect`].
    ///
    /// # Errors
    /// See [`ExotelError`], above all [`ExotelError::Unknown`].
    pub async fn place(&self, call: &Call) -> Result<PlacedCall, ExotelError> {
        self.with_secret(|secret| async move { self.place_with(&secret, call).await })
            .await
    }

    async fn place_with(
        &self,
        secret: &ExotelAccount,
        call: &Call,
    ) -> Result<PlacedCall, ExotelError> {
        let ringback_core::call::CallKind::ToNumber { from, to } = &call.kind else {
            return Err(ExotelError::NotConfigured("number to call"));
        };
        let request = ConnectRequest {
            from: from.clone(),
            to: to.clone(),
            caller_id: self.caller_id_in(secret)?,
            custom_field: call.call_id,
            status_callback: self.status_callback(call.call_id).await?,
            time_limit: call.settings.talk,
            ring_timeout: call.settings.ring,
        };
        self.connect_with(secret, &request).await
    }

    /// The webhook URL for the reports on one call, with a token that is valid for this call only. The URL contains the
    /// call's id and direction, because Exotel does not document that every report repeats them.
    async fn status_callback(&self, call: CallId) -> Result<SecretString, ExotelError> {
        let webhook = self.webhook.as_ref();
        let CallbackWebhook { url, signing } =
            webhook.ok_or(ExotelError::NotConfigured("EXOTEL_WEBHOOK_URL"))?;
        let token = signing.callback_token(call).await?;
        let mut url = url.clone();
        url.query_pairs_mut()
            .append_pair("call_token", token.expose_secret())
            .append_pair("CustomField", &call.to_string())
            .append_pair("Direction", "outbound-api");
        Ok(String::from(url).into())
    }

    /// The ExoPhone that both phones see as the caller.
    ///
    /// # Errors
    /// [`ExotelError::NotConfigured`] when the secret has none.
    pub async fn caller_id(&self) -> Result<PhoneNumber, ExotelError> {
        self.with_secret(|secret| async move { self.caller_id_in(&secret) })
            .await
    }

    fn caller_id_in(&self, secret: &ExotelAccount) -> Result<PhoneNumber, ExotelError> {
        let text = secret.caller_id.as_deref();
        text.and_then(|text| PhoneNumber::parse(text, &self.country))
            .ok_or(ExotelError::NotConfigured("caller_id"))
    }

    /// Places a call. The request is sent once, and a second time only if Exotel rejected the API key and the secret has a
    /// newer one: a rejected request places no call.
    ///
    /// # Errors
    /// See [`ExotelError`], above all [`ExotelError::Unknown`].
    pub async fn connect(&self, request: &ConnectRequest) -> Result<PlacedCall, ExotelError> {
        self.with_secret(|secret| async move { self.connect_with(&secret, request).await })
            .await
    }

    async fn connect_with(
        &self,
        secret: &ExotelAccount,
        request: &ConnectRequest,
    ) -> Result<PlacedCall, ExotelError> {
        let sending = self.request(secret, Method::POST, "connect.json").await?;
        let sending = sending.timeout(self.connect_reply_timeout);
        let sending = sending.form(&request.form_fields()).send();
        let reply = match xray::trace_request(SYSTEM, "placing a call", sending).await {
            Ok(reply) => reply,
            // Without a connection, the request was not sent.
            Err(error) if error.is_connect() => {
                return Err(ExotelError::Unavailable(ReplyError::incomplete(error)));
            }
            Err(error) => return Err(ExotelError::Unknown(ReplyError::incomplete(error))),
        };
        let call = match reply.status() {
            status if status.is_success() => CallRecord::from_reply(reply)
                .await
                .map_err(ExotelError::Unknown)?,
            // A gateway sends these, and does not know what the API behind it has done.
            status @ (StatusCode::REQUEST_TIMEOUT
            | StatusCode::BAD_GATEWAY
            | StatusCode::GATEWAY_TIMEOUT) => {
                return Err(ExotelError::Unknown(ReplyError::ErrorStatus(status)));
            }
            _ => return Err(ExotelError::from_reply(reply).await),
        };
        Ok(call.into_placed_call())
    }

    /// Looks a call up. Exotel allows 200 requests a minute for the whole account.
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
        let sending = self.request(secret, Method::GET, &path).await?.send();
        let reply = xray::trace_request(SYSTEM, "looking a call up", sending).await;
        let unavailable = |error| ExotelError::Unavailable(ReplyError::incomplete(error));
        let reply = reply.map_err(unavailable)?;
        match reply.status() {
            status if status.is_success() => {
                let call = CallRecord::from_reply(reply)
                    .await
                    .map_err(ExotelError::Unavailable)?;
                Ok(call.into_details(&self.country))
            }
            StatusCode::NOT_FOUND => Err(ExotelError::NoSuchCall),
            _ => Err(ExotelError::from_reply(reply).await),
        }
    }

    /// Runs `attempt` with the account in the cached secret. If Exotel rejects that, or it lacks a value, runs it once more
    /// with a newer version of the secret, if there is one.
    async fn with_secret<T, Attempt>(
        &self,
        attempt: impl Fn(Arc<ExotelAccount>) -> Attempt,
    ) -> Result<T, ExotelError>
    where
        Attempt: Future<Output = Result<T, ExotelError>>,
    {
        let secret = self.secret.value().await?;
        let result = attempt(Arc::clone(&secret)).await;
        let Err(rejection @ (ExotelError::Unauthorized | ExotelError::NotConfigured(_))) = result
        else {
            return result;
        };
        match self.secret.after_rejection(&secret).await {
            Some(newer) => {
                requests::log_retry(SYSTEM, rejection);
                attempt(newer).await
            }
            None => Err(rejection),
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
        let client = self
            .client
            .get_or_try_init(|| async { build_client() })
            .await?;
        Ok(client
            .request(method, self.url_of(account, call))
            .basic_auth(key, Some(token)))
    }

    fn url_of(&self, account: &str, call: &str) -> Url {
        let mut url = self.url.clone();
        // Every http(s) URL has path segments.
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty()
                .extend(["v1", "Accounts", account, "Calls", call]);
        }
        url
    }
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

/// Opens a connection for every request (TLS sessions are resumed). An idle connection may be closed, and a function that
/// Lambda has frozen meanwhile notices that only after it has sent the request. It could not know then whether the call
/// was placed. For the same reason, this client neither retries nor follows redirects.
fn build_client() -> Result<Client, ExotelError> {
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
