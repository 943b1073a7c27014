//! Reads the table's stream. For each change of a call it does three things:
//!
//! 1. It does what the call depends on: the backstop of a new call, and this region's part for calls of the other region
//!    ([`call_duties`]). It adds a new call to the lists of its extensions.
//! 2. It sends a status update to the connected clients ([`client_updates`]), except for a new call that is refused ([`new_calls`]).
//!    Before that, it notes who talks, and which calls are in progress.
//! 3. It records the metrics of the change, logs an ended call ([`call_story`]), and counts the devices that did not ring ([`silent_devices`]).
//!
//! One function does all three because AWS recommends a single reader for the stream of a global table. No request of a
//! call waits for it, however many clients are connected.

mod call_duties;
mod call_story;
mod client_updates;
mod new_calls;
mod silent_devices;
mod stream_records;

use call_duties::CallDuties;
use client_updates::{ClientUpdates, ParticipantsUpdated};
use futures::future::join_all;
use lambda_runtime::{Error, LambdaEvent};
use new_calls::NewCalls;
use ringback::api::status_update::StatusUpdate;
use ringback::start::{Start, run};
use ringback::store::call_lists::CallLists;
use ringback::store::devices::Devices;
use ringback::store::live_calls::LiveCalls;
use ringback::telemetry::call_log_fields;
use ringback::telemetry::metrics::CallMetrics;
use serde_json::{Value, json};
use silent_devices::SilentDevices;
use stream_records::{CallChange, StreamEvent};

struct Broadcast {
    client_updates: ClientUpdates,
    call_duties: CallDuties,
    call_lists: CallLists,
    live_calls: LiveCalls,
    devices: Devices,
    new_calls: NewCalls,
    silent_devices: SilentDevices,
}

impl Broadcast {
    /// Handles the changes in order. After a failure, Lambda delivers the batch again from the failed record on.
    async fn handle(&self, event: LambdaEvent<StreamEvent>) -> Result<Value, Error> {
        let changes = event.payload.call_changes();
        // Duties come first: a call depends on them, and there may be many clients.
        let duties = changes.iter().map(|change| self.perform_duties(change));
        let duties = join_all(duties).await;
        let (mut updates, mut failures) = (Vec::new(), Vec::new());
        let mut rang = Vec::new();
        for (change, duty) in changes.into_iter().zip(duties) {
            let sequence_number = change.sequence_number.clone();
            let call_id = change.after.call_id;
            let counted = self.call_duties.counts(&change).then_some(&change);
            let counted = counted.and_then(silent_devices::call_to_count);
            match self.handle_change(change, duty).await {
                Ok(update) => {
                    updates.extend(update);
                    rang.extend(counted);
                }
                Err(error) => {
                    tracing::error!(%call_id, %error, cause = ?error.source(), "broadcast failed");
                    failures.push(json!({ "itemIdentifier": sequence_number }));
                    break;
                }
            }
        }
        // The participants of every call in the batch have their update by now. Other clients may be many.
        tokio::join!(
            self.client_updates.send_to_others(updates),
            self.silent_devices.count(&rang),
        );
        Ok(json!({ "batchItemFailures": failures }))
    }

    /// May run twice for the same change.
    async fn perform_duties(&self, change: &CallChange) -> Result<(), Error> {
        let listing = async {
            match change.before {
                None => self.call_lists.add(&change.after).await,
                Some(_) => Ok(()),
            }
        };
        let (timer, listed) = tokio::join!(self.call_duties.perform(change), listing);
        timer?;
        Ok(listed?)
    }

    /// Updates the participants and records the metrics. Fails if a duty failed.
    async fn handle_change(
        &self,
        change: CallChange,
        duty: Result<(), Error>,
    ) -> Result<Option<ParticipantsUpdated>, Error> {
        let measured = self
            .call_duties
            .counts(&change)
            .then(|| CallMetrics::of_change(change.before.as_ref(), &change.after));
        let ended = measured.is_some() && call_story::is_end(change.before.as_ref(), &change.after);
        let ended = ended.then(|| change.after.clone());
        // One change after the other: a short call or conversation may begin and end in one batch.
        let (before, after) = (change.before.as_ref(), &change.after);
        let (noted, listed) = tokio::join!(
            self.devices.note_conversation(before, after),
            self.live_calls.update(before, after),
        );
        noted?;
        listed?;
        let is_refused = self.new_calls.is_refused(&change).await?;
        let update = match StatusUpdate::of(change.before.as_ref(), change.after) {
            Some(update) if !is_refused => {
                let call_id = update.call_id();
                let sending = self.client_updates.send_to_participants(update);
                call_log_fields::with_call(call_id, sending).await?
            }
            Some(_) | None => None,
        };
        duty?;
        // Only now: a record that failed is delivered again and must not be counted twice.
        if let Some(measured) = measured {
            measured.record();
        }
        if let Some(call) = ended {
            call_story::log(&call);
        }
        Ok(update)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let this = &Broadcast {
        client_updates: ClientUpdates {
            connections: start.connections()?,
            posts: start.post_budget()?,
            audience: start.status_audience()?,
        },
        call_duties: CallDuties::from_start(&start)?,
        call_lists: start.call_lists()?,
        live_calls: start.live_calls()?,
        devices: start.devices()?,
        new_calls: NewCalls {
            calls: start.calls()?,
            devices: start.devices()?,
        },
        silent_devices: SilentDevices::new(start.ring_reports()?),
    };
    run(move |event| this.handle(event)).await
}
