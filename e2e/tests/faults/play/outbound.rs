//! An app calls a telephone: Exotel connects the two numbers and reports the progress.

use std::time::Duration;

use anyhow::Result;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::between_apps::is_final;
use super::{Acting, End, LOST_AFTER, Legs, Scenario};
use crate::seat::Seat;

/// How long Exotel may take to place the call. An app without an answer repeats its request in this time.
const PLACED_WITHIN: Duration = Duration::from_secs(12);
const TALK: Duration = Duration::from_millis(600);
const LOOKS_EVERY: Duration = Duration::from_millis(100);

impl Acting {
    pub(super) async fn outbound(&mut self, seat: &mut Seat) -> Result<Legs> {
        let mut client = self.client(seat).await?;
        let began = Instant::now();
        let wanted = json!({
            "type": "incoming_call", "callType": "voice", "clientReference": uuid::Uuid::new_v4().to_string(),
            "callerId": seat.account.mobile_number, "recipientId": self.caller,
        });
        self.story.call = self.asks(&mut client, &wanted).await?;
        let Some(id) = self.story.call.clone() else {
            self.problem("the app was told nothing");
            return self.is_told(began).await;
        };
        let placed = self.is_placed(&id).await?;
        if let Some(sid) = &placed {
            self.exotel_reports(sid).await?;
        }
        let legs = self.told_how_it_ended(&id, began, placed.is_some()).await;
        if self.stage.fixture.placed(&id).await?.len() > 1 {
            self.problem("Exotel was asked twice");
        }
        Ok(legs)
    }

    async fn is_placed(&mut self, id: &str) -> Result<Option<String>> {
        let patience = Instant::now() + PLACED_WITHIN;
        while Instant::now() < patience {
            let sids = self.stage.fixture.placed(id).await?;
            if let Some(sid) = sids.into_iter().next() {
                return Ok(Some(sid));
            }
            if self.stage.heard.of(id).last().is_some_and(is_final) {
                break;
            }
            sleep(LOOKS_EVERY).await;
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
                .stage
                .fixture
                .at_exotel(sid, json!({ "status": status }))
                .await?;
            let answer = happened["answers"][0]["status"]
                .as_u64()
                .unwrap_or_default();
            let answer = u16::try_from(answer).unwrap_or_default();
            self.story.answers.push(((*status).to_owned(), answer));
            sleep(TALK).await;
        }
        Ok(())
    }

    async fn told_how_it_ended(&mut self, id: &str, began: Instant, placed: bool) -> Legs {
        let mut waited = None;
        let mut end = End::Lost;
        while began.elapsed() < LOST_AFTER {
            let told = self.stage.heard.of(id);
            let talked = told.iter().any(|update| update["status"] == "in-progress");
            if talked && waited.is_none() {
                waited = Some(began.elapsed());
            }
            if let Some(last) = told.last().filter(|last| is_final(last)) {
                let is_talked = placed && last["status"] == "completed";
                end = if is_talked { End::Bridged } else { End::Busy };
                break;
            }
            sleep(LOOKS_EVERY).await;
        }
        Legs {
            end,
            waited: waited.unwrap_or(began.elapsed()),
            phone: None,
        }
    }
}
