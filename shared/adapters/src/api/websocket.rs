//! What API Gateway's WebSocket API hands to its functions, and how they answer.
//!
//! <https://docs.aws.amazon.com/apigateway/latest/developerguide/apigateway-websocket-api-mapping-template-reference.html>

use std::collections::HashMap;
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::auth::Bearer;
use crate::store::connections::Connection;
use ringback_core::call::CallParty;
use ringback_core::ids::{DeviceId, Extension};

/// A request of somebody who wants to connect, as the authorizer sees it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connecting {
    /// What the authorizer allows or denies.
    pub method_arn: String,
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    query_string_parameters: Option<HashMap<String, String>>,
    #[serde(default)]
    request_context: Option<ConnectingFrom>,
}

#[derive(Deserialize)]
struct ConnectingFrom {
    identity: Identity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    source_ip: String,
}

/// What somebody who wants to connect shows of who it is.
#[derive(Debug)]
pub enum Credentials {
    /// An app's `Authorization` header, or what it would be.
    Token(SecretString),
    /// The secret that Exotel's URLs carry.
    Secret(SecretString),
}

impl Connecting {
    /// An app shows `Authorization: Bearer …`, or `?token=…` where it cannot set headers, as browsers cannot. Exotel
    /// shows `?secret=…`, or `Authorization: Basic …` with the secret as password: what its URL had before the host.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        self.in_header().or_else(|| self.in_query())
    }

    /// The address that it connects from, as API Gateway saw it.
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        let context = self.request_context.as_ref()?;
        context.identity.source_ip.parse().ok()
    }

    fn in_header(&self) -> Option<Credentials> {
        let mut headers = self.headers.iter().flatten();
        let (_, header) = headers.find(|(name, _)| name.eq_ignore_ascii_case("authorization"))?;
        let password = header
            .split_once(' ')
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("basic"))
            .map(|(_, user_and_password)| password(user_and_password).unwrap_or_default());
        Some(match password {
            Some(password) => Credentials::Secret(password.into()),
            None => Credentials::Token(header.as_str().into()),
        })
    }

    fn in_query(&self) -> Option<Credentials> {
        let query = self.query_string_parameters.as_ref()?;
        let token = query.get("token");
        let token = token.map(|token| Credentials::Token(format!("Bearer {token}").into()));
        let secret = || Some(Credentials::Secret(query.get("secret")?.as_str().into()));
        token.or_else(secret)
    }
}

/// The password in `base64(user:password)`.
fn password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(password.to_owned())
}

/// A request of somebody who is connected, or who connects or has gone.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// What API Gateway knows of it.
    pub request_context: Context,
    /// The message's text; absent on connecting and disconnecting.
    #[serde(default)]
    pub body: Option<String>,
}

/// What API Gateway knows of a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Context {
    connection_id: String,
    route_key: String,
    /// What the authorizer found out on connecting.
    authorizer: Who,
}

/// Who is connected. Settled once, on connecting; it comes with each later message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Told", into = "Told")]
pub enum Who {
    /// A phone app, or an operator.
    Client(Bearer),
    /// Exotel, with the stream of a call.
    Exotel,
}

/// The same as API Gateway passes it on: text, and nothing nested.
#[derive(Serialize, Deserialize)]
struct Told {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<Role>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extension: Option<Extension>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<DeviceId>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Role {
    Exotel,
    Operator,
}

impl TryFrom<Told> for Who {
    type Error = &'static str;

    fn try_from(told: Told) -> Result<Self, Self::Error> {
        let device = told.device_id;
        let party = told
            .extension
            .map(|extension| CallParty { extension, device });
        match (told.role, party) {
            (Some(Role::Exotel), _) => Ok(Self::Exotel),
            (Some(Role::Operator), party) => Ok(Self::Client(Bearer::Operator(party))),
            (None, Some(party)) => Ok(Self::Client(Bearer::App(party))),
            (None, None) => Err("the authorizer names neither a role nor an extension"),
        }
    }
}

impl From<Who> for Told {
    fn from(who: Who) -> Self {
        let (role, party) = match who {
            Who::Client(Bearer::App(party)) => (None, Some(party)),
            Who::Client(Bearer::Operator(party)) => (Some(Role::Operator), party),
            Who::Exotel => (Some(Role::Exotel), None),
        };
        let (extension, device_id) = party.map(|party| (party.extension, party.device)).unzip();
        Self {
            role,
            extension,
            device_id: device_id.flatten(),
        }
    }
}

impl Request {
    /// Who sent it.
    #[must_use]
    pub const fn who(&self) -> &Who {
        &self.request_context.authorizer
    }

    /// API Gateway's id of the connection.
    #[must_use]
    pub fn connection_id(&self) -> &str {
        &self.request_context.connection_id
    }

    /// Whether what the function returns goes back to the client: the route of an app's message has a route response, and
    /// `$default` has none.
    #[must_use]
    pub fn has_route_response(&self) -> bool {
        self.request_context.route_key.starts_with("message/")
    }

    /// The client's connection; `None` for Exotel's, which hears of no calls.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        match self.who() {
            Who::Exotel => None,
            Who::Client(bearer) => Some(Connection {
                id: self.connection_id().to_owned(),
                viewer: bearer.viewer(),
            }),
        }
    }
}

/// API Gateway's word for "done".
#[must_use]
pub fn done() -> Value {
    json!({ "statusCode": 200 })
}

/// A message back to the client, on a route that has a route response.
#[must_use]
pub fn answer(message: &Value) -> Value {
    json!({ "statusCode": 200, "body": message.to_string() })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::auth::Viewer;

    /// What somebody shows who connects with this header and this query.
    fn shown(authorization: Option<&str>, query: &Value) -> Option<(&'static str, String)> {
        let headers = authorization.map(|value| json!({ "authorization": value }));
        let connecting =
            json!({ "methodArn": "arn", "headers": headers, "queryStringParameters": query });
        let connecting: Connecting = serde_json::from_value(connecting).unwrap();
        Some(match connecting.credentials()? {
            Credentials::Token(token) => ("token", token.expose_secret().to_owned()),
            Credentials::Secret(secret) => ("secret", secret.expose_secret().to_owned()),
        })
    }

    #[test]
    fn an_app_shows_its_token_in_the_header_or_the_query() {
        let token = Some(("token", "Bearer abc".to_owned()));
        assert_eq!(shown(Some("Bearer abc"), &Value::Null), token);
        assert_eq!(shown(None, &json!({ "token": "abc" })), token);
        assert_eq!(shown(Some("Bearer abc"), &json!({ "secret": "x" })), token);
    }

    #[test]
    fn exotel_shows_the_secret_in_the_query_or_as_a_password() {
        let secret = Some(("secret", "hush".to_owned()));
        assert_eq!(shown(None, &json!({ "secret": "hush" })), secret);
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(shown(Some(&basic("exotel:hush")), &Value::Null), secret);
        let with_colon = shown(Some(&basic(":hu:sh")), &Value::Null);
        assert_eq!(with_colon, Some(("secret", "hu:sh".to_owned())));
        for no_password in ["Basic", "Basic ", "Basic %", &basic("hush")] {
            let (_, shown) = shown(Some(no_password), &Value::Null).unwrap();
            assert!(!shown.contains("hush"), "{no_password}");
        }
        assert_eq!(shown(None, &Value::Null), None);
    }

    #[test]
    fn where_somebody_connects_from_is_what_the_gateway_saw() {
        let source = |context: Value| {
            let headers = json!({ "X-Forwarded-For": "203.0.113.7" });
            let connecting =
                json!({ "methodArn": "arn", "headers": headers, "requestContext": context });
            let connecting: Connecting = serde_json::from_value(connecting).unwrap();
            connecting.source()
        };
        let seen = json!({ "identity": { "sourceIp": "192.0.2.1", "userAgent": null } });
        assert_eq!(source(seen), "192.0.2.1".parse().ok());
        for unseen in [
            Value::Null,
            json!({ "identity": { "sourceIp": "somewhere" } }),
        ] {
            assert_eq!(source(unseen), None);
        }
    }

    #[test]
    fn who_somebody_is_comes_back_as_it_was_told() {
        let party = |device: Option<&str>| CallParty {
            extension: Extension::try_from("1001").unwrap(),
            device: device.map(|device| DeviceId::try_from(device).unwrap()),
        };
        let app = |device| Who::Client(Bearer::App(party(device)));
        let operator = |party| Who::Client(Bearer::Operator(party));
        for (who, told) in [
            (app(None), json!({ "extension": "1001" })),
            (
                app(Some("pixel")),
                json!({ "extension": "1001", "device_id": "pixel" }),
            ),
            (operator(None), json!({ "role": "operator" })),
            (
                operator(Some(party(None))),
                json!({ "role": "operator", "extension": "1001" }),
            ),
            (Who::Exotel, json!({ "role": "exotel" })),
        ] {
            assert_eq!(serde_json::to_value(&who).unwrap(), told);
            let mut passed_on = told;
            passed_on["principalId"] = "somebody".into();
            passed_on["integrationLatency"] = "12".into();
            assert_eq!(serde_json::from_value::<Who>(passed_on).unwrap(), who);
        }
        for nobody in [
            json!({}),
            json!({ "principalId": "1001" }),
            json!({ "role": "root" }),
        ] {
            assert!(serde_json::from_value::<Who>(nobody).is_err());
        }
    }

    #[test]
    fn only_the_routes_of_messages_have_a_response() {
        for (route, has_one) in [
            ("message/ping", true),
            ("message/call_response", true),
            ("$default", false),
            ("$connect", false),
        ] {
            let context = json!({ "connectionId": "L0SM9", "routeKey": route, "authorizer": { "extension": "1001" } });
            let request: Request =
                serde_json::from_value(json!({ "requestContext": context })).unwrap();
            assert_eq!(request.has_route_response(), has_one, "{route}");
        }
    }

    #[test]
    fn exotels_connection_is_no_clients() {
        let request = |who: Value| {
            let context =
                json!({ "connectionId": "L0SM9", "routeKey": "$default", "authorizer": who });
            serde_json::from_value::<Request>(json!({ "requestContext": context })).unwrap()
        };
        let exotel = request(json!({ "role": "exotel" }));
        assert_eq!(
            (exotel.connection_id(), exotel.connection()),
            ("L0SM9", None)
        );
        let viewer = |who| request(who).connection().unwrap().viewer;
        let extension = Extension::try_from("1001").unwrap();
        assert_eq!(
            viewer(json!({ "extension": "1001" })),
            Viewer::App(extension)
        );
        for operator in [
            json!({ "role": "operator" }),
            json!({ "role": "operator", "extension": "1001" }),
        ] {
            assert_eq!(viewer(operator), Viewer::Operator);
        }
    }
}
