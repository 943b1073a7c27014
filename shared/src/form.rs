//! The fields of a request, however it carries them: query, form, multipart or JSON.

use std::collections::HashMap;

use serde_json::Value;

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

/// The fields of a request. Of a name that comes twice, the first counts.
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
        if content_type.starts_with("application/json") {
            return Self::from_json(body);
        }
        match multer::parse_boundary(content_type) {
            Ok(boundary) => Self::from_multipart(boundary, body).await,
            Err(_) => Ok(Self::from_form(body)),
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
        let value = self.0.get(name)?.trim().trim_matches('"');
        (!value.is_empty()).then_some(value)
    }

    fn add(&mut self, name: String, value: String) {
        self.0.entry(name).or_insert(value);
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

    #[test]
    fn quotes_and_empty_values_go() {
        let fields = Fields::from_form(b"digits=%2212%22&empty=&twice=1&twice=2");
        assert_eq!(fields.text("digits"), Some("12"));
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
