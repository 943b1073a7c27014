//! The authorizer of `$connect`: who connects is settled here, once, and comes with each later message.

use std::net::IpAddr;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use ringback::auth;
use ringback::clock::Timestamp;
use ringback::gate::{Gate, TurnedAway};
use ringback::secrets::{AppSecret, ExotelSecret, Secret, SecretError};
use ringback::start::Start;
use ringback::websocket::{Connecting, Credentials, Who};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

struct WsAuthorizer {
    apps: Secret<AppSecret>,
    exotel: Gate<ExotelSecret>,
}

impl WsAuthorizer {
    async fn handle(&self, event: LambdaEvent<Connecting>) -> Result<Value, Error> {
        let connecting = event.payload;
        let arn = &connecting.method_arn;
        let who = match connecting.credentials() {
            Some(credentials) => {
                let now = Timestamp::now();
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
            Who::App(party) => party.extension.to_string(),
            Who::Exotel => "exotel".to_owned(),
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
    ) -> Result<Option<Who>, SecretError> {
        match credentials {
            Credentials::Token(header) => {
                let secret = self.apps.value().await?;
                let party = auth::party(Some(header.expose_secret()), &secret);
                Ok(party.ok().map(Who::App))
            }
            Credentials::Secret(shown) => {
                let shown = Some(shown.expose_secret());
                match self.exotel.admit(source, shown, now).await {
                    Ok(()) => Ok(Some(Who::Exotel)),
                    Err(TurnedAway::Secret(error)) => Err(error),
                    Err(TurnedAway::SourceNotAllowed(_) | TurnedAway::Unauthorized(_)) => Ok(None),
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
    let start = Start::without_table().await;
    let this = &WsAuthorizer {
        apps: start.secret("APP_SECRET_ARN")?,
        exotel: start.exotels_gate()?,
    };
    lambda_runtime::run(service_fn(move |event| this.handle(event))).await
}
