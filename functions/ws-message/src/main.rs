//! A message of a connected client, or a frame of Exotel's stream.
//!
//! `message/ping`, `message/incoming_call` and `message/call_response` answer in the invocation's result; `$default` does
//! not, so that a stream hears nothing (docs/decisions/websocket-routes.md).

mod errors;
mod incoming_call;
mod stream;

use errors::Errors;
use incoming_call::Starting;
use lambda_runtime::{Error, LambdaEvent};
use ringback::api::call_response;
use ringback::api::http::{self, ApiError, ApiErrorCode};
use ringback::api::new_call::CallRequest;
use ringback::api::websocket::{self, ConnectedClient, Request};
use ringback::auth::Bearer;
use ringback::exotel::dialling::DialRules;
use ringback::platform::invocation::InvocationContext;
use ringback::start::{Start, run};
use ringback::switchboard::StartLimits;
use serde_json::{Map, Value, json};
use stream::Streaming;

async fn handle(
    starting: &Starting,
    streaming: &Streaming,
    errors: &Errors,
    event: LambdaEvent<Request>,
) -> Result<Value, Error> {
    let invocation = InvocationContext::begin(&event.context);
    let request = event.payload;
    let text = request.body.as_deref().unwrap_or_default();
    let bearer = match request.client() {
        ConnectedClient::Client(bearer) => bearer,
        ConnectedClient::Exotel => {
            let connection = request.connection_id();
            let taken = streaming.frame(&starting.switchboard, connection, text, invocation);
            // Exotel would take an answer for a frame of ours, in the middle of a call.
            if let Err(error) = taken.await {
                error.log();
            }
            return Ok(websocket::done());
        }
    };
    let answer = http::in_time(message(starting, bearer, text, invocation), invocation).await;
    let answer = answer.unwrap_or_else(ApiError::into_message);
    match request.connection() {
        Some(connection) if !request.has_route_response() => {
            errors
                .post(&streaming.connections, &connection, &answer)
                .await;
            Ok(websocket::done())
        }
        _ => Ok(websocket::answer(&answer)),
    }
}

async fn message(
    starting: &Starting,
    bearer: &Bearer,
    text: &str,
    invocation: InvocationContext,
) -> Result<Value, ApiError> {
    if text.len() > http::LONGEST_BODY {
        return Err(ApiErrorCode::BodyTooLong.into());
    }
    let message: Map<String, Value> =
        serde_json::from_str(text).map_err(|_| ApiErrorCode::BadMessage)?;
    match message.get("type").and_then(Value::as_str) {
        Some("ping") => Ok(json!({ "type": "pong" })),
        Some("call_response") => {
            let (switchboard, signing) = (&starting.switchboard, &starting.signing);
            let body = text.as_bytes();
            let accepted = call_response::handle(switchboard, signing, bearer, body, invocation);
            Ok(accepted.await?.into_message())
        }
        Some("incoming_call") => {
            let started = incoming_call(starting, bearer, &message, invocation).await;
            started.map_err(|error| {
                error.with_detail("clientReference", message.get("clientReference"))
            })
        }
        None if message.contains_key("event") => Err(ApiErrorCode::NotYourFrame.into()),
        _ => Err(ApiErrorCode::UnknownType.into()),
    }
}

async fn incoming_call(
    starting: &Starting,
    bearer: &Bearer,
    message: &Map<String, Value>,
    invocation: InvocationContext,
) -> Result<Value, ApiError> {
    let wanted = CallRequest::parse(message, &starting.country)?;
    let party = bearer.party().ok_or(ApiErrorCode::NoExtension)?;
    starting.start(&party.extension, wanted, invocation).await
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await;
    let starting = &Starting {
        switchboard: start.switchboard_with_exotel()?,
        signing: start.signing()?,
        routes: start.routes()?,
        country: start.country(),
        rules: DialRules::from_environment(&start.environment, start.country())?,
        limits: StartLimits::from_environment(&start.environment)?,
    };
    let streaming = &Streaming {
        streams: start.streams()?,
        connections: start.connections()?,
    };
    let errors = &Errors::new();
    run(move |event| handle(starting, streaming, errors, event)).await
}
