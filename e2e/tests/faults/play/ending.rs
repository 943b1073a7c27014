//! Checks that apply to every call that has ended.

use std::time::Duration;

use anyhow::Result;
use ringback_sip::IncomingCall;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{Acting, End, Legs, Scenario};
use crate::seat::{Device, Seat};
use ringback_e2e::log_lines::log_lines;

/// How long it may take until everything about a call is complete: as long as a timer that is redelivered after a
/// crash.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// A phone that rings for a call that has ended stops within this time.
const TAKEN_BACK_WITHIN: Duration = Duration::from_secs(2);
/// A second ring or a leg that stays up is visible within this time.
const SHOWS_WITHIN: Duration = Duration::from_millis(300);
const LOOKS_EVERY: Duration = Duration::from_millis(200);

impl Acting {
    pub(super) async fn check(&mut self, seat: &mut Seat, legs: &Legs) -> Result<()> {
        self.is_one_call();
        let Some(id) = self.story.call.clone() else {
            // The call was rejected before it was stored.
            return Ok(());
        };
        self.comes_to_rest(&seat.devices[0], &id, legs.end).await?;
        self.phone_is_quiet(seat, &id, legs).await;
        let devices = &seat.devices[..self.scenario.devices()];
        for device in devices {
            self.was_pushed(device, &id).await?;
        }
        self.are_silenced(devices).await?;
        self.was_told_in_order(&id).await;
        Ok(())
    }

    fn is_one_call(&mut self) {
        let mut calls = self.stage.heard.with(&self.caller);
        calls.extend(self.story.call.clone());
        calls.sort();
        calls.dedup();
        if calls.len() > 1 {
            self.problem(format!("one caller became {} calls", calls.len()));
        }
        self.story.call = calls.into_iter().next();
    }

    async fn comes_to_rest(&mut self, device: &Device, id: &str, end: End) -> Result<()> {
        let right: &[&str] = match end {
            // The function that stores the conversation may have crashed, and the app may have hung up before the
            // retry.
            End::Bridged if self.may_repeat && self.scenario == Scenario::HungUpByTheApp => {
                &["completed", "declined"]
            }
            End::Bridged => &["completed"],
            End::GaveUp => &["canceled"],
            End::Busy => &["declined", "timed_out", "failed", "canceled"],
            End::Lost => return Ok(()),
        };
        let patience = Instant::now() + SETTLES_WITHIN;
        loop {
            if let Some(call) = device.call(id).await? {
                self.story.stands = call;
            }
            let status = self.story.stands["status"].as_str().unwrap_or_default();
            if right.contains(&status) {
                return Ok(());
            }
            if Instant::now() > patience {
                let problem = format!("the call is {status}, not one of {right:?}");
                self.problem(problem);
                return Ok(());
            }
            sleep(LOOKS_EVERY).await;
        }
    }

    /// At most one leg reached the phone, and none is left.
    async fn phone_is_quiet(&mut self, seat: &mut Seat, id: &str, legs: &Legs) {
        if let Some(leg) = &legs.phone {
            let patience = Instant::now() + SETTLES_WITHIN;
            while !leg.events().is_over() && Instant::now() < patience {
                sleep(LOOKS_EVERY).await;
            }
            if !leg.events().is_over() {
                self.problem("the phone's leg stays up");
            }
        }
        let Ok(other) = seat.phone.next_call(SHOWS_WITHIN).await else {
            return;
        };
        // A retransmitted INVITE (the phone was slow to answer) is not a second ring.
        let is_new = |leg: &IncomingCall| leg.header("Call-ID") != other.header("Call-ID");
        let is_this_call = other.header("X-Ringback-Call-Id") == Some(id);
        let rang_again = legs.phone.as_ref().map_or(is_this_call, is_new);
        // A repeated effect may call the phone just as the call ends. The function cancels that leg at once.
        if rang_again && !(self.may_repeat && is_taken_back(&other).await) {
            let call = other.header("X-Ringback-Call-Id").unwrap_or("no call");
            self.problem(format!("the phone rang a second time, for {call}"));
        }
    }

    async fn was_pushed(&mut self, device: &Device, id: &str) -> Result<()> {
        for kind in ["incoming_call", "call_cancelled"] {
            let mut pushes = device.pushes(kind).await?;
            // A late cancellation of an earlier call goes to the devices that are registered by then.
            pushes.retain(|push| push["data"]["server_call_id"] == id);
            if pushes.len() > 1 && !self.may_repeat {
                self.problem(format!("{} pushes {kind}", pushes.len()));
            }
            if pushes
                .iter()
                .any(|push| push["android"]["collapse_key"] != id)
            {
                self.problem(format!("{kind} with another collapse key"));
            }
        }
        Ok(())
    }

    /// Every device that rang and did not respond gets a cancellation.
    async fn are_silenced(&mut self, devices: &[Device]) -> Result<()> {
        let patience = Instant::now() + SETTLES_WITHIN;
        for device in devices
            .iter()
            .filter(|device| !self.know.contains(&device.token))
        {
            let rang = !device.pushes("incoming_call").await?.is_empty();
            let left = patience.saturating_duration_since(Instant::now());
            if rang && device.push("call_cancelled", left).await?.is_none() {
                self.problems
                    .push("a device that rang was not silenced".to_owned());
            }
        }
        Ok(())
    }

    async fn was_told_in_order(&mut self, id: &str) {
        let patience = Instant::now() + SETTLES_WITHIN;
        loop {
            let told = self.stage.heard.of(id);
            let words: Vec<&str> = told.iter().filter_map(word).collect();
            let mut ranks: Vec<u8> = Vec::new();
            for rank in words.iter().map(|word| rank(word)) {
                // After a crash, the status updates are sent again from the first one.
                let is_told_again = self.may_repeat && ranks.contains(&rank);
                ranks.extend((!is_told_again).then_some(rank));
            }
            if !ranks.is_sorted() {
                return self.problem(format!("told in this order: {words:?}"));
            }
            if ranks.contains(&OVER) {
                return;
            }
            if Instant::now() > patience {
                // When a function returns a partial batch failure, the local cloud does not retry it. AWS does.
                if !self.a_broadcast_failed().await {
                    self.problem(format!("told no more than {words:?}"));
                }
                return;
            }
            sleep(LOOKS_EVERY).await;
        }
    }
}

impl Acting {
    /// Whether any broadcast has failed since this call began.
    async fn a_broadcast_failed(&self) -> bool {
        let lines = log_lines(&self.stage.fixture, "broadcast").await;
        let began = self.began.to_iso();
        lines.is_ok_and(|lines| {
            lines.iter().any(|line| {
                line.json["message"] == "broadcast failed"
                    && line.json["timestamp"].as_str() > Some(began.as_str())
            })
        })
    }
}

const OVER: u8 = 3;

fn word(update: &Value) -> Option<&str> {
    update["status"].as_str()
}

/// The order of the statuses: a call only moves forward.
fn rank(word: &str) -> u8 {
    match word {
        "initiated" => 0,
        "ringing" => 1,
        "in-progress" => 2,
        _ => OVER,
    }
}

async fn is_taken_back(leg: &IncomingCall) -> bool {
    let patience = Instant::now() + TAKEN_BACK_WITHIN;
    while !leg.events().is_over() && Instant::now() < patience {
        sleep(LOOKS_EVERY).await;
    }
    leg.events().is_over()
}
