//! The authorizer of `$connect`: who connects is settled here, once, and comes with each later message.

use std::collections::HashMap;

use lambda_runtime::{Error, LambdaEvent, service_fn};
use ringback::secrets::{AppSecret, Secret};
use ringback::start::Start;
use ringback::websocket::Who;
use serde::Deserialize;
use serde_json::{Value, json};

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Connecting {
    method_arn: String,
    #[serde(default)]
    headers: Option<HashMap<String, String>>,
    #[serde(default)]
    query_string_parameters: Option<HashMap<String, String>>,
}

impl Connecting {
    /// `Authorization: Bearer …`, or `?token=…` where a client cannot set headers, as browsers cannot.
    fn authorization(&self) -> Option<String> {
        let headers = self.headers.iter().flatten();
        let header = headers
            .filter(|(name, _)| name.eq_ignore_ascii_case("authorization"))
            .map(|(_, value)| value.clone());
        let query = self
            .query_string_parameters
            .iter()
            .flatten()
            .filter(|(name, _)| *name == "token");
        header
            .chain(query.map(|(_, token)| format!("Bearer {token}")))
            .next()
    }
}

async fn handle(
    secret: &Secret<AppSecret>,
    event: LambdaEvent<Connecting>,
) -> Result<Value, Error> {
    let connecting = event.payload;
    let authorization = connecting.authorization();
    let party = ringback::auth::party(authorization.as_deref(), secret.value().await?);
    let Ok(party) = party else {
        tracing::info!("a client without a valid token was turned away");
        return Ok(policy("Deny", "nobody", &connecting.method_arn, &json!({})));
    };
    let principal = party.extension.to_string();
    let who = Who {
        extension: party.extension,
        device_id: party.device,
    };
    Ok(policy(
        "Allow",
        &principal,
        &connecting.method_arn,
        &serde_json::to_value(who)?,
    ))
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
    let secret = &start.secret("APP_SECRET_ARN")?;
    lambda_runtime::run(service_fn(move |event| handle(secret, event))).await
}
