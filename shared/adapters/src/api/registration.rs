//! `PUT /api/devices/{device_id}`: an app registers its device and its push addresses.

use serde_json::{Map, Value};

use crate::api::json_fields::{object, text};
use crate::store::devices::PushToken;
use ringback_core::call::PushPlatform;
use ringback_core::ids::{BadName, Extension};

/// The body of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The extension that the app acts for. Its bearer token must be for the same one.
    pub extension: Extension,
    /// The device's addresses, at most one of each push service.
    pub addresses: Vec<(PushPlatform, PushToken)>,
    /// Whether the device gets a SIP account of its own (`true`), or uses that of its extension (`false`). `None`: as before.
    pub sip: Option<bool>,
}

impl Registration {
    /// Reads `{extension, platform, token, sip?}` or `{extension, addresses: [{platform, token}, …], sip?}`, and ignores other fields. A
    /// device that needs no push has no addresses.
    ///
    /// # Errors
    /// When the body is not a JSON object, or a field is missing or malformed. The error names the field.
    pub fn parse(body: &[u8]) -> Result<Self, BadName> {
        let fields = object(body)?;
        let addresses = match fields.get("addresses") {
            None => vec![address(&fields)?],
            Some(addresses) => several(addresses, &fields)?,
        };
        Ok(Self {
            addresses,
            extension: Extension::try_from(text(&fields, "extension")?)?,
            sip: fields.get("sip").map(true_or_false).transpose()?,
        })
    }
}

fn true_or_false(sip: &Value) -> Result<bool, BadName> {
    sip.as_bool().ok_or(BadName {
        what: "sip",
        rule: "must be true or false",
    })
}

fn several(
    addresses: &Value,
    fields: &Map<String, Value>,
) -> Result<Vec<(PushPlatform, PushToken)>, BadName> {
    let malformed = |rule| BadName {
        what: "addresses",
        rule,
    };
    if fields.contains_key("platform") || fields.contains_key("token") {
        return Err(malformed("must not be combined with platform and token"));
    }
    let addresses = addresses.as_array();
    let addresses = addresses.ok_or(malformed("must be a list"))?.iter();
    let mut several = Vec::new();
    for one in addresses {
        let one = one.as_object();
        let (platform, token) = address(one.ok_or(malformed("must contain objects"))?)?;
        if several.iter().any(|(other, _)| *other == platform) {
            return Err(malformed("must not contain a platform twice"));
        }
        several.push((platform, token));
    }
    Ok(several)
}

fn address(fields: &Map<String, Value>) -> Result<(PushPlatform, PushToken), BadName> {
    let platform = PushPlatform::try_from(text(fields, "platform")?)?;
    Ok((platform, PushToken::try_from(text(fields, "token")?)?))
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

    fn with_addresses(addresses: &Value) -> Value {
        json!({ "extension": "1001", "addresses": addresses })
    }

    #[test]
    fn a_registration_is_read_and_debug_hides_its_token() {
        let registration = parse(&good()).unwrap();
        assert_eq!(registration.extension.as_str(), "1001");
        let [(platform, token)] = registration.addresses.as_slice() else {
            panic!("{registration:?}");
        };
        assert_eq!(*platform, PushPlatform::Fcm);
        assert_eq!(token.as_str(), "a:B-c_1");
        assert!(!format!("{registration:?}").contains("a:B"));
        assert_eq!(registration.sip, None);
        for wanted in [true, false] {
            let mut body = good();
            body["sip"] = wanted.into();
            assert_eq!(parse(&body).unwrap().sip, Some(wanted));
        }
    }

    #[test]
    fn a_device_registers_several_addresses_at_once_or_none() {
        let two = json!([
            { "platform": "apns", "token": "a1" },
            { "platform": "apns_voip", "token": "b2" },
        ]);
        let registration = parse(&with_addresses(&two)).unwrap();
        let read = registration.addresses.iter();
        let read: Vec<_> = read
            .map(|(platform, token)| (*platform, token.as_str()))
            .collect();
        assert_eq!(
            read,
            [(PushPlatform::Apns, "a1"), (PushPlatform::ApnsVoip, "b2")]
        );
        let none = parse(&with_addresses(&json!([]))).unwrap();
        assert_eq!(none.addresses, []);
    }

    #[test]
    fn an_error_names_the_field() {
        let longest = json!("x".repeat(4096));
        let with = |name: &str, value: &Value| {
            let mut body = good();
            body[name] = value.clone();
            parse(&body)
        };
        assert!(with("token", &longest).is_ok());
        for (name, value) in [
            ("extension", json!(1001)),
            ("extension", json!("10/01")),
            ("extension", json!("1".repeat(65))),
            ("platform", json!("FCM")),
            ("platform", Value::Null),
            ("token", json!("")),
            ("token", json!("two words")),
            ("token", json!("é")),
            ("token", json!("a\u{0}")),
            ("token", json!("x".repeat(4097))),
            ("token", json!(["a"])),
            ("addresses", json!([])),
            ("sip", json!("true")),
            ("sip", json!(1)),
            ("sip", Value::Null),
        ] {
            assert_eq!(with(name, &value).unwrap_err().what, name, "{value}");
        }
        assert_eq!(Registration::parse(b"[]").unwrap_err().what, "the body");
    }

    #[test]
    fn an_error_in_one_of_several_addresses_names_the_field() {
        let voip = json!({ "platform": "apns_voip", "token": "b2" });
        for (name, addresses) in [
            ("addresses", Value::Null),
            ("addresses", voip.clone()),
            ("addresses", json!(["b2"])),
            ("addresses", json!([voip, voip])),
            (
                "platform",
                json!([voip, { "platform": "sms", "token": "1" }]),
            ),
            ("platform", json!([{ "token": "1" }])),
            ("token", json!([voip, { "platform": "fcm" }])),
        ] {
            let error = parse(&with_addresses(&addresses)).unwrap_err();
            assert_eq!(error.what, name, "{addresses}");
        }
        let mut both = with_addresses(&json!([voip]));
        both["token"] = "b2".into();
        assert_eq!(parse(&both).unwrap_err().what, "addresses");
    }
}
