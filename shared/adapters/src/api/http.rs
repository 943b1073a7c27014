//! How functions answer: JSON, and one place where every error gets its status code.

use crate::platform::clock;
use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::http::header::HOST;
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Context, LambdaEvent, Request, RequestExt};
use serde_json::{Map, Value, json};

use crate::api::form::BadBody;
use crate::asterisk::AsteriskError;
use crate::auth::signing::SignatureError;
use crate::auth::webhook_auth::TurnedAway;
use crate::auth::{TokenError, Unauthorized};
use crate::effect_runner::OutsideError;
use crate::exotel::dialling::Forbidden;
use crate::platform::secrets::SecretError;
use crate::platform::start::{self, GIVES_UP_AFTER, works_until};
use crate::push::sns::EndpointError;
use crate::store::calls::{ReplicationWaitError, StoreError};
use crate::switchboard::{StartLimit, SwitchboardError};
use crate::telemetry::subject;
use ringback_core::call::{Call, RejectReason};
use ringback_core::ids::{BadName, CallId};
use ringback_core::timestamp::Timestamp;

/// Bodies may be this long, in bytes. The longest honest one has a few hundred.
pub const LONGEST_BODY: usize = 16 * 1024;

/// A path and its query may be this long together, in bytes. API Gateway itself takes 10 KiB with all headers.
pub const LONGEST_URI: usize = 16 * 1024;

/// A good answer.
#[derive(Debug)]
pub struct Answer(Value);

impl Answer {
    /// 200 with this JSON object, to which `success` is added.
    #[must_use]
    pub fn ok(mut body: Value) -> Self {
        body["success"] = true.into();
        Self(body)
    }
}

/// A bad answer. Its text is for whoever asked, and says what to do; what happened inside is in the log alone.
#[derive(Debug)]
pub struct ApiError {
    status: u16,
    code: &'static str,
    message: String,
    /// What else the answer says: the call's status, where the call has gone another way.
    details: Map<String, Value>,
    /// The call that it is about, for the log.
    call_id: Option<CallId>,
    /// After how many seconds the same request may succeed, where that is known.
    retry_after: Option<u64>,
}

impl ApiError {
    /// The request cannot be understood.
    #[must_use]
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(400, code, message)
    }

    /// There is nothing here by that name.
    #[must_use]
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(404, code, message)
    }

    /// The request is longer than [`LONGEST_BODY`].
    #[must_use]
    pub fn too_long() -> Self {
        Self::new(413, "body_too_long", "the body is longer than 16 KiB")
    }

    /// The request's path and query together are longer than [`LONGEST_URI`].
    #[must_use]
    pub fn uri_too_long() -> Self {
        Self::new(
            414,
            "uri_too_long",
            "the path and the query are longer than 16 KiB",
        )
    }

    /// Something that is needed does not answer; the same request may succeed in a moment.
    #[must_use]
    pub fn try_again() -> Self {
        Self::new(
            503,
            "try_again",
            "a part of the service did not answer; try again",
        )
    }

    /// The other region may have stored the call, and the extension waits for one already: asking there, or here after
    /// `wait`, may help.
    #[must_use]
    pub fn not_here_yet(wait: Duration) -> Self {
        Self {
            retry_after: u64::try_from(seconds_of(wait)).ok(),
            ..Self::new(
                503,
                "try_again",
                "the call is not known in this region yet; try again, or in the other region",
            )
        }
    }

    /// The extension does this too often; after `wait` it may do it again.
    #[must_use]
    pub fn too_many(code: &'static str, what: &str, wait: Duration) -> Self {
        let seconds = seconds_of(wait);
        let message = format!("too many {what} by this extension; try again in {seconds} s");
        Self {
            retry_after: u64::try_from(seconds).ok(),
            ..Self::new(429, code, message)
        }
    }

    /// The token's extension has no part in the call.
    #[must_use]
    pub fn not_yours() -> Self {
        Self::new(
            403,
            "not_your_call",
            "the token's extension has no part in this call",
        )
    }

    /// The token speaks for another extension.
    #[must_use]
    pub fn other_extension() -> Self {
        Self::new(
            403,
            "not_your_extension",
            "the token does not speak for this extension",
        )
    }

    /// The token is an operator's, who watches calls and has none.
    #[must_use]
    pub fn no_extension() -> Self {
        Self::new(
            403,
            "no_extension",
            "the token names no extension to act for",
        )
    }

    /// There is no such call.
    #[must_use]
    pub fn no_such_call() -> Self {
        Self::not_found(
            "no_such_call",
            "there is no such call, or it ended more than a day ago",
        )
    }

    /// The app has called somebody else by this name.
    #[must_use]
    pub fn reference_used() -> Self {
        let message = "another call has been started under this clientReference; take a new one";
        Self::new(409, "reference_used", message)
    }

    /// What was asked for could not be done, for a reason outside.
    #[must_use]
    pub fn failed(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, code, message)
    }

    /// The same error with one more field, if there is a value for it.
    #[must_use]
    pub fn with_detail(mut self, name: &str, value: Option<&Value>) -> Self {
        if let Some(value) = value {
            self.details.insert(name.to_owned(), value.clone());
        }
        self
    }

    /// The same error, which tells of this call and how it stands.
    #[must_use]
    pub fn about_call(self, call: &Call) -> Self {
        let details = json!({ "callId": call.call_id, "status": call.status });
        self.with_details(details).about(Some(call.call_id))
    }

    /// The same error under another status code, where a protocol gives codes a meaning of their own.
    #[must_use]
    pub const fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// Calls cannot be handled here; `details` says which dependency is missing.
    #[must_use]
    pub fn unhealthy(details: Value) -> Self {
        Self::new(503, "unhealthy", "calls cannot be handled here now").with_details(details)
    }

    /// The same error as a message over the WebSocket.
    #[must_use]
    pub fn into_message(self) -> Value {
        let mut message = self.into_body();
        message["type"] = "error".into();
        message
    }

    /// Only logged: nobody waits for an answer.
    pub fn log(&self) {
        let call_id = self.call_id.or_else(subject::call);
        let call_id = call_id.map(tracing::field::display);
        tracing::info!(
            call_id,
            status = self.status,
            code = self.code,
            "request refused"
        );
    }

    fn into_body(self) -> Value {
        self.log();
        let mut body = json!({ "success": false, "error": self.message, "code": self.code });
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

    const fn about(mut self, call_id: Option<CallId>) -> Self {
        self.call_id = call_id;
        self
    }

    fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: Map::new(),
            call_id: None,
            retry_after: None,
        }
    }
}

/// Whole seconds, one at least.
fn seconds_of(wait: Duration) -> u128 {
    wait.as_millis().div_ceil(1000).max(1)
}

/// What a refusal by the rules of a call means to the app that asked.
#[must_use]
pub fn refused(refusal: RejectReason, call: &Call, now: Timestamp) -> ApiError {
    let error = match refusal {
        RejectReason::NotYours => ApiError::not_yours(),
        RejectReason::EndsAtThePhones => ApiError::new(
            409,
            "ends_at_the_phones",
            "the call is between two telephones; it ends when one of them hangs up",
        )
        .with_details(json!({ "status": call.status_at(now) })),
        RejectReason::WrongStatus | RejectReason::AnotherCall => {
            let status = call.status_at(now).as_str();
            let message = format!("the call has gone another way: it is {status}");
            ApiError::new(409, "call_gone_another_way", message)
                .with_details(json!({ "status": status }))
        }
    };
    error.about(Some(call.call_id))
}

impl From<Unauthorized> for ApiError {
    fn from(_: Unauthorized) -> Self {
        Self::new(401, "unauthorized", "show a valid bearer token or secret")
    }
}

impl From<TokenError> for ApiError {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Unauthorized(reason) => reason.into(),
            TokenError::Secret(error) => error.into(),
            TokenError::Keys(error) => {
                log(&error, None);
                Self::try_again()
            }
        }
    }
}

impl From<SignatureError> for ApiError {
    fn from(error: SignatureError) -> Self {
        match error {
            SignatureError::UnknownId => Self::no_such_call(),
            SignatureError::WrongToken => Self::new(
                403,
                "not_your_call",
                "the token in this URL is not the one of this call",
            ),
            SignatureError::Secret(error) => error.into(),
        }
    }
}

impl From<ReplicationWaitError> for ApiError {
    fn from(why: ReplicationWaitError) -> Self {
        match why {
            ReplicationWaitError::WaitsAlready(wait) => Self::not_here_yet(wait),
            ReplicationWaitError::Store(error) => error.into(),
        }
    }
}

impl From<Forbidden> for ApiError {
    fn from(rule: Forbidden) -> Self {
        Self::new(403, "not_allowed", rule.to_string())
    }
}

impl From<BadName> for ApiError {
    fn from(error: BadName) -> Self {
        Self::bad_request("bad_field", error.to_string())
    }
}

impl From<BadBody> for ApiError {
    fn from(error: BadBody) -> Self {
        Self::bad_request("bad_body", error.to_string())
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        log(&error, None);
        Self::try_again()
    }
}

impl From<TurnedAway> for ApiError {
    fn from(reason: TurnedAway) -> Self {
        match reason {
            TurnedAway::SourceNotAllowed(source) => {
                tracing::warn!(
                    ?source,
                    "a request came from an address that is not allowed"
                );
                Self::new(
                    403,
                    "source_not_allowed",
                    "requests from this address are not accepted",
                )
            }
            TurnedAway::Unauthorized(reason) => reason.into(),
            TurnedAway::Secret(error) => error.into(),
        }
    }
}

impl From<SecretError> for ApiError {
    fn from(error: SecretError) -> Self {
        log(&error, None);
        Self::try_again()
    }
}

impl From<EndpointError> for ApiError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::NoApplication(_) => Self::bad_request(
                "platform_not_configured",
                "this deployment has no SNS platform application for this platform",
            ),
            EndpointError::BadToken => {
                Self::bad_request("bad_token", "the push service refuses this token")
            }
            EndpointError::Unavailable(_) => {
                log(&error, None);
                Self::try_again()
            }
        }
    }
}

impl From<SwitchboardError<OutsideError>> for ApiError {
    fn from(error: SwitchboardError<OutsideError>) -> Self {
        let call_id = match &error {
            SwitchboardError::Effect { call, .. } => Some(call.call_id),
            SwitchboardError::NoSuchCall
            | SwitchboardError::NotHereYet(_)
            | SwitchboardError::TooMany { .. }
            | SwitchboardError::Contended
            | SwitchboardError::Store(_) => None,
        };
        if !matches!(
            error,
            SwitchboardError::NoSuchCall
                | SwitchboardError::NotHereYet(_)
                | SwitchboardError::TooMany { .. }
        ) {
            log(&error, call_id);
        }
        let answer = match error {
            SwitchboardError::NoSuchCall => Self::no_such_call(),
            SwitchboardError::NotHereYet(wait) => Self::not_here_yet(wait),
            SwitchboardError::TooMany { limit, wait } => {
                let what = match limit {
                    StartLimit::Rate => "calls",
                    StartLimit::Concurrent => "calls at the same time",
                    StartLimit::Daily => "calls to telephone numbers within a day",
                };
                Self::too_many("too_many_calls", what, wait)
            }
            SwitchboardError::Effect {
                source: OutsideError::Asterisk(error),
                ..
            } => asterisk(&error),
            SwitchboardError::Contended
            | SwitchboardError::Store(_)
            | SwitchboardError::Effect {
                source: OutsideError::Store(_) | OutsideError::Timer(_) | OutsideError::NoExotel,
                ..
            } => Self::try_again(),
        };
        answer.about(call_id)
    }
}

/// 502: the call stands as it is, and the same request tries again.
fn asterisk(error: &AsteriskError) -> ApiError {
    match error {
        AsteriskError::PhoneOffline => ApiError::new(
            502,
            "phone_not_registered",
            "the phone did not register with SIP in time; register, then try again",
        ),
        AsteriskError::NoSuchEndpoint => ApiError::new(
            502,
            "no_such_endpoint",
            "Asterisk has no SIP endpoint for this extension",
        ),
        AsteriskError::Secret(_) => ApiError::try_again(),
        AsteriskError::Unreachable(..)
        | AsteriskError::Silent(_)
        | AsteriskError::NotListed(_)
        | AsteriskError::Refused { .. }
        | AsteriskError::BadCertificate(_) => ApiError::new(
            502,
            "asterisk_failed",
            "Asterisk refused or could not be reached; try again",
        ),
    }
}

/// An error with all its causes, once, where it is handled.
fn log(error: &(dyn std::error::Error + 'static), call_id: Option<CallId>) {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    let causes: Vec<String> = causes.map(ToString::to_string).collect();
    let call_id = call_id.or_else(subject::call);
    let call_id = call_id.map(tracing::field::display);
    tracing::error!(call_id, %error, ?causes, "request failed");
}

/// The body, if it is no longer than [`LONGEST_BODY`].
///
/// # Errors
/// 413 if it is.
pub fn body(request: &Request) -> Result<&[u8], ApiError> {
    let body: &[u8] = request.body();
    if body.len() > LONGEST_BODY {
        return Err(ApiError::too_long());
    }
    Ok(body)
}

/// A header, if it is there and is text.
#[must_use]
pub fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// The address that the request came from, as API Gateway saw it. What headers say of it is anybody's word.
#[must_use]
pub fn source(request: &Request) -> Option<IpAddr> {
    match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => context.http.source_ip.as_ref()?.parse().ok(),
        _ => None,
    }
}

/// The parameter that stands in the path of the route.
///
/// # Errors
/// 404 if the route has none by that name.
pub fn path_parameter(request: &Request, name: &str) -> Result<String, ApiError> {
    let parameters = request.path_parameters();
    let value = parameters.first(name).map(ToOwned::to_owned);
    value.ok_or_else(|| ApiError::not_found("no_such_route", "there is no such route"))
}

/// The path as the route sees it, without the stage.
#[must_use]
pub fn path(request: &Request) -> String {
    match request.request_context_ref() {
        Some(RequestContext::ApiGatewayV2(context)) => context
            .http
            .path
            .clone()
            .unwrap_or_else(|| request.uri().path().to_owned()),
        _ => request.uri().path().to_owned(),
    }
}

/// Until when this invocation may work, so that there is time left to answer.
#[must_use]
pub fn until(request: &Request) -> Timestamp {
    let deadline = request
        .lambda_context_ref()
        .map_or(u64::MAX, |context| context.deadline);
    works_until(deadline)
}

/// Serves one function's requests until the process is stopped.
///
/// # Errors
/// When Lambda's runtime API fails.
pub async fn serve<F, Answering>(handler: F) -> Result<(), lambda_http::Error>
where
    F: Fn(Request) -> Answering,
    Answering: Future<Output = Result<Answer, ApiError>> + Send,
{
    let respond_to = |event: LambdaEvent<ApiGatewayV2httpRequest>| {
        let until = works_until(event.context.deadline);
        let answering = request(event.payload, event.context).map(&handler);
        async move {
            let answer = match answering {
                Ok(answering) => in_time(answering, until).await,
                Err(error) => Err(error),
            };
            Ok::<_, Infallible>(respond(answer))
        }
    };
    start::run(respond_to).await
}

/// However many systems are slow, and however often each is asked again: whoever asked is answered while there is time,
/// and told to ask again. What is left undone then, is as it is when a function dies.
///
/// # Errors
/// The handler's, and [`ApiError::try_again`] when the time is up.
pub async fn in_time<T>(
    answering: impl Future<Output = Result<T, ApiError>>,
    until: Timestamp,
) -> Result<T, ApiError> {
    let time_left = until.since(clock::now()) + GIVES_UP_AFTER;
    match tokio::time::timeout(time_left, answering).await {
        Ok(answer) => answer,
        Err(_) => {
            let call_id = subject::call().map(tracing::field::display);
            tracing::error!(
                call_id,
                "the time was up before the request had been dealt with"
            );
            Err(ApiError::try_again())
        }
    }
}

/// The request that API Gateway tells of. `lambda_http` makes a URI of it and panics where it cannot, so whatever a
/// client may have written where a URI is made of it is put right first: nobody here asks by which name we were reached.
pub(crate) fn request(
    mut event: ApiGatewayV2httpRequest,
    context: Context,
) -> Result<Request, ApiError> {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    if length(&event.raw_path) + length(&event.raw_query_string) > LONGEST_URI {
        return Err(ApiError::uri_too_long());
    }
    event.headers.remove(HOST);
    event.request_context.domain_name = None;
    event.raw_query_string = event.raw_query_string.as_deref().map(as_uri_takes_it);
    let request = Request::from(LambdaRequest::ApiGatewayV2(event));
    Ok(request.with_lambda_context(context))
}

/// A query as it came, but for what has no place in a URI: Exotel's `digits="1"`, for one.
fn as_uri_takes_it(query: &str) -> String {
    let mut taken = String::with_capacity(query.len());
    for byte in query.bytes() {
        if byte.is_ascii_graphic() && !b"\"#<>".contains(&byte) {
            taken.push(char::from(byte));
        } else {
            taken.extend(form_urlencoded::byte_serialize(&[byte]));
        }
    }
    taken
}

/// The answer as API Gateway takes it.
fn respond(result: Result<Answer, ApiError>) -> Value {
    let (status, retry_after, body) = match result {
        Ok(Answer(body)) => (200, None, body),
        Err(error) => (error.status, error.retry_after, error.into_body()),
    };
    let mut headers = json!({ "content-type": "application/json" });
    if let Some(seconds) = retry_after {
        headers["retry-after"] = seconds.to_string().into();
    }
    json!({
        "statusCode": status,
        "headers": headers,
        "isBase64Encoded": false,
        "body": body.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use lambda_http::Body;

    use super::*;
    use crate::api::form::Fields;

    fn event(query: &str, host: &str) -> ApiGatewayV2httpRequest {
        let event = json!({
            "version": "2.0", "rawPath": "/exotel/webhook", "rawQueryString": query,
            "headers": { "host": host, "x-forwarded-proto": "no scheme", "x-name": "é" },
            "requestContext": {
                "domainName": host, "stage": "$default",
                "http": { "method": "GET", "path": "/exotel/webhook" },
            },
            "isBase64Encoded": false,
        });
        serde_json::from_value(event).unwrap()
    }

    #[test]
    fn no_query_and_no_host_makes_it_panic() {
        for (query, host) in [
            (r#"digits="1"&CallSid=abc"#, "a.example"),
            ("a=<b>&CallSid=abc#d", "a.example"),
            ("a=é %&CallSid=abc", "a b/c:d@é"),
            ("a=\u{7f}\u{0}\n&CallSid=abc", ""),
            ("%22&&=&CallSid=abc&{}|\\^`", "["),
        ] {
            let request = request(event(query, host), Context::default()).unwrap();
            let fields = Fields::from_form(request.uri().query().unwrap().as_bytes());
            let as_sent = Fields::from_form(query.as_bytes());
            assert_eq!(fields, as_sent, "{query}");
            assert_eq!(path(&request), "/exotel/webhook");
        }
    }

    #[tokio::test]
    async fn whoever_asks_is_answered_while_there_is_time() {
        let soon = clock::now();
        let never = std::future::pending::<Result<Answer, ApiError>>();
        assert_eq!(in_time(never, soon).await.unwrap_err().status, 503);
        let at_once = async { Ok(Answer::ok(json!({}))) };
        assert!(in_time(at_once, soon).await.is_ok());
    }

    #[test]
    fn a_uri_that_is_too_long_is_refused_before_anything_is_made_of_it() {
        let longest = |length: usize| "#".repeat(length - "/exotel/webhook".len());
        let of_length = |length| request(event(&longest(length), "a.example"), Context::default());
        assert!(of_length(LONGEST_URI).is_ok());
        assert_eq!(of_length(LONGEST_URI + 1).unwrap_err().status, 414);
    }

    #[test]
    fn an_error_never_tells_what_happened_inside() {
        let inside = StoreError::Unavailable {
            doing: "x",
            source: "10.0.0.7 refused key AKIA".into(),
        };
        let response = respond(Err(inside.into()));
        assert_eq!(response["statusCode"], 503);
        let body = response["body"].as_str().unwrap();
        assert!(
            !body.contains("AKIA") && body.contains(r#""success":false"#),
            "{body}"
        );
    }

    #[test]
    fn who_asks_too_often_is_told_when_to_ask_again() {
        for (wait, seconds) in [(0, 1), (1, 1), (5_999, 6), (6_000, 6)] {
            let wait = Duration::from_millis(wait);
            let error = || ApiError::too_many("too_many_calls", "calls", wait);
            let response = respond(Err(error()));
            assert_eq!(response["statusCode"], 429);
            assert_eq!(response["headers"]["retry-after"], seconds.to_string());
            let message = error().into_message();
            assert_eq!(
                (&message["code"], &message["retryAfterSeconds"]),
                (&"too_many_calls".into(), &seconds.into())
            );
        }
    }

    #[test]
    fn where_a_request_comes_from_is_what_the_gateway_saw() {
        let event = include_str!("../../../../events/exotel-webhook-passthru-get.json");
        let mut event: Value = serde_json::from_str(event).unwrap();
        event["headers"]["x-forwarded-for"] = "203.0.113.7".into();
        let request = lambda_http::request::from_str(&event.to_string()).unwrap();
        assert_eq!(source(&request), "198.51.100.7".parse().ok());
    }

    #[test]
    fn a_body_may_be_16_kib_and_no_longer() {
        let longest = Request::new(Body::Binary(vec![b' '; LONGEST_BODY]));
        assert!(body(&longest).is_ok());
        let longer = Request::new(Body::Binary(vec![b' '; LONGEST_BODY + 1]));
        assert_eq!(body(&longer).unwrap_err().status, 413);
    }
}
