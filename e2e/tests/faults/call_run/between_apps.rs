//! An app calls another app: Asterisk calls the caller's own phone, then the callee's phone, and bridges both.

use std::time::Duration;

use anyhow::Result;
use ringback_client::Client;
use ringback_sip::IncomingCall;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

use super::{CallEnd, CallLegs, CallRun, LOST_AFTER, Scenario, ring};
use crate::subscriber::Subscriber;
use ringback_e2e::clients::is_final;

/// How long an app waits for a response on its WebSocket before it repeats the request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);
const ASKS: usize = 6;
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

impl CallRun {
    pub(super) async fn between_apps(
        &mut self,
        subscriber: &mut Subscriber,
        callee: &mut Subscriber,
    ) -> Result<CallLegs> {
        let mut client = self.client(subscriber).await?;
        let began = Instant::now();
        let wanted = json!({
            "type": "incoming_call", "callType": "voice", "clientReference": uuid::Uuid::new_v4().to_string(),
            "callerId": subscriber.account.extension, "recipientId": callee.account.extension,
        });
        let (phone, failed) = (&mut subscriber.phone, Notify::new());
        let picks_up = async {
            let leg = tokio::select! {
                leg = phone.next_call(ring()) => leg.ok()?,
                () = failed.notified() => return None,
            };
            // The call may have been cancelled.
            let _ = leg.answer().await;
            Some(leg)
        };
        let asks = async {
            let id = self.request(&mut client, &wanted).await;
            if !self.observations.answers.is_empty() {
                failed.notify_one();
            }
            id
        };
        let (id, own) = tokio::join!(asks, picks_up);
        self.observations.call = id?;
        let Some(own) = own else {
            return self.wait_for_end_by_update(began).await;
        };
        let device = callee.devices[0].clone();
        if let Some(id) = self.receives_call(&device).await? {
            if self.scenario == Scenario::AppGivesUp {
                let hangup = json!({
                    "type": "call_response", "server_call_id": id, "extension": subscriber.account.extension,
                    "action": "hangup", "timestamp": 1,
                });
                self.request(&mut client, &hangup).await?;
            } else if self.scenario == Scenario::AppToApp {
                let rings = async {
                    tokio::select! {
                        leg = callee.phone.next_call(LOST_AFTER) => leg.ok(),
                        () = is_over(&own) => None,
                    }
                };
                let (said, leg) = tokio::join!(device.respond("accept_ready", &id), rings);
                let status = said?.0;
                self.observations
                    .answers
                    .push(("accept_ready".to_owned(), status));
                if status < 500 {
                    self.informed.insert(device.token.clone());
                }
                if let Some(leg) = leg {
                    return self.talk(own, leg, began).await;
                }
            }
        }
        let over = timeout(LOST_AFTER, is_over(&own)).await.is_ok();
        let end = match (over, self.scenario) {
            (false, _) => CallEnd::Lost,
            (true, Scenario::AppGivesUp) => CallEnd::Abandoned,
            (true, _) => CallEnd::Busy,
        };
        Ok(CallLegs {
            end,
            waited: began.elapsed(),
            phone: Some(own),
        })
    }

    async fn talk(
        &mut self,
        own: IncomingCall,
        leg: IncomingCall,
        began: Instant,
    ) -> Result<CallLegs> {
        // The caller may have hung up by now.
        let _ = leg.answer().await;
        let waited = began.elapsed();
        let soon = Duration::from_secs(5);
        let heard = tokio::join!(
            own.media().hears(leg.media(), soon),
            leg.media().hears(own.media(), soon)
        );
        if heard.0.is_err() || heard.1.is_err() {
            let over = timeout(LOST_AFTER, is_over(&own)).await.is_ok();
            let end = if over { CallEnd::Busy } else { CallEnd::Lost };
            return Ok(CallLegs {
                end,
                waited: began.elapsed(),
                phone: Some(leg),
            });
        }
        own.hang_up().await?;
        Ok(CallLegs {
            end: CallEnd::Bridged,
            waited,
            phone: Some(leg),
        })
    }

    /// No phone rang: the app receives the reason on its WebSocket.
    pub(super) async fn wait_for_end_by_update(&mut self, began: Instant) -> Result<CallLegs> {
        let ended = async {
            loop {
                let call = self.observations.call.clone().unwrap_or_default();
                let last = self.harness.updates.of(&call).pop();
                if last.is_some_and(|last| is_final(&last)) || call.is_empty() {
                    return;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        let end = match timeout(LOST_AFTER, ended).await {
            Ok(()) => CallEnd::Busy,
            Err(_) => CallEnd::Lost,
        };
        Ok(CallLegs {
            end,
            waited: began.elapsed(),
            phone: None,
        })
    }

    /// Connects, with retries, as an app does.
    pub(super) async fn client(&self, subscriber: &Subscriber) -> Result<Client> {
        let url = &self.harness.fixture.stack.ws_url;
        for _ in 1..ASKS {
            match Client::connect(url, &subscriber.account.token).await {
                Ok(client) => return Ok(client),
                Err(_) => sleep(RETRY_PAUSE).await,
            }
        }
        Ok(Client::connect(url, &subscriber.account.token).await?)
    }

    /// Sends a request on the WebSocket, repeats it if no valid response comes, and returns the call id.
    pub(super) async fn request(
        &mut self,
        client: &mut Client,
        what: &Value,
    ) -> Result<Option<String>> {
        for _ in 0..ASKS {
            client.send(what.clone()).await?;
            let until = Instant::now() + ANSWERED_WITHIN;
            while let Ok(answer) = client.next(until - Instant::now()).await {
                let id = answer["data"]["callId"]
                    .as_str()
                    .or(answer["callId"].as_str());
                let id = id.map(str::to_owned);
                match answer["type"].as_str() {
                    Some("call_status_update") => {}
                    Some("call_initiated" | "call_response") => return Ok(id),
                    Some("error") if id.is_some() => {
                        let code = answer["code"].as_str().unwrap_or_default();
                        self.observations.answers.push((code.to_owned(), 0));
                        return Ok(id);
                    }
                    _ => break,
                }
            }
            sleep(RETRY_PAUSE).await;
        }
        Ok(None)
    }
}

async fn is_over(leg: &IncomingCall) {
    while !leg.events().is_over() {
        sleep(POLL_INTERVAL).await;
    }
}
