//! The authorizer of `$connect`: who connects is settled here, once, and comes with each later message.

use ringback::platform::clock;
use std::net::IpAddr;

use lambda_runtime::{Error, LambdaEvent};
use ringback::api::websocket::{ConnectedClient, Connecting, Credentials};
use ringback::auth::webhook_auth::{WebhookAuth, WebhookAuthError};
use ringback::auth::{TokenError, Tokens};
use ringback::platform::secrets::WebhookSecret;
use ringback::start::{Start, run};
use ringback_core::timestamp::Timestamp;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

struct WsAuthorizer {
    tokens: Tokens,
    exotel: WebhookAuth<WebhookSecret>,
}

impl WsAuthorizer {
    async fn handle(&self, event: LambdaEvent<Connecting>) -> Result<Value, Error> {
        let connecting = event.payload;
        let arn = &connecting.method_arn;
        let who = match connecting.credentials() {
            Some(credentials) => {
                let now = clock::now();
                self.who_shows(&credentials, connecting.source(), now)
                    .await?
            }
            None => None,
        };
        let Some(who) = who else {
            tracing::info!("somebody without a valid token or secret was turned away");
            return Ok(policy("Deny", "nobody", arn, &json!({})));
        };
        let principal = match &who {
            ConnectedClient::Client(bearer) => bearer.viewer().to_string(),
            ConnectedClient::Exotel => "exotel".to_owned(),
        };
        Ok(policy(
            "Allow",
            &principal,
            arn,
            &serde_json::to_value(who)?,
        ))
    }

    async fn who_shows(
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
            Credentials::Secret(shown) => {
                let shown = Some(shown.expose_secret());
                match self.exotel.authenticate(source, shown, now).await {
                    Ok(()) => Ok(Some(ConnectedClient::Exotel)),
                    Err(WebhookAuthError::Secret(error)) => Err(error.into()),
                    Err(
                        WebhookAuthError::SourceNotAllowed(_) | WebhookAuthError::Unauthorized(_),
                    ) => Ok(None),
                }
            }
        }
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
    let start = Start::function().await;
    let this = &WsAuthorizer {
        tokens: start.tokens()?,
        exotel: start.exotel_webhook_auth()?,
    };
    run(move |event| this.handle(event)).await
}
