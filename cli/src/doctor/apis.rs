//! The addresses of the two APIs lead to this deployment.

use std::time::Duration;

use ringback::doctor::{Fault, Finding};
use ringback_client::{Client, Credential};
use serde_json::Value;

use crate::api::http_client;
use crate::deployment::Deployment;
use crate::failure::Result;
use crate::token::{self, Claims, Role};

const TIMEOUT: Duration = Duration::from_secs(15);

/// `GET /health` is answered by this deployment, whether or not its PBXs are there.
pub(super) async fn check_http(deployment: &Deployment) -> Result<Vec<Finding>> {
    let http = http_client(TIMEOUT)?;
    let url = format!("{}/health", deployment.http_url);
    let fault = Fault::HttpUnreachable.at(&deployment.http_url);
    let answer = match http.get(url).send().await {
        Ok(answer) => answer,
        Err(error) => return Ok(vec![fault.seen(error.without_url())]),
    };
    let status = answer.status();
    let body: Value = answer.json().await.unwrap_or_default();
    let is_health = body["dependencies"].is_object();
    let seen = format!("the answer of /health is not Ringback's ({status})");
    Ok(if is_health {
        vec![]
    } else {
        vec![fault.seen(seen)]
    })
}

/// A client can connect. `None` without a token, because an identity provider makes them.
pub(super) async fn check_websocket(deployment: &Deployment) -> Result<Option<Vec<Finding>>> {
    if deployment.providers_algorithm().is_some() {
        return Ok(None);
    }
    let token = token::for_command(deployment, None, Claims::of_role(Role::Operator)).await?;
    let url = &deployment.ws_url;
    let credential = Credential::InHeader(token);
    let connected = Client::connect_as(url, &credential);
    let fault = Fault::WebSocketUnreachable.at(url);
    Ok(Some(match tokio::time::timeout(TIMEOUT, connected).await {
        Ok(Ok(client)) => {
            client.close().await;
            vec![]
        }
        Ok(Err(error)) => vec![fault.seen(error)],
        Err(_) => vec![fault.seen("no answer")],
    }))
}
