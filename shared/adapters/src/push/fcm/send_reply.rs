//! FCM's reply to one attempt to send a push.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use secrecy::SecretString;
use serde_json::Value;

use crate::platform::secrets::ServiceAccount;
use crate::push::push_message::{PushError, RetryAfter};

/// Why one attempt to send failed.
pub(super) enum SendFailure {
    /// The registration token is no longer valid.
    TokenUnregistered,
    /// Google rejected the access token, or the service account itself if `access` is `None`.
    AccessRefused {
        account: Arc<ServiceAccount>,
        access: Option<SecretString>,
        description: String,
    },
    /// FCM is overloaded or failed. A retry may succeed.
    Busy {
        retry: RetryAfter,
        description: String,
    },
    /// FCM did not answer.
    NoReply {
        retry: RetryAfter,
        description: String,
    },
    /// FCM refused the push. A retry fails too.
    Refused(String),
}

/// What a failure means if the push is not sent again at once.
impl From<SendFailure> for PushError {
    fn from(failure: SendFailure) -> Self {
        match failure {
            SendFailure::TokenUnregistered => Self::AddressExpired,
            SendFailure::Busy { retry, description }
            | SendFailure::NoReply { retry, description } => Self::Delayed { retry, description },
            SendFailure::AccessRefused { description, .. } | SendFailure::Refused(description) => {
                Self::NotAccepted(description)
            }
        }
    }
}

/// Reads a reply. The error codes are documented at <https://firebase.google.com/docs/reference/fcm/rest/v1/ErrorCode>.
pub(super) async fn read_reply(
    reply: Response,
    account: Arc<ServiceAccount>,
    access: SecretString,
) -> Result<(), SendFailure> {
    let status = reply.status();
    if status.is_success() {
        return Ok(());
    }
    let told = reply
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(|seconds| RetryAfter::AsTold(Duration::from_secs(seconds)));
    let busy = |otherwise, description| SendFailure::Busy {
        retry: told.unwrap_or(otherwise),
        description,
    };
    let code = error_code(&reply.text().await.unwrap_or_default());
    let description = format!("{status} {code}");
    Err(match status {
        StatusCode::NOT_FOUND if code == "UNREGISTERED" => SendFailure::TokenUnregistered,
        // The project's APNs or web push credential is wrong. The access token is valid, and a new one does not help.
        StatusCode::UNAUTHORIZED if code == "THIRD_PARTY_AUTH_ERROR" => {
            SendFailure::Refused(description)
        }
        StatusCode::UNAUTHORIZED => SendFailure::AccessRefused {
            account,
            access: Some(access),
            description,
        },
        // Other codes with 403, such as SENDER_ID_MISMATCH for a phone that has registered with another project, are not
        // about the account.
        StatusCode::FORBIDDEN if code == "PERMISSION_DENIED" => SendFailure::AccessRefused {
            account,
            access: None,
            description,
        },
        StatusCode::TOO_MANY_REQUESTS => busy(RetryAfter::QUOTA_EXCEEDED, description),
        status if status.is_server_error() => busy(RetryAfter::SERVER_ERROR, description),
        _ => SendFailure::Refused(description),
    })
}

/// The `errorCode` of FCM's error body, or its `status`.
pub(super) fn error_code(body: &str) -> String {
    let envelope: Value = serde_json::from_str(body).unwrap_or_default();
    let error = &envelope["error"];
    let detail = error["details"]
        .as_array()
        .into_iter()
        .flatten()
        .find_map(|detail| detail["errorCode"].as_str());
    detail
        .or_else(|| error["status"].as_str())
        .unwrap_or("without a code")
        .to_owned()
}
