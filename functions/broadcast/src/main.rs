//! The table's stream: each change of a call is told to the clients that are connected here. Where there are two regions,
//! the stream shows what the other one has done, and this one does its part: one reader of the stream does both, as AWS
//! asks of the streams of global tables.
//!
//! Nothing on a call's own way waits for this, however many clients there are. A call's participants and operators are told
//! of every change; all others as far as `PostsPerSecond` goes.

use ringback::platform::clock;
use std::cell::Cell;
use std::collections::HashSet;
use std::error::Error as _;
use std::time::{Duration, Instant};

use futures::future::{self, join_all};
use futures::stream::{self, StreamExt, TryStreamExt};
use lambda_runtime::{Error, LambdaEvent};
use ringback::api::status_update::{StatusAudience, StatusUpdate};
use ringback::start::{Start, run};
use ringback::store::connections::{Connection, Connections, DeliveryCounts};
use ringback::store::post_budget::PostBudget;
use ringback::store::{StoreError, calls::stored_in};
use ringback::telemetry::call_log_fields;
use ringback::telemetry::metrics::{self, CallMetrics};
use ringback::timers::replica;
use ringback::timers::{Timeouts, TimerError};
use ringback_core::call::Call;
use ringback_core::timestamp::Timestamp;
use serde::Deserialize;
use serde_dynamo::Item;
use serde_json::{Value, json};

/// How long clients without a part in a call may hold up the next batch, and how old a change may be that they are told of.
const OTHERS_WITHIN: Duration = Duration::from_secs(5);

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
    posts: PostBudget,
    audience: StatusAudience,
    replica: Option<Replica>,
}

/// A change that the call's participants and operators were told of; others may be still to be told.
struct Told {
    update: StatusUpdate,
    began: Instant,
    changed_at: Timestamp,
    ids: HashSet<String>,
    deliveries: DeliveryCounts,
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
            Some(duty) => replica::fulfil(&duty, &self.timeouts, clock::now()).await,
            None => Ok(()),
        }
    }
}

impl Broadcast {
    /// In the order in which the changes were made. The participants of all calls come first, because other clients may be
    /// many. What fails is brought again by the stream, from that record on; what others are told is not repeated.
    async fn handle(&self, event: LambdaEvent<Changes>) -> Result<Value, Error> {
        let records = event.payload.records.into_iter();
        let changes: Vec<CallChange> = records.filter_map(CallChange::of).collect();
        // All of them before clients, who may be many: a call waits for this.
        let looking = changes.iter().map(|change| self.look_at(change));
        let looked_at = join_all(looking).await;
        let (mut told, mut failures) = (Vec::new(), Vec::new());
        for (change, looked_at) in changes.into_iter().zip(looked_at) {
            let sequence_number = change.sequence_number.clone();
            let call_id = change.after.call_id;
            match self.deal_with(change, looked_at).await {
                Ok(update) => told.extend(update),
                Err(error) => {
                    tracing::error!(%call_id, %error, cause = ?error.source(), "broadcast failed");
                    failures.push(json!({ "itemIdentifier": sequence_number }));
                    break;
                }
            }
        }
        let until = clock::now() + OTHERS_WITHIN;
        for told in told {
            call_log_fields::with_call(told.update.call_id(), self.tell_others(told, until)).await;
        }
        Ok(json!({ "batchItemFailures": failures }))
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
    ) -> Result<Option<Told>, Error> {
        let before = change.before.as_ref();
        let measured = self
            .counts(&change)
            .then(|| CallMetrics::of_change(before, &change.after));
        let told = match StatusUpdate::of(before, change.after) {
            Some(update) => {
                let call_id = update.call_id();
                Some(call_log_fields::with_call(call_id, self.tell_participants(update)).await?)
            }
            None => None,
        };
        looked_at?;
        if let Some(measured) = measured {
            measured.record();
        }
        Ok(told)
    }

    /// Each call is counted in the region that stored it.
    fn counts(&self, change: &CallChange) -> bool {
        match (&self.replica, &change.stored_in) {
            (Some(replica), Some(region)) => replica.region == *region,
            _ => true,
        }
    }

    /// Tells the call's own extensions and operators, whatever it costs.
    async fn tell_participants(&self, update: StatusUpdate) -> Result<Told, StoreError> {
        let began = Instant::now();
        let listeners: Vec<Connection> = stream::iter(update.participants())
            .flat_map(|extension| Box::pin(self.connections.of(extension)))
            .chain(self.connections.of_operators())
            .try_collect()
            .await?;
        let ids = listeners.iter().map(|client| client.id.clone()).collect();
        let text = update.for_participants();
        let listeners = stream::iter(listeners.into_iter().map(Ok));
        let telling = self
            .connections
            .send_to_all(listeners, |_| &text, clock::now());
        let deliveries = telling.await?;
        Ok(Told {
            changed_at: update.changed_at(),
            update,
            began,
            ids,
            deliveries,
        })
    }

    /// Tells everybody else, if they hear of calls, while there are posts and time for it. A change that is old by now is
    /// not told: this batch is behind, and the participants of the next one wait for it.
    async fn tell_others(&self, told: Told, until: Timestamp) {
        let until = until.min(told.changed_at + OTHERS_WITHIN);
        let dropped = &Cell::new(false);
        let (participants, others) = (told.update.for_participants(), told.update.for_others());
        // A participant's client may have connected since the participants were told.
        let text_for = |client: &Connection| {
            if client.viewer.sees(told.update.participants()) {
                participants.as_str()
            } else {
                others.as_str()
            }
        };
        let in_pace = self
            .connections
            .of_everyone()
            .try_filter(|client| future::ready(!told.ids.contains(&client.id)))
            .take_while(|_| async move {
                let has_post = self.posts.take(until).await;
                dropped.set(!has_post);
                has_post
            });
        let mut deliveries = told.deliveries;
        if self.audience == StatusAudience::Everyone {
            let sending = self
                .connections
                .send_to_all(in_pace, text_for, clock::now());
            match sending.await {
                Ok(to_others) => deliveries += to_others,
                Err(error) => {
                    tracing::error!(%error, cause = ?error.source(), "clients without a part in the call were not found");
                    dropped.set(true);
                }
            }
        }
        let DeliveryCounts { sent, gone, failed } = deliveries;
        let (took, dropped) = (told.began.elapsed(), dropped.get());
        metrics::status_update_sent(sent, took, dropped);
        let took = took.as_millis();
        tracing::info!(call_id = %told.update.call_id(), sent, gone, failed, dropped, took_ms = u64::try_from(took).unwrap_or(u64::MAX), "told");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await;
    let replica = match start.other_region() {
        None => None,
        Some(_) => Some(Replica {
            region: start.region().to_owned(),
            timeouts: start.timeouts()?,
        }),
    };
    let this = &Broadcast {
        connections: start.connections()?,
        posts: start.post_budget()?,
        audience: start.status_audience()?,
        replica,
    };
    run(move |event| this.handle(event)).await
}
