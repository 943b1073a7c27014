//! The request that makes Exotel connect two phone numbers.
//!
//! <https://developer.exotel.com/api/make-a-call-api>

use std::time::Duration;

use ringback_core::ids::CallId;
use ringback_core::phone_number::PhoneNumber;
use secrecy::{ExposeSecret, SecretString};

/// The longest `TimeOut` that Exotel accepts.
const MAX_RING: Duration = Duration::from_secs(60);
/// The longest `TimeLimit` that Exotel accepts.
const MAX_CALL: Duration = Duration::from_secs(4 * 60 * 60);

/// A call to place. Exotel calls `from` first. When `from` has answered, Exotel calls `to` and connects the two.
#[derive(Debug, Clone)]
pub struct ConnectRequest {
    /// The number that is called first.
    pub from: PhoneNumber,
    /// The number that is called second.
    pub to: PhoneNumber,
    /// The ExoPhone that both phones see as the caller, see [`Exotel::caller_id`](super::Exotel::caller_id).
    pub caller_id: PhoneNumber,
    /// Ringback's id of the call, which Exotel repeats in its reports.
    pub custom_field: CallId,
    /// Where Exotel sends its reports. The URL contains a token for this call.
    pub status_callback: SecretString,
    /// The longest conversation; four hours at most.
    pub time_limit: Duration,
    /// How long each phone may ring; a minute at most.
    pub ring_timeout: Duration,
}

impl ConnectRequest {
    pub(super) fn form_fields(&self) -> [(&'static str, String); 13] {
        let seconds =
            |wanted: Duration, max: Duration| wanted.min(max).as_secs().max(1).to_string();
        [
            ("From", self.from.to_string()),
            ("To", self.to.to_string()),
            ("CallerId", self.caller_id.to_string()),
            ("CallType", "trans".to_owned()),
            ("TimeLimit", seconds(self.time_limit, MAX_CALL)),
            ("TimeOut", seconds(self.ring_timeout, MAX_RING)),
            // By default, Exotel calls a phone that does not answer three more times.
            ("MaxRetries", "0".to_owned()),
            ("Record", "false".to_owned()),
            ("CustomField", self.custom_field.to_string()),
            (
                "StatusCallback",
                self.status_callback.expose_secret().to_owned(),
            ),
            ("StatusCallbackEvents[0]", "terminal".to_owned()),
            ("StatusCallbackEvents[1]", "answered".to_owned()),
            ("StatusCallbackContentType", "application/json".to_owned()),
        ]
    }
}
