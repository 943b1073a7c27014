//! The part of Exotel's voice API that the application uses: connect two numbers, call details, and StatusCallbacks.
//! Tests decide what happens to a call.
//!
//! <https://developer.exotel.com/api/make-a-call-api>, <https://developer.exotel.com/api/statuscallback>

mod call;
mod callback;
mod control;
mod request;
mod response;
mod state;

use std::sync::{Arc, Mutex};

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use serde_json::json;
use time::OffsetDateTime;

use self::call::ExotelCall;
use self::request::ConnectRequest;
use self::response::{failing, not_found, rest_exception};
use self::state::ExotelState;
use super::behaviour::{self, Operation, SharedBehaviour};
use super::recorder;
use crate::credentials::ExotelAccount;

/// The stand-in for one account.
pub fn router(account: &ExotelAccount) -> Result<Router> {
    let behaviour = SharedBehaviour::default();
    let exotel = ExotelState {
        account: Arc::new(Mutex::new(account.clone())),
        calls: Arc::default(),
        behaviour: behaviour.clone(),
        http: callback::client()?,
    };
    let service = Router::new()
        .route("/v1/Accounts/{sid}/Calls/connect.json", post(connect))
        .route("/v1/Accounts/{sid}/Calls/{call}", get(details))
        .fallback(not_found)
        .with_state(exotel.clone());
    Ok(recorder::recorded(service)
        .merge(control_routes(exotel))
        .merge(behaviour::router(behaviour)))
}

/// The control API, for tests.
fn control_routes(exotel: ExotelState) -> Router {
    Router::new()
        .route("/calls", get(control::list))
        .route("/calls/{sid}", delete(control::remove))
        .route("/calls/{sid}/events", post(control::change))
        .route("/key", put(control::replace_key))
        .with_state(exotel)
}

/// `POST …/Calls/connect.json`.
async fn connect(
    State(exotel): State<ExotelState>,
    Path(sid): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let failure = exotel.behaviour.next_failure(Operation::Connect).await;
    if let Some(failure) = failure.as_ref().filter(|failure| !failure.placed) {
        return failing(failure);
    }
    if let Some(error) = exotel.account_error(&sid, &headers) {
        return error;
    }
    let request = match ConnectRequest::parse(&body) {
        Ok(request) => request,
        Err(problem) => return rest_exception(StatusCode::BAD_REQUEST, &problem),
    };
    let call = ExotelCall::new(&sid, request, OffsetDateTime::now_utc());
    let details = call.details();
    exotel.calls().push(call);
    if let Some(failure) = failure {
        failure.wait().await;
        return failing(&failure);
    }
    Json(json!({"Call": details})).into_response()
}

/// `GET …/Calls/{CallSid}.json`.
async fn details(
    State(exotel): State<ExotelState>,
    Path((sid, call)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(failure) = exotel.behaviour.next_failure(Operation::Details).await {
        return failing(&failure);
    }
    if let Some(error) = exotel.account_error(&sid, &headers) {
        return error;
    }
    let Some(id) = call.strip_suffix(".json") else {
        return not_found().await;
    };
    match exotel.calls().iter().find(|call| call.sid == id) {
        Some(call) => Json(json!({"Call": call.details()})).into_response(),
        None => rest_exception(StatusCode::NOT_FOUND, "Call not found"),
    }
}

#[cfg(test)]
mod tests;
