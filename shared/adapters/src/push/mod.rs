//! Waking phones, and telling them that they need not ring any longer.

pub mod fcm;
mod message;
pub mod sns;
#[cfg(test)]
mod tests;

use crate::platform::clock;
use std::collections::BTreeSet;

use futures::future::join_all;

pub use message::{Kind, Message, PushError};

use self::fcm::Fcm;
use self::sns::Sns;
use crate::store::devices::{Device, Devices, PushAddress, SnsService};
use crate::telemetry::metrics;
use ringback_core::call::{Call, CancelAudience, CancelReason, EndReason, Event};
use ringback_core::timestamp::Timestamp;

/// Pushes to an extension's devices.
#[derive(Debug)]
pub struct Pushes {
    devices: Devices,
    fcm: Fcm,
    sns: Sns,
}

impl Pushes {
    /// Pushes by FCM and SNS, to these devices.
    #[must_use]
    pub const fn new(devices: Devices, fcm: Fcm, sns: Sns) -> Self {
        Self { devices, fcm, sns }
    }

    /// The devices themselves.
    #[must_use]
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Fetches what the first push will need, unless all of them go by SNS.
    pub async fn get_ready(&self) {
        if !self.sns.serves_fcm() {
            self.fcm.get_ready().await;
        }
    }

    /// Rings all these devices at once. Says which took the push, or that nobody did.
    pub async fn ring(&self, call: &Call, devices: &[Device], until: Timestamp) -> Event {
        let message = Message::incoming_call(call, clock::now());
        let taken = self.send_all(call, devices.iter(), &message, until).await;
        if !taken.is_empty() {
            return Event::PushSent {
                devices: taken,
                finished_at: clock::now(),
            };
        }
        Event::PushNotSent(if devices.is_empty() {
            EndReason::NoDevice
        } else {
            EndReason::PushFailed
        })
    }

    /// Tells the devices of `audience` that they need not ring any longer.
    pub async fn cancel(
        &self,
        call: &Call,
        devices: &[Device],
        reason: CancelReason,
        audience: &CancelAudience,
        until: Timestamp,
    ) {
        let message = Message::call_cancelled(call, reason, clock::now());
        let may_have_rung = |device: &&Device| {
            audience.includes(&device.device_id) && takes_cancellations(&device.address)
        };
        self.send_all(call, devices.iter().filter(may_have_rung), &message, until)
            .await;
    }

    async fn send_all<'a>(
        &self,
        call: &Call,
        devices: impl Iterator<Item = &'a Device>,
        message: &Message,
        until: Timestamp,
    ) -> BTreeSet<ringback_core::ids::DeviceId> {
        let sends = devices.map(async |device| {
            let taken = self.send(call, device, message, until).await;
            taken.then(|| device.device_id.clone())
        });
        join_all(sends).await.into_iter().flatten().collect()
    }

    /// A push that fails must not turn a good answer into an error, so it is told here and nowhere else.
    async fn send(
        &self,
        call: &Call,
        device: &Device,
        message: &Message,
        until: Timestamp,
    ) -> bool {
        let result = match &device.address {
            PushAddress::Fcm { token } => self.fcm.send(token, message, until).await,
            PushAddress::Sns { service, endpoint } => {
                self.sns.publish(*service, endpoint, message).await
            }
        };
        let (call_id, device_id, via) = (call.call_id, &device.device_id, &device.address);
        metrics::pushed(via.service(), word(&result));
        match result {
            Ok(()) => tracing::info!(%call_id, %device_id, ?via, kind = ?message.kind, "push sent"),
            Err(PushError::Dead) => {
                tracing::warn!(%call_id, %device_id, ?via, "push address is dead: device forgotten");
                if let Err(error) = self.devices.forget_dead(&call.extension, device).await {
                    tracing::warn!(%call_id, %device_id, %error, "a dead device could not be forgotten");
                }
                return false;
            }
            Err(error) => {
                tracing::error!(%call_id, %device_id, ?via, %error, "push failed");
                return false;
            }
        }
        true
    }
}

/// What became of a push, for the metrics.
const fn word(result: &Result<(), PushError>) -> &'static str {
    match result {
        Ok(()) => "sent",
        Err(PushError::Dead) => "dead",
        Err(_) => "failed",
    }
}

/// Apple ends apps that get a VoIP push without a new call: those phones learn of the end by `GET /api/calls/{id}`
/// and, if the app has registered its alert token too, by an alert push.
const fn takes_cancellations(address: &PushAddress) -> bool {
    match address {
        PushAddress::Fcm { .. } => true,
        PushAddress::Sns { service, .. } => match service {
            SnsService::Fcm | SnsService::Apns => true,
            SnsService::ApnsVoip => false,
        },
    }
}
