//! Sends pushes to the devices of an extension.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use ringback_core::call::{
    Call, CancelAudience, CancelReason, EndReason, Event, PushPlatform, PushedDevices,
};
use ringback_core::ids::DeviceId;
use ringback_core::timestamp::Timestamp;

use super::answer_url::AnswerUrls;
use super::push_message::{PushError, PushKind, PushMessage, RetryAfter};
use super::push_services::PushServices;
use crate::platform::clock;
use crate::store::devices::{Device, Devices, PushAddress};
use crate::store::missed_calls::MissedCalls;

/// Sends pushes, and removes expired push addresses.
#[derive(Debug)]
pub struct PushSender {
    devices: Devices,
    services: PushServices,
    answer_urls: AnswerUrls,
    missed_calls: MissedCalls,
    notices_kept_for: Duration,
}

impl PushSender {
    /// A sender through these services. `devices` is the table that expired addresses are removed from. Each push that rings a device has
    /// one of `answer_urls`. `missed_calls` counts those that ended unanswered, and their notices live for `notices_kept_for`.
    #[must_use]
    pub const fn new(
        devices: Devices,
        services: PushServices,
        answer_urls: AnswerUrls,
        missed_calls: MissedCalls,
        notices_kept_for: Duration,
    ) -> Self {
        Self {
            missed_calls,
            notices_kept_for,
            devices,
            services,
            answer_urls,
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
        let access = self.services.get_ready();
        tokio::join!(Box::pin(access), Box::pin(self.answer_urls.get_ready()));
    }

    /// Rings those of these devices at once that have not got a push yet and have not declined. A device without an address gets none.
    pub async fn ring(&self, call: &Call, devices: &[Device], until: Timestamp) -> RingResult {
        let message = PushMessage::incoming_call(call, clock::now());
        let recipients = devices
            .iter()
            .filter(|device| device.has_address() && !call.needs_no_push(&device.device_id))
            .map(|device| (device, device.addresses().collect()));
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

    /// Stops the devices of `audience` from ringing, and tells them of a missed call. A phone without an address that accepts cancellations
    /// learns of the end through the WebSocket or `GET /api/calls/{id}`.
    ///
    /// During the ring, the cancellation replaces a push of the ring that has not been delivered. Then the device gets a notice of missed
    /// calls, which has another collapse key and another TTL. After the ring, the push of the ring has expired, and only the notice is
    /// sent. The same holds for a refused call, which has not rung.
    pub async fn cancel(
        &self,
        call: &Call,
        devices: &[Device],
        reason: CancelReason,
        audience: &CancelAudience,
        until: Timestamp,
    ) {
        let devices = devices.iter();
        let to: Vec<(&Device, Vec<&PushAddress>)> = devices
            .filter(|device| audience.includes(&device.device_id))
            .map(|device| {
                let addresses = device.addresses();
                let accepting = addresses.filter(|it| it.platform.accepts_cancellations());
                (device, accepting.collect::<Vec<_>>())
            })
            .filter(|(_, addresses)| !addresses.is_empty())
            .collect();
        let now = clock::now();
        let is_missed = reason.is_missed_call() && !to.is_empty();
        let stop = async {
            if reason.stops_a_ring() && (now < call.rings_until || !is_missed) {
                let message = PushMessage::call_cancelled(call, reason, now);
                self.send_all(call, to.clone(), &message, until).await;
            }
        };
        let count = async {
            if is_missed {
                self.count_missed(call, now).await
            } else {
                None
            }
        };
        // The futures are large.
        let ((), count) = tokio::join!(Box::pin(stop), Box::pin(count));
        if is_missed {
            let expires_at = now + self.notices_kept_for;
            let notice = PushMessage::missed_calls(call, reason, count, expires_at, now);
            self.send_all(call, to, &notice, until).await;
        }
    }

    /// `None` if the table does not answer: the notice matters more than its count.
    async fn count_missed(&self, call: &Call, now: Timestamp) -> Option<u64> {
        match self
            .missed_calls
            .add(call, now + self.notices_kept_for)
            .await
        {
            Ok(count) => Some(count),
            Err(error) => {
                tracing::warn!(call_id = %call.call_id, %error, "missed call not counted");
                None
            }
        }
    }

    /// Sends a message to all these devices at once, to each through the first of its addresses that accepts it.
    async fn send_all<'a>(
        &self,
        call: &Call,
        devices: impl IntoIterator<Item = (&'a Device, Vec<&'a PushAddress>)>,
        message: &PushMessage,
        until: Timestamp,
    ) -> Vec<(&'a DeviceId, Delivery)> {
        let sends = devices.into_iter().map(async |(device, addresses)| {
            let mut delivery = Delivery::Failed;
            for address in addresses {
                match self.send(call, device, address, message, until).await {
                    Delivery::Failed => {}
                    Delivery::Delayed(retry) => delivery = Delivery::Delayed(retry),
                    Delivery::Accepted => {
                        delivery = Delivery::Accepted;
                        break;
                    }
                }
            }
            (&device.device_id, delivery)
        });
        join_all(sends).await
    }

    /// The message as this device gets it through this platform. If the key cannot be fetched, a push has no `answer_url`: the app can still
    /// log in and answer.
    async fn for_device<'a>(
        &self,
        call: &Call,
        device: &Device,
        platform: PushPlatform,
        message: &'a PushMessage,
    ) -> Cow<'a, PushMessage> {
        if message.kind != PushKind::IncomingCall {
            return Cow::Borrowed(message);
        }
        let url = self.answer_urls.of(call, device, platform, message.sent_at);
        match url.await {
            Ok(url) => Cow::Owned(message.with_answer_url(&url)),
            Err(error) => {
                tracing::warn!(call_id = %call.call_id, %error, "push without answer_url");
                Cow::Borrowed(message)
            }
        }
    }

    /// Sends a message to one address. Only logs a failure, because a failed push must not fail the request.
    async fn send(
        &self,
        call: &Call,
        device: &Device,
        address: &PushAddress,
        message: &PushMessage,
        until: Timestamp,
    ) -> Delivery {
        // The future is large.
        let message = self.for_device(call, device, address.platform, message);
        let message = &*Box::pin(message).await;
        let (result, via) = self.services.send(address, message, until).await;
        let (call_id, device_id) = (call.call_id, &device.device_id);
        match result {
            Ok(()) => {
                tracing::debug!(%call_id, %device_id, via, kind = ?message.kind, "push sent");
                Delivery::Accepted
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
                Delivery::Failed
            }
            Err(error) => {
                tracing::error!(%call_id, %device_id, via, %error, "push failed");
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

    /// The event for the call. `devices` counts the extension's devices with a push address, and `clients` the connected clients that
    /// ring without a push.
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
            earlier: [].into(),
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
