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

impl Address {
    /// A name that begins with `+` or has 8 to 15 digits is a telephone number; any other is an extension. So the meaning of a
    /// name does not depend on registered devices. A number without a country code belongs to `country` (ISO 3166).
    ///
    /// # Errors
    /// When `text` is neither. `what` is the field's name for the error.
    pub fn parse(text: &str, what: &'static str, country: &str) -> Result<Self, BadName> {
        let malformed = BadName {
            what,
            rule: "must be a telephone number of 8 to 15 digits, or an extension",
        };
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        let is_number = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_digit() || b" -().".contains(&b))
        };
        let looks_like_number = match text.strip_prefix('+') {
            Some(rest) => is_number(rest),
            None => digits >= *DIGITS.start() && is_number(text),
        };
        if !looks_like_number {
            return Extension::try_from(text)
                .map(Self::App)
                .map_err(|_| malformed);
        }
        let number = PhoneNumber::parse(text, country).filter(|number| {
            // Without a valid country code, the digits after `+` would be dialled as a national number.
            let keeps_its_country = !text.starts_with('+') || number.as_str().starts_with('+');
            DIGITS.contains(&digits) && keeps_its_country
        });
        number.map(Self::Telephone).ok_or(malformed)
    }
}

impl CallRequest {
    /// Reads `{callerId?, recipientId, callType?, clientReference?, deviceId?}` and ignores other fields.
    ///
    /// # Errors
    /// When a field is missing or malformed. The error names the field.
    pub fn parse(fields: &Map<String, Value>, country: &str) -> Result<Self, BadName> {
        let optional = |name: &'static str| match fields.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(_) => text(fields, name).map(Some),
        };
        let caller = optional("callerId")?;
        Ok(Self {
            caller: caller
                .map(|caller| Address::parse(caller, "callerId", country))
                .transpose()?,
            recipient: Address::parse(text(fields, "recipientId")?, "recipientId", country)?,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn parse(message: Value) -> Result<CallRequest, BadName> {
        let Value::Object(fields) = message else {
            panic!("no object")
        };
        CallRequest::parse(&fields, "IN")
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
