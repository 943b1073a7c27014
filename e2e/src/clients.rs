//! WebSocket clients and the call status updates that they receive.

use anyhow::Result;
use ringback_client::Client;
use serde_json::Value;

use crate::fixture::{Fixture, SOON};

impl Fixture {
    /// Connects a WebSocket client of an extension.
    pub async fn client(&self, extension: &str) -> Result<Client> {
        let token = &self.stack.phone(extension).unwrap().token;
        Ok(Client::connect(&self.stack.ws_url, token).await?)
    }
}

/// The status updates of one call, up to the final one.
pub async fn status_updates(client: &mut Client, call: &str) -> Result<Vec<Value>> {
    let mut updates = Vec::new();
    loop {
        let message = client.next(SOON).await?;
        if message["type"] != "call_status_update" || message["data"]["callId"] != call {
            continue;
        }
        let update = message["data"].clone();
        let is_last = is_final(&update);
        updates.push(update);
        if is_last {
            return Ok(updates);
        }
    }
}

/// The statuses in these updates.
pub fn statuses_of(story: &[Value]) -> Vec<&str> {
    story
        .iter()
        .filter_map(|data| data["status"].as_str())
        .collect()
}

/// Waits for the next message of this type and skips all others, such as status updates.
pub async fn next_of_type(client: &mut Client, kind: &str) -> Result<Value> {
    loop {
        let message = client.next(SOON).await?;
        if message["type"] == kind {
            return Ok(message);
        }
    }
}

/// Whether a status update is the last one of its call.
pub fn is_final(update: &Value) -> bool {
    let status = update["status"].as_str().unwrap_or_default();
    !["initiated", "ringing", "in-progress"].contains(&status)
}
