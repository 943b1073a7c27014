//! Error answers. Every error of an adapter gets its [`ApiErrorCode`] here.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::api::error_code::ApiErrorCode;
use crate::asterisk::AsteriskError;
use crate::auth::signing::SignatureError;
use crate::auth::webhook_auth::WebhookAuthError;
use crate::auth::{TokenError, Unauthorized};
use crate::effect_runner::EffectError;
use crate::exotel::dial_rules::DialRuleViolation;
use crate::form_fields::BadBody;
use crate::platform::secrets::SecretError;
use crate::push::sns::EndpointError;
use crate::store::calls::ReplicationWaitError;
use crate::store::table::StoreError;
use crate::switchboard::{StartLimit, SwitchboardError};
use crate::telemetry::call_log_fields;
use ringback_core::call::{Call, RejectReason};
use ringback_core::ids::{BadName, CallId};
use ringback_core::timestamp::Timestamp;

/// An error answer. Its text says what the client can do. Internal causes are only in the log.
#[derive(Debug)]
pub struct ApiError {
    code: ApiErrorCode,
    /// Replaces the code's own status.
    status: Option<u16>,
    /// Replaces the code's own text.
    message: Option<String>,
    /// Further fields of the answer, such as the status of the call.
    details: Map<String, Value>,
    /// The call, for the log.
    call_id: Option<CallId>,
    /// After how many seconds the same request may succeed, if that is known.
    retry_after: Option<u64>,
}

impl From<ApiErrorCode> for ApiError {
    fn from(code: ApiErrorCode) -> Self {
        Self {
            code,
            status: None,
            message: None,
            details: Map::new(),
            call_id: None,
            retry_after: None,
        }
    }
}

impl ApiError {
    /// An error with a more exact text than the code's own.
    #[must_use]
    pub fn with_message(code: ApiErrorCode, message: impl Into<String>) -> Self {
        Self {
            message: Some(message.into()),
            ..code.into()
        }
    }

    /// The extension does `what` too often. After `wait` it may do it again.
    #[must_use]
    pub fn too_many(code: ApiErrorCode, what: &str, wait: Duration) -> Self {
        let seconds = whole_seconds(wait);
        let message = format!("too many {what} by this extension; try again in {seconds} s");
        Self::with_message(code, message).with_retry_after(wait)
    }

    /// The rules of the call reject the request.
    #[must_use]
    pub fn rejected(reason: RejectReason, call: &Call, now: Timestamp) -> Self {
        let status = json!({ "status": call.status_at(now) });
        let error = match reason {
            RejectReason::NotYours => ApiErrorCode::NotYourCall.into(),
            RejectReason::EndsAtThePhones => {
                Self::from(ApiErrorCode::EndsAtThePhones).with_details(status)
            }
            RejectReason::DeviceUnknown => {
                Self::from(ApiErrorCode::DeviceUnknown).with_details(status)
            }
            RejectReason::WrongStatus | RejectReason::AnotherCall | RejectReason::RingIsOver => {
                let current = call.status_at(now).as_str();
                let message = format!("the call has gone another way: it is {current}");
                Self::with_message(ApiErrorCode::CallGoneAnotherWay, message).with_details(status)
            }
        };
        error.for_call(Some(call.call_id))
    }

    /// Calls cannot be handled here. `details` says which dependency does not answer.
    #[must_use]
    pub fn unhealthy(details: Value) -> Self {
        Self::from(ApiErrorCode::Unhealthy).with_details(details)
    }

    /// Adds a field to the answer, if there is a value.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: Option<&Value>) -> Self {
        if let Some(value) = value {
            self.details.insert(name.to_owned(), value.clone());
        }
        self
    }

    /// Adds a call's id and status to the answer.
    #[must_use]
    pub fn about_call(self, call: &Call) -> Self {
        let details = json!({ "callId": call.call_id, "status": call.status });
        self.with_details(details).for_call(Some(call.call_id))
    }

    /// Replaces the HTTP status, for a protocol in which a status has a special meaning.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = Some(status);
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status.unwrap_or(self.code.status())
    }

    /// After how many seconds the client may try again, if that is known.
    #[must_use]
    pub const fn retry_after(&self) -> Option<u64> {
        self.retry_after
    }

    /// The answer as a message over the WebSocket.
    #[must_use]
    pub fn into_message(self) -> Value {
        let mut message = self.into_body();
        message["type"] = "error".into();
        message
    }

    /// Logs the error. [`ApiError::into_body`] and [`ApiError::into_message`] do so, too; this is for a request without an answer.
    pub fn log(&self) {
        let call_id = self.call_id.or_else(call_log_fields::current_call);
        let call_id = call_id.map(tracing::field::display);
        let (status, code) = (self.status(), self.code.as_str());
        tracing::info!(call_id, status, code, "request rejected");
    }

    /// The answer as a JSON body.
    #[must_use]
    pub fn into_body(self) -> Value {
        self.log();
        let message = self.message.as_deref().unwrap_or(self.code.text());
        let mut body = json!({ "success": false, "error": message, "code": self.code.as_str() });
        for (name, value) in self.details {
            body[name] = value;
        }
        if let Some(seconds) = self.retry_after {
            body["retryAfterSeconds"] = seconds.into();
        }
        body
    }

    fn with_details(mut self, details: Value) -> Self {
        if let Value::Object(details) = details {
            self.details = details;
        }
        self
    }

    fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(whole_seconds(wait));
        self
    }

    const fn for_call(mut self, call_id: Option<CallId>) -> Self {
        self.call_id = call_id;
        self
    }

    /// The other region may have stored the call, and the extension already waits for another one. The client may ask the other
    /// region, or this one after `wait`.
    fn call_not_replicated_yet(wait: Duration) -> Self {
        let message = "the call is not known in this region yet; try again, or in the other region";
        Self::with_message(ApiErrorCode::TryAgain, message).with_retry_after(wait)
    }

    /// Logs an internal error with its sources, and asks the client to try again.
    fn try_again_after(error: &(dyn std::error::Error + 'static)) -> Self {
        log_internal(error, None);
        ApiErrorCode::TryAgain.into()
    }
}

/// Rounded up, and at least one.
fn whole_seconds(wait: Duration) -> u64 {
    u64::try_from(wait.as_millis().div_ceil(1000).max(1)).unwrap_or(u64::MAX)
}

/// Logs an internal error with its sources. This is the only place that does so, because errors are logged where they are handled.
fn log_internal(error: &(dyn std::error::Error + 'static), call_id: Option<CallId>) {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    let call_id = call_id.or_else(call_log_fields::current_call);
    let call_id = call_id.map(tracing::field::display);
    tracing::error!(call_id, %error, ?causes, "request failed");
}

impl From<Unauthorized> for ApiError {
    fn from(_: Unauthorized) -> Self {
        ApiErrorCode::Unauthorized.into()
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Unauthorized(reason) => reason.into(),
            TokenError::Secret(error) => error.into(),
            TokenError::Keys(error) => Self::try_again_after(&error),
        }
    }
}

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::UnknownId => ApiErrorCode::NoSuchCall.into(),
            SignatureError::WrongToken => Self::with_message(
                ApiErrorCode::NotYourCall,
                "the token in this URL is not the one of this call",
            ),
            SignatureError::BadAnswerToken => ApiErrorCode::BadAnswerToken.into(),
            SignatureError::Secret(error) => error.into(),
        }
    }
}

impl From<ReplicationWaitError> for ApiError {
    fn from(error: ReplicationWaitError) -> Self {
        match error {
            ReplicationWaitError::WaitsAlready(wait) => Self::call_not_replicated_yet(wait),
            ReplicationWaitError::Store(error) => error.into(),
        }
    }
}

impl From<DialRuleViolation> for ApiError {
    fn from(rule: DialRuleViolation) -> Self {
        Self::with_message(ApiErrorCode::NotAllowed, rule.to_string())
    }
}

impl From<BadName> for ApiError {
    fn from(error: BadName) -> Self {
        Self::with_message(ApiErrorCode::BadField, error.to_string())
    }
}

impl From<BadBody> for ApiError {
    fn from(error: BadBody) -> Self {
        Self::with_message(ApiErrorCode::BadBody, error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::try_again_after(&error)
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        Self::try_again_after(&error)
    }
}

impl From<WebhookAuthError> for ApiError {
    fn from(error: WebhookAuthError) -> Self {
        match error {
            WebhookAuthError::SourceNotAllowed(source) => {
                tracing::warn!(?source, "request from an address that is not allowed");
                ApiErrorCode::SourceNotAllowed.into()
            }
            WebhookAuthError::Unauthorized(reason) => reason.into(),
            WebhookAuthError::Secret(error) => error.into(),
        }
    }
}

impl From<EndpointError> for ApiError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::NoApplication(_) => ApiErrorCode::PlatformNotConfigured.into(),
            EndpointError::BadToken => ApiErrorCode::BadToken.into(),
            EndpointError::Unavailable(_) => Self::try_again_after(&error),
        }
    }
}

impl From<SwitchboardError<EffectError>> for ApiError {
    fn from(error: SwitchboardError<EffectError>) -> Self {
        match error {
            SwitchboardError::NoSuchCall => ApiErrorCode::NoSuchCall.into(),
            SwitchboardError::NotHereYet(wait) => Self::call_not_replicated_yet(wait),
            SwitchboardError::TooMany { limit, wait } => {
                let what = match limit {
                    StartLimit::Rate => "calls",
                    StartLimit::Concurrent => "calls at the same time",
                    StartLimit::Daily => "calls to telephone numbers within a day",
                };
                Self::too_many(ApiErrorCode::TooManyCalls, what, wait)
            }
            SwitchboardError::Contended | SwitchboardError::Store(_) => {
                Self::try_again_after(&error)
            }
            SwitchboardError::Effect {
                ref call,
                ref source,
            } => {
                let call_id = Some(call.call_id);
                log_internal(&error, call_id);
                Self::from(effect_error_code(source)).for_call(call_id)
            }
        }
    }
}

/// The change was saved, and an effect failed. The same request tries the effect again.
const fn effect_error_code(error: &EffectError) -> ApiErrorCode {
    match error {
        EffectError::Asterisk(error) => match error {
            AsteriskError::PhoneOffline => ApiErrorCode::PhoneNotRegistered,
            AsteriskError::NoSuchEndpoint => ApiErrorCode::NoSuchEndpoint,
            AsteriskError::Secret(_) => ApiErrorCode::TryAgain,
            AsteriskError::Unreachable(..)
            | AsteriskError::Silent(_)
            | AsteriskError::NotListed(_)
            | AsteriskError::Refused { .. }
            | AsteriskError::BadCertificate(_) => ApiErrorCode::AsteriskFailed,
        },
        EffectError::Store(_) | EffectError::Timer(_) | EffectError::NoExotel => {
            ApiErrorCode::TryAgain
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_does_not_show_internal_causes() {
        let inside = StoreError::Unavailable {
            doing: "x",
            source: "10.0.0.7 refused key AKIA".into(),
        };
        let error = ApiError::from(inside);
        assert_eq!(error.status(), 503);
        let body = error.into_body().to_string();
        assert!(
            !body.contains("AKIA") && body.contains(r#""success":false"#),
            "{body}"
        );
    }

    #[test]
    fn too_many_requests_give_the_seconds_to_wait() {
        for (wait, seconds) in [(0, 1), (1, 1), (5_999, 6), (6_000, 6)] {
            let wait = Duration::from_millis(wait);
            let error = ApiError::too_many(ApiErrorCode::TooManyCalls, "calls", wait);
            assert_eq!((error.status(), error.retry_after()), (429, Some(seconds)));
            let message = error.into_message();
            assert_eq!(
                (&message["code"], &message["retryAfterSeconds"]),
                (&"too_many_calls".into(), &seconds.into())
            );
        }
    }

    #[test]
    fn a_protocol_can_replace_the_status_and_keeps_the_code() {
        let error = ApiError::from(ApiErrorCode::NumberNotRouted).with_status(302);
        assert_eq!(error.status(), 302);
        assert_eq!(error.into_body()["code"], "number_not_routed");
    }
}
