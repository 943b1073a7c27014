//! Handles a message of a connected client, or a frame of Exotel's stream.
//!
//! `message/ping`, `message/incoming_call` and `message/call_response` have a route response: the function's result is the
//! answer. `$default` has none, so that Exotel's stream gets no answers (docs/decisions/websocket-routes.md).

mod audio_stream;
mod call_start;
mod error_posts;

use audio_stream::AudioStreams;
use call_start::CallStarter;
use error_posts::ErrorPosts;
use lambda_runtime::{Error, LambdaEvent};
use ringback::api::call_response;
use ringback::api::http::{self, ApiError, ApiErrorCode};
use ringback::api::new_call::CallRequest;
use ringback::api::websocket::{self, ConnectedClient, Request};
use ringback::auth::Bearer;
use ringback::exotel::dial_rules::DialRules;
use ringback::platform::clock;
use ringback::start::{Start, run, works_until};
use ringback::switchboard::StartLimits;
use serde_json::{Map, Value, json};

struct WsMessage {
    calls: CallStarter,
    audio_streams: AudioStreams,
    error_posts: ErrorPosts,
}

impl WsMessage {
    async fn handle(&self, event: LambdaEvent<Request>) -> Result<Value, Error> {
        let until = works_until(event.context.deadline);
        let request = event.payload;
        match request.who() {
            Who::Exotel => {
                self.handle_frame(&request, until).await;
                Ok(websocket::done())
            }
            Who::Client(bearer) => Ok(self.handle_message(&request, bearer, until).await),
        }
    }

    /// Errors are only logged: Exotel would take an answer for a frame, in the middle of a call.
    async fn handle_frame(&self, request: &Request, until: Timestamp) {
        let (switchboard, connection_id) = (&self.calls.switchboard, request.connection_id());
        let handled =
            self.audio_streams
                .handle_frame(switchboard, connection_id, text_of(request), until);
        if let Err(error) = handled.await {
            error.log();
        }
    }

    async fn handle_message(&self, request: &Request, bearer: &Bearer, until: Timestamp) -> Value {
        let answering = self.answer(bearer, text_of(request), until);
        let answer = http::in_time(answering, until).await;
        let answer = answer.unwrap_or_else(ApiError::into_message);
        match request.connection() {
            Some(connection) if !request.has_route_response() => {
                let connections = &self.audio_streams.connections;
                self.error_posts
                    .post(connections, &connection, &answer)
                    .await;
                websocket::done()
            }
            _ => websocket::answer(&answer),
        }
    }

    async fn answer(
        &self,
        bearer: &Bearer,
        text: &str,
        until: Timestamp,
    ) -> Result<Value, ApiError> {
        if text.len() > http::LONGEST_BODY {
            return Err(ApiError::too_long());
        }
        let message: Map<String, Value> = serde_json::from_str(text)
            .map_err(|_| ApiError::bad_request("bad_message", "a message must be a JSON object"))?;
        match message.get("type").and_then(Value::as_str) {
            Some("ping") => Ok(json!({ "type": "pong" })),
            Some("call_response") => self.call_response(bearer, text, until).await,
            Some("incoming_call") => {
                let started = self.incoming_call(bearer, &message, until).await;
                started.map_err(|error| {
                    error.with_detail("clientReference", message.get("clientReference"))
                })
            }
            None if message.contains_key("event") => Err(ApiError::bad_request(
                "not_your_frame",
                "only Exotel may send stream frames",
            )),
            _ => Err(ApiError::bad_request(
                "unknown_type",
                "type must be ping, call_response or incoming_call",
            )),
        }
    }

    async fn incoming_call(
        &self,
        bearer: &Bearer,
        message: &Map<String, Value>,
        until: Timestamp,
    ) -> Result<Value, ApiError> {
        let request = CallRequest::parse(message, &self.calls.country)?;
        let party = bearer.party().ok_or_else(ApiError::no_extension)?;
        self.calls.start(&party.extension, request, until).await
    }

    async fn call_response(
        &self,
        bearer: &Bearer,
        text: &str,
        until: Timestamp,
    ) -> Result<Value, ApiError> {
        let now = clock::now();
        let response = CallResponse::parse(text.as_bytes())?;
        let party = bearer.acting_for(&response.extension);
        let party = party.ok_or_else(ApiError::other_extension)?;
        let (signing, switchboard) = (&self.calls.signing, &self.calls.switchboard);
        signing.check(response.call_id, now).await?;
        let (call_id, event) = (response.call_id, response.event(party.clone()));
        let outcome = switchboard.handle(call_id, &event, now, until).await?;
        match outcome.rejected {
            None => Ok(
                json!({ "type": "call_response", "success": true, "server_call_id": call_id, "status": outcome.call.status }),
            ),
            Some(reason) => Err(ApiError::rejected(reason, &outcome.call, now)),
        }
    }
}

fn text_of(request: &Request) -> &str {
    request.body.as_deref().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await?;
    let this = &WsMessage {
        calls: CallStarter {
            switchboard: start.switchboard_with_exotel()?,
            signing: start.signing()?,
            routes: start.routes(),
            country: start.country(),
            rules: DialRules::from_environment(&start.environment, start.country())?,
            limits: StartLimits::from_environment(&start.environment)?,
        },
        audio_streams: AudioStreams {
            streams: start.streams(),
            connections: start.connections()?,
        },
        error_posts: ErrorPosts::new(),
    };
    run(move |event| this.handle(event)).await
}
