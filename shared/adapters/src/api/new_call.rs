//! `incoming_call`: a connected app starts a call. The name of the message is the callee's view of it (docs/origin.md).

use serde_json::{Map, Value};

use crate::api::json_fields::text;
use ringback_core::call::CallType;
use ringback_core::ids::{BadName, DeviceId, Extension, Reference};
use ringback_core::phone_number::PhoneNumber;

/// The call that an app asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRequest {
    /// The caller, `callerId`. Without it, the app itself.
    pub caller: Option<Address>,
    /// The callee, `recipientId`.
    pub recipient: Address,
    /// `callType`. Without it, voice.
    pub call_type: CallType,
    /// The app's own name for the call, `clientReference`. A repeated request with the same name is the same call.
    pub reference: Option<Reference>,
    /// The device that starts the call, `deviceId`. Without it, the device of the app's token.
    pub device: Option<DeviceId>,
}

/// A caller or a callee.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// An app of this deployment.
    App(Extension),
    /// A telephone in the public network.
    Telephone(PhoneNumber),
}

/// The number of digits of a telephone number. E.164 allows 15 at most; a shorter name is an extension.
const DIGITS: std::ops::RangeInclusive<usize> = 8..=15;

/// What `recipientId` names, `recipientType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AddressType {
    Extension,
    Number,
}

impl Address {
    /// A name that begins with `+` or has 8 to 15 digits is a telephone number; any other is an extension. So the meaning of a
    /// name does not depend on registered devices. A number without a country code belongs to `country` (ISO 3166).
    ///
    /// # Errors
    /// When `text` is neither. `what` is the field's name for the error.
    pub fn parse(text: &str, what: &'static str, country: &str) -> Result<Self, BadName> {
        let looks_like_number = match text.strip_prefix('+') {
            Some(rest) => is_number(rest),
            None => count_digits(text) >= *DIGITS.start() && is_number(text),
        };
        let kind = match looks_like_number {
            true => AddressType::Number,
            false => AddressType::Extension,
        };
        Self::parse_as(kind, text, what, country)
    }

    fn parse_as(
        kind: AddressType,
        text: &str,
        what: &'static str,
        country: &str,
    ) -> Result<Self, BadName> {
        let malformed = BadName {
            what,
            rule: "must be a telephone number of 8 to 15 digits, or an extension",
        };
        let address = match kind {
            AddressType::Extension => Extension::try_from(text).ok().map(Self::App),
            AddressType::Number => Self::number(text, country).map(Self::Telephone),
        };
        address.ok_or(malformed)
    }

    fn number(text: &str, country: &str) -> Option<PhoneNumber> {
        if !is_number(text.strip_prefix('+').unwrap_or(text)) {
            return None;
        }
        PhoneNumber::parse(text, country).filter(|number| {
            // Without a valid country code, the digits after `+` would be dialled as a national number.
            let keeps_its_country = !text.starts_with('+') || number.as_str().starts_with('+');
            let written = text.strip_prefix("00").unwrap_or(text);
            DIGITS.contains(&count_digits(written)) && keeps_its_country
        })
    }
}

fn is_number(text: &str) -> bool {
    text.bytes()
        .all(|b| b.is_ascii_digit() || b" -().".contains(&b))
}

fn count_digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

impl CallRequest {
    /// Reads `{callerId?, recipientId, recipientType?, callType?, clientReference?, deviceId?}` of the app of `own` extension, and
    /// ignores other fields. `recipientType` decides where `recipientId` could be a telephone number or an extension.
    ///
    /// # Errors
    /// When a field is missing or malformed. The error names the field.
    pub fn parse(
        fields: &Map<String, Value>,
        own: &Extension,
        country: &str,
    ) -> Result<Self, BadName> {
        let optional = |name: &'static str| match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => text(fields, name).map(Some),
        };
        let caller = |caller: &str| match caller == own.as_str() {
            // The app's own extension may have as many digits as a telephone number.
            true => Ok(Address::App(own.clone())),
            false => Address::parse(caller, "callerId", country),
        };
        let recipient = text(fields, "recipientId")?;
        Ok(Self {
            caller: optional("callerId")?.map(caller).transpose()?,
            recipient: match optional("recipientType")? {
                None => Address::parse(recipient, "recipientId", country)?,
                Some(kind) => {
                    Address::parse_as(address_type(kind)?, recipient, "recipientId", country)?
                }
            },
            call_type: match optional("callType")? {
                None | Some("voice") => CallType::Voice,
                Some("video") => CallType::Video,
                Some(_) => {
                    return Err(BadName {
                        what: "callType",
                        rule: "must be voice or video",
                    });
                }
            },
            reference: optional("clientReference")?
                .map(Reference::try_from)
                .transpose()?,
            device: optional("deviceId")?
                .map(DeviceId::try_from)
                .transpose()
                .map_err(|error| BadName {
                    what: "deviceId",
                    ..error
                })?,
        })
    }
}

fn address_type(text: &str) -> Result<AddressType, BadName> {
    match text {
        "extension" => Ok(AddressType::Extension),
        "number" => Ok(AddressType::Number),
        _ => Err(BadName {
            what: "recipientType",
            rule: "must be extension or number",
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(message: Value) -> Result<CallRequest, BadName> {
        let Value::Object(fields) = message else {
            panic!("no object")
        };
        CallRequest::parse(&fields, &Extension::try_from("12345678").unwrap(), "IN")
    }

    #[test]
    fn the_recipient_type_decides_what_the_recipient_is() {
        let recipient = |text: &str, kind: Value| {
            let request = parse(json!({ "recipientId": text, "recipientType": kind }));
            request.map(|request| request.recipient)
        };
        for text in ["98765432", "98765432101234567", "1002"] {
            assert_eq!(recipient(text, json!("extension")), Ok(app(text)));
        }
        let (number, null) = ("98765 43210", Value::Null);
        assert_eq!(recipient(number, json!("number")), Ok(telephone(number)));
        assert_eq!(recipient("9876543210", null), Ok(telephone(number)));
        assert_eq!(
            recipient("0014155550123", json!("number")),
            Ok(telephone("+14155550123"))
        );
        for (text, kind, what) in [
            ("+919876543210", json!("extension"), "recipientId"),
            ("1002", json!("number"), "recipientId"),
            ("asha", json!("number"), "recipientId"),
            ("1002", json!("phone"), "recipientType"),
            ("1002", json!(1), "recipientType"),
        ] {
            assert_eq!(recipient(text, kind).unwrap_err().what, what, "{text}");
        }
    }

    #[test]
    fn a_caller_with_the_apps_own_extension_is_the_app() {
        let caller = |text: &str| {
            parse(json!({ "callerId": text, "recipientId": "1002" })).map(|request| request.caller)
        };
        assert_eq!(caller("12345678"), Ok(Some(app("12345678"))));
        assert_eq!(caller("22345678"), Ok(Some(telephone("22345678"))));
    }

    #[test]
    fn a_device_may_name_itself() {
        let device = |device: Value| parse(json!({ "recipientId": "1002", "deviceId": device }));
        let named = device(json!("pixel")).unwrap().device;
        assert_eq!(named.unwrap().as_str(), "pixel");
        assert_eq!(device(Value::Null).unwrap().device, None);
        assert_eq!(device(json!("a b")).unwrap_err().what, "deviceId");
    }

    fn app(extension: &str) -> Address {
        Address::App(Extension::try_from(extension).unwrap())
    }

    fn telephone(number: &str) -> Address {
        Address::Telephone(PhoneNumber::parse(number, "IN").unwrap())
    }

    #[test]
    fn two_telephone_numbers_are_a_call_between_telephones() {
        let request = parse(json!({
            "type": "incoming_call", "callerId": "1234567890", "recipientId": "9876543210", "callType": "voice",
        }));
        let request = request.unwrap();
        assert_eq!(request.caller, Some(telephone("1234567890")));
        assert_eq!(request.recipient, telephone("+919876543210"));
        assert_eq!(
            (request.call_type, request.reference),
            (CallType::Voice, None)
        );
    }

    #[test]
    fn a_name_that_is_not_a_telephone_number_is_an_extension() {
        for text in [
            "1002",
            "9876543",
            "asha",
            "desk-12345678",
            "asha_9876543210",
        ] {
            assert_eq!(
                Address::parse(text, "recipientId", "IN"),
                Ok(app(text)),
                "{text}"
            );
        }
        for text in [
            "+919876543210",
            "098765 43210",
            "(080) 4749-1899",
            "+442071838750",
        ] {
            assert_eq!(
                Address::parse(text, "recipientId", "IN"),
                Ok(telephone(text)),
                "{text}"
            );
        }
    }

    #[test]
    fn an_error_names_the_field() {
        let good = json!({ "recipientId": "1002" });
        let with = |name: &str, value: Value| {
            let mut message = good.clone();
            message[name] = value;
            parse(message)
        };
        assert!(parse(good.clone()).is_ok());
        assert_eq!(with("callerId", Value::Null).unwrap().caller, None);
        for (name, value) in [
            ("recipientId", json!(1002)),
            ("recipientId", json!("")),
            ("recipientId", json!("+12")),
            ("recipientId", json!("+91987654321098765")),
            ("recipientId", json!("+99912345678")),
            ("recipientId", json!("1002&To=1003")),
            ("recipientId", json!("PJSIP/1002")),
            ("callerId", json!("sip:1001@x")),
            ("callType", json!("fax")),
            ("callType", json!(true)),
            ("clientReference", json!("two words")),
            ("clientReference", json!("x".repeat(65))),
        ] {
            assert_eq!(with(name, value.clone()).unwrap_err().what, name, "{value}");
        }
        assert_eq!(parse(json!({})).unwrap_err().what, "recipientId");
    }

    proptest! {
        #[test]
        fn no_address_contains_syntax(text in ".*") {
            if let Ok(address) = Address::parse(&text, "recipientId", "IN") {
                let plain = match address {
                    Address::App(extension) => extension.to_string(),
                    Address::Telephone(number) => number.to_string(),
                };
                prop_assert!(plain.chars().all(|c| c.is_ascii_alphanumeric() || "+-_".contains(c)), "{}", plain);
            }
        }
    }
}
