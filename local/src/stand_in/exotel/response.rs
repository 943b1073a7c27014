//! Error answers in Exotel's format.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::super::behaviour::ConfiguredFailure;

pub(super) async fn not_found() -> Response {
    rest_exception(StatusCode::NOT_FOUND, "Resource not found")
}

pub(super) fn failing(failure: &ConfiguredFailure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = rest_exception(status, status.canonical_reason().unwrap_or("Error"));
    if let Some(seconds) = failure.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

pub(super) fn rest_exception(status: StatusCode, message: &str) -> Response {
    (
        status,
        Json(json!({"RestException": {"Status": status.as_u16(), "Message": message}})),
    )
        .into_response()
}
