//! What a phone app says of a call: `POST /api/call-response` (S1).

use serde_json::{Map, Value};

use ringback_core::call::{CallParty, Event, Readiness};
use ringback_core::ids::{BadName, CallId, DeviceId, Extension};

/// An app's answer to a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallResponse {
    /// The call.
    pub call_id: CallId,
    /// The extension that the app says it speaks for; its token must say so too.
    pub extension: Extension,
    /// What the app wants.
    pub action: Action,
    /// Which of the extension's devices it is, if the app says so. With several devices it has to, or those that did
    /// not answer cannot be told from the one that did.
    pub device: Option<DeviceId>,
}

/// What an app can want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
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
    /// Reads `{server_call_id, extension, action, timestamp, device_id?}`. Fields that it does not know are ignored.
    ///
    /// # Errors
    /// When the body is no JSON object, or a field is missing, of the wrong type or malformed: with the field's name.
    pub fn parse(body: &[u8]) -> Result<Self, BadName> {
        let not_json = BadName {
            what: "the body",
            rule: "must be a JSON object",
        };
        let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| not_json)?;
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
            action: Action::parse(text(&fields, "action")?)?,
            device: device
                .map(|_| DeviceId::try_from(text(&fields, "device_id")?))
                .transpose()?,
        })
    }

    /// The event that this is, said by `party`. A device named here goes before the one in the token.
    #[must_use]
    pub fn event(self, party: CallParty) -> Event {
        let by = CallParty {
            device: self.device.or(party.device),
            ..party
        };
        match self.action {
            Action::Accept => Event::Accepted {
                by,
                readiness: Readiness::Running,
            },
            Action::AcceptReady => Event::Accepted {
                by,
                readiness: Readiness::Woken,
            },
            Action::Decline => Event::Declined { by },
            Action::HangUp => Event::HungUp { by },
        }
    }
}

impl Action {
    /// The action as apps write it.
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

/// A field that must be text.
///
/// # Errors
/// When it is missing or of another type.
pub fn text<'a>(fields: &'a Map<String, Value>, name: &'static str) -> Result<&'a str, BadName> {
    fields.get(name).and_then(Value::as_str).ok_or(BadName {
        what: name,
        rule: "must be a string",
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"{"server_call_id":"6f3c1a9e-0d5b-5c7e-9a51-2f1c7a6e4b10","extension":"1001",
        "action":"accept_ready","timestamp":1732175943000,"anything":"else"}"#;

    #[test]
    fn an_answer_is_read_as_the_app_sends_it() {
        let response = CallResponse::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(
            (response.action, response.extension.as_str()),
            (Action::AcceptReady, "1001")
        );
        assert_eq!(response.device, None);
    }

    #[test]
    fn what_is_wrong_is_named() {
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
        fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _refused_or_read = CallResponse::parse(&body);
        }
    }
}
