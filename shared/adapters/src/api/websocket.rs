//! Events of API Gateway's WebSocket API, and the answers to them.
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
use ringback_core::ids::{CallSid, DeviceId, Extension};

/// The authorizer's event: a client connects.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Connecting {
    /// The ARN that the authorizer allows or denies.
    pub method_arn: String,
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    query_string_parameters: Option<HashMap<String, String>>,
    #[serde(default)]
    request_context: Option<ConnectContext>,
}

#[derive(Deserialize)]
struct ConnectContext {
    identity: ClientIdentity,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientIdentity {
    source_ip: String,
}

/// The credentials of a client that connects.
#[derive(Debug)]
pub enum Credentials {
    /// The value of an `Authorization` header with a bearer token.
    Token(SecretString),
    /// The secret in Exotel's URLs.
    Secret(SecretString),
    /// The token of one call in a URL that Exotel got for it.
    StreamToken(SecretString),
}

impl Connecting {
    /// Apps send `Authorization: Bearer …`, or `?token=…` from a browser, which cannot set headers. Exotel sends `?secret=…`, or
    /// `Authorization: Basic …` with the secret as password if its URL has the secret before the host name, or `?stream_token=…`.
    #[must_use]
    pub fn credentials(&self) -> Option<Credentials> {
        self.in_header().or_else(|| self.in_query())
    }

    /// The client's address, as API Gateway saw it.
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
        // An applet appends its own parameters to the URL, perhaps with a second question mark.
        let stream_token = || query.get("stream_token")?.split('?').next();
        let stream_token = || Some(Credentials::StreamToken(stream_token()?.into()));
        token.or_else(secret).or_else(stream_token)
    }
}

/// The password in `base64(user:password)`.
fn password(encoded: &str) -> Option<String> {
    let decoded = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (_, password) = decoded.split_once(':')?;
    Some(password.to_owned())
}

/// The event of a message, of `$connect` or of `$disconnect`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Request {
    /// The connection and the route.
    pub request_context: RequestContext,
    /// The text of a message.
    #[serde(default)]
    pub body: Option<String>,
}

/// The connection and the route of a request.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RequestContext {
    connection_id: String,
    route_key: String,
    /// The authorizer's answer when the client connected.
    authorizer: ConnectedClient,
}

/// The client of a connection. The authorizer determines it once; API Gateway adds it to each later event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "AuthorizerContext", into = "AuthorizerContext")]
pub enum ConnectedClient {
    /// A phone app, or an operator.
    Client(Bearer),
    /// Exotel, with the audio stream of a call.
    Exotel {
        /// The only call that it may stream. `None` with the secret, which every call's stream may have.
        call_sid: Option<CallSid>,
    },
}

/// The same as API Gateway passes it on: it allows only text values, no nested ones.
#[derive(Serialize, Deserialize)]
struct AuthorizerContext {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    role: Option<ClientRole>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    extension: Option<Extension>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device_id: Option<DeviceId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    call_sid: Option<CallSid>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ClientRole {
    Exotel,
    Operator,
}

impl TryFrom<AuthorizerContext> for ConnectedClient {
    type Error = &'static str;

    fn try_from(context: AuthorizerContext) -> Result<Self, Self::Error> {
        let device = context.device_id;
        let party = context
            .extension
            .map(|extension| CallParty { extension, device });
        match (context.role, party) {
            (Some(ClientRole::Exotel), _) => Ok(Self::Exotel {
                call_sid: context.call_sid,
            }),
            (Some(ClientRole::Operator), party) => Ok(Self::Client(Bearer::Operator(party))),
            (None, Some(party)) => Ok(Self::Client(Bearer::App(party))),
            (None, None) => Err("the authorizer names neither a role nor an extension"),
        }
    }
}

impl From<ConnectedClient> for AuthorizerContext {
    fn from(client: ConnectedClient) -> Self {
        let (role, party, call_sid) = match client {
            ConnectedClient::Client(Bearer::App(party)) => (None, Some(party), None),
            // What only an admin may do goes over HTTP.
            ConnectedClient::Client(Bearer::Operator(party) | Bearer::Admin { party, .. }) => {
                (Some(ClientRole::Operator), party, None)
            }
            ConnectedClient::Exotel { call_sid } => (Some(ClientRole::Exotel), None, call_sid),
        };
        let (extension, device_id) = party.map(|party| (party.extension, party.device)).unzip();
        Self {
            role,
            extension,
            device_id: device_id.flatten(),
            call_sid,
        }
    }
}

impl Request {
    /// The client.
    #[must_use]
    pub const fn client(&self) -> &ConnectedClient {
        &self.request_context.authorizer
    }

    /// API Gateway's id of the connection.
    #[must_use]
    pub fn connection_id(&self) -> &str {
        &self.request_context.connection_id
    }

    /// Whether API Gateway sends the function's result to the client. The routes of apps' messages have a route response;
    /// `$default` has none.
    #[must_use]
    pub fn has_route_response(&self) -> bool {
        self.request_context.route_key.starts_with("message/")
    }

    /// The client's connection. `None` for Exotel, which gets no status updates.
    #[must_use]
    pub fn connection(&self) -> Option<Connection> {
        match self.client() {
            ConnectedClient::Exotel { .. } => None,
            ConnectedClient::Client(bearer) => Some(Connection {
                id: self.connection_id().to_owned(),
                viewer: bearer.viewer(),
            }),
        }
    }
}

/// The result of an event without an answer.
#[must_use]
pub fn done() -> Value {
    json!({ "statusCode": 200 })
}

/// The result of an event with an answer. API Gateway sends it only on a route with a route response.
#[must_use]
pub fn answer(message: &Value) -> Value {
    json!({ "statusCode": 200, "body": message.to_string() })
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret;

    use super::*;
    use crate::auth::Viewer;

    /// The credentials of a client with this header and this query.
    fn credentials(authorization: Option<&str>, query: &Value) -> Option<(&'static str, String)> {
        let headers = authorization.map(|value| json!({ "authorization": value }));
        let connecting =
            json!({ "methodArn": "arn", "headers": headers, "queryStringParameters": query });
        let connecting: Connecting = serde_json::from_value(connecting).unwrap();
        Some(match connecting.credentials()? {
            Credentials::Token(token) => ("token", token.expose_secret().to_owned()),
            Credentials::Secret(secret) => ("secret", secret.expose_secret().to_owned()),
            Credentials::StreamToken(token) => ("stream", token.expose_secret().to_owned()),
        })
    }

    #[test]
    fn an_app_sends_its_token_in_the_header_or_the_query() {
        let token = Some(("token", "Bearer abc".to_owned()));
        assert_eq!(credentials(Some("Bearer abc"), &Value::Null), token);
        assert_eq!(credentials(None, &json!({ "token": "abc" })), token);
        assert_eq!(
            credentials(Some("Bearer abc"), &json!({ "secret": "x" })),
            token
        );
    }

    #[test]
    fn exotel_sends_a_calls_token_in_the_query() {
        for shown in ["a-1.1.ff", "a-1.1.ff?sample-rate=16000"] {
            let shown = credentials(None, &json!({ "stream_token": shown }));
            assert_eq!(shown, Some(("stream", "a-1.1.ff".to_owned())));
        }
    }

    #[test]
    fn exotel_sends_the_secret_in_the_query_or_as_a_password() {
        let secret = Some(("secret", "hush".to_owned()));
        assert_eq!(credentials(None, &json!({ "secret": "hush" })), secret);
        let basic = |text: &str| format!("Basic {}", STANDARD.encode(text));
        assert_eq!(
            credentials(Some(&basic("exotel:hush")), &Value::Null),
            secret
        );
        let with_colon = credentials(Some(&basic(":hu:sh")), &Value::Null);
        assert_eq!(with_colon, Some(("secret", "hu:sh".to_owned())));
        for no_password in ["Basic", "Basic ", "Basic %", &basic("hush")] {
            let (_, secret) = credentials(Some(no_password), &Value::Null).unwrap();
            assert!(!secret.contains("hush"), "{no_password}");
        }
        assert_eq!(credentials(None, &Value::Null), None);
    }

    #[test]
    fn the_source_address_is_the_one_that_api_gateway_saw() {
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
    fn a_client_is_read_back_from_the_authorizers_context() {
        let party = |device: Option<&str>| CallParty {
            extension: Extension::try_from("1001").unwrap(),
            device: device.map(|device| DeviceId::try_from(device).unwrap()),
        };
        let app = |device| ConnectedClient::Client(Bearer::App(party(device)));
        let operator = |party| ConnectedClient::Client(Bearer::Operator(party));
        for (client, context) in [
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
            (
                ConnectedClient::Exotel { call_sid: None },
                json!({ "role": "exotel" }),
            ),
            (
                ConnectedClient::Exotel {
                    call_sid: Some(CallSid::try_from("a-1").unwrap()),
                },
                json!({ "role": "exotel", "call_sid": "a-1" }),
            ),
        ] {
            assert_eq!(serde_json::to_value(&client).unwrap(), context);
            let mut passed_on = context;
            passed_on["principalId"] = "1001".into();
            passed_on["integrationLatency"] = "12".into();
            assert_eq!(
                serde_json::from_value::<ConnectedClient>(passed_on).unwrap(),
                client
            );
        }
        for unknown in [
            json!({}),
            json!({ "principalId": "1001" }),
            json!({ "role": "root" }),
        ] {
            assert!(serde_json::from_value::<ConnectedClient>(unknown).is_err());
        }
    }

    #[test]
    fn only_the_routes_of_messages_have_a_route_response() {
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
    fn exotels_connection_is_not_a_client_connection() {
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
