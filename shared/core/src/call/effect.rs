//! What must be done about a call: plain values, each safe to carry out again.

use std::collections::BTreeSet;

use crate::ids::DeviceId;
use crate::timestamp::Timestamp;

/// One thing to do in an outside system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a push to every device of the extension.
    SendPush,
    /// Send a push that stops devices from ringing.
    CancelPush {
        /// The reason that the push gives.
        reason: CancelReason,
        /// The devices that get it.
        to: CancelAudience,
    },
    /// Dial the phone of the calling app, so that it waits as a caller does.
    DialCallerPhone,
    /// Dial the callee's phone and bridge it to the waiting caller.
    Bridge,
    /// Ask Asterisk whether the phone talks to the caller.
    CheckBridge,
    /// Ask Exotel to connect the two numbers. Never repeated: Exotel has no idempotency key.
    PlaceOutboundCall,
    /// Ask Exotel for the status of the call.
    QueryExotel,
    /// End the legs of a call that was not answered: the caller hears busy, and the phone stops ringing. Legs that are bridged stay,
    /// and [`Event::Bridged`](super::Event::Bridged) follows: the other region may have connected the call.
    SendBusy,
    /// End both legs, the caller's first: a process that dials the phone looks for the caller's leg afterwards.
    HangUp,
    /// Arm a timer for the call that fires at this moment.
    ArmTimer(Timestamp),
    /// Record that the effects pending since this moment are completed.
    MarkEffectsCompleted(Timestamp),
    /// Delete the durable timer. Always last: until then, the timer completes what is unfinished.
    DisarmTimer,
}

impl Effect {
    /// Whether a second execution goes unnoticed: Asterisk answers "already exists" or "not found". A second push is noticed
    /// and a second timer costs money, so these are repeated only if the process of the first attempt must have crashed. The
    /// timer that detects such a crash is not deleted before.
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
            Self::DialCallerPhone | Self::Bridge | Self::SendBusy | Self::HangUp => true,
        }
    }
}

/// Why a phone stops ringing, or did not ring: `reason` in the push `call_cancelled`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelReason {
    /// The caller hung up.
    CallerHungUp,
    /// Another device answered the call.
    AnsweredElsewhere,
    /// Another device declined the call for the extension.
    DeclinedElsewhere,
    /// The call was not answered or not connected in time.
    Timeout,
    /// The call did not ring, because the callee was in another conversation.
    Busy,
    /// The call did not ring, because the callee wants no calls now.
    DoNotDisturb,
}

impl CancelReason {
    /// Whether a call that ends so is a missed call, of which a device must learn even if it was offline.
    #[must_use]
    pub const fn is_missed_call(self) -> bool {
        match self {
            Self::CallerHungUp | Self::Timeout | Self::Busy | Self::DoNotDisturb => true,
            Self::AnsweredElsewhere | Self::DeclinedElsewhere => false,
        }
    }

    /// Whether the call may ring on a device, so that a push must stop it.
    #[must_use]
    pub const fn stops_a_ring(self) -> bool {
        match self {
            Self::CallerHungUp
            | Self::Timeout
            | Self::AnsweredElsewhere
            | Self::DeclinedElsewhere => true,
            Self::Busy | Self::DoNotDisturb => false,
        }
    }

    /// The reason as the push writes it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::AnsweredElsewhere => "answered_elsewhere",
            Self::DeclinedElsewhere => "declined_elsewhere",
            Self::Timeout => "timeout",
            Self::Busy => "busy",
            Self::DoNotDisturb => "do_not_disturb",
        }
    }
}

/// The devices that get a cancellation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CancelAudience {
    /// Every device except these.
    AllExcept(BTreeSet<DeviceId>),
    /// Only this device.
    Only(DeviceId),
}

impl CancelAudience {
    /// Whether `device` gets the cancellation.
    #[must_use]
    pub fn includes(&self, device: &DeviceId) -> bool {
        match self {
            Self::AllExcept(excluded) => !excluded.contains(device),
            Self::Only(included) => included == device,
        }
    }
}
