//! The HTTP API: reads what API Gateway hands on, and makes the answers.

use std::convert::Infallible;
use std::future::Future;

use lambda_runtime::LambdaEvent;
use serde_json::{Value, json};

pub use crate::api::error::ApiError;
pub use crate::api::error_code::ApiErrorCode;
use crate::api::request::GatewayEvent;
pub use crate::api::request::{LONGEST_BODY, LONGEST_URI, Request};
use crate::platform::clock;
use crate::platform::invocation::InvocationContext;
use crate::runtime;
use crate::telemetry::call_log_fields;

/// A successful answer.
#[derive(Debug)]
pub struct ApiAnswer {
    body: Value,
    etag: Option<String>,
}

impl ApiAnswer {
    /// 200 with this JSON object and `"success": true`.
    #[must_use]
    pub fn ok(mut body: Value) -> Self {
        body["success"] = true.into();
        Self { body, etag: None }
    }

    /// Adds the header `ETag`.
    #[must_use]
    pub fn with_etag(self, etag: String) -> Self {
        let etag = Some(etag);
        Self { etag, ..self }
    }
}

/// Serves one function's requests until Lambda stops the process.
///
/// # Errors
/// When Lambda's runtime API fails.
pub async fn serve<F, Answering>(handler: F) -> Result<(), lambda_runtime::Error>
where
    F: Fn(Request, InvocationContext) -> Answering,
    Answering: Future<Output = Result<ApiAnswer, ApiError>> + Send,
{
    let respond_to = |event: LambdaEvent<GatewayEvent>| {
        let invocation = InvocationContext::begin(&event.context);
        let request = Request::try_from(event.payload);
        let answering = request.map(|request| handler(request, invocation));
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

/// The answer in API Gateway's format.
fn respond(result: Result<ApiAnswer, ApiError>) -> Value {
    let mut headers = json!({ "content-type": "application/json" });
    let (status, body) = match result {
        Ok(answer) => {
            if let Some(etag) = answer.etag {
                headers["etag"] = etag.into();
            }
            (200, answer.body)
        }
        Err(error) => {
            if let Some(seconds) = error.retry_after() {
                headers["retry-after"] = seconds.to_string().into();
            }
            (error.status(), error.into_body())
        }
    };
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

    use super::*;

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
    fn an_error_answer_has_its_status_and_the_retry_after_header() {
        let wait = Duration::from_secs(6);
        let error = ApiError::too_many(ApiErrorCode::TooManyCalls, "calls", wait);
        let response = respond(Err(error));
        assert_eq!(response["statusCode"], 429);
        assert_eq!(response["headers"]["retry-after"], "6");
    }
}
