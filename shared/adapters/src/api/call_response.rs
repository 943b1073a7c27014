//! `call_response`: an app accepts, declines or ends a call, over HTTP (`POST /api/call-response`) or over the WebSocket.

use serde_json::{Value, json};

use crate::api::error::ApiError;
use crate::api::error_code::ApiErrorCode;
use crate::api::http::ApiAnswer;
use crate::api::json_fields::{object, text};
use crate::auth::Bearer;
use crate::auth::signing::Signing;
use crate::effect_runner::EffectRunner;
use crate::platform::invocation::InvocationContext;
use crate::store::calls::DynamoCallStore;
use crate::switchboard::Switchboard;
use ringback_core::call::{CallParty, CallStatus, Event, Readiness};
use ringback_core::ids::{BadName, CallId, DeviceId, Extension};

/// Reads a `call_response`, checks that this client may send it, and hands it to the switchboard.
///
/// # Errors
/// When the body is malformed, the token is for another extension, the call is unknown, or the rules of the call reject it.
pub async fn handle(
    switchboard: &Switchboard<DynamoCallStore, EffectRunner>,
    signing: &Signing,
    bearer: &Bearer,
    body: &[u8],
    invocation: InvocationContext,
) -> Result<AcceptedResponse, ApiError> {
    let InvocationContext { now, deadline } = invocation;
    let response = CallResponse::parse(body)?;
    let party = bearer.acting_for(&response.extension);
    let party = party.ok_or(ApiErrorCode::NotYourExtension)?.clone();
    signing.check(response.call_id, now).await?;
    let (call_id, event) = (response.call_id, response.event(party));
    let outcome = switchboard.handle(call_id, &event, now, deadline).await?;
    match outcome.rejected {
        None => Ok(AcceptedResponse {
            call_id,
            status: outcome.call.status,
        }),
        Some(reason) => Err(ApiError::rejected(reason, &outcome.call, now)),
    }
}

/// A `call_response` that the call has taken.
#[derive(Clone, Copy, Debug)]
pub struct AcceptedResponse {
    /// The call's id, as the app sent it.
    pub call_id: CallId,
    /// The call's status after it.
    pub status: CallStatus,
}

impl AcceptedResponse {
    /// The answer over HTTP.
    #[must_use]
    pub fn into_answer(self) -> ApiAnswer {
        ApiAnswer::ok(json!({ "status": self.status }))
    }

    /// The answer over the WebSocket.
    #[must_use]
    pub fn into_message(self) -> Value {
        json!({ "type": "call_response", "success": true, "server_call_id": self.call_id, "status": self.status })
    }
}

/// What the app sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResponse {
    /// The call.
    pub call_id: CallId,
    /// The extension that the app acts for. Its token must be for the same one.
    pub extension: Extension,
    /// What the app does.
    pub action: CallAction,
    /// The app's device. An extension with several devices needs it, so that only the devices that did not answer stop
    /// ringing.
    pub device: Option<DeviceId>,
}

/// What an app can do with a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallAction {
    /// Take the call; the app was running already.
    Accept,
    /// Take the call; the app has been woken and is ready now.
    AcceptReady,
    /// Do not take the call.
    Decline,
    /// End the call.
    HangUp,
}

impl CallResponse {
    /// Reads `{server_call_id, extension, action, timestamp, device_id?}` and ignores other fields.
    ///
    /// # Errors
    /// When the body is not a JSON object, or a field is missing or malformed. The error names the field.
    pub fn parse(body: &[u8]) -> Result<Self, BadName> {
        let fields = object(body)?;
        if !fields
            .get("timestamp")
            .is_none_or(|value| value.is_u64() || value.is_f64())
        {
            return Err(BadName {
                what: "timestamp",
                rule: "must be a number: milliseconds since the Unix epoch",
            });
        }
        let device = fields.get("device_id").filter(|value| !value.is_null());
        Ok(Self {
            call_id: CallId::try_from(text(&fields, "server_call_id")?)?,
            extension: Extension::try_from(text(&fields, "extension")?)?,
            action: CallAction::parse(text(&fields, "action")?)?,
            device: device
                .map(|_| DeviceId::try_from(text(&fields, "device_id")?))
                .transpose()?,
        })
    }

    /// The event for the call. `party` is from the token; a device in the body replaces the token's.
    #[must_use]
    pub fn event(self, party: CallParty) -> Event {
        let by = CallParty {
            device: self.device.or(party.device),
            ..party
        };
        match self.action {
            CallAction::Accept => Event::Accepted {
                by,
                readiness: Readiness::Running,
            },
            CallAction::AcceptReady => Event::Accepted {
                by,
                readiness: Readiness::Woken,
            },
            CallAction::Decline => Event::Declined { by },
            CallAction::HangUp => Event::HungUp { by },
        }
    }
}

impl CallAction {
    /// The action as apps send it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accept => "accept",
            Self::AcceptReady => "accept_ready",
            Self::Decline => "decline",
            Self::HangUp => "hangup",
        }
    }

    fn parse(text: &str) -> Result<Self, BadName> {
        match text {
            "accept" => Ok(Self::Accept),
            "accept_ready" => Ok(Self::AcceptReady),
            "decline" => Ok(Self::Decline),
            "hangup" => Ok(Self::HangUp),
            _ => Err(BadName {
                what: "action",
                rule: "must be accept, accept_ready, decline or hangup",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"server_call_id":"6f3c1a9e-0d5b-5c7e-9a51-2f1c7a6e4b10","extension":"1001",
        "action":"accept_ready","timestamp":1732175943000,"anything":"else"}"#;

    #[test]
    fn a_response_is_read_as_the_app_sends_it() {
        let response = CallResponse::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(
            (response.action, response.extension.as_str()),
            (CallAction::AcceptReady, "1001")
        );
        assert_eq!(response.device, None);
    }

    #[test]
    fn an_error_names_the_field() {
        let cases = [
            ("", "the body"),
            ("[]", "the body"),
            ("{}", "server_call_id"),
            (&GOOD.replace("6f3c1a9e-", ""), "server_call_id"),
            (&GOOD.replace("\"1001\"", "1001"), "extension"),
            (&GOOD.replace("accept_ready", "answer"), "action"),
            (&GOOD.replace("1732175943000", "\"now\""), "timestamp"),
            (
                &GOOD.replace("\"anything\":\"else\"", "\"device_id\":7"),
                "device_id",
            ),
        ];
        for (body, what) in cases {
            assert_eq!(
                CallResponse::parse(body.as_bytes()).unwrap_err().what,
                what,
                "{body}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _refused_or_read = CallResponse::parse(&body);
        }
    }
}
