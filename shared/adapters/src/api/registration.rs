//! `PUT /api/devices/{device_id}`: an app registers for push notifications.

use std::fmt;

use serde_json::{Map, Value};

use crate::api::json_fields::{object, text};
use ringback_core::ids::{BadName, Extension};

/// The longest token, in bytes. Tokens of all push services are shorter.
const LONGEST_TOKEN: usize = 4096;

/// The body of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The extension that the app acts for. Its bearer token must be for the same one.
    pub extension: Extension,
    /// The push service.
    pub platform: PushPlatform,
    /// The device's token at this service.
    pub token: PushToken,
    /// Whether the device gets a SIP account of its own.
    pub sip: bool,
}

/// A push service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushPlatform {
    /// Google's Firebase Cloud Messaging.
    Fcm,
    /// Apple's service for alerts.
    Apns,
    /// Apple's service for VoIP calls.
    ApnsVoip,
}

/// A push service's token. It is opaque and private, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct PushToken(String);

impl Registration {
    /// Reads `{extension, platform, token, sip?}` and ignores other fields.
    ///
    /// # Errors
    /// When the body is not a JSON object, or a field is missing or malformed. The error names the field.
    pub fn parse(body: &[u8]) -> Result<Self, BadName> {
        let fields = object(body)?;
        Ok(Self {
            platform: PushPlatform::parse(text(&fields, "platform")?)?,
            token: PushToken::parse(text(&fields, "token")?)?,
            extension: Extension::try_from(text(&fields, "extension")?)?,
            sip: wants_sip_account(&fields)?,
        })
    }
}

/// `sip`: `true` or `false`. Without it, the device gets no SIP account of its own.
fn wants_sip_account(fields: &Map<String, Value>) -> Result<bool, BadName> {
    match fields.get("sip") {
        None => Ok(false),
        Some(Value::Bool(wanted)) => Ok(*wanted),
        Some(_) => Err(BadName {
            what: "sip",
            rule: "must be true or false",
        }),
    }
}

impl PushPlatform {
    fn parse(text: &str) -> Result<Self, BadName> {
        match text {
            "fcm" => Ok(Self::Fcm),
            "apns" => Ok(Self::Apns),
            "apns_voip" => Ok(Self::ApnsVoip),
            _ => Err(BadName {
                what: "platform",
                rule: "must be fcm, apns or apns_voip",
            }),
        }
    }
}

impl PushToken {
    fn parse(text: &str) -> Result<Self, BadName> {
        let is_token = (1..=LONGEST_TOKEN).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Self(text.to_owned())).ok_or(BadName {
            what: "token",
            rule: "must be 1 to 4096 printable ASCII characters",
        })
    }

    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<PushToken> for String {
    fn from(token: PushToken) -> Self {
        token.0
    }
}

impl fmt::Debug for PushToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PushToken(…)")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parse(body: &Value) -> Result<Registration, BadName> {
        Registration::parse(body.to_string().as_bytes())
    }

    fn good() -> Value {
        json!({ "extension": "1001", "platform": "fcm", "token": "a:B-c_1", "app_version": [1] })
    }

    #[test]
    fn a_registration_is_read_and_debug_hides_its_token() {
        let registration = parse(&good()).unwrap();
        assert_eq!(registration.extension.as_str(), "1001");
        assert_eq!(registration.platform, PushPlatform::Fcm);
        assert_eq!(registration.token.as_str(), "a:B-c_1");
        assert!(!format!("{registration:?}").contains("a:B"));
        assert!(!registration.sip);
        for wanted in [true, false] {
            let mut body = good();
            body["sip"] = wanted.into();
            assert_eq!(parse(&body).unwrap().sip, wanted);
        }
    }

    #[test]
    fn an_error_names_the_field() {
        let longest = json!("x".repeat(LONGEST_TOKEN));
        let with = |name: &str, value: &Value| {
            let mut body = good();
            body[name] = value.clone();
            parse(&body)
        };
        assert!(with("token", &longest).is_ok());
        for (name, value) in [
            ("extension", json!(1001)),
            ("extension", json!("10/01")),
            ("extension", json!("1".repeat(33))),
            ("platform", json!("FCM")),
            ("platform", Value::Null),
            ("token", json!("")),
            ("token", json!("two words")),
            ("token", json!("é")),
            ("token", json!("a\u{0}")),
            ("token", json!("x".repeat(LONGEST_TOKEN + 1))),
            ("token", json!(["a"])),
            ("sip", json!("true")),
            ("sip", json!(1)),
            ("sip", Value::Null),
        ] {
            assert_eq!(with(name, &value).unwrap_err().what, name, "{value}");
        }
        assert_eq!(Registration::parse(b"[]").unwrap_err().what, "the body");
    }
}
