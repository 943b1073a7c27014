//! What is to be done about a call: plain values, each safe to carry out again.

use std::collections::BTreeSet;

use crate::ids::DeviceId;
use crate::timestamp::Timestamp;

/// One thing to do in the world outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Wake every device of the extension with a push.
    SendPush,
    /// Tell devices that they need not ring, or no longer have a call.
    CancelPush {
        /// Why, in the push's words.
        reason: CancelReason,
        /// Which devices.
        to: Audience,
    },
    /// Call the phone of the app that calls, so that it waits as a caller does.
    DialCallerPhone,
    /// Call the phone and join it to the waiting caller.
    Bridge,
    /// Ask Asterisk whether the phone talks to the caller.
    CheckBridge,
    /// Have Exotel connect the two numbers. Never done twice: Exotel knows no idempotency key.
    PlaceOutboundCall,
    /// Ask Exotel how the call stands.
    QueryExotel,
    /// Let the caller hear busy.
    SendBusy,
    /// End the caller's leg.
    HangUpCaller,
    /// End the phone's leg.
    HangUpPhone,
    /// Have the call looked at again at this moment.
    ArmTimer(Timestamp),
    /// Record that what has been owed since this moment has been carried out.
    MarkEffectsCompleted(Timestamp),
    /// Take the durable timer back. Always last: until then, the timer finishes what was left undone.
    DisarmTimer,
}

impl Effect {
    /// Whether a second time goes unnoticed: Asterisk answers "already exists" or "not found". A push is noticed
    /// and a timer costs, so those are repeated only when the first attempt must have died; and the timer that is to
    /// find out about that is not taken back before.
    #[must_use]
    pub const fn repeats_unnoticed(&self) -> bool {
        match self {
            Self::SendPush
            | Self::CheckBridge
            | Self::PlaceOutboundCall
            | Self::QueryExotel
            | Self::CancelPush { .. }
            | Self::ArmTimer(_)
            | Self::MarkEffectsCompleted(_)
            | Self::DisarmTimer => false,
            Self::DialCallerPhone
            | Self::Bridge
            | Self::SendBusy
            | Self::HangUpCaller
            | Self::HangUpPhone => true,
        }
    }
}

/// Why a phone need not ring any longer: `reason` in the push `call_cancelled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The caller gave up.
    CallerHungUp,
    /// Another device took the call, or declined it for all.
    AnsweredElsewhere,
    /// Nobody answered in time, or the call could not be connected in time.
    Timeout,
}

impl CancelReason {
    /// As it stands in the push.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::AnsweredElsewhere => "answered_elsewhere",
            Self::Timeout => "timeout",
        }
    }
}

/// The devices that a cancellation is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Every device but these.
    AllBut(BTreeSet<DeviceId>),
    /// This device alone.
    Only(DeviceId),
}

impl Audience {
    /// Whether `device` is to be told.
    #[must_use]
    pub fn includes(&self, device: &DeviceId) -> bool {
        match self {
            Self::AllBut(spared) => !spared.contains(device),
            Self::Only(meant) => meant == device,
        }
    }
}
