//! A caller on the trunk calls an extension.

use std::time::Duration;

use anyhow::Result;
use ringback_client::Client;
use ringback_sip::OutgoingCall;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{CallEnd, CallLegs, CallRun, Scenario, phone_rings, ring};
use crate::crash::AFTER_A_DEATH;
use crate::subscriber::{Device, Subscriber};
use ringback_e2e::fixture::call_sid;

/// How long a conversation lasts.
const TALK: Duration = Duration::from_millis(600);
/// How long the second leg may take to end after the first.
const ENDS_WITHIN: Duration = Duration::from_secs(25);
/// The time that a person takes to press a button.
const REACTION_TIME: Duration = Duration::from_millis(200);

/// How long the person waits for an app that connects to show the call. Then another device answers.
const SHOWN_WITHIN: Duration = Duration::from_secs(4);

impl CallRun {
    pub(super) async fn inbound(&mut self, subscriber: &mut Subscriber) -> Result<CallLegs> {
        let sid = call_sid();
        if self.scenario == Scenario::WebhookFirst {
            self.passthru(&sid, subscriber).await?;
        }
        let call = self.dial(subscriber, Some(&sid)).await?;
        let devices = subscriber.devices.clone();
        match self.scenario {
            Scenario::Answered
            | Scenario::WebhookFirst
            | Scenario::TwoAccept
            | Scenario::OneOfTwoAccepts
            | Scenario::HungUpByTheApp
            | Scenario::ConnectsLate => self.is_answered(subscriber, &call).await,
            Scenario::Declined => {
                if let Some(id) = self.receives_call(&devices[0]).await? {
                    sleep(REACTION_TIME).await;
                    self.respond(&devices[0], "decline", &id).await?;
                }
                self.is_over(&call).await
            }
            Scenario::CallerGivesUp => {
                self.receives_call(&devices[0]).await?;
                sleep(REACTION_TIME).await;
                // The call may have been rejected in the meantime.
                let _ = call.cancel().await;
                self.is_over(&call).await
            }
            Scenario::AppToApp
            | Scenario::AppGivesUp
            | Scenario::AppToDoNotDisturb
            | Scenario::Outbound
            | Scenario::NumberBusy
            | Scenario::ExotelRefuses => anyhow::bail!("not an inbound scenario"),
            Scenario::NobodyAnswers => {
                self.receives_call(&devices[0]).await?;
                self.is_over(&call).await
            }
            Scenario::DoNotDisturb | Scenario::CalleeTalks => self.is_over(&call).await,
        }
    }

    /// If the answer is not 200, the Passthru applet requests its second URL.
    async fn passthru(&mut self, sid: &str, subscriber: &Subscriber) -> Result<()> {
        let from = format!("0{}", self.caller.trim_start_matches("+91"));
        for _ in 0..2 {
            let answer = self
                .harness
                .fixture
                .passthru(sid, &from, &subscriber.number)
                .await;
            let status = answer.map_or(0, |(status, _)| status.as_u16());
            self.observations
                .answers
                .push(("passthru".to_owned(), status));
            if status == 200 {
                break;
            }
        }
        Ok(())
    }

    pub(super) async fn receives_call(&mut self, device: &Device) -> Result<Option<String>> {
        let id = device
            .receives_call(ring() + Duration::from_secs(3))
            .await?;
        self.observations.call = id.clone().or(self.observations.call.take());
        Ok(id)
    }

    async fn respond(&mut self, device: &Device, action: &str, id: &str) -> Result<u16> {
        let (status, _) = device.respond(action, id).await?;
        self.observations.answers.push((action.to_owned(), status));
        if status < 500 {
            self.informed.insert(device.token.clone());
        }
        Ok(status)
    }

    async fn is_over(&mut self, call: &OutgoingCall) -> Result<CallLegs> {
        let (end, waited) = self.wait_for_outcome(call).await;
        Ok(CallLegs {
            end,
            waited,
            phone: None,
        })
    }

    async fn is_answered(
        &mut self,
        subscriber: &mut Subscriber,
        call: &OutgoingCall,
    ) -> Result<CallLegs> {
        let devices = subscriber.devices.clone();
        let Some(id) = self.receives_call(&devices[0]).await? else {
            return self.is_over(call).await;
        };
        let mut client = None;
        let mut shown = false;
        if self.scenario == Scenario::ConnectsLate {
            let client = client.insert(self.client(subscriber).await?);
            shown = shows_call(client, &id, SHOWN_WITHIN).await;
        }
        let both = self.scenario == Scenario::TwoAccept;
        if self.scenario.devices() == 2 {
            self.receives_call(&devices[1]).await?;
        }
        let other = async {
            match both {
                true => devices[1].respond("accept_ready", &id).await.map(Some),
                false => Ok(None),
            }
        };
        let answers = async {
            let leg = phone_rings(subscriber, call).await;
            if let Some(leg) = &leg {
                // The caller may have hung up by now.
                let _ = leg.answer().await;
            }
            leg
        };
        let accepts = async {
            match client.as_mut().filter(|_| shown) {
                Some(client) => {
                    let accept = devices[0].response("accept_ready", &id);
                    self.request(client, &accept).await.map(|_| 200)
                }
                None => Ok(devices[0].respond("accept_ready", &id).await?.0),
            }
        };
        let (first, second, phone) = tokio::join!(accepts, other, answers);
        let (first, second) = (first?, second?.map(|(status, _)| status));
        for (device, status) in devices.iter().zip(std::iter::once(first).chain(second)) {
            self.observations
                .answers
                .push(("accept_ready".to_owned(), status));
            if status < 500 {
                self.informed.insert(device.token.clone());
            }
        }
        if second.is_some_and(|second| second == 200 && first == 200) {
            self.problem("both devices were told that they have the call");
        }
        let (end, waited) = self.wait_for_outcome(call).await;
        if end == CallEnd::Bridged {
            self.talks(call, phone.as_ref()).await;
            if let Some(client) = client.as_mut().filter(|_| !shown)
                && !shows_call(client, &id, AFTER_A_DEATH).await
            {
                self.problem("an app that connected does not get the call in progress");
            }
            let winner = if first == 200 {
                &devices[0]
            } else {
                &devices[1]
            };
            match self.scenario {
                Scenario::HungUpByTheApp => {
                    self.respond(winner, "hangup", &id).await?;
                }
                _ => call.hang_up().await?,
            }
            if call.ended(ENDS_WITHIN).await.is_err() {
                self.problem("the caller's leg stays up");
            }
        }
        Ok(CallLegs { end, waited, phone })
    }

    async fn talks(&mut self, call: &OutgoingCall, phone: Option<&ringback_sip::IncomingCall>) {
        let Some(phone) = phone else {
            return self.problem("the caller was answered, but no phone was");
        };
        let soon = Duration::from_secs(5);
        let heard = tokio::join!(
            call.media().hears(phone.media(), soon),
            phone.media().hears(call.media(), soon)
        );
        if heard.0.is_err() || heard.1.is_err() {
            self.problem("the parties do not hear each other");
        }
        sleep(TALK).await;
    }
}

/// Waits until the client gets this call as one that is in progress. If `broadcast` lists the call only after the client has connected, it
/// sends the client the ring itself.
async fn shows_call(client: &mut Client, id: &str, within: Duration) -> bool {
    let until = Instant::now() + within;
    let is_shown = |message: &Value| {
        let begins = message["replay"] == true || message["data"]["status"] == "ringing";
        begins && message["data"]["callId"] == id
    };
    while let Ok(message) = client.next(until - Instant::now()).await {
        if is_shown(&message) {
            return true;
        }
    }
    false
}
