//! Checks that apply to every call that has ended.

use std::time::Duration;

use anyhow::Result;
use ringback_sip::IncomingCall;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{CallEnd, CallLegs, CallRun, Scenario};
use crate::subscriber::{Device, Subscriber};
use ringback_e2e::log_lines::log_lines;

/// How long it may take until everything about a call is complete: as long as a timer that is redelivered after a
/// crash.
const COMPLETE_WITHIN: Duration = Duration::from_secs(60);
/// A phone that rings for a call that has ended stops within this time.
const CANCELLED_WITHIN: Duration = Duration::from_secs(2);
/// A second ring or a leg that stays up is visible within this time.
const SHOWS_WITHIN: Duration = Duration::from_millis(300);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

impl CallRun {
    pub(super) async fn check(
        &mut self,
        subscriber: &mut Subscriber,
        legs: &CallLegs,
    ) -> Result<()> {
        self.check_single_call().await;
        let Some(id) = self.observations.call.clone() else {
            // The call was rejected before it was stored.
            return Ok(());
        };
        self.check_final_status(&subscriber.devices[0], &id, legs.end)
            .await?;
        self.check_phone(subscriber, &id, legs).await;
        let devices = &subscriber.devices[..self.scenario.devices()];
        for device in devices {
            self.check_pushes(device, &id).await?;
        }
        self.check_cancellations(devices, &id).await?;
        self.check_status_updates(&id).await;
        if let Some(reason) = self.scenario.refusal() {
            self.check_refusal(&devices[0], &id, reason).await?;
        }
        Ok(())
    }

    async fn check_single_call(&mut self) {
        let deadline = Instant::now() + COMPLETE_WITHIN;
        let mut calls = self.harness.updates.with(&self.caller);
        // A refused call rings nowhere, so only the operator sees it.
        while self.scenario.refusal().is_some()
            && calls.is_empty()
            && self.observations.call.is_none()
        {
            if Instant::now() > deadline {
                return self.problem("the operator does not see the refused call");
            }
            sleep(POLL_INTERVAL).await;
            calls = self.harness.updates.with(&self.caller);
        }
        calls.extend(self.observations.call.clone());
        calls.sort();
        calls.dedup();
        if calls.len() > 1 {
            self.problem(format!("one caller resulted in {} calls", calls.len()));
        }
        self.observations.call = calls.into_iter().next();
    }

    async fn check_final_status(&mut self, device: &Device, id: &str, end: CallEnd) -> Result<()> {
        let right: &[&str] = match end {
            // The function that stores the conversation may have crashed, and the app may have hung up before the
            // retry.
            CallEnd::Bridged if self.may_repeat && self.scenario == Scenario::HungUpByTheApp => {
                &["completed", "declined"]
            }
            CallEnd::Bridged => &["completed"],
            CallEnd::Abandoned => &["canceled"],
            CallEnd::Busy => &["declined", "timed_out", "failed", "canceled"],
            CallEnd::Lost => return Ok(()),
        };
        let deadline = Instant::now() + COMPLETE_WITHIN;
        loop {
            if let Some(call) = device.call(id).await? {
                self.observations.state = call;
            }
            let status = self.observations.state["status"]
                .as_str()
                .unwrap_or_default();
            if right.contains(&status) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let problem = format!("the call is {status}, expected one of {right:?}");
                self.problem(problem);
                return Ok(());
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// At most one leg reached the phone, and none is left.
    async fn check_phone(&mut self, subscriber: &mut Subscriber, id: &str, legs: &CallLegs) {
        if let Some(leg) = &legs.phone {
            let deadline = Instant::now() + COMPLETE_WITHIN;
            while !leg.events().is_over() && Instant::now() < deadline {
                sleep(POLL_INTERVAL).await;
            }
            if !leg.events().is_over() {
                self.problem("the phone's leg stays up");
            }
        }
        let Ok(other) = subscriber.phone.next_call(SHOWS_WITHIN).await else {
            return;
        };
        // A retransmitted INVITE (the phone was slow to answer) is not a second ring.
        let is_new = |leg: &IncomingCall| leg.header("Call-ID") != other.header("Call-ID");
        let is_this_call = other.header("X-Ringback-Call-Id") == Some(id);
        let rang_again = legs.phone.as_ref().map_or(is_this_call, is_new);
        // A repeated effect may call the phone just as the call ends. The function cancels that leg at once.
        if rang_again && !(self.may_repeat && is_cancelled_soon(&other).await) {
            let call = other.header("X-Ringback-Call-Id").unwrap_or("no call");
            self.problem(format!("the phone rang a second time, for {call}"));
        }
    }

    async fn check_pushes(&mut self, device: &Device, id: &str) -> Result<()> {
        for kind in ["incoming_call", "call_cancelled"] {
            let mut pushes = device.pushes(kind).await?;
            // A late cancellation of an earlier call goes to the devices that are registered by then.
            pushes.retain(|push| push["data"]["server_call_id"] == id);
            // A missed call has a notice besides, with a key of its own.
            let is_notice = |push: &Value| push["android"]["collapse_key"] == "missed_calls";
            let (notices, pushes): (Vec<_>, Vec<_>) = pushes.into_iter().partition(is_notice);
            if (pushes.len() > 1 || notices.len() > 1) && !self.may_repeat {
                let (pushes, notices) = (pushes.len(), notices.len());
                self.problem(format!("{pushes} pushes {kind}, {notices} notices"));
            }
            if notices
                .iter()
                .any(|push| push["data"]["type"] != "call_cancelled")
            {
                self.problem("a ring with the key of missed calls".to_owned());
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
    async fn check_cancellations(&mut self, devices: &[Device], id: &str) -> Result<()> {
        let is_ours = |push: &Value| push["data"]["server_call_id"] == id;
        let deadline = Instant::now() + COMPLETE_WITHIN;
        for device in devices
            .iter()
            .filter(|device| !self.informed.contains(&device.token))
        {
            let rang = device.pushes("incoming_call").await?.iter().any(is_ours);
            let left = deadline.saturating_duration_since(Instant::now());
            if rang && device.push("call_cancelled", left).await?.is_none() {
                self.problems
                    .push("a device that rang received no cancellation".to_owned());
            }
        }
        Ok(())
    }

    /// A refused call rings nowhere, all its updates say why, and it counts as missed. If a fault hides whether the callee takes the
    /// call, it rings instead.
    async fn check_refusal(&mut self, device: &Device, id: &str, reason: &str) -> Result<()> {
        if self.observations.state["reason"] != reason {
            if !self.may_repeat {
                self.problem("the call was not refused");
            }
            return Ok(());
        }
        let is_ours = |push: &Value| push["data"]["server_call_id"] == id;
        if device.pushes("incoming_call").await?.iter().any(is_ours) {
            self.problem("a refused call rang");
        }
        let is_notice = |push: &Value| is_ours(push) && push["data"]["reason"] == reason;
        let deadline = Instant::now() + COMPLETE_WITHIN;
        while !device.pushes("call_cancelled").await?.iter().any(is_notice) {
            if Instant::now() > deadline {
                self.problem("a refused call has no notice");
                break;
            }
            sleep(POLL_INTERVAL).await;
        }
        let updates = self.harness.updates.of(id);
        let is_refusal = |it: &Value| it["status"] == "busy" && it["reason"] == reason;
        if !updates.iter().all(is_refusal) || (updates.len() > 1 && !self.may_repeat) {
            self.problem(format!("updates of a refused call: {updates:?}"));
        }
        Ok(())
    }

    async fn check_status_updates(&mut self, id: &str) {
        let deadline = Instant::now() + COMPLETE_WITHIN;
        loop {
            let updates = self.harness.updates.of(id);
            let words: Vec<&str> = updates.iter().filter_map(word).collect();
            let mut ranks: Vec<u8> = Vec::new();
            for rank in words.iter().map(|word| rank(word)) {
                // After a crash, the status updates are sent again from the first one.
                let is_repeated = self.may_repeat && ranks.contains(&rank);
                ranks.extend((!is_repeated).then_some(rank));
            }
            if !ranks.is_sorted() {
                return self.problem(format!("status updates in this order: {words:?}"));
            }
            if ranks.contains(&OVER) {
                return;
            }
            if Instant::now() > deadline {
                // When a function returns a partial batch failure, the local cloud does not retry it. AWS does.
                if !self.a_broadcast_failed().await {
                    self.problem(format!("status updates only up to {words:?}"));
                }
                return;
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

impl CallRun {
    /// Whether any broadcast has failed since this call began.
    async fn a_broadcast_failed(&self) -> bool {
        let lines = log_lines(&self.harness.fixture, "broadcast").await;
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

async fn is_cancelled_soon(leg: &IncomingCall) -> bool {
    let deadline = Instant::now() + CANCELLED_WITHIN;
    while !leg.events().is_over() && Instant::now() < deadline {
        sleep(POLL_INTERVAL).await;
    }
    leg.events().is_over()
}
