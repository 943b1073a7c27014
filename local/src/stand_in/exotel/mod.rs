//! The part of Exotel's voice API that the application uses: connect two numbers, call details, and StatusCallbacks.
//! Tests decide what happens to a call.
//!
//! <https://developer.exotel.com/api/make-a-call-api>, <https://developer.exotel.com/api/statuscallback>

mod call;
mod callback;
mod control;
mod request;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router, middleware};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::Client;
use serde_json::json;
use time::OffsetDateTime;

use self::call::ExotelCall;
use self::request::ConnectRequest;
use super::behaviour::{self, SharedBehaviour, ConfiguredFailure, Operation};
use super::recorder::{self, Recorder};
use crate::credentials::ExotelAccount;

#[derive(Clone)]
struct Exotel {
    account: Arc<Mutex<ExotelAccount>>,
    /// The newest is last.
    calls: Arc<Mutex<Vec<ExotelCall>>>,
    behaving: SharedBehaviour,
    http: Client,
}

/// The stand-in for one account.
pub fn router(account: &ExotelAccount) -> Result<Router> {
    let behaving = SharedBehaviour::default();
    let recorder = Recorder::default();
    let exotel = Exotel {
        account: Arc::new(Mutex::new(account.clone())),
        calls: Arc::default(),
        behaving: behaving.clone(),
        http: callback::client()?,
    };
    let service = Router::new()
        .route("/v1/Accounts/{sid}/Calls/connect.json", post(connect))
        .route("/v1/Accounts/{sid}/Calls/{call}", get(details))
        .fallback(not_found)
        .with_state(exotel.clone())
        .layer(middleware::from_fn_with_state(
            recorder.clone(),
            recorder::record,
        ));
    Ok(Router::new()
        .route("/requests", get(recorder::list).delete(recorder::clear))
        .with_state(recorder)
        .merge(controls(exotel, behaving))
        .fallback_service(service))
}

/// The control API, for tests.
fn controls(exotel: Exotel, behaving: SharedBehaviour) -> Router {
    let calls = Router::new()
        .route("/calls", get(control::list))
        .route("/calls/{sid}", delete(control::forget))
        .route("/calls/{sid}/events", post(control::change))
        .route("/key", put(control::replace_key))
        .with_state(exotel);
    let behaviour = get(behaviour::show)
        .put(behaviour::replace)
        .delete(behaviour::reset);
    Router::new()
        .route("/behaviour", behaviour)
        .with_state(behaving)
        .merge(calls)
}

/// `POST …/Calls/connect.json`.
async fn connect(
    State(exotel): State<Exotel>,
    Path(sid): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let failure = exotel.behaving.before(Operation::Connect).await;
    if let Some(failure) = failure.as_ref().filter(|failure| !failure.placed) {
        return failing(failure);
    }
    if let Some(refusal) = exotel.check_account(&sid, &headers) {
        return refusal;
    }
    let request = match ConnectRequest::parse(&body) {
        Ok(request) => request,
        Err(problem) => return rest_exception(StatusCode::BAD_REQUEST, &problem),
    };
    let call = ExotelCall::placed(&sid, request, OffsetDateTime::now_utc());
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
    State(exotel): State<Exotel>,
    Path((sid, call)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(failure) = exotel.behaving.before(Operation::Details).await {
        return failing(&failure);
    }
    if let Some(refusal) = exotel.check_account(&sid, &headers) {
        return refusal;
    }
    let Some(id) = call.strip_suffix(".json") else {
        return not_found().await;
    };
    match exotel.calls().iter().find(|call| call.sid == id) {
        Some(call) => Json(json!({"Call": call.details()})).into_response(),
        None => rest_exception(StatusCode::NOT_FOUND, "Call not found"),
    }
}

impl Exotel {
    fn calls(&self) -> MutexGuard<'_, Vec<ExotelCall>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn account(&self) -> MutexGuard<'_, ExotelAccount> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check_account(&self, sid: &str, headers: &HeaderMap) -> Option<Response> {
        let account = self.account();
        let expected = STANDARD.encode(format!("{}:{}", account.api_key, account.api_token));
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        if given != Some(expected.as_str()) {
            return Some(rest_exception(
                StatusCode::UNAUTHORIZED,
                "Authentication failed",
            ));
        }
        (sid != account.sid)
            .then(|| rest_exception(StatusCode::FORBIDDEN, "Access to this account is denied"))
    }
}

async fn not_found() -> Response {
    rest_exception(StatusCode::NOT_FOUND, "Resource not found")
}

fn failing(failure: &ConfiguredFailure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = rest_exception(status, status.canonical_reason().unwrap_or("Error"));
    if let Some(seconds) = failure.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn rest_exception(status: StatusCode, message: &str) -> Response {
    (
        status,
        Json(json!({"RestException": {"Status": status.as_u16(), "Message": message}})),
    )
        .into_response()
}

#[cfg(test)]
mod tests;
