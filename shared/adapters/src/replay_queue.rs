//! The queue between `ws-connect`, which stores a client, and `ws-replay`, which sends it the calls in progress. `ws-connect` cannot send
//! them itself: API Gateway delivers nothing before it has answered `$connect`.

use std::time::Duration;

use ringback_core::timestamp::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use crate::platform::lazy_client::LazyClient;
use crate::store::connections::Connection;

/// A client that connects does not wait longer for the queue.
const PATIENCE: Duration = Duration::from_secs(2);

type Source = Box<dyn std::error::Error + Send + Sync>;

/// The queue has not taken a message in time.
#[derive(Debug, thiserror::Error)]
#[error("SQS did not accept a replay")]
pub struct ReplayQueueError(#[source] Source);

/// A message of the queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayRequest {
    /// The client that has connected.
    pub connection: Connection,
    /// From this time on, `broadcast` finds the client.
    pub stored_at: Timestamp,
}

/// The queue.
#[derive(Clone, Debug)]
pub struct ReplayQueue {
    sqs: LazyClient<aws_sdk_sqs::Client>,
    url: String,
}

impl ReplayQueue {
    /// The queue with this URL.
    #[must_use]
    pub const fn new(sqs: LazyClient<aws_sdk_sqs::Client>, url: String) -> Self {
        Self { sqs, url }
    }

    /// Has the calls in progress sent to this client.
    ///
    /// # Errors
    /// When the queue does not take the request within 2 s.
    pub async fn send(&self, request: &ReplayRequest) -> Result<(), ReplayQueueError> {
        let body = serde_json::to_string(request).map_err(failed)?;
        let message = self.sqs.send_message();
        let message = message.queue_url(&self.url).message_body(body);
        let sent = timeout(PATIENCE, message.send()).await.map_err(failed)?;
        sent.map_err(failed)?;
        Ok(())
    }
}

fn failed(source: impl Into<Source>) -> ReplayQueueError {
    ReplayQueueError(source.into())
}
