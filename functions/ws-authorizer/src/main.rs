//! The authorizer of `$connect`: who connects is settled here, once, and comes with each later message.

use lambda_runtime::{Error, LambdaEvent, service_fn};
use ringback::auth;
use ringback::secrets::{AppSecret, ExotelSecret, Secret, SecretError};
use ringback::start::Start;
use ringback::websocket::{Connecting, Credentials, Who};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

struct WsAuthorizer {
    apps: Secret<AppSecret>,
    exotel: Secret<ExotelSecret>,
}

impl WsAuthorizer {
    async fn handle(&self, event: LambdaEvent<Connecting>) -> Result<Value, Error> {
        let connecting = event.payload;
        let arn = &connecting.method_arn;
        let who = match connecting.credentials() {
            Some(credentials) => self.who_shows(&credentials).await?,
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

    async fn who_shows(&self, credentials: &Credentials) -> Result<Option<Who>, SecretError> {
        match credentials {
            Credentials::Token(header) => {
                let secret = self.apps.value().await?;
                let party = auth::party(Some(header.expose_secret()), secret);
                Ok(party.ok().map(Who::App))
            }
            Credentials::Secret(shown) => {
                let valid = self.exotel.value().await?.webhook_secrets();
                let known = auth::shared_secret(Some(shown.expose_secret()), valid);
                Ok(known.ok().map(|()| Who::Exotel))
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
        exotel: start.secret("EXOTEL_SECRET_ARN")?,
    };
    lambda_runtime::run(service_fn(move |event| this.handle(event))).await
}
