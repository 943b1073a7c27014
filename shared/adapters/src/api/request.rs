//! A request to the HTTP API, as API Gateway passes it on.

use std::collections::HashMap;
use std::net::IpAddr;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;

use crate::api::error::ApiError;
use crate::api::error_code::ApiErrorCode;
use crate::form_fields::FormFields;

/// The longest body, in bytes. Bodies of real clients have a few hundred.
pub const LONGEST_BODY: usize = 16 * 1024;

/// The longest path and query together, in bytes. API Gateway itself accepts 10 KiB with all headers.
pub const LONGEST_URI: usize = 16 * 1024;

/// API Gateway's event, payload format 2.0. Only the fields that functions read.
///
/// <https://docs.aws.amazon.com/apigateway/latest/developerguide/http-api-develop-integrations-lambda.html>
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GatewayEvent {
    raw_path: Option<String>,
    raw_query_string: Option<String>,
    headers: Option<HashMap<String, String>>,
    path_parameters: Option<HashMap<String, String>>,
    request_context: RequestContext,
    body: Option<String>,
    is_base64_encoded: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct RequestContext {
    http: HttpContext,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HttpContext {
    method: String,
    path: Option<String>,
    source_ip: Option<String>,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    event: GatewayEvent,
    body: Vec<u8>,
}

impl TryFrom<GatewayEvent> for Request {
    type Error = ApiError;

    /// Fails with 414 if the URI is too long, and with 400 if the body is not what the event says.
    fn try_from(mut event: GatewayEvent) -> Result<Self, ApiError> {
        let length = |text: &Option<String>| text.as_ref().map_or(0, String::len);
        if length(&event.raw_path) + length(&event.raw_query_string) > LONGEST_URI {
            return Err(ApiErrorCode::UriTooLong.into());
        }
        let body = event.body.take().unwrap_or_default();
        let body = if event.is_base64_encoded {
            let decoded = BASE64_STANDARD.decode(body);
            decoded.map_err(|_| ApiErrorCode::BadBody)?
        } else {
            body.into_bytes()
        };
        Ok(Self { event, body })
    }
}

impl Request {
    /// The method, in capital letters.
    #[must_use]
    pub fn method(&self) -> &str {
        &self.event.request_context.http.method
    }

    /// The path as the route sees it, without the stage.
    #[must_use]
    pub fn path(&self) -> &str {
        let http = &self.event.request_context.http;
        let path = http.path.as_ref().or(self.event.raw_path.as_ref());
        path.map_or("", String::as_str)
    }

    /// The fields of the query.
    #[must_use]
    pub fn query(&self) -> FormFields {
        let query = self.event.raw_query_string.as_deref();
        FormFields::from_form(query.unwrap_or_default().as_bytes())
    }

    /// The parameter of this name in the query, if there is one. It may be empty.
    #[must_use]
    pub fn query_parameter(&self, name: &str) -> Option<String> {
        let query = self.event.raw_query_string.as_deref();
        let mut fields = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        let value = fields.find(|(known, _)| known == name);
        value.map(|(_, value)| value.into_owned())
    }

    /// A header, if it exists.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let headers = self.event.headers.as_ref()?;
        // API Gateway sends names in small letters. Other servers for tests do not.
        let named = || {
            headers
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(name))
        };
        let value = headers
            .get(name)
            .or_else(|| named().map(|(_, value)| value));
        value.map(String::as_str)
    }

    /// The parameter of this name in the path of the route.
    ///
    /// # Errors
    /// 404 if the route has none.
    pub fn path_parameter(&self, name: &str) -> Result<&str, ApiError> {
        let parameters = self.event.path_parameters.as_ref();
        let value = parameters.and_then(|all| all.get(name));
        Ok(value.ok_or(ApiErrorCode::NoSuchRoute)?)
    }

    /// The client's address, as API Gateway saw it. A client can write any address into headers such as `X-Forwarded-For`.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        let source = self.event.request_context.http.source_ip.as_ref();
        source?.parse().ok()
    }

    /// The body.
    ///
    /// # Errors
    /// 413 if it is longer than [`LONGEST_BODY`].
    pub fn body(&self) -> Result<&[u8], ApiError> {
        if self.body.len() > LONGEST_BODY {
            return Err(ApiErrorCode::BodyTooLong.into());
        }
        Ok(&self.body)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn request(event: Value) -> Result<Request, ApiError> {
        Request::try_from(serde_json::from_value::<GatewayEvent>(event).unwrap())
    }

    #[test]
    fn fields_that_are_missing_or_null_are_empty() {
        for event in [
            json!({}),
            json!({ "headers": null, "pathParameters": null, "body": null, "rawQueryString": null }),
        ] {
            let request = request(event).unwrap();
            assert_eq!((request.path(), request.body().unwrap()), ("", &b""[..]));
            assert_eq!(request.header("host"), None);
            assert_eq!(request.source(), None);
            assert_eq!(request.path_parameter("id").unwrap_err().status(), 404);
        }
    }

    /// No text that a client can write makes the conversion fail.
    #[test]
    fn a_query_is_read_as_it_was_sent() {
        for query in [
            r#"digits="1"&CallSid=abc"#,
            "a=<b>&CallSid=abc#d",
            "a=\u{e9} %&CallSid=abc",
            "a=\u{7f}\u{0}\n&CallSid=abc",
            "%22&&=&CallSid=abc&{}|\\^`",
        ] {
            let request = request(json!({ "rawQueryString": query })).unwrap();
            assert_eq!(request.query(), FormFields::from_form(query.as_bytes()));
            let sid = request.query_parameter("CallSid");
            assert_eq!(sid.as_deref(), request.query().text("CallSid"));
        }
    }

    #[test]
    fn an_empty_parameter_is_not_a_missing_one() {
        let request = request(json!({ "rawQueryString": "a=&b=%2B1+2&b=3" })).unwrap();
        assert_eq!(request.query_parameter("a").as_deref(), Some(""));
        assert_eq!(request.query_parameter("b").as_deref(), Some("+1 2"));
        assert_eq!(request.query_parameter("c"), None);
    }

    #[test]
    fn names_of_headers_have_any_case() {
        let request = request(json!({ "headers": { "Content-Type": "a/b", "x-y": "z" } })).unwrap();
        assert_eq!(request.header("content-type"), Some("a/b"));
        assert_eq!(request.header("x-y"), Some("z"));
    }

    #[test]
    fn a_uri_that_is_too_long_is_rejected() {
        let of_length = |length: usize| request(json!({ "rawQueryString": "#".repeat(length) }));
        assert!(of_length(LONGEST_URI).is_ok());
        assert_eq!(of_length(LONGEST_URI + 1).unwrap_err().status(), 414);
    }

    #[test]
    fn the_source_address_is_the_one_that_api_gateway_saw() {
        let event = include_str!("../../../../events/exotel-webhook-passthru-get.json");
        let mut event: Value = serde_json::from_str(event).unwrap();
        event["headers"]["x-forwarded-for"] = "203.0.113.7".into();
        let request = request(event).unwrap();
        assert_eq!(request.source(), "198.51.100.7".parse().ok());
        assert_eq!(
            (request.method(), request.path()),
            ("GET", "/exotel/webhook")
        );
    }

    #[test]
    fn a_body_can_have_16_kib_at_most() {
        let of_length = |length| request(json!({ "body": " ".repeat(length) })).unwrap();
        assert!(of_length(LONGEST_BODY).body().is_ok());
        assert_eq!(
            of_length(LONGEST_BODY + 1).body().unwrap_err().status(),
            413
        );
    }

    #[test]
    fn a_base64_body_is_decoded() {
        let request = |body| request(json!({ "body": body, "isBase64Encoded": true }));
        assert_eq!(request("YT0x").unwrap().body().unwrap(), b"a=1");
        assert_eq!(request("?").unwrap_err().status(), 400);
    }
}
