//! Sends pushes to the devices of an extension.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;

use futures::future::join_all;
use ringback_core::call::{
    Call, CancelAudience, CancelReason, EndReason, Event, PushPlatform, PushedDevices,
};
use ringback_core::ids::DeviceId;
use ringback_core::timestamp::Timestamp;

use super::answer_url::AnswerUrls;
use super::fcm::Fcm;
use super::push_message::{PushError, PushKind, PushMessage};
use super::sns::{self, Sns};
use crate::platform::clock;
use crate::store::devices::{Device, Devices, PushAddress};
use crate::telemetry::metrics;

/// Sends pushes, and removes expired push addresses.
#[derive(Debug)]
pub struct PushSender {
    devices: Devices,
    fcm: Fcm,
    sns: Sns,
    answer_urls: Option<AnswerUrls>,
}

impl PushSender {
    /// A sender through these services. `devices` is the table that expired addresses are removed from.
    #[must_use]
    pub const fn new(devices: Devices, fcm: Fcm, sns: Sns) -> Self {
        Self {
            devices,
            fcm,
            sns,
            answer_urls: None,
        }
    }

    /// Adds an `answer_url` to each push that rings a device.
    #[must_use]
    pub fn with_answer_urls(self, answer_urls: AnswerUrls) -> Self {
        Self {
            answer_urls: Some(answer_urls),
            ..self
        }
    }

    /// The table of devices.
    #[must_use]
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Fetches what the first push needs: the key of the answer URLs and, unless SNS serves all devices, access to FCM.
    pub async fn get_ready(&self) {
        // The futures are large.
        let access = async {
            if !self.sns.serves_fcm() {
                self.fcm.get_ready().await;
            }
        };
        let key = async {
            if let Some(answer_urls) = &self.answer_urls {
                answer_urls.get_ready().await;
            }
        };
        tokio::join!(Box::pin(access), Box::pin(key));
    }

    /// Rings all these devices at once. The event says which devices' push services accepted the push, or why none did. A device
    /// without an address gets no push.
    pub async fn ring(&self, call: &Call, devices: &[Device], until: Timestamp) -> Event {
        let message = PushMessage::incoming_call(call, clock::now());
        let to = devices
            .iter()
            .map(|device| (device, device.addresses().collect::<Vec<_>>()))
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect::<Vec<_>>();
        let count = to.len();
        let accepted = self.send_all(call, to, &message, until).await;
        if !accepted.is_empty() {
            return Event::PushSent(PushedDevices {
                are_all: accepted.len() == count,
                devices: accepted,
                at: clock::now(),
            });
        }
        Event::PushNotSent(if count == 0 {
            EndReason::NoDevice
        } else {
            EndReason::PushFailed
        })
    }

    /// Stops the devices of `audience` from ringing. A phone without an address that accepts cancellations learns of the end through
    /// the WebSocket or `GET /api/calls/{id}`.
    pub async fn cancel(
        &self,
        call: &Call,
        devices: &[Device],
        reason: CancelReason,
        audience: &CancelAudience,
        until: Timestamp,
    ) {
        let message = PushMessage::call_cancelled(call, reason, clock::now());
        let devices = devices.iter();
        let to = devices
            .filter(|device| audience.includes(&device.device_id))
            .map(|device| {
                let addresses = device.addresses();
                let accepting = addresses.filter(|it| it.platform.accepts_cancellations());
                (device, accepting.collect())
            });
        self.send_all(call, to, &message, until).await;
    }

    /// Sends a message to all these devices at once. Returns those for which a push service accepted it.
    async fn send_all<'a>(
        &self,
        call: &Call,
        devices: impl IntoIterator<Item = (&'a Device, Vec<&'a PushAddress>)>,
        message: &PushMessage,
        until: Timestamp,
    ) -> BTreeSet<DeviceId> {
        let sends = devices.into_iter().map(async |(device, addresses)| {
            for address in addresses {
                if self.send(call, device, address, message, until).await {
                    return Some(device.device_id.clone());
                }
            }
            None
        });
        join_all(sends).await.into_iter().flatten().collect()
    }

    /// The message as this device gets it through this platform. Without its key, a push has no `answer_url`: the app can still log in and answer.
    async fn for_device<'a>(
        &self,
        call: &Call,
        device: &Device,
        platform: PushPlatform,
        message: &'a PushMessage,
    ) -> Cow<'a, PushMessage> {
        let Some(answer_urls) = &self.answer_urls else {
            return Cow::Borrowed(message);
        };
        if message.kind != PushKind::IncomingCall {
            return Cow::Borrowed(message);
        }
        let url = answer_urls.of(call, device, platform, message.sent_at);
        match url.await {
            Ok(url) => Cow::Owned(message.with_answer_url(&url)),
            Err(error) => {
                tracing::warn!(call_id = %call.call_id, %error, "push without answer_url");
                Cow::Borrowed(message)
            }
        }
    }

    /// Sends a message to one address. Logs a failure and returns `false`, because a failed push must not fail the request.
    async fn send(
        &self,
        call: &Call,
        device: &Device,
        address: &PushAddress,
        message: &PushMessage,
        until: Timestamp,
    ) -> bool {
        // The future is large.
        let message = self.for_device(call, device, address.platform, message);
        let message = &*Box::pin(message).await;
        let (result, via) = match address.platform {
            PushPlatform::Fcm if !self.sns.serves_fcm() => {
                let token = address.token.as_str();
                (self.fcm.send(token, message, until).await, "fcm")
            }
            platform => (
                self.sns.send(address, message).await,
                sns::service(platform),
            ),
        };
        let (call_id, device_id) = (call.call_id, &device.device_id);
        metrics::pushed(via, metric_value(&result));
        match result {
            Ok(()) => {
                tracing::info!(%call_id, %device_id, via, kind = ?message.kind, "push sent");
                true
            }
            Err(PushError::AddressExpired) => {
                tracing::warn!(%call_id, %device_id, via, "push address expired; removing it");
                if let Err(error) = self
                    .devices
                    .remove_unreachable(&call.extension, device_id, address)
                    .await
                {
                    tracing::warn!(%call_id, %device_id, %error, "expired push address not removed");
                }
                false
            }
            Err(error) => {
                tracing::error!(%call_id, %device_id, via, %error, "push failed");
                false
            }
        }
    }
}

/// The value of the dimension `result` in the metric `push_results`.
const fn metric_value(result: &Result<(), PushError>) -> &'static str {
    match result {
        Ok(()) => "sent",
        Err(PushError::AddressExpired) => "expired",
        Err(_) => "failed",
    }
}
