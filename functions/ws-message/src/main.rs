//! Handles a message of a connected client, or a frame of Exotel's stream.
//!
//! `message/ping`, `message/incoming_call` and `message/call_response` have a route response: the function's result is the
//! answer. `$default` has none, so that Exotel's stream gets no answers (docs/decisions/websocket-routes.md).

mod audio_stream;
mod call_start;
mod error_posts;

use audio_stream::{StreamConnection, StreamHandler};
use call_start::CallStarter;
use error_posts::ErrorPosts;
use lambda_runtime::{Error, LambdaEvent};
use ringback::api::call_response;
use ringback::api::http::{self, ApiError, ApiErrorCode};
use ringback::api::new_call::CallRequest;
use ringback::api::websocket::{self, ConnectedClient, Request};
use ringback::auth::Bearer;
use ringback::exotel::dial_rules::DialRules;
use ringback::platform::invocation::InvocationContext;
use ringback::start::{Start, run};
use ringback::switchboard::StartLimits;
use ringback_core::ids::CallSid;
use serde_json::{Map, Value, json};

const ONLY_FRAMES: &str = "this connection may send only the frames of its call's stream";

struct WsMessage {
    calls: CallStarter,
    audio_streams: StreamHandler,
    error_posts: ErrorPosts,
}

impl WsMessage {
    async fn handle(&self, event: LambdaEvent<Request>) -> Result<Value, Error> {
        let invocation = InvocationContext::begin(&event.context);
        let request = event.payload;
        match request.client() {
            // With the token of one call, only frames are allowed. Exotel sends no such messages, so this answer disturbs no call.
            ConnectedClient::Exotel { call_sid: Some(_) } if request.has_route_response() => {
                let refused = ApiError::with_message(ApiErrorCode::NotAllowed, ONLY_FRAMES);
                Ok(websocket::answer(&refused.into_message()))
            }
            ConnectedClient::Exotel { call_sid } => {
                let call_sid = call_sid.as_ref();
                self.handle_frame(&request, call_sid, invocation).await;
                Ok(websocket::done())
            }
            ConnectedClient::Client(bearer) => {
                Ok(self.handle_message(&request, bearer, invocation).await)
            }
        }
    }

    /// Errors are only logged: Exotel would take an answer for a frame, in the middle of a call.
    async fn handle_frame(
        &self,
        request: &Request,
        only_call: Option<&CallSid>,
        invocation: InvocationContext,
    ) {
        let connection = StreamConnection {
            id: request.connection_id(),
            only_call,
        };
        let (switchboard, text) = (&self.calls.switchboard, text_of(request));
        let handled = self
            .audio_streams
            .handle_frame(switchboard, connection, text, invocation);
        if let Err(error) = handled.await {
            error.log();
        }
    }

    async fn handle_message(
        &self,
        request: &Request,
        bearer: &Bearer,
        invocation: InvocationContext,
    ) -> Value {
        let answering = self.answer(bearer, text_of(request), invocation);
        let answer = http::in_time(answering, invocation).await;
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
                let (switchboard, signing) = (&self.calls.switchboard, &self.calls.signing);
                let body = text.as_bytes();
                let accepted =
                    call_response::handle(switchboard, signing, bearer, body, invocation);
                Ok(accepted.await?.into_message())
            }
            Some("incoming_call") => {
                let started = self.incoming_call(bearer, &message, invocation).await;
                started.map_err(|error| {
                    error.with_detail("clientReference", message.get("clientReference"))
                })
            }
            None if message.contains_key("event") => Err(ApiErrorCode::NotYourFrame.into()),
            _ => Err(ApiErrorCode::UnknownType.into()),
        }
    }

    async fn incoming_call(
        &self,
        bearer: &Bearer,
        message: &Map<String, Value>,
        invocation: InvocationContext,
    ) -> Result<Value, ApiError> {
        let party = bearer.party().ok_or(ApiErrorCode::NoExtension)?;
        let request = CallRequest::parse(message, &party.extension, &self.calls.country)?;
        self.calls.start(party.clone(), request, invocation).await
    }
}

fn text_of(request: &Request) -> &str {
    request.body.as_deref().unwrap_or_default()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let this = &WsMessage {
        calls: CallStarter {
            switchboard: start.switchboard_with_exotel()?,
            signing: start.signing()?,
            routes: start.routes()?,
            country: start.country(),
            rules: DialRules::from_environment(&start.environment, start.country())?,
            limits: StartLimits::from_environment(&start.environment)?,
        },
        audio_streams: StreamHandler {
            streams: start.streams()?,
            connections: start.connections()?,
        },
        error_posts: ErrorPosts::new(),
    };
    run(move |event| this.handle(event)).await
}
