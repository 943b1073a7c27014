//! Why Exotel's voice API did not do what Ringback requested.

use std::time::Duration;

use reqwest::header::RETRY_AFTER;
use reqwest::{Response, StatusCode};
use ringback_core::call::EndReason;
use serde::Deserialize;

use crate::platform::secrets::SecretError;

/// How many characters of Exotel's error message are kept.
const MAX_MESSAGE_LENGTH: usize = 200;

/// Why Exotel did not do what Ringback requested, by what can be done about it.
#[derive(Debug, thiserror::Error)]
pub enum ExotelError {
    /// The request is wrong, or the account may not do this. A retry fails too.
    #[error("Exotel refused with {status}: {message}")]
    Refused {
        /// The HTTP status code of the reply.
        status: StatusCode,
        /// Exotel's message, without the phone numbers in it.
        message: String,
    },
    /// The account has no balance left, or its plan does not include this (402). The account's owner has to pay.
    #[error("the Exotel account has no balance, or its plan does not include this (402)")]
    NoBalance,
    /// The API key or token is wrong (401). The operator has to correct the secret.
    #[error("Exotel does not accept the API key and token (401)")]
    Unauthorized,
    /// The account has sent too many requests within this minute (429). A later retry may succeed.
    #[error("too many requests to Exotel (429)")]
    TooMany {
        /// When to retry, if Exotel says so.
        retry_after: Option<Duration>,
    },
    /// Exotel could not be reached, or failed. It probably placed no call, and a retry may succeed.
    #[error("Exotel is not available")]
    Unavailable(#[source] ReplyError),
    /// The request was sent, and no usable reply came: **the call may have been placed**. Exotel supports no idempotency
    /// key, so do not retry before the call has been looked up.
    #[error("it is not known whether Exotel placed the call")]
    Unknown(#[source] ReplyError),
    /// Exotel has no call with this CallSid.
    #[error("Exotel has no such call")]
    NoSuchCall,
    /// The configuration lacks a value that calls to phone numbers need, or the value is malformed.
    #[error("the Exotel secret has no usable {0}, which calls to phone numbers need")]
    NotConfigured(&'static str),
    /// The HTTP client could not be built.
    #[error("the HTTP client for Exotel could not be built")]
    NoClient(#[source] reqwest::Error),
    /// The secret with the account could not be read.
    #[error(transparent)]
    Secret(#[from] SecretError),
}

/// Why there is no usable reply.
#[derive(Debug, thiserror::Error)]
pub enum ReplyError {
    /// No reply came, or only a part of it, or it came too late.
    #[error("no complete reply came in time")]
    Incomplete(#[source] reqwest::Error),
    /// Exotel, or a gateway in front of it, replied with an error status.
    #[error("the reply was {0}")]
    ErrorStatus(StatusCode),
    /// The reply contains no call.
    #[error("the reply contains no call")]
    NoCall,
}

impl ReplyError {
    /// A broken connection or a timeout. Drops the URL, which contains the account's id.
    pub(super) fn incomplete(error: reqwest::Error) -> Self {
        Self::Incomplete(error.without_url())
    }
}

impl ExotelError {
    /// Why the call was not placed. `None` where it may have been placed.
    #[must_use]
    pub const fn end_reason(&self) -> Option<EndReason> {
        Some(match self {
            Self::Unknown(_) => return None,
            Self::Refused { .. } | Self::NoSuchCall => EndReason::ExotelRefused,
            Self::NoBalance => EndReason::ExotelNoBalance,
            Self::TooMany { .. } => EndReason::ExotelTooMany,
            Self::Unavailable(_) => EndReason::ExotelUnavailable,
            Self::Unauthorized | Self::NotConfigured(_) | Self::NoClient(_) | Self::Secret(_) => {
                EndReason::ExotelNotConfigured
            }
        })
    }

    /// The error for a reply without a 2xx status.
    pub(super) async fn from_reply(reply: Response) -> Self {
        match reply.status() {
            StatusCode::UNAUTHORIZED => Self::Unauthorized,
            StatusCode::PAYMENT_REQUIRED => Self::NoBalance,
            StatusCode::TOO_MANY_REQUESTS => Self::TooMany {
                retry_after: retry_after(&reply),
            },
            status if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT => {
                Self::Unavailable(ReplyError::ErrorStatus(status))
            }
            status => Self::Refused {
                status,
                message: error_message(&reply.bytes().await.unwrap_or_default()),
            },
        }
    }
}

fn retry_after(reply: &Response) -> Option<Duration> {
    let value = reply.headers().get(RETRY_AFTER)?;
    value.to_str().ok()?.parse().ok().map(Duration::from_secs)
}

/// The `Message` in the body of an error reply.
pub(super) fn error_message(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Envelope {
        #[serde(rename = "RestException")]
        exception: Exception,
    }
    #[derive(Deserialize)]
    struct Exception {
        #[serde(rename = "Message")]
        message: String,
    }
    serde_json::from_slice(body).map_or_else(
        |_| "without a reason".to_owned(),
        |envelope: Envelope| mask_digits(&envelope.exception.message),
    )
}

/// Masks all digits, because Exotel's messages repeat phone numbers, which must not reach a log.
fn mask_digits(text: &str) -> String {
    text.chars()
        .filter(|letter| !letter.is_control())
        .map(|letter| if letter.is_numeric() { '#' } else { letter })
        .take(MAX_MESSAGE_LENGTH)
        .collect()
}
