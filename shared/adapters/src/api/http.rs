//! The HTTP API: reads what API Gateway hands on, and makes the answers.

use std::convert::Infallible;
use std::future::Future;
use std::net::IpAddr;

use lambda_http::aws_lambda_events::apigw::ApiGatewayV2httpRequest;
use lambda_http::http::header::HOST;
use lambda_http::request::{LambdaRequest, RequestContext};
use lambda_http::{Context, LambdaEvent, Request, RequestExt};
use serde_json::{Value, json};

pub use crate::api::error::ApiError;
pub use crate::api::error_code::ApiErrorCode;
use crate::platform::clock;
use crate::platform::invocation::InvocationContext;
use crate::runtime;
use crate::telemetry::call_log_fields;

/// The longest body, in bytes. Bodies of real clients have a few hundred.
pub const LONGEST_BODY: usize = 16 * 1024;

/// The longest path and query together, in bytes. API Gateway itself accepts 10 KiB with all headers.
pub const LONGEST_URI: usize = 16 * 1024;

/// A successful answer.
#[derive(Debug)]
pub struct ApiAnswer(Value);

impl ApiAnswer {
    /// 200 with this JSON object and `"success": true`.
    #[must_use]
    pub fn ok(mut body: Value) -> Self {
        body["success"] = true.into();
        Self(body)
    }
}

/// The body.
///
/// # Errors
/// 413 if it is longer than [`LONGEST_BODY`].
pub fn body(request: &Request) -> Result<&[u8], ApiError> {
    let body: &[u8] = request.body();
    if body.len() > LONGEST_BODY {
        return Err(ApiErrorCode::BodyTooLong.into());
    }
    Ok(body)
}

/// A header, if it exists and is text.
#[must_use]
pub fn header<'a>(request: &'a Request, name: &str) -> Option<&'a str> {
    request
        .headers()
        .get(name)
        .and_then(|value| value.to_str().ok())
}

/// The client's address, as API Gateway saw it. A client can write any address into headers such as `X-Forwarded-For`.
#[must_use]
pub fn source(request: &Request) -> Option<IpAddr> {
    match request.request_context_ref()? {
        RequestContext::ApiGatewayV2(context) => context.http.source_ip.as_ref()?.parse().ok(),
        _ => None,
    }
}

/// The parameter of this name in the path of the route.
///
/// # Errors
/// 404 if the route has none.
pub fn path_parameter(request: &Request, name: &str) -> Result<String, ApiError> {
    let parameters = request.path_parameters();
    let value = parameters.first(name).map(ToOwned::to_owned);
    Ok(value.ok_or(ApiErrorCode::NoSuchRoute)?)
}

/// The parameter of this name in the query, if there is one.
#[must_use]
pub fn query_parameter(request: &Request, name: &str) -> Option<String> {
    let parameters = request.query_string_parameters();
    parameters.first(name).map(ToOwned::to_owned)
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

/// Serves one function's requests until Lambda stops the process.
///
/// # Errors
/// When Lambda's runtime API fails.
pub async fn serve<F, Answering>(handler: F) -> Result<(), lambda_http::Error>
where
    F: Fn(Request, InvocationContext) -> Answering,
    Answering: Future<Output = Result<ApiAnswer, ApiError>> + Send,
{
    let respond_to = |event: LambdaEvent<ApiGatewayV2httpRequest>| {
        let invocation = InvocationContext::begin(&event.context);
        let answering = request(event.payload, event.context);
        let answering = answering.map(|request| handler(request, invocation));
        async move {
            let answer = match answering {
                Ok(answering) => in_time(answering, invocation).await,
                Err(error) => Err(error),
            };
            Ok::<_, Infallible>(respond(answer))
        }
    };
    runtime::run(respond_to).await
}

/// Runs a handler and cancels it in time to answer the client, however slow other systems are. A canceled handler leaves the same
/// state behind as a crashed function, and a retry repairs both.
///
/// # Errors
/// The handler's, and [`ApiErrorCode::TryAgain`] when the time is up.
pub async fn in_time<T>(
    handling: impl Future<Output = Result<T, ApiError>>,
    invocation: InvocationContext,
) -> Result<T, ApiError> {
    let time_left = invocation.time_left(clock::now());
    match tokio::time::timeout(time_left, handling).await {
        Ok(answer) => answer,
        Err(_) => {
            let call_id = call_log_fields::current_call().map(tracing::field::display);
            tracing::error!(call_id, "request canceled: no time left");
            Err(ApiErrorCode::TryAgain.into())
        }
    }
}

/// Converts API Gateway's event. `lambda_http` builds a URI from some fields and panics when that fails, so this function first
/// removes or escapes what a client can write into these fields. No code here needs the host name.
pub(crate) fn request(
    mut event: ApiGatewayV2httpRequest,
    context: Context,
) -> Result<Request, ApiError> {
    let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    if length(&event.raw_path) + length(&event.raw_query_string) > LONGEST_URI {
        return Err(ApiErrorCode::UriTooLong.into());
    }
    event.headers.remove(HOST);
    event.request_context.domain_name = None;
    event.raw_query_string = event.raw_query_string.as_deref().map(escape_query);
    let request = Request::from(LambdaRequest::ApiGatewayV2(event));
    Ok(request.with_lambda_context(context))
}

/// Escapes the characters of a query that a URI cannot contain, such as the quotes in Exotel's `digits="1"`.
fn escape_query(query: &str) -> String {
    let mut escaped = String::with_capacity(query.len());
    for byte in query.bytes() {
        if byte.is_ascii_graphic() && !b"\"#<>".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.extend(form_urlencoded::byte_serialize(&[byte]));
        }
    }
    escaped
}

/// The answer in API Gateway's format.
fn respond(result: Result<ApiAnswer, ApiError>) -> Value {
    let (status, retry_after, body) = match result {
        Ok(ApiAnswer(body)) => (200, None, body),
        Err(error) => (error.status(), error.retry_after(), error.into_body()),
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
    use std::time::Duration;

    use lambda_http::Body;

    use super::*;
    use crate::form_fields::FormFields;

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
    fn no_query_and_no_host_makes_the_conversion_panic() {
        for (query, host) in [
            (r#"digits="1"&CallSid=abc"#, "a.example"),
            ("a=<b>&CallSid=abc#d", "a.example"),
            ("a=é %&CallSid=abc", "a b/c:d@é"),
            ("a=\u{7f}\u{0}\n&CallSid=abc", ""),
            ("%22&&=&CallSid=abc&{}|\\^`", "["),
        ] {
            let request = request(event(query, host), Context::default()).unwrap();
            let fields = FormFields::from_form(request.uri().query().unwrap().as_bytes());
            let as_sent = FormFields::from_form(query.as_bytes());
            assert_eq!(fields, as_sent, "{query}");
            assert_eq!(path(&request), "/exotel/webhook");
        }
    }

    #[tokio::test]
    async fn a_handler_that_hangs_is_canceled_in_time_to_answer() {
        let now = clock::now();
        let context = InvocationContext::new(now, now);
        let never = std::future::pending::<Result<ApiAnswer, ApiError>>();
        assert_eq!(in_time(never, context).await.unwrap_err().status(), 503);
        let at_once = async { Ok(ApiAnswer::ok(json!({}))) };
        assert!(in_time(at_once, context).await.is_ok());
    }

    #[test]
    fn a_uri_that_is_too_long_is_rejected_before_it_is_parsed() {
        let longest = |length: usize| "#".repeat(length - "/exotel/webhook".len());
        let of_length = |length| request(event(&longest(length), "a.example"), Context::default());
        assert!(of_length(LONGEST_URI).is_ok());
        assert_eq!(of_length(LONGEST_URI + 1).unwrap_err().status(), 414);
    }

    #[test]
    fn an_error_answer_has_its_status_and_the_retry_after_header() {
        let wait = Duration::from_secs(6);
        let error = ApiError::too_many(ApiErrorCode::TooManyCalls, "calls", wait);
        let response = respond(Err(error));
        assert_eq!(response["statusCode"], 429);
        assert_eq!(response["headers"]["retry-after"], "6");
    }

    #[test]
    fn the_source_address_is_the_one_that_api_gateway_saw() {
        let event = include_str!("../../../../events/exotel-webhook-passthru-get.json");
        let mut event: Value = serde_json::from_str(event).unwrap();
        event["headers"]["x-forwarded-for"] = "203.0.113.7".into();
        let request = lambda_http::request::from_str(&event.to_string()).unwrap();
        assert_eq!(source(&request), "198.51.100.7".parse().ok());
    }

    #[test]
    fn a_body_can_have_16_kib_at_most() {
        let longest = Request::new(Body::Binary(vec![b' '; LONGEST_BODY]));
        assert!(body(&longest).is_ok());
        let longer = Request::new(Body::Binary(vec![b' '; LONGEST_BODY + 1]));
        assert_eq!(body(&longer).unwrap_err().status(), 413);
    }
}
