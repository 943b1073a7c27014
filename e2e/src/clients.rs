//! WebSocket clients and the call status updates that they receive.

use anyhow::Result;
use ringback_client::Client;
use serde_json::Value;

use crate::fixture::{Fixture, SOON};

impl Fixture {
    pub async fn client(&self, extension: &str) -> Result<Client> {
        let token = &self.stack.phone(extension).unwrap().token;
        Ok(Client::connect(&self.stack.ws_url, token).await?)
    }
}

/// The status updates of one call, up to the final one.
pub async fn story(client: &mut Client, call: &str) -> Result<Vec<Value>> {
    let mut told = Vec::new();
    loop {
        let message = client.next(SOON).await?;
        if message["type"] != "call_status_update" || message["data"]["callId"] != call {
            continue;
        }
        let is_over = !["initiated", "ringing", "in-progress"]
            .contains(&message["data"]["status"].as_str().unwrap());
        told.push(message["data"].clone());
        if is_over {
            return Ok(told);
        }
    }
}

pub fn words(story: &[Value]) -> Vec<&str> {
    story
        .iter()
        .filter_map(|data| data["status"].as_str())
        .collect()
}

/// Waits for the next message of this type and skips all others, such as status updates.
pub async fn answer_of(client: &mut Client, kind: &str) -> Result<Value> {
    loop {
        let message = client.next(SOON).await?;
        if message["type"] == kind {
            return Ok(message);
        }
    }
}
