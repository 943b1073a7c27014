//! Sends a change of a call to the connected clients: to participants and operators always, to all others as far as
//! `PostsPerSecond` allows.

use std::cell::Cell;
use std::collections::HashSet;
use std::error::Error as _;
use std::time::{Duration, Instant};

use futures::future;
use futures::stream::{self, StreamExt, TryStreamExt};
use ringback::api::status_update::{StatusAudience, StatusUpdate};
use ringback::platform::clock;
use ringback::store::StoreError;
use ringback::store::connections::{Connection, Connections, DeliveryCounts};
use ringback::store::post_budget::PostBudget;
use ringback::telemetry::{call_log_fields, metrics};
use ringback_core::timestamp::Timestamp;

/// How long sending to other clients may delay the next batch, and how old a change may be to be sent to them at all.
const OTHERS_TIME_LIMIT: Duration = Duration::from_secs(5);

/// From this age on, an update that cannot be sent is dropped instead of repeated, because it delays those of later changes.
const OUTDATED_AFTER: Duration = Duration::from_secs(60);

/// The connected clients and the rules for sending to them.
pub(crate) struct ClientUpdates {
    pub(crate) connections: Connections,
    pub(crate) posts: PostBudget,
    pub(crate) audience: StatusAudience,
}

/// An update that participants and operators have received. Other clients may still have to.
pub(crate) struct ParticipantsUpdated {
    update: StatusUpdate,
    started_at: Instant,
    /// The connections that have the update.
    connection_ids: HashSet<String>,
    deliveries: DeliveryCounts,
}

impl ClientUpdates {
    /// Sends the update to the call's extensions and to operators, without a limit. `None` if it could not be sent and is
    /// outdated.
    pub(crate) async fn send_to_participants(
        &self,
        update: StatusUpdate,
    ) -> Result<Option<ParticipantsUpdated>, StoreError> {
        let outdated_at = update.changed_at() + OUTDATED_AFTER;
        match self.update_participants(update).await {
            Err(error) if outdated_at <= clock::now() => {
                tracing::error!(%error, cause = ?error.source(), "outdated status update dropped");
                Ok(None)
            }
            sent => sent.map(Some),
        }
    }

    async fn update_participants(
        &self,
        update: StatusUpdate,
    ) -> Result<ParticipantsUpdated, StoreError> {
        let started_at = Instant::now();
        let clients: Vec<Connection> = stream::iter(update.participants())
            .flat_map(|extension| Box::pin(self.connections.of(extension)))
            .chain(self.connections.of_operators())
            .try_collect()
            .await?;
        let connection_ids = clients.iter().map(|client| client.id.clone()).collect();
        let text = update.for_participants();
        let clients = stream::iter(clients.into_iter().map(Ok));
        let sending = self
            .connections
            .send_to_all(clients, |_| &text, clock::now());
        let deliveries = sending.await?;
        Ok(ParticipantsUpdated {
            update,
            started_at,
            connection_ids,
            deliveries,
        })
    }

    /// Sends the updates of one batch to all other clients. What is not sent in time is dropped, not repeated.
    pub(crate) async fn send_to_others(&self, updates: Vec<ParticipantsUpdated>) {
        let until = clock::now() + OTHERS_TIME_LIMIT;
        for update in updates {
            let call_id = update.update.call_id();
            call_log_fields::with_call(call_id, self.finish(update, until)).await;
        }
    }

    /// Sends one update to the other clients, if they get any, and reports how many clients have it.
    async fn finish(&self, sent: ParticipantsUpdated, until: Timestamp) {
        let (to_others, dropped) = match self.audience {
            StatusAudience::Everyone => self.send_update_to_others(&sent, until).await,
            StatusAudience::Participants => (DeliveryCounts::default(), false),
        };
        let mut deliveries = sent.deliveries;
        deliveries += to_others;
        let took = sent.started_at.elapsed();
        let is_last = sent.update.is_last();
        metrics::status_update_sent(is_last.then_some((deliveries.sent, took)), dropped);
        let took_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let DeliveryCounts {
            sent: clients,
            gone,
            failed,
        } = deliveries;
        let call_id = sent.update.call_id();
        if dropped || failed > 0 {
            tracing::info!(%call_id, sent = clients, gone, failed, dropped, took_ms, "status update sent");
        }
    }

    /// Returns the deliveries, and whether some clients got no update for lack of posts or time.
    async fn send_update_to_others(
        &self,
        sent: &ParticipantsUpdated,
        until: Timestamp,
    ) -> (DeliveryCounts, bool) {
        // An old change means that this batch is behind. Its update is dropped, because the participants of the next
        // batch are waiting.
        let until = until.min(sent.update.changed_at() + OTHERS_TIME_LIMIT);
        let dropped = &Cell::new(false);
        let (unmasked, masked) = (sent.update.for_participants(), sent.update.for_others());
        let text_for = |client: &Connection| {
            // A participant's client may have connected after the participants were updated.
            if client.viewer.sees(sent.update.participants()) {
                unmasked.as_str()
            } else {
                masked.as_str()
            }
        };
        let clients = self
            .connections
            .of_everyone()
            .try_filter(|client| future::ready(!sent.connection_ids.contains(&client.id)))
            .take_while(|_| async move {
                let has_post = self.posts.take(until).await;
                dropped.set(!has_post);
                has_post
            });
        let sending = self
            .connections
            .send_to_all(clients, text_for, clock::now());
        match sending.await {
            Ok(deliveries) => (deliveries, dropped.get()),
            Err(error) => {
                tracing::error!(%error, cause = ?error.source(), "other clients could not be listed");
                (DeliveryCounts::default(), true)
            }
        }
    }
}
