//! The table's stream: each change of a call is told to the clients that are connected here.
//!
//! Nothing on a call's own way waits for this, however many clients there are.

use std::time::Instant;

use futures::stream::{self, StreamExt};
use lambda_runtime::{Error, LambdaEvent, service_fn};
use ringback::calls::StoreError;
use ringback::clock::Timestamp;
use ringback::connections::{Connection, Connections, Deliveries};
use ringback::start::Start;
use ringback::status_update::{StatusAudience, StatusUpdate};
use serde::Deserialize;
use serde_dynamo::Item;
use serde_json::{Value, json};

#[derive(Deserialize)]
struct Changes {
    #[serde(rename = "Records")]
    records: Vec<Record>,
}

#[derive(Deserialize)]
struct Record {
    dynamodb: Change,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Change {
    sequence_number: String,
    #[serde(default)]
    new_image: Option<Item>,
    #[serde(default)]
    old_image: Option<Item>,
}

struct Broadcast {
    connections: Connections,
    audience: StatusAudience,
}

impl Broadcast {
    /// In the order in which the changes were made. What fails is brought again by the stream, from that record on.
    async fn handle(&self, event: LambdaEvent<Changes>) -> Result<Value, Error> {
        for record in event.payload.records {
            let sequence_number = record.dynamodb.sequence_number.clone();
            if let Some(update) = update_in(record.dynamodb)
                && let Err(error) = self.tell(&update).await
            {
                tracing::error!(%error, cause = ?std::error::Error::source(&error), "broadcast failed");
                return Ok(json!({ "batchItemFailures": [{ "itemIdentifier": sequence_number }] }));
            }
        }
        Ok(json!({ "batchItemFailures": [] }))
    }

    async fn tell(&self, update: &StatusUpdate) -> Result<(), StoreError> {
        let started = Instant::now();
        let (for_participants, for_others) = (update.for_participants(), update.for_others());
        let listeners = match self.audience {
            StatusAudience::Everyone => self.connections.of_everyone().left_stream(),
            StatusAudience::Participants => stream::iter(update.participants())
                .flat_map(|extension| Box::pin(self.connections.of(extension)))
                .chain(self.connections.of_operators())
                .right_stream(),
        };
        let text_for = |connection: &Connection| {
            if connection.viewer.sees(update.participants()) {
                for_participants.as_str()
            } else {
                for_others.as_str()
            }
        };
        let now = Timestamp::now();
        let telling = self.connections.send_to_all(listeners, text_for, now);
        let deliveries = telling.await?;
        let Deliveries { sent, gone, failed } = deliveries;
        let took = started.elapsed().as_millis();
        tracing::info!(call_id = %update.call_id(), sent, gone, failed, took_ms = u64::try_from(took).unwrap_or(u64::MAX), "told");
        Ok(())
    }
}

/// The update that a change calls for. An item that is no call, or that is being forgotten, calls for none.
fn update_in(change: Change) -> Option<StatusUpdate> {
    let call = |item| serde_dynamo::from_item(item).ok();
    StatusUpdate::of(
        change.old_image.and_then(call).as_ref(),
        call(change.new_image?)?,
    )
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await?;
    let this = &Broadcast {
        connections: start.connections()?,
        audience: start.status_audience()?,
    };
    lambda_runtime::run(service_fn(move |event| this.handle(event))).await
}
