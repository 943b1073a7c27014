//! An app calls a telephone: Exotel connects the two numbers and reports the progress.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{CallEnd, CallLegs, CallRun, LOST_AFTER, Scenario};
use crate::subscriber::Subscriber;
use ringback_e2e::clients::is_final;

/// How long Exotel may take to place the call. An app without an answer repeats its request in this time.
const PLACED_WITHIN: Duration = Duration::from_secs(12);
const TALK: Duration = Duration::from_millis(600);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl CallRun {
    pub(super) async fn outbound(&mut self, subscriber: &mut Subscriber) -> Result<CallLegs> {
        let mut client = self.client(subscriber).await?;
        let began = Instant::now();
        let wanted = json!({
            "type": "incoming_call", "callType": "voice", "clientReference": uuid::Uuid::new_v4().to_string(),
            "callerId": subscriber.account.mobile_number, "recipientId": self.caller,
        });
        self.observations.call = self.request(&mut client, &wanted).await?;
        let Some(id) = self.observations.call.clone() else {
            self.problem("the app received no answer");
            return self.wait_for_end_by_update(began).await;
        };
        let placed = self.is_placed(&id).await?;
        if let Some(sid) = &placed {
            self.exotel_reports(sid).await?;
        }
        let legs = self.wait_for_end(&id, began, placed.is_some()).await;
        if self.harness.fixture.exotel_call_sids(&id).await?.len() > 1 {
            self.problem("Exotel was asked to place the call twice");
        }
        Ok(legs)
    }

    async fn is_placed(&mut self, id: &str) -> Result<Option<String>> {
        let deadline = Instant::now() + PLACED_WITHIN;
        while Instant::now() < deadline {
            let sids = self.harness.fixture.exotel_call_sids(id).await?;
            if let Some(sid) = sids.into_iter().next() {
                return Ok(Some(sid));
            }
            if self.harness.updates.of(id).last().is_some_and(is_final) {
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        Ok(None)
    }

    async fn exotel_reports(&mut self, sid: &str) -> Result<()> {
        let statuses: &[&str] = match self.scenario {
            Scenario::NumberBusy => &["busy"],
            _ => &["in-progress", "completed"],
        };
        for status in statuses {
            let happened = self
                .harness
                .fixture
                .exotel_event(sid, json!({ "status": status }))
                .await?;
            let answer = happened["answers"][0]["status"]
                .as_u64()
                .unwrap_or_default();
            let answer = u16::try_from(answer).unwrap_or_default();
            self.observations
                .answers
                .push(((*status).to_owned(), answer));
            sleep(TALK).await;
        }
        Ok(())
    }

    async fn wait_for_end(&mut self, id: &str, began: Instant, placed: bool) -> CallLegs {
        let mut waited = None;
        let mut end = CallEnd::Lost;
        while began.elapsed() < LOST_AFTER {
            let updates = self.harness.updates.of(id);
            let talked = updates
                .iter()
                .any(|update| update["status"] == "in-progress");
            if talked && waited.is_none() {
                waited = Some(began.elapsed());
            }
            if let Some(last) = updates.last().filter(|last| is_final(last)) {
                let is_talked = placed && last["status"] == "completed";
                end = if is_talked {
                    CallEnd::Bridged
                } else {
                    CallEnd::Busy
                };
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        CallLegs {
            end,
            waited: waited.unwrap_or(began.elapsed()),
            phone: None,
        }
    }
}
