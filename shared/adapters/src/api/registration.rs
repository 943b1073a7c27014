//! What an app says to be reached by push: `PUT /api/devices/{device_id}`.

use std::fmt;

use serde_json::{Map, Value};

use crate::api::call_action::text;
use ringback_core::ids::{BadName, Extension};

/// Longer than any push service's token, in bytes.
const LONGEST_TOKEN: usize = 4096;

/// How an app wants to be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The extension that the app says it speaks for; its token must say so too.
    pub extension: Extension,
    /// Whose push service it is.
    pub platform: Platform,
    /// The device's address there.
    pub token: PushToken,
}

/// A push service that an app can be reached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Platform {
    /// Google's.
    Fcm,
    /// Apple's, for ordinary notifications.
    Apns,
    /// Apple's, for calls.
    ApnsVoip,
}

/// A push service's token: opaque, and private, so hidden from `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct PushToken(String);

impl Registration {
    /// Reads `{extension, platform, token}`. Fields that it does not know are ignored.
    ///
    /// # Errors
    /// When the body is no JSON object, or a field is missing, of the wrong type or malformed: with the field's name.
    pub fn parse(body: &[u8]) -> Result<Self, BadName> {
        let not_json = BadName {
            what: "the body",
            rule: "must be a JSON object",
        };
        let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|_| not_json)?;
        Ok(Self {
            platform: Platform::parse(text(&fields, "platform")?)?,
            token: PushToken::parse(text(&fields, "token")?)?,
            extension: Extension::try_from(text(&fields, "extension")?)?,
        })
    }
}

impl Platform {
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
    use serde_json::json;

    use super::*;

    fn parse(body: &Value) -> Result<Registration, BadName> {
        Registration::parse(body.to_string().as_bytes())
    }

    fn good() -> Value {
        json!({ "extension": "1001", "platform": "fcm", "token": "a:B-c_1", "app_version": [1] })
    }

    #[test]
    fn a_registration_is_read_and_its_token_stays_private() {
        let registration = parse(&good()).unwrap();
        assert_eq!(registration.extension.as_str(), "1001");
        assert_eq!(registration.platform, Platform::Fcm);
        assert_eq!(registration.token.as_str(), "a:B-c_1");
        assert!(!format!("{registration:?}").contains("a:B"));
    }

    #[test]
    fn what_is_wrong_is_named() {
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
        ] {
            assert_eq!(with(name, &value).unwrap_err().what, name, "{value}");
        }
        assert_eq!(Registration::parse(b"[]").unwrap_err().what, "the body");
    }
}
