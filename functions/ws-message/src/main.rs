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
use ringback::api::call_action::CallResponse;
use ringback::api::http::{self, ApiError};
use ringback::api::new_call::CallRequest;
use ringback::api::websocket::{self, Request, Who};
use ringback::auth::Bearer;
use ringback::exotel::dialling::DialRules;
use ringback::platform::clock;
use ringback::platform::start::{Start, run, works_until};
use ringback::switchboard::StartLimits;
use ringback_core::timestamp::Timestamp;
use serde_json::{Map, Value, json};
use stream::Streaming;

async fn handle(
    starting: &Starting,
    streaming: &Streaming,
    errors: &Errors,
    event: LambdaEvent<Request>,
) -> Result<Value, Error> {
    let until = works_until(event.context.deadline);
    let request = event.payload;
    let text = request.body.as_deref().unwrap_or_default();
    let bearer = match request.who() {
        Who::Client(bearer) => bearer,
        Who::Exotel => {
            let connection = request.connection_id();
            let taken = streaming.frame(&starting.switchboard, connection, text, until);
            // Exotel would take an answer for a frame of ours, in the middle of a call.
            if let Err(error) = taken.await {
                error.log();
            }
            return Ok(websocket::done());
        }
    };
    let answer = http::in_time(message(starting, bearer, text, until), until).await;
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
    until: Timestamp,
) -> Result<Value, ApiError> {
    if text.len() > http::LONGEST_BODY {
        return Err(ApiError::too_long());
    }
    let message: Map<String, Value> = serde_json::from_str(text)
        .map_err(|_| ApiError::bad_request("bad_message", "a message is a JSON object"))?;
    match message.get("type").and_then(Value::as_str) {
        Some("ping") => Ok(json!({ "type": "pong" })),
        Some("call_response") => call_response(starting, bearer, text, until).await,
        Some("incoming_call") => {
            let started = incoming_call(starting, bearer, &message, until).await;
            started.map_err(|error| {
                error.with_detail("clientReference", message.get("clientReference"))
            })
        }
        None if message.contains_key("event") => Err(ApiError::bad_request(
            "not_your_frame",
            "only Exotel sends the frames of streams",
        )),
        _ => Err(ApiError::bad_request(
            "unknown_type",
            "type must be ping, call_response or incoming_call",
        )),
    }
}

async fn incoming_call(
    starting: &Starting,
    bearer: &Bearer,
    message: &Map<String, Value>,
    until: Timestamp,
) -> Result<Value, ApiError> {
    let wanted = CallRequest::parse(message, &starting.country)?;
    let party = bearer.party().ok_or_else(ApiError::no_extension)?;
    starting.start(&party.extension, wanted, until).await
}

async fn call_response(
    starting: &Starting,
    bearer: &Bearer,
    text: &str,
    until: Timestamp,
) -> Result<Value, ApiError> {
    let now = clock::now();
    let response = CallResponse::parse(text.as_bytes())?;
    let party = bearer.acting_for(&response.extension);
    let party = party.ok_or_else(ApiError::other_extension)?;
    starting.signing.check(response.call_id, now).await?;
    let (id, event) = (response.call_id, response.event(party.clone()));
    let outcome = starting.switchboard.handle(id, &event, now, until).await?;
    match outcome.rejected {
        None => Ok(
            json!({ "type": "call_response", "success": true, "server_call_id": id, "status": outcome.call.status }),
        ),
        Some(refusal) => Err(http::refused(refusal, &outcome.call, now)),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await?;
    let starting = &Starting {
        switchboard: start.switchboard_with_exotel()?,
        signing: start.signing()?,
        routes: start.routes(),
        country: start.country(),
        rules: DialRules::from_environment(&start.environment, start.country())?,
        limits: StartLimits::from_environment(&start.environment)?,
    };
    let streaming = &Streaming {
        streams: start.streams(),
        connections: start.connections()?,
    };
    let errors = &Errors::new();
    run(move |event| handle(starting, streaming, errors, event)).await
}
