//! Waking phones, and telling them that they need not ring any longer.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::fmt;

use futures::future::join_all;
use serde_json::{Map, Value};

use crate::call::{Audience, Call, CancelReason, Event, Why};
use crate::clock::Timestamp;
use crate::devices::{Device, Devices, PushAddress, SnsService};
use crate::fcm::Fcm;
use crate::sns::Sns;

/// What a push says.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Ring, or stop ringing.
    pub kind: Kind,
    /// The data that the app reads: every value a string (FCM accepts nothing else).
    pub data: Map<String, Value>,
    /// The call's id, under which a later push replaces an earlier one that has not been delivered.
    pub collapse_key: String,
    /// Until when it is worth delivering.
    pub expires_at: Timestamp,
    /// When it was made.
    pub sent_at: Timestamp,
}

/// Who calls is personal: the data does not show.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("kind", &self.kind)
            .field("call_id", &self.collapse_key)
            .field("expires_at", &self.expires_at)
            .field("sent_at", &self.sent_at)
            .finish_non_exhaustive()
    }
}

/// What a push is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `incoming_call`
    IncomingCall,
    /// `call_cancelled`
    CallCancelled(CancelReason),
}

impl Message {
    /// Wakes a phone. It lives no longer than the ring does.
    #[must_use]
    pub fn incoming_call(call: &Call, now: Timestamp) -> Self {
        Self::of(call, Kind::IncomingCall, call.rings_until, now)
    }

    /// Tells a phone that it need not ring. It is worth delivering for as long as a ring may last.
    #[must_use]
    pub fn call_cancelled(call: &Call, reason: CancelReason, now: Timestamp) -> Self {
        let kind = Kind::CallCancelled(reason);
        let mut message = Self::of(call, kind, now + call.limits.ring, now);
        message
            .data
            .insert("reason".to_owned(), reason.as_str().into());
        message
    }

    /// Seconds left, at least 1: what FCM and SNS call TTL.
    #[must_use]
    pub fn ttl_seconds(&self) -> u64 {
        self.expires_at.since(self.sent_at).as_secs().max(1)
    }

    fn of(call: &Call, kind: Kind, expires_at: Timestamp, now: Timestamp) -> Self {
        let id = call.call_id.to_string();
        let number = call.caller.number_or_withheld();
        let name = call
            .caller
            .name
            .as_ref()
            .map_or(number, |name| name.as_str());
        let kind_name = match kind {
            Kind::IncomingCall => "incoming_call",
            Kind::CallCancelled(_) => "call_cancelled",
        };
        let data = [
            ("type", kind_name.to_owned()),
            ("call_id", id.clone()),
            ("server_call_id", id.clone()),
            ("caller_name", name.to_owned()),
            ("caller_number", number.to_owned()),
            ("call_type", call.call_type.as_str().to_owned()),
            ("expires_at", call.rings_until.as_millis().to_string()),
            ("sent_at", now.as_millis().to_string()),
        ];
        let data = data
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect();
        Self {
            kind,
            data,
            collapse_key: id,
            expires_at,
            sent_at: now,
        }
    }
}

/// Why a push did not go out.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The service says that this address will never work again.
    #[error("the address is dead")]
    Dead,
    /// The service did not take the push. It may another time.
    #[error("the push service did not take the push: {0}")]
    NotTaken(String),
}

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

    /// Rings all these devices at once. Says which took the push, or that nobody did.
    pub async fn ring(&self, call: &Call, devices: &[Device], until: Timestamp) -> Event {
        let message = Message::incoming_call(call, Timestamp::now());
        let taken = self.send_all(call, devices.iter(), &message, until).await;
        if !taken.is_empty() {
            return Event::Rang {
                devices: taken,
                finished_at: Timestamp::now(),
            };
        }
        Event::NobodyRang(if devices.is_empty() {
            Why::NoDevice
        } else {
            Why::PushFailed
        })
    }

    /// Tells the devices of `audience` that they need not ring any longer.
    pub async fn cancel(
        &self,
        call: &Call,
        devices: &[Device],
        reason: CancelReason,
        audience: &Audience,
        until: Timestamp,
    ) {
        let message = Message::call_cancelled(call, reason, Timestamp::now());
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
    ) -> BTreeSet<crate::names::DeviceId> {
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
