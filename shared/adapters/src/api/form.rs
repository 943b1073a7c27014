//! The fields of a request, however it carries them: query, form, multipart or JSON.

use std::collections::HashMap;

use serde_json::Value;

use ringback_core::ids::BadName;

/// Why a body could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadBody {
    /// It is not the JSON object that it says it is.
    #[error("the body is not a JSON object")]
    Json,
    /// It is not the multipart form that it says it is.
    #[error("the body is not a multipart form")]
    Multipart,
}

/// No field that anybody reads has a name as long as this, in bytes. Nesting makes names longer, so that this bounds it
/// too: a few kilobytes of JSON could otherwise become as many megabytes of names.
const LONGEST_NAME: usize = 64;

/// The fields of a request. Of a name that comes twice, the first counts; those whose name is too long to be anybody's are
/// left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(HashMap<String, String>);

impl Fields {
    /// Reads a query string, or the body of a form.
    #[must_use]
    pub fn from_form(text: &[u8]) -> Self {
        let mut fields = Self::default();
        for (name, value) in form_urlencoded::parse(text) {
            fields.add(name.into_owned(), value.into_owned());
        }
        fields
    }

    /// Reads a body by its content type. What is neither JSON nor multipart is taken for a form, as which PBXs and
    /// webhooks send it with all sorts of types.
    ///
    /// # Errors
    /// When the body is not what its type says.
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

    /// Reads a JSON object. Numbers and booleans are taken as their text, and what is nested is named as a form would
    /// name it: `Legs[0][Status]`.
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

    /// These fields, and those of `other` that these lack.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (name, value) in other.0 {
            self.add(name, value);
        }
        self
    }

    /// A field's value, without surrounding space or the double quotes that Exotel puts around `digits`. A field that is
    /// empty counts as missing.
    #[must_use]
    pub fn text(&self, name: &str) -> Option<&str> {
        let value = self.as_sent(name)?.trim_matches('"');
        (!value.is_empty()).then_some(value)
    }

    /// The same with its quotes, for what people are called.
    #[must_use]
    pub fn as_sent(&self, name: &str) -> Option<&str> {
        let value = self.0.get(name)?.trim();
        (!value.is_empty()).then_some(value)
    }

    /// That no field of these is one of several parts (`name[…]`), as JSON's lists and objects are.
    ///
    /// # Errors
    /// With the name of the first that is.
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

    async fn read(content_type: &str, body: &str) -> Result<Fields, BadBody> {
        Fields::from_body(content_type, body.as_bytes()).await
    }

    #[tokio::test]
    async fn the_same_fields_in_three_forms_are_the_same() {
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
    async fn a_body_that_lies_about_its_type_is_refused() {
        assert_eq!(read("application/json", "a=b").await, Err(BadBody::Json));
        assert_eq!(read("application/json", "[1]").await, Err(BadBody::Json));
        assert_eq!(
            read("multipart/form-data; boundary=x", "a=b").await,
            Err(BadBody::Multipart)
        );
    }

    #[tokio::test]
    async fn a_type_is_read_however_it_is_written() {
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
        assert_eq!(nothing, Ok(Fields::default()));
        assert_eq!(
            read("multipart/form-data", multipart).await,
            Err(BadBody::Multipart)
        );
    }

    #[test]
    fn nesting_costs_no_more_than_what_was_sent() {
        let long_name = "n".repeat(8_000);
        let many = vec!["1"; 4_000].join(",");
        let body = format!(r#"{{"{long_name}":[{many}],"a":[{many}],"b":1}}"#);
        let fields = Fields::from_json(body.as_bytes()).unwrap();
        assert_eq!(fields.text("b"), Some("1"));
        let kept: usize = fields.0.keys().map(String::len).sum();
        assert!(kept < 4 * body.len(), "{kept} bytes of names");
        for depth in [64, 127, 4_000] {
            let nested = "[".repeat(depth) + &"]".repeat(depth);
            let read = Fields::from_json(format!(r#"{{"a":{nested}}}"#).as_bytes());
            assert!(read.is_ok_and(|fields| fields.0.is_empty()) || depth > 126);
        }
    }

    #[test]
    fn what_has_to_be_text_is_not_a_list_or_an_object() {
        for body in [r#"{"a":["1"]}"#, r#"{"a":{"b":1}}"#] {
            let fields = Fields::from_json(body.as_bytes()).unwrap();
            assert_eq!(fields.check_texts(&["b", "a"]).unwrap_err().what, "a");
            assert_eq!(fields.check_texts(&["b"]), Ok(()));
        }
    }

    #[test]
    fn what_is_no_utf8_or_no_text_at_all_is_still_read() {
        for query in [
            &b"a=%C0%AF&b=1"[..],
            b"a=\xff\xfe&b=1",
            b"a=%00%&b=1",
            b"a=%zz&&=&b=1",
        ] {
            assert_eq!(Fields::from_form(query).text("b"), Some("1"));
        }
    }

    #[test]
    fn quotes_and_empty_values_go() {
        let fields = Fields::from_form(b"digits=%2212%22&empty=&twice=1&twice=2");
        assert_eq!(fields.text("digits"), Some("12"));
        assert_eq!(fields.as_sent("digits"), Some("\"12\""));
        assert_eq!(fields.text("empty"), None);
        assert_eq!(fields.text("twice"), Some("1"));
    }

    #[test]
    fn names_in_any_script_arrive_intact() {
        let fields =
            Fields::from_form("name=%E2%80%8F%D9%85%D8%B1%D9%8A%D9%85%20%F0%9F%93%9E".as_bytes());
        assert_eq!(fields.text("name"), Some("\u{200f}مريم 📞"));
    }
}
