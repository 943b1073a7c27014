//! FCM's HTTP v1 API, and Google's token endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Form, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::behaviour::{self, ConfiguredFailure, DeviceError, Operation, SharedBehaviour};
use super::fcm_message::{self, FieldViolation};
use super::google_token::TokenEndpoint;
use super::recorder;
use crate::credentials::ServiceAccount;

#[derive(Clone)]
struct FcmState {
    project: Arc<str>,
    tokens: Arc<TokenEndpoint>,
    behaviour: SharedBehaviour,
}

/// The stand-in for one project and its service account.
pub fn router(account: &ServiceAccount) -> anyhow::Result<Router> {
    let tokens = TokenEndpoint::new(
        &account.client_email,
        &account.token_uri,
        &account.public_key_pem,
    )?;
    let behaviour = SharedBehaviour::default();
    let fcm = FcmState {
        project: account.project_id.as_str().into(),
        tokens: Arc::new(tokens),
        behaviour: behaviour.clone(),
    };
    let service = Router::new()
        .route("/token", post(issue_token))
        .route("/v1/projects/{project}/{operation}", post(send))
        .fallback(not_found)
        .with_state(fcm.clone());
    let control = Router::new()
        .route("/key", put(replace_key))
        .with_state(fcm);
    Ok(recorder::recorded(service)
        .merge(control)
        .merge(behaviour::router(behaviour)))
}

#[derive(Deserialize)]
struct NewKey {
    public_key: String,
}

/// `PUT /key`: replaces the service account's key.
async fn replace_key(State(fcm): State<FcmState>, Json(new): Json<NewKey>) -> Response {
    match fcm.tokens.replace_key(&new.public_key) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

/// `POST /token`.
async fn issue_token(
    State(fcm): State<FcmState>,
    Form(form): Form<BTreeMap<String, String>>,
) -> Response {
    if let Some(failure) = fcm.behaviour.next_failure(Operation::Token).await {
        let body = json!({"error": "internal_failure", "error_description": "the stand-in is configured to fail"});
        return failing(&failure, body);
    }
    match fcm.tokens.issue(&form, OffsetDateTime::now_utc()) {
        Ok((token, lifetime)) => {
            Json(json!({"access_token": token, "expires_in": lifetime, "token_type": "Bearer"}))
                .into_response()
        }
        Err(error) => {
            let body = json!({"error": error.error, "error_description": error.description});
            (StatusCode::BAD_REQUEST, Json(body)).into_response()
        }
    }
}

/// `POST /v1/projects/{project}/messages:send`.
async fn send(
    State(fcm): State<FcmState>,
    Path((project, operation)): Path<(String, String)>,
    headers: HeaderMap,
    body: String,
) -> Response {
    if operation != "messages:send" {
        return not_found().await;
    }
    if let Some(failure) = fcm.behaviour.next_failure(Operation::Send).await {
        return failing(&failure, failure_body(failure.status));
    }
    if !bearer(&headers).is_some_and(|token| fcm.tokens.knows(token, OffsetDateTime::now_utc())) {
        return unauthenticated();
    }
    if *project != *fcm.project {
        return permission_denied(&project);
    }
    let Ok(body) = serde_json::from_str::<Value>(&body) else {
        return field_violation(&FieldViolation {
            field: String::new(),
            description: "Invalid JSON payload received.".into(),
        });
    };
    let message = match fcm_message::check(&body) {
        Ok(message) => message,
        Err(violation) => return field_violation(&violation),
    };
    if let Some(error) = message
        .token
        .and_then(|token| fcm.behaviour.device_error(&token))
    {
        return device_error(error);
    }
    let id = if message.validate_only {
        "fake_message_id".into()
    } else {
        message_id()
    };
    Json(json!({"name": format!("projects/{project}/messages/{id}")})).into_response()
}

/// A message id in the real format: `0:`, digits, `%`, hexadecimal digits.
fn message_id() -> String {
    let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000;
    let tail: String = Uuid::new_v4()
        .simple()
        .to_string()
        .chars()
        .take(16)
        .collect();
    format!("0:{now}%{tail}")
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    headers
        .get(header::AUTHORIZATION)?
        .to_str()
        .ok()?
        .strip_prefix("Bearer ")
}

async fn not_found() -> Response {
    envelope(
        StatusCode::NOT_FOUND,
        "NOT_FOUND",
        "Requested entity was not found.",
        json!([]),
    )
}

const NO_CREDENTIALS: &str = "Request had invalid authentication credentials. Expected OAuth 2 access token, login \
                              cookie or other valid authentication credential.";

fn unauthenticated() -> Response {
    envelope(
        StatusCode::UNAUTHORIZED,
        "UNAUTHENTICATED",
        NO_CREDENTIALS,
        json!([]),
    )
}

fn permission_denied(project: &str) -> Response {
    let message = format!(
        "Permission 'cloudmessaging.messages.create' denied on resource \
         '//cloudresourcemanager.googleapis.com/projects/{project}' (or it may not exist)."
    );
    envelope(
        StatusCode::FORBIDDEN,
        "PERMISSION_DENIED",
        &message,
        json!([]),
    )
}

fn field_violation(violation: &FieldViolation) -> Response {
    let details = json!([
        {"@type": "type.googleapis.com/google.rpc.BadRequest",
         "fieldViolations": [{"field": violation.field, "description": violation.description}]},
        fcm_error("INVALID_ARGUMENT"),
    ]);
    envelope(
        StatusCode::BAD_REQUEST,
        "INVALID_ARGUMENT",
        &violation.description,
        details,
    )
}

fn device_error(error: DeviceError) -> Response {
    let (status, canonical, code, message) = match error {
        DeviceError::Unregistered => (
            404,
            "NOT_FOUND",
            "UNREGISTERED",
            "Requested entity was not found.",
        ),
        DeviceError::InvalidArgument => (
            400,
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
            "The registration token is not a valid FCM registration token",
        ),
        DeviceError::SenderIdMismatch => (
            403,
            "PERMISSION_DENIED",
            "SENDER_ID_MISMATCH",
            "SenderId mismatch",
        ),
        DeviceError::QuotaExceeded => (
            429,
            "RESOURCE_EXHAUSTED",
            "QUOTA_EXCEEDED",
            "Message rate exceeded.",
        ),
        DeviceError::Unavailable => (
            503,
            "UNAVAILABLE",
            "UNAVAILABLE",
            "The service is currently unavailable.",
        ),
        DeviceError::Internal => (500, "INTERNAL", "INTERNAL", "Internal error encountered."),
        DeviceError::ThirdPartyAuthError => (
            401,
            "UNAUTHENTICATED",
            "THIRD_PARTY_AUTH_ERROR",
            "Auth error from APNS or Web Push Service",
        ),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut details = vec![fcm_error(code)];
    if error == DeviceError::ThirdPartyAuthError {
        details.push(
            json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.ApnsError",
                            "statusCode": 403, "reason": "InvalidProviderToken"}),
        );
    }
    envelope(status, canonical, message, details.into())
}

fn failure_body(status: u16) -> Value {
    if status == 401 {
        // This 401 is about the access token. A 401 about the APNs credential is a device error.
        return error_body(status, "UNAUTHENTICATED", NO_CREDENTIALS, json!([]));
    }
    let (canonical, code, message) = match status {
        400 => (
            "INVALID_ARGUMENT",
            "INVALID_ARGUMENT",
            "Request contains an invalid argument.",
        ),
        403 => (
            "PERMISSION_DENIED",
            "SENDER_ID_MISMATCH",
            "SenderId mismatch",
        ),
        404 => (
            "NOT_FOUND",
            "UNREGISTERED",
            "Requested entity was not found.",
        ),
        429 => (
            "RESOURCE_EXHAUSTED",
            "QUOTA_EXCEEDED",
            "Quota exceeded for quota metric 'Sending messages'.",
        ),
        503 => (
            "UNAVAILABLE",
            "UNAVAILABLE",
            "The service is currently unavailable.",
        ),
        _ => ("INTERNAL", "INTERNAL", "Internal error encountered."),
    };
    error_body(status, canonical, message, json!([fcm_error(code)]))
}

fn failing(failure: &ConfiguredFailure, body: Value) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = (status, Json(body)).into_response();
    if let Some(seconds) = failure.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn envelope(status: StatusCode, canonical: &str, message: &str, details: Value) -> Response {
    (
        status,
        Json(error_body(status.as_u16(), canonical, message, details)),
    )
        .into_response()
}

fn error_body(status: u16, canonical: &str, message: &str, details: Value) -> Value {
    let mut error = json!({"code": status, "message": message, "status": canonical});
    if details
        .as_array()
        .is_some_and(|details| !details.is_empty())
    {
        error["details"] = details;
    }
    json!({"error": error})
}

fn fcm_error(code: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::serve_anywhere;
    use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
    use reqwest::Client;

    struct Running {
        base: String,
        http: Client,
        account: ServiceAccount,
    }

    async fn running() -> Running {
        let account = ServiceAccount::generate("http://fcm.local/token").unwrap();
        let (address, _) = serve_anywhere(router(&account).unwrap()).await.unwrap();
        Running {
            base: format!("http://{address}"),
            http: Client::new(),
            account,
        }
    }

    impl Running {
        async fn token(&self) -> String {
            let now = OffsetDateTime::now_utc().unix_timestamp();
            let claims = json!({
                "iss": self.account.client_email, "aud": self.account.token_uri, "iat": now, "exp": now + 3_600,
                "scope": "https://www.googleapis.com/auth/firebase.messaging",
            });
            let key = EncodingKey::from_rsa_pem(self.account.private_key_pem.as_bytes()).unwrap();
            let assertion = encode(&Header::new(Algorithm::RS256), &claims, &key).unwrap();
            let form = [
                ("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"),
                ("assertion", &assertion),
            ];
            let answer = self
                .http
                .post(format!("{}/token", self.base))
                .form(&form)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 200);
            answer.json::<Value>().await.unwrap()["access_token"]
                .as_str()
                .unwrap()
                .to_owned()
        }

        async fn send(&self, token: &str, device: &str) -> (u16, Value) {
            let url = format!(
                "{}/v1/projects/{}/messages:send",
                self.base, self.account.project_id
            );
            let body = json!({"message": {"token": device, "data": {"type": "incoming_call"}}});
            let answer = self
                .http
                .post(url)
                .bearer_auth(token)
                .json(&body)
                .send()
                .await
                .unwrap();
            (answer.status().as_u16(), answer.json().await.unwrap())
        }

        async fn set_behaviour(&self, behaviour: Value) {
            let answer = self
                .http
                .put(format!("{}/behaviour", self.base))
                .json(&behaviour)
                .send()
                .await
                .unwrap();
            assert_eq!(answer.status(), 204);
        }
    }

    #[tokio::test]
    async fn a_message_is_sent_with_a_token_and_recorded() {
        let fcm = running().await;
        let token = fcm.token().await;
        let (status, answer) = fcm.send(&token, "device").await;
        assert_eq!(status, 200);
        assert!(
            answer["name"]
                .as_str()
                .unwrap()
                .starts_with("projects/ringback-local/messages/0:")
        );

        let requests: Value = fcm
            .http
            .get(format!("{}/requests", fcm.base))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        let paths: Vec<_> = requests
            .as_array()
            .unwrap()
            .iter()
            .map(|request| request["path"].clone())
            .collect();
        assert_eq!(
            paths,
            [
                json!("/token"),
                json!("/v1/projects/ringback-local/messages:send")
            ]
        );
        assert_eq!(requests[1]["body"]["message"]["token"], "device");
        assert_eq!(
            requests[1]["headers"]["authorization"],
            format!("Bearer {token}")
        );

        fcm.http
            .delete(format!("{}/requests", fcm.base))
            .send()
            .await
            .unwrap();
        let left: Value = fcm
            .http
            .get(format!("{}/requests", fcm.base))
            .send()
            .await
            .unwrap()
            .json()
            .await
            .unwrap();
        assert_eq!(left, json!([]));
    }

    #[tokio::test]
    async fn an_unknown_access_token_is_rejected() {
        let (status, answer) = running().await.send("ya29.guessed", "device").await;
        assert_eq!(
            (status, answer["error"]["status"].as_str()),
            (401, Some("UNAUTHENTICATED"))
        );
    }

    #[tokio::test]
    async fn another_project_is_rejected() {
        let mut fcm = running().await;
        let token = fcm.token().await;
        fcm.account.project_id = "another-project".into();
        let (status, answer) = fcm.send(&token, "device").await;
        assert_eq!(
            (status, answer["error"]["status"].as_str()),
            (403, Some("PERMISSION_DENIED"))
        );
    }

    #[tokio::test]
    async fn an_unregistered_device_gets_404() {
        let fcm = running().await;
        fcm.set_behaviour(json!({"tokens": {"gone": "UNREGISTERED"}}))
            .await;
        let token = fcm.token().await;
        let (status, answer) = fcm.send(&token, "gone").await;
        assert_eq!(
            (status, answer["error"]["status"].as_str()),
            (404, Some("NOT_FOUND"))
        );
        assert_eq!(answer["error"]["details"][0]["errorCode"], "UNREGISTERED");
        assert_eq!(fcm.send(&token, "device").await.0, 200);
    }

    #[tokio::test]
    async fn configured_failures_are_used_up() {
        let fcm = running().await;
        fcm.set_behaviour(json!({"send": [{"status": 503, "times": 2, "retry_after": 1}]}))
            .await;
        let token = fcm.token().await;
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(fcm.send(&token, "device").await.0);
        }
        assert_eq!(statuses, [503, 503, 200]);
    }
}
