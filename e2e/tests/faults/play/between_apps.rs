//! An app calls another app: Asterisk calls the caller's own phone, then the callee's phone, and bridges both.

use std::time::Duration;

use anyhow::Result;
use ringback_client::Client;
use ringback_sip::IncomingCall;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use super::{Acting, End, LOST_AFTER, Legs, Scenario, ring};
use crate::seat::Seat;

/// How long an app waits for a response on its WebSocket before it repeats the request.
const ANSWERED_WITHIN: Duration = Duration::from_secs(4);
const ASKS: usize = 6;
const AGAIN_AFTER: Duration = Duration::from_millis(500);
const LOOKS_EVERY: Duration = Duration::from_millis(100);

impl Acting {
    pub(super) async fn between_apps(
        &mut self,
        seat: &mut Seat,
        callee: &mut Seat,
    ) -> Result<Legs> {
        let mut client = self.client(seat).await?;
        let began = Instant::now();
        let wanted = json!({
            "type": "incoming_call", "callType": "voice", "clientReference": uuid::Uuid::new_v4().to_string(),
            "callerId": seat.account.extension, "recipientId": callee.account.extension,
        });
        let phone = &mut seat.phone;
        let picks_up = async {
            let leg = phone.next_call(ring()).await.ok()?;
            // The call may have been cancelled.
            let _ = leg.answer().await;
            Some(leg)
        };
        let (id, own) = tokio::join!(self.asks(&mut client, &wanted), picks_up);
        self.story.call = id?;
        let Some(own) = own else {
            return self.is_told(began).await;
        };
        let device = callee.devices[0].clone();
        if let Some(id) = self.wakes(&device).await? {
            if self.scenario == Scenario::AppGivesUp {
                let hangup = json!({
                    "type": "call_response", "server_call_id": id, "extension": seat.account.extension,
                    "action": "hangup", "timestamp": 1,
                });
                self.asks(&mut client, &hangup).await?;
            } else {
                let rings = async {
                    tokio::select! {
                        leg = callee.phone.next_call(LOST_AFTER) => leg.ok(),
                        () = is_over(&own) => None,
                    }
                };
                let (said, leg) = tokio::join!(device.says("accept_ready", &id), rings);
                let status = said?.0;
                self.story.answers.push(("accept_ready".to_owned(), status));
                if status < 500 {
                    self.know.insert(device.token.clone());
                }
                if let Some(leg) = leg {
                    return self.talk(own, leg, began).await;
                }
            }
        }
        let over = timeout(LOST_AFTER, is_over(&own)).await.is_ok();
        let end = match (over, self.scenario) {
            (false, _) => End::Lost,
            (true, Scenario::AppGivesUp) => End::GaveUp,
            (true, _) => End::Busy,
        };
        Ok(Legs {
            end,
            waited: began.elapsed(),
            phone: Some(own),
        })
    }

    async fn talk(&mut self, own: IncomingCall, leg: IncomingCall, began: Instant) -> Result<Legs> {
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
            let end = if over { End::Busy } else { End::Lost };
            return Ok(Legs {
                end,
                waited: began.elapsed(),
                phone: Some(leg),
            });
        }
        own.hang_up().await?;
        Ok(Legs {
            end: End::Bridged,
            waited,
            phone: Some(leg),
        })
    }

    /// No phone rang: the app receives the reason on its WebSocket.
    pub(super) async fn is_told(&mut self, began: Instant) -> Result<Legs> {
        let told = async {
            loop {
                let call = self.story.call.clone().unwrap_or_default();
                let last = self.stage.heard.of(&call).pop();
                if last.is_some_and(|last| is_final(&last)) || call.is_empty() {
                    return;
                }
                sleep(LOOKS_EVERY).await;
            }
        };
        let end = match timeout(LOST_AFTER, told).await {
            Ok(()) => End::Busy,
            Err(_) => End::Lost,
        };
        Ok(Legs {
            end,
            waited: began.elapsed(),
            phone: None,
        })
    }

    /// Connects, with retries, as an app does.
    pub(super) async fn client(&self, seat: &Seat) -> Result<Client> {
        let url = &self.stage.fixture.stack.ws_url;
        for _ in 1..ASKS {
            match Client::connect(url, &seat.account.token).await {
                Ok(client) => return Ok(client),
                Err(_) => sleep(AGAIN_AFTER).await,
            }
        }
        Ok(Client::connect(url, &seat.account.token).await?)
    }

    /// Sends a request on the WebSocket, repeats it if no valid response comes, and returns the call id.
    pub(super) async fn asks(
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
                        self.story.answers.push((code.to_owned(), 0));
                        return Ok(id);
                    }
                    _ => break,
                }
            }
            sleep(AGAIN_AFTER).await;
        }
        Ok(None)
    }
}

pub(super) fn is_final(update: &Value) -> bool {
    let status = update["status"].as_str().unwrap_or_default();
    !["initiated", "ringing", "in-progress"].contains(&status)
}

async fn is_over(leg: &IncomingCall) {
    while !leg.events().is_over() {
        sleep(LOOKS_EVERY).await;
    }
}
