//! The authorizer of `$connect`. It identifies the client once; API Gateway passes the identity along with every later
//! message of the connection.

use std::net::IpAddr;

use lambda_runtime::{Error, LambdaEvent};
use ringback::api::websocket::{ConnectedClient, Connecting, Credentials};
use ringback::auth::webhook_auth::{WebhookAuth, WebhookAuthError};
use ringback::auth::{TokenError, Tokens};
use ringback::platform::clock;
use ringback::platform::secrets::WebhookSecret;
use ringback::start::{Start, run};
use ringback_core::ids::CallSid;
use ringback_core::timestamp::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

struct WsAuthorizer {
    tokens: Tokens,
    webhook_auth: WebhookAuth<WebhookSecret>,
}

impl WsAuthorizer {
    async fn handle(&self, event: LambdaEvent<Connecting>) -> Result<Value, Error> {
        let connecting = event.payload;
        let method_arn = &connecting.method_arn;
        let identity = match connecting.credentials() {
            Some(credentials) => {
                let source = connecting.source();
                self.identify(&credentials, source, clock::now()).await?
            }
            None => None,
        };
        let Some(identity) = identity else {
            tracing::info!("connection denied: no valid token or secret");
            return Ok(policy("Deny", "unauthenticated", method_arn, &json!({})));
        };
        let principal = match &identity {
            ConnectedClient::Client(bearer) => bearer.viewer().to_string(),
            ConnectedClient::Exotel { .. } => "exotel".to_owned(),
        };
        let context = serde_json::to_value(identity)?;
        Ok(policy("Allow", &principal, method_arn, &context))
    }

    /// `None` if the credentials are wrong. An error if they could not be checked.
    async fn identify(
        &self,
        credentials: &Credentials,
        source: Option<IpAddr>,
        now: Timestamp,
    ) -> Result<Option<ConnectedClient>, Error> {
        match credentials {
            Credentials::Token(header) => {
                let header = Some(header.expose_secret());
                match self.tokens.bearer(header, now).await {
                    Ok(bearer) => Ok(Some(ConnectedClient::Client(bearer))),
                    Err(TokenError::Unauthorized(_)) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Credentials::Secret(secret) => {
                let secret = Some(secret.expose_secret());
                let known = self.webhook_auth.authenticate(source, secret, now).await;
                exotel(known.map(|()| None))
            }
            Credentials::StreamToken(token) => {
                let checked = self.webhook_auth.check_stream_token(source, token, now);
                exotel(checked.await.map(Some))
            }
        }
    }
}

/// Exotel, with the call that its credentials are limited to.
fn exotel(
    checked: Result<Option<CallSid>, WebhookAuthError>,
) -> Result<Option<ConnectedClient>, Error> {
    match checked {
        Ok(call_sid) => Ok(Some(ConnectedClient::Exotel { call_sid })),
        Err(WebhookAuthError::Secret(error)) => Err(error.into()),
        Err(WebhookAuthError::SourceNotAllowed(_) | WebhookAuthError::Unauthorized(_)) => Ok(None),
    }
}

fn policy(effect: &str, principal: &str, method_arn: &str, context: &Value) -> Value {
    json!({
        "principalId": principal,
        "policyDocument": {
            "Version": "2012-10-17",
            "Statement": [{ "Action": "execute-api:Invoke", "Effect": effect, "Resource": method_arn }],
        },
        "context": context,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let this = &WsAuthorizer {
        tokens: start.tokens()?,
        webhook_auth: start.exotel_webhook_auth()?,
    };
    run(move |event| this.handle(event)).await
}
