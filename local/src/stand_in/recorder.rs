//! Records the requests that a stand-in receives, newest last.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::{Body, to_bytes};
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router, middleware};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The number of requests that are kept.
const KEPT: usize = 2_000;
/// The longest body. No request to either service is near it.
const MAX_BODY: usize = 256 * 1024;

/// A recorded request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct RecordedRequest {
    /// The HTTP method.
    method: String,
    /// The path with its query.
    path: String,
    /// The headers, with names in lower case.
    headers: BTreeMap<String, String>,
    /// A JSON value for JSON, an object for a form, a string for anything else.
    body: Value,
    /// The time of arrival, ISO 8601 in UTC.
    at: String,
}

/// The recorded requests.
#[derive(Debug, Clone, Default)]
struct Recorder {
    requests: Arc<Mutex<VecDeque<RecordedRequest>>>,
}

impl Recorder {
    fn push(&self, request: RecordedRequest) {
        let mut requests = self.requests.lock().unwrap_or_else(PoisonError::into_inner);
        if requests.len() == KEPT {
            requests.pop_front();
        }
        requests.push_back(request);
    }

    fn matching(&self, filter: &RequestFilter) -> Vec<RecordedRequest> {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .filter(|request| filter.matches(request))
            .cloned()
            .collect()
    }

    fn clear(&self) {
        self.requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Records every request to `service`, and lists the recorded ones at `/requests`.
pub fn recorded(service: Router) -> Router {
    let recorder = Recorder::default();
    let recording = middleware::from_fn_with_state(recorder.clone(), record);
    Router::new()
        .route("/requests", get(list).delete(clear))
        .with_state(recorder)
        .fallback_service(service.layer(recording))
}

/// Middleware that records each request and passes it on.
async fn record(State(recorder): State<Recorder>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(bytes) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    recorder.push(RecordedRequest {
        method: parts.method.to_string(),
        path: parts
            .uri
            .path_and_query()
            .map_or_else(String::new, ToString::to_string),
        headers: readable_headers(&parts.headers),
        body: readable_body(&parts.headers, &bytes),
        at: OffsetDateTime::now_utc()
            .format(&Rfc3339)
            .unwrap_or_default(),
    });
    next.run(Request::from_parts(parts, Body::from(bytes)))
        .await
}

/// Selects requests.
#[derive(Debug, Default, Deserialize)]
struct RequestFilter {
    /// Only pushes to this device token (FCM).
    token: Option<String>,
}

impl RequestFilter {
    fn matches(&self, request: &RecordedRequest) -> bool {
        let token = request.body["message"]["token"].as_str();
        self.token.is_none() || self.token.as_deref() == token
    }
}

/// `GET /requests`, or `GET /requests?token=…`.
async fn list(
    State(recorder): State<Recorder>,
    Query(filter): Query<RequestFilter>,
) -> Json<Vec<RecordedRequest>> {
    Json(recorder.matching(&filter))
}

/// `DELETE /requests`.
async fn clear(State(recorder): State<Recorder>) -> StatusCode {
    recorder.clear();
    StatusCode::NO_CONTENT
}

fn readable_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                name.to_string(),
                String::from_utf8_lossy(value.as_bytes()).into_owned(),
            )
        })
        .collect()
}

fn readable_body(headers: &HeaderMap, bytes: &[u8]) -> Value {
    if bytes.is_empty() {
        return Value::Null;
    }
    if let Ok(json) = serde_json::from_slice(bytes) {
        return json;
    }
    let content_type = headers
        .get("content-type")
        .map_or(&b""[..], |value| value.as_bytes());
    if content_type.starts_with(b"application/x-www-form-urlencoded") {
        return form_object(bytes);
    }
    Value::String(String::from_utf8_lossy(bytes).into_owned())
}

/// Converts a form to an object. A repeated field becomes a list.
fn form_object(bytes: &[u8]) -> Value {
    let mut fields = Map::new();
    for (name, value) in form_urlencoded::parse(bytes) {
        let value = Value::String(value.into_owned());
        match fields.get_mut(name.as_ref()) {
            None => {
                fields.insert(name.into_owned(), value);
            }
            Some(Value::Array(values)) => values.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
        }
    }
    Value::Object(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_repeated_form_field_becomes_a_list() {
        let form = b"To=1&StatusCallbackEvents%5B%5D=answered&StatusCallbackEvents%5B%5D=terminal";
        assert_eq!(
            form_object(form),
            json!({"To": "1", "StatusCallbackEvents[]": ["answered", "terminal"]})
        );
    }

    #[test]
    fn the_oldest_requests_are_dropped() {
        let recorder = Recorder::default();
        for index in 0..=KEPT {
            recorder.push(RecordedRequest {
                method: "GET".into(),
                path: index.to_string(),
                headers: BTreeMap::new(),
                body: Value::Null,
                at: String::new(),
            });
        }
        let kept = recorder.matching(&RequestFilter::default());
        assert_eq!((kept.len(), kept[0].path.as_str()), (KEPT, "1"));
    }
}
