//! The demo part of the console, below `/local/` of the gateway: the stack's tokens, simulated SIP phones, callers on
//! the simulated trunk, and the pushes that the stand-in for FCM received. It exists only in the local stack.

mod callers;
mod handset;
mod same_origin;

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::middleware;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use callers::{Callers, DialRequest};
use futures::{Stream, stream};
use handset::Handsets;
use ringback_sip::Media;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::settings::Transport;
use crate::stack::Stack;

/// How often the page gets changes.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// This many packets (100 ms) count as audio.
const MIN_PACKETS_HEARD: u64 = 5;

/// The routes. They accept only requests from pages of the gateway itself.
pub fn router(state_dir: PathBuf) -> Router {
    let demo = Demo {
        state_dir: state_dir.into(),
        handsets: Handsets::default(),
        callers: Callers::default(),
        http: reqwest::Client::new(),
    };
    Router::new()
        .route("/local/stack", get(stack))
        .route("/local/events", get(events))
        .route("/local/phones/{extension}", put(register))
        .route("/local/phones/{extension}/pick-up", post(pick_up))
        .route("/local/callers", post(dial))
        .route("/local/callers/{id}", delete(hang_up))
        .layer(middleware::from_fn(same_origin::require))
        .with_state(demo)
}

#[derive(Clone)]
struct Demo {
    state_dir: Arc<std::path::Path>,
    handsets: Handsets,
    callers: Callers,
    http: reqwest::Client,
}

impl Demo {
    fn stack(&self) -> Result<Stack> {
        Stack::load(&self.state_dir)
    }

    /// Everything that the page shows. The RTP packets that arrive show who hears which leg.
    async fn to_json(&self, push_token: &str) -> Result<Value> {
        let mut legs = self.handsets.legs();
        legs.extend(self.callers.legs());
        let hears = |media: &Media, own: &str| -> Vec<&str> {
            let others = legs.iter().filter(|(name, _)| name != own);
            let heard = others.filter(|(_, other)| media.received_from(other) >= MIN_PACKETS_HEARD);
            heard.map(|(name, _)| name.as_str()).collect()
        };
        Ok(json!({
            "phones": self.handsets.to_json(hears),
            "callers": self.callers.to_json(hears),
            "pushes": self.pushes(push_token).await?,
        }))
    }

    /// The pushes to one device that the stand-in for FCM received.
    async fn pushes(&self, token: &str) -> Result<Vec<Value>> {
        let query: String = form_urlencoded::Serializer::new(String::new())
            .append_pair("token", token)
            .finish();
        let url = format!("{}?{query}", self.stack()?.requests.fcm);
        let requests: Vec<Value> = self.http.get(url).send().await?.json().await?;
        let push = |request: Value| json!({ "at": request["at"], "data": request["body"]["message"]["data"] });
        Ok(requests.into_iter().map(push).collect())
    }
}

/// `GET /local/stack`.
async fn stack(State(demo): State<Demo>) -> Result<Json<Value>, DemoError> {
    let stack = demo.stack()?;
    let number_of = |extension: &str| {
        let mut numbers = stack.numbers.iter();
        numbers
            .find(|(_, owner)| *owner == extension)
            .map(|(number, _)| number)
    };
    // WebRTC phones are separate browsers.
    let simulated = stack
        .phones
        .iter()
        .filter(|phone| phone.transport != Transport::Wss);
    let phones = simulated.map(|phone| {
        json!({ "extension": phone.extension, "token": phone.token, "number": number_of(&phone.extension) })
    });
    Ok(Json(json!({
        "operator": { "token": stack.operator.token },
        "admin": { "token": stack.admin.token },
        "phones": phones.collect::<Vec<_>>(),
    })))
}

#[derive(Deserialize)]
struct EventsQuery {
    push_token: String,
}

/// `GET /local/events`: sends the state as server-sent events after each change.
async fn events(
    State(demo): State<Demo>,
    Query(EventsQuery { push_token }): Query<EventsQuery>,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let changes = stream::unfold(String::new(), move |sent| {
        let (demo, push_token) = (demo.clone(), push_token.clone());
        async move {
            loop {
                // Ends when the stack stops.
                let state = demo.to_json(&push_token).await.ok()?.to_string();
                if state != sent {
                    return Some((Ok(Event::default().data(&state)), state));
                }
                tokio::time::sleep(POLL_INTERVAL).await;
            }
        }
    });
    Sse::new(changes).keep_alive(KeepAlive::default())
}

/// `PUT /local/phones/{extension}`.
async fn register(
    State(demo): State<Demo>,
    Path(extension): Path<String>,
) -> Result<StatusCode, DemoError> {
    let stack = demo.stack()?;
    demo.handsets.register(&stack, &extension).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /local/phones/{extension}/pick-up`.
async fn pick_up(
    State(demo): State<Demo>,
    Path(extension): Path<String>,
) -> Result<StatusCode, DemoError> {
    let stack = demo.stack()?;
    demo.handsets.answer_next(&stack, &extension).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// `POST /local/callers`.
async fn dial(
    State(demo): State<Demo>,
    Json(request): Json<DialRequest>,
) -> Result<Response, DemoError> {
    let stack = demo.stack()?;
    let id = demo.callers.dial(&stack, request).await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

/// `DELETE /local/callers/{id}`.
async fn hang_up(State(demo): State<Demo>, Path(id): Path<u32>) -> Result<StatusCode, DemoError> {
    let leg = demo.callers.leg(id).context("unknown caller")?;
    leg.hang_up().await.map_err(anyhow::Error::from)?;
    Ok(StatusCode::NO_CONTENT)
}

/// Any error, with its causes: the client is a person at this machine.
struct DemoError(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for DemoError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for DemoError {
    fn into_response(self) -> Response {
        let body =
            json!({ "success": false, "error": format!("{:#}", self.0), "code": "local_stack" });
        (StatusCode::CONFLICT, Json(body)).into_response()
    }
}
