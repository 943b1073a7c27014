//! Sends pushes to the devices of an extension.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use futures::future::join_all;
use ringback_core::call::{Call, CancelAudience, CancelReason, EndReason, Event, PushedDevices};
use ringback_core::ids::DeviceId;
use ringback_core::timestamp::Timestamp;

use super::fcm::Fcm;
use super::push_message::{PushError, PushMessage, RetryAfter};
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
}

impl PushSender {
    /// A sender through these services. `devices` is the table that expired devices are deleted from.
    #[must_use]
    pub const fn new(devices: Devices, fcm: Fcm, sns: Sns) -> Self {
        Self { devices, fcm, sns }
    }

    /// The table of devices.
    #[must_use]
    pub const fn devices(&self) -> &Devices {
        &self.devices
    }

    /// Fetches what the first push to FCM needs. Does nothing if SNS serves all devices.
    pub async fn get_ready(&self) {
        if !self.sns.serves_fcm() {
            self.fcm.get_ready().await;
        }
    }

    /// Rings those of these devices at once that have not got a push yet and have not declined.
    pub async fn ring(&self, call: &Call, devices: &[Device], until: Timestamp) -> RingResult {
        let message = PushMessage::incoming_call(call, clock::now());
        let recipients = devices
            .iter()
            .filter(|device| !call.needs_no_push(&device.device_id));
        let deliveries = self.send_all(call, recipients, &message, until).await;
        let now = clock::now();
        let mut result = RingResult::default();
        for (device, delivery) in deliveries {
            match delivery {
                Delivery::Accepted => {
                    result.accepted.insert(device.clone());
                }
                Delivery::Delayed(retry) => {
                    let next = retry.next_attempt(call.created_at, now);
                    let earliest = result.retry_at.map_or(next, |known| known.min(next));
                    result.retry_at = Some(earliest);
                }
                Delivery::Failed => {}
            }
        }
        result
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

    /// Sends a message to all these devices at once.
    async fn send_all<'a>(
        &self,
        call: &Call,
        devices: impl Iterator<Item = &'a Device>,
        message: &PushMessage,
        until: Timestamp,
    ) -> Vec<(&'a DeviceId, Delivery)> {
        let sends = devices.map(async |device| {
            let delivery = self.send(call, device, message, until).await;
            (&device.device_id, delivery)
        });
        join_all(sends).await
    }

    /// Sends a message to one device. Only logs a failure, because a failed push must not fail the request.
    async fn send(
        &self,
        call: &Call,
        device: &Device,
        message: &PushMessage,
        until: Timestamp,
    ) -> Delivery {
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
                Delivery::Accepted
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
                Delivery::Failed
            }
            Err(error) => {
                tracing::error!(%call_id, %device_id, ?via, %error, "push failed");
                match error {
                    PushError::Delayed { retry, .. } => Delivery::Delayed(retry),
                    PushError::AddressExpired | PushError::NotAccepted(_) => Delivery::Failed,
                }
            }
        }
    }
}

/// Which devices a ring has reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RingResult {
    /// The devices for which a push service has just accepted a push.
    pub accepted: BTreeSet<DeviceId>,
    /// When a push to one of the others may succeed. `None`: a push to none of them will.
    pub retry_at: Option<Timestamp>,
}

impl RingResult {
    /// Whether connected clients must ring: no device of the call has been reached.
    #[must_use]
    pub fn needs_clients(&self, call: &Call) -> bool {
        let rings = call.pushed.as_ref().is_some_and(PushedDevices::reach_any);
        self.accepted.is_empty() && !rings
    }

    /// The event for the call, whose extension has so many devices. So many connected clients ring without a push.
    #[must_use]
    pub fn event(self, call: &Call, devices: usize, clients: u32, now: Timestamp) -> Event {
        // A device that has declined has been reached.
        let rings_nowhere = self.needs_clients(call) && clients == 0 && call.declined_by.is_empty();
        if rings_nowhere && self.retry_at.is_none() {
            return Event::PushNotSent(match devices {
                0 => EndReason::NoDevice,
                _ => EndReason::PushFailed,
            });
        }
        Event::PushSent(PushedDevices {
            are_all: devices > 0 && self.accepted.len() == devices,
            devices: self.accepted,
            at: now,
            retry_at: self.retry_at.filter(|at| call.push_helps_at(*at)),
            clients,
        })
    }
}

/// What became of the push to one device.
enum Delivery {
    Accepted,
    /// A later push may succeed.
    Delayed(RetryAfter),
    Failed,
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
