//! The table's stream: each change of a call is told to the clients that are connected here. Where there are two regions,
//! the stream shows what the other one has done, and this one does its part: one reader of the stream does both, as AWS
//! asks of the streams of global tables.
//!
//! Nothing on a call's own way waits for this, however many clients there are.

use std::time::Instant;

use futures::future::join_all;
use futures::stream::{self, StreamExt};
use lambda_runtime::{Error, LambdaEvent};
use ringback::call::Call;
use ringback::calls::{StoreError, stored_in};
use ringback::clock::Timestamp;
use ringback::connections::{Connection, Connections, Deliveries};
use ringback::metrics::{self, Measured};
use ringback::replica;
use ringback::start::{Start, run};
use ringback::status_update::{StatusAudience, StatusUpdate};
use ringback::subject;
use ringback::timeouts::{Timeouts, TimerError};
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

/// A change of a call.
struct CallChange {
    sequence_number: String,
    before: Option<Call>,
    after: Call,
    /// The region that stored the call, where there are two.
    stored_in: Option<String>,
}

impl CallChange {
    /// An item that is no call, or that is being forgotten, changes no call.
    fn of(record: Record) -> Option<Self> {
        let change = record.dynamodb;
        let call = |item| serde_dynamo::from_item(item).ok();
        let item = change.new_image?;
        Some(Self {
            sequence_number: change.sequence_number,
            stored_in: stored_in(&item),
            before: change.old_image.and_then(call),
            after: call(item)?,
        })
    }
}

struct Broadcast {
    connections: Connections,
    audience: StatusAudience,
    replica: Option<Replica>,
}

/// This region, where there is another.
struct Replica {
    region: String,
    timeouts: Timeouts,
}

impl Replica {
    async fn look_at(&self, change: &CallChange) -> Result<(), TimerError> {
        let stored_in = change.stored_in.as_deref();
        let duty = replica::duty(
            change.before.as_ref(),
            &change.after,
            stored_in,
            &self.region,
        );
        match duty {
            Some(duty) => replica::fulfil(&duty, &self.timeouts, Timestamp::now()).await,
            None => Ok(()),
        }
    }
}

impl Broadcast {
    /// In the order in which the changes were made. What fails is brought again by the stream, from that record on.
    async fn handle(&self, event: LambdaEvent<Changes>) -> Result<Value, Error> {
        let records = event.payload.records.into_iter();
        let changes: Vec<CallChange> = records.filter_map(CallChange::of).collect();
        // All of them before clients, who may be many: a call waits for this.
        let looking = changes.iter().map(|change| self.look_at(change));
        let looked_at = join_all(looking).await;
        for (change, looked_at) in changes.into_iter().zip(looked_at) {
            let sequence_number = change.sequence_number.clone();
            let call_id = change.after.call_id;
            if let Err(error) = self.deal_with(change, looked_at).await {
                tracing::error!(%call_id, %error, cause = ?error.source(), "broadcast failed");
                return Ok(json!({ "batchItemFailures": [{ "itemIdentifier": sequence_number }] }));
            }
        }
        Ok(json!({ "batchItemFailures": [] }))
    }

    async fn look_at(&self, change: &CallChange) -> Result<(), TimerError> {
        match &self.replica {
            Some(replica) => replica.look_at(change).await,
            None => Ok(()),
        }
    }

    async fn deal_with(
        &self,
        change: CallChange,
        looked_at: Result<(), TimerError>,
    ) -> Result<(), Error> {
        let before = change.before.as_ref();
        let measured = self
            .counts(&change)
            .then(|| Measured::of_change(before, &change.after));
        if let Some(update) = StatusUpdate::of(before, change.after) {
            subject::dealing_with(update.call_id(), self.tell(&update)).await?;
        }
        looked_at?;
        if let Some(measured) = measured {
            measured.record();
        }
        Ok(())
    }

    /// Each call is counted in the region that stored it.
    fn counts(&self, change: &CallChange) -> bool {
        match (&self.replica, &change.stored_in) {
            (Some(replica), Some(region)) => replica.region == *region,
            _ => true,
        }
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
        let took = started.elapsed();
        metrics::told(sent, took);
        let took = took.as_millis();
        tracing::info!(call_id = %update.call_id(), sent, gone, failed, took_ms = u64::try_from(took).unwrap_or(u64::MAX), "told");
        Ok(())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await?;
    let replica = match start.other_region() {
        None => None,
        Some(_) => Some(Replica {
            region: start.region().to_owned(),
            timeouts: start.timeouts()?,
        }),
    };
    let this = &Broadcast {
        connections: start.connections()?,
        audience: start.status_audience()?,
        replica,
    };
    run(move |event| this.handle(event)).await
}
