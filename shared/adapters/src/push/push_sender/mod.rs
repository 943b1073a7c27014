//! Sends pushes to the devices of an extension.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;

use futures::future::join_all;
use ringback_core::call::{Call, CancelAudience, CancelReason, EndReason, Event, PushedDevices};
use ringback_core::ids::DeviceId;
use ringback_core::timestamp::Timestamp;

use super::answer_url::AnswerUrls;
use super::fcm::Fcm;
use super::push_message::{PushError, PushKind, PushMessage};
use super::sns::Sns;
use crate::platform::clock;
use crate::store::devices::{Device, Devices, PushAddress, SnsService};
use crate::telemetry::metrics;

/// Sends pushes, and deletes devices with an expired push address.
#[derive(Debug)]
pub struct PushSender {
    devices: Devices,
    fcm: Fcm,
    sns: Sns,
    answer_urls: Option<AnswerUrls>,
}

impl PushSender {
    /// A sender through these services. `devices` is the table that expired devices are deleted from.
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

    /// Rings all these devices at once. The event says which devices' push services accepted the push, or why none did.
    pub async fn ring(&self, call: &Call, devices: &[Device], until: Timestamp) -> Event {
        let message = PushMessage::incoming_call(call, clock::now());
        let accepted = self.send_all(call, devices.iter(), &message, until).await;
        if !accepted.is_empty() {
            return Event::PushSent(PushedDevices {
                are_all: accepted.len() == devices.len(),
                devices: accepted,
                at: clock::now(),
            });
        }
        Event::PushNotSent(if devices.is_empty() {
            EndReason::NoDevice
        } else {
            EndReason::PushFailed
        })
    }

    /// Stops the devices of `audience` from ringing.
    pub async fn cancel(
        &self,
        call: &Call,
        devices: &[Device],
        reason: CancelReason,
        audience: &CancelAudience,
        until: Timestamp,
    ) {
        let message = PushMessage::call_cancelled(call, reason, clock::now());
        let recipients = devices.iter().filter(|device| {
            audience.includes(&device.device_id) && accepts_cancellations(&device.address)
        });
        self.send_all(call, recipients, &message, until).await;
    }

    /// Sends a message to all these devices at once. Returns those for which the push service accepted it.
    async fn send_all<'a>(
        &self,
        call: &Call,
        devices: impl Iterator<Item = &'a Device>,
        message: &PushMessage,
        until: Timestamp,
    ) -> BTreeSet<DeviceId> {
        let sends = devices.map(async |device| {
            let accepted = self.send(call, device, message, until).await;
            accepted.then(|| device.device_id.clone())
        });
        join_all(sends).await.into_iter().flatten().collect()
    }

    /// The message as this device gets it. Without its key, a push has no `answer_url`: the app can still log in and answer.
    async fn for_device<'a>(
        &self,
        call: &Call,
        device: &Device,
        message: &'a PushMessage,
    ) -> Cow<'a, PushMessage> {
        let Some(answer_urls) = &self.answer_urls else {
            return Cow::Borrowed(message);
        };
        if message.kind != PushKind::IncomingCall {
            return Cow::Borrowed(message);
        }
        match answer_urls.of(call, device, message.sent_at).await {
            Ok(url) => Cow::Owned(message.with_answer_url(&url)),
            Err(error) => {
                tracing::warn!(call_id = %call.call_id, %error, "push without answer_url");
                Cow::Borrowed(message)
            }
        }
    }

    /// Sends a message to one device. Logs a failure and returns `false`, because a failed push must not fail the request.
    async fn send(
        &self,
        call: &Call,
        device: &Device,
        message: &PushMessage,
        until: Timestamp,
    ) -> bool {
        // The future is large.
        let message = &*Box::pin(self.for_device(call, device, message)).await;
        let result = match &device.address {
            PushAddress::Fcm { token } => self.fcm.send(token, message, until).await,
            PushAddress::Sns { service, endpoint } => {
                self.sns.publish(*service, endpoint, message).await
            }
        };
        let (call_id, device_id, via) = (call.call_id, &device.device_id, &device.address);
        metrics::pushed(via.service(), metric_value(&result));
        match result {
            Ok(()) => {
                tracing::info!(%call_id, %device_id, ?via, kind = ?message.kind, "push sent");
                true
            }
            Err(PushError::AddressExpired) => {
                tracing::warn!(%call_id, %device_id, ?via, "push address expired; deleting the device");
                if let Err(error) = self
                    .devices
                    .remove_unreachable(&call.extension, device)
                    .await
                {
                    tracing::warn!(%call_id, %device_id, %error, "device with an expired push address not deleted");
                }
                false
            }
            Err(error) => {
                tracing::error!(%call_id, %device_id, ?via, %error, "push failed");
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

/// Apple ends apps that receive a VoIP push and report no new call. Such phones learn of the end through
/// `GET /api/calls/{id}`, or through an alert push if the app has registered its alert token too.
///
/// <https://developer.apple.com/documentation/pushkit/responding-to-voip-notifications-from-pushkit>
const fn accepts_cancellations(address: &PushAddress) -> bool {
    match address {
        PushAddress::Fcm { .. } => true,
        PushAddress::Sns { service, .. } => match service {
            SnsService::Fcm | SnsService::Apns => true,
            SnsService::ApnsVoip => false,
        },
    }
}
