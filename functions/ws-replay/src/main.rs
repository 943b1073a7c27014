//! Sends a client that has connected the calls in progress that it may see ([`replayed`]), so that an app can answer a call that was
//! ringing before. Meanwhile `broadcast` may send the client a change of such a call, in any order: the newer timestamp counts.

mod replayed;

use std::time::Duration;

use futures::future::join_all;
use lambda_runtime::{Error, LambdaEvent};
use ringback::platform::clock;
use ringback::platform::invocation::InvocationContext;
use ringback::replay_queue::ReplayRequest;
use ringback::start::{Start, run};
use ringback::store::calls::DynamoCallStore;
use ringback::store::connections::{Connection, Connections, DeliveryResult};
use ringback::store::live_calls::LiveCalls;
use ringback::store::post_budget::PostBudget;
use serde::Deserialize;
use serde_json::{Value, json};

/// How long a message to a client waits for the budget of posts. Then SQS delivers the request again.
const WAIT_FOR_POSTS: Duration = Duration::from_secs(5);

/// The pauses before a message is sent again. API Gateway does not know a client that is still connecting.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(100),
    Duration::from_millis(300),
    Duration::from_millis(900),
];

/// A batch of the queue.
#[derive(Deserialize)]
struct QueueEvent {
    #[serde(rename = "Records")]
    messages: Vec<QueueMessage>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct QueueMessage {
    message_id: String,
    body: String,
}

struct Replay {
    live_calls: LiveCalls,
    calls: DynamoCallStore,
    connections: Connections,
    posts: PostBudget,
}

impl Replay {
    /// Handles all requests at once, because each client waits for its own. SQS delivers those that failed again: a client may get a
    /// message twice.
    async fn handle(&self, event: LambdaEvent<QueueEvent>) -> Result<Value, Error> {
        let invocation = InvocationContext::begin(&event.context);
        let messages = event.payload.messages.iter();
        let handled = messages.map(async |message| {
            let handling = self.handle_message(message);
            let time = invocation.time_left(invocation.now);
            let handled = tokio::time::timeout(time, handling).await;
            let error = handled.map_err(Error::from).flatten().err()?;
            tracing::error!(message_id = message.message_id, %error, cause = ?error.source(), "replay failed");
            Some(json!({ "itemIdentifier": message.message_id }))
        });
        let failures: Vec<Value> = join_all(handled).await.into_iter().flatten().collect();
        Ok(json!({ "batchItemFailures": failures }))
    }

    async fn handle_message(&self, message: &QueueMessage) -> Result<(), Error> {
        let request: ReplayRequest = serde_json::from_str(&message.body)?;
        let listed = self.live_calls.of(&request.connection.viewer).await?;
        let calls = self.calls.find_all(&listed).await?;
        let texts = replayed::texts(&request, &calls, clock::now());
        if texts.is_empty() {
            return Ok(());
        }
        let connection = &request.connection;
        let mut sent = 0;
        for text in &texts {
            if !self.posts.take(clock::now() + WAIT_FOR_POSTS).await {
                return Err("no message budget is left".into());
            }
            if !self.send(connection, text).await {
                break;
            }
            sent += 1;
        }
        let (connection_id, calls) = (&connection.id, texts.len());
        tracing::info!(connection_id, client = %connection.viewer, calls, sent, "calls in progress sent");
        Ok(())
    }

    /// Sends a message, and returns whether the client has it. It has not if it is gone, or takes no message.
    async fn send(&self, client: &Connection, text: &str) -> bool {
        let mut pauses = PAUSES.into_iter();
        loop {
            match self.connections.send(client, text, clock::now()).await {
                DeliveryResult::Sent => return true,
                DeliveryResult::Gone => return false,
                DeliveryResult::Failed => {}
            }
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return false,
            }
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let this = &Replay {
        live_calls: start.live_calls()?,
        calls: start.calls()?,
        connections: start.connections()?,
        posts: start.post_budget()?,
    };
    run(move |event| this.handle(event)).await
}
