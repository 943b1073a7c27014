//! The fields of a request, in any of its formats: query, form, multipart or JSON.

use std::collections::HashMap;

use serde_json::Value;

use ringback_core::ids::BadName;
use ringback_core::phone_number::PhoneNumber;

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// Its content type is JSON, and it is not a JSON object.
    #[error("the body is not a JSON object")]
    Json,
    /// Its content type is multipart, and it is not a multipart form.
    #[error("the body is not a multipart form")]
    Multipart,
}

/// The longest name of a field, in bytes. No known field has a longer one. Nesting makes names longer, so this also limits its
/// depth: otherwise a few kilobytes of JSON could become megabytes of names.
const LONGEST_NAME: usize = 64;

/// The fields of a request. Of two fields with the same name, the first counts. FormFields with a name of more than 64 bytes are left
/// out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormFields(HashMap<String, String>);

impl FormFields {
    /// Reads a query string, or the body of a form.
    #[must_use]
    pub fn from_form(text: &[u8]) -> Self {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(text) {
            fields.add(name.into_owned(), value.into_owned());
        }
        fields
    }

    /// Reads a body by its content type. Any type but JSON and multipart is read as a form, because PBXs and webhooks
    /// send forms with many content types.
    ///
    /// # Errors
    /// When the body does not match its content type.
    pub async fn from_body(content_type: &str, body: &[u8]) -> Result<Self, BadBody> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if body.is_empty() {
            Ok(Self::default())
        } else if media_type.eq_ignore_ascii_case("application/json") {
            Self::from_json(body)
        } else if media_type.eq_ignore_ascii_case("multipart/form-data") {
            let boundary = multer::parse_boundary(content_type).map_err(|_| BadBody::Multipart)?;
            Self::from_multipart(boundary, body).await
        } else {
            Ok(Self::from_form(body))
        }
    }

    /// Reads a JSON object. Numbers and booleans become text. Nested values get the names that they have in a form:
    /// `Legs[0][Status]`.
    ///
    /// # Errors
    /// When it is not an object.
    pub fn from_json(body: &[u8]) -> Result<Self, BadBody> {
        let object: serde_json::Map<String, Value> =
            serde_json::from_slice(body).map_err(|_| BadBody::Json)?;
        let mut fields = Self::default();
        for (name, value) in object {
            fields.add_nested(name, value);
        }
        Ok(fields)
    }

    fn add_nested(&mut self, name: String, value: Value) {
        if name.len() > LONGEST_NAME {
            return;
        }
        match value {
            Value::String(text) => self.add(name, text),
            Value::Number(number) => self.add(name, number.to_string()),
            Value::Bool(flag) => self.add(name, flag.to_string()),
            Value::Null => {}
            Value::Array(values) => {
                for (index, value) in values.into_iter().enumerate() {
                    self.add_nested(format!("{name}[{index}]"), value);
                }
            }
            Value::Object(values) => {
                for (key, value) in values {
                    self.add_nested(format!("{name}[{key}]"), value);
                }
            }
        }
    }

    async fn from_multipart(boundary: String, body: &[u8]) -> Result<Self, BadBody> {
        let body = body.to_vec();
        let stream = futures::stream::once(async move { Ok::<_, std::convert::Infallible>(body) });
        let mut form = multer::Multipart::new(stream, boundary);
        let mut fields = Self::default();
        while let Some(part) = form.next_field().await.map_err(|_| BadBody::Multipart)? {
            let name = part.name().unwrap_or_default().to_owned();
            fields.add(name, part.text().await.map_err(|_| BadBody::Multipart)?);
        }
        Ok(fields)
    }

    /// Adds the fields of `other` that are missing here.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (name, value) in other.0 {
            self.add(name, value);
        }
        self
    }

    /// A field's value, without surrounding space and without the double quotes that Exotel puts around `digits`. An empty field
    /// counts as missing.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let value = self.with_quotes(name)?.trim_matches('"');
        (!value.is_empty()).then_some(value)
    }

    /// A telephone number. `country` (ISO 3166) is the country of a number without a country code. The plus sign of a country code may
    /// arrive as a space, because a sender has to encode it and may forget it.
    #[must_use]
    pub fn phone_number(&self, name: &str, country: &str) -> Option<PhoneNumber> {
        let text = self.text(name)?;
        let is_plus_lost = self.0.get(name)?.starts_with(' ');
        match is_plus_lost {
            true => PhoneNumber::parse_global(text, country),
            false => PhoneNumber::parse(text, country),
        }
    }

    /// The same as [`FormFields::text`] with quotes, for the names of people.
    #[must_use]
    pub fn with_quotes(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// Checks that these fields are plain values and not lists or objects (`name[…]`).
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check_texts(&self, names: &[&'static str]) -> Result<(), BadName> {
        let has_parts = |name: &&&'static str| {
            let mut others = self.0.keys();
            others.any(|other| {
                other
                    .strip_prefix(**name)
                    .is_some_and(|rest| rest.starts_with('['))
            })
        };
        match names.iter().find(has_parts) {
            None => Ok(()),
            Some(what) => Err(BadName {
                what,
                rule: "must be a string",
            }),
        }
    }

    fn add(&mut self, name: String, value: String) {
        if name.len() <= LONGEST_NAME {
            self.0.entry(name).or_insert(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(content_type: &str, body: &str) -> Result<FormFields, BadBody> {
        FormFields::from_body(content_type, body.as_bytes()).await
    }

    #[test]
    fn a_plus_sign_that_is_not_encoded_is_still_one() {
        for (form, expected) in [
            ("From=+6561234567", "+6561234567"),
            ("From=%2B6561234567", "+6561234567"),
            ("From=+09876543210", "+919876543210"),
            // Valid only as a national number.
            ("From=+9876543210", "+919876543210"),
            ("From=9876543210", "+919876543210"),
        ] {
            let number = FormFields::from_form(form.as_bytes()).phone_number("From", "IN");
            assert_eq!(number.unwrap().as_str(), expected, "{form}");
        }
    }

    #[tokio::test]
    async fn form_json_and_multipart_give_the_same_fields() {
        let form = read(
            "application/x-www-form-urlencoded",
            "CallSid=abc&From=%2B919876543210&n=1&Legs%5B0%5D%5BStatus%5D=busy",
        )
        .await;
        let json = read(
            "application/json; charset=utf-8",
            r#"{"CallSid":"abc","From":"+919876543210","n":1,"Legs":[{"Status":"busy"}],"EndTime":null}"#,
        )
        .await;
        let multipart = "--x\r\nContent-Disposition: form-data; name=\"CallSid\"\r\n\r\nabc\r\n\
            --x\r\nContent-Disposition: form-data; name=\"From\"\r\n\r\n+919876543210\r\n\
            --x\r\nContent-Disposition: form-data; name=\"n\"\r\n\r\n1\r\n\
            --x\r\nContent-Disposition: form-data; name=\"Legs[0][Status]\"\r\n\r\nbusy\r\n--x--\r\n";
        let multipart = read("multipart/form-data; boundary=x", multipart).await;
        assert_eq!(form, json);
        assert_eq!(form, multipart);
        assert_eq!(form.unwrap().text("From"), Some("+919876543210"));
    }

    #[tokio::test]
    async fn a_body_that_does_not_match_its_type_is_rejected() {
        assert_eq!(read("application/json", "a=b").await, Err(BadBody::Json));
        assert_eq!(read("application/json", "[1]").await, Err(BadBody::Json));
        assert_eq!(
            read("multipart/form-data; boundary=x", "a=b").await,
            Err(BadBody::Multipart)
        );
    }

    #[tokio::test]
    async fn content_types_are_read_in_any_notation() {
        let multipart = "--X\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--X--\r\n";
        for (content_type, body) in [
            ("Application/JSON; Charset=UTF-8", r#"{"a":1}"#),
            (" application/json ;charset=utf-8", r#"{"a":"1"}"#),
            ("Multipart/Form-Data; Boundary=X", multipart),
            ("APPLICATION/X-WWW-FORM-URLENCODED", "a=1"),
            ("application/jsonp", "a=1"),
            ("", "a=1"),
        ] {
            let fields = read(content_type, body).await.unwrap();
            assert_eq!(fields.text("a"), Some("1"), "{content_type}");
        }
        let nothing = read("application/json", "").await;
        assert_eq!(nothing, Ok(FormFields::default()));
        assert_eq!(
            read("multipart/form-data", multipart).await,
            Err(BadBody::Multipart)
        );
    }

    #[test]
    fn nested_json_takes_no_more_memory_than_its_size() {
        let long_name = "n".repeat(8_000);
        let many = vec!["1"; 4_000].join(",");
        let body = format!(r#"{{"{long_name}":[{many}],"a":[{many}],"b":1}}"#);
        let fields = FormFields::from_json(body.as_bytes()).unwrap();
        assert_eq!(fields.text("b"), Some("1"));
        let kept: usize = fields.0.keys().map(String::len).sum();
        assert!(kept < 4 * body.len(), "{kept} bytes of names");
        for depth in [64, 127, 4_000] {
            let nested = "[".repeat(depth) + &"]".repeat(depth);
            let read = FormFields::from_json(format!(r#"{{"a":{nested}}}"#).as_bytes());
            assert!(read.is_ok_and(|fields| fields.0.is_empty()) || depth > 126);
        }
    }

    #[test]
    fn a_list_or_an_object_is_not_a_plain_value() {
        for body in [r#"{"a":["1"]}"#, r#"{"a":{"b":1}}"#] {
            let fields = FormFields::from_json(body.as_bytes()).unwrap();
            assert_eq!(fields.check_texts(&["b", "a"]).unwrap_err().what, "a");
            assert_eq!(fields.check_texts(&["b"]), Ok(()));
        }
    }

    #[test]
    fn invalid_utf8_and_control_characters_do_not_break_the_parser() {
        for query in [
            &b"a=%C0%AF&b=1"[..],
            b"a=\xff\xfe&b=1",
            b"a=%00%&b=1",
            b"a=%zz&&=&b=1",
        ] {
            assert_eq!(FormFields::from_form(query).text("b"), Some("1"));
        }
    }

    #[test]
    fn quotes_are_removed_and_empty_values_are_missing() {
        let fields = FormFields::from_form(b"digits=%2212%22&empty=&twice=1&twice=2");
        assert_eq!(fields.text("digits"), Some("12"));
        assert_eq!(fields.with_quotes("digits"), Some("\"12\""));
        assert_eq!(fields.text("empty"), None);
        assert_eq!(fields.text("twice"), Some("1"));
    }

    #[test]
    fn names_in_any_script_are_kept() {
        let fields = FormFields::from_form(
            "name=%E2%80%8F%D9%85%D8%B1%D9%8A%D9%85%20%F0%9F%93%9E".as_bytes(),
        );
        assert_eq!(fields.text("name"), Some("\u{200f}مريم 📞"));
    }
}
