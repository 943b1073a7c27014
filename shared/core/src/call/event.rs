//! What can happen to a call.

use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Call, OutboundProgress};
use crate::ids::{CallSid, DeviceId, Extension, Leg, PbxName};
use crate::timestamp::Timestamp;

/// The names of [`Event::Accepted`], and of [`Event::EffectsCompleted`], by which the history shows whether what accepting owed was
/// carried out.
pub(super) const ACCEPTED: [&str; 2] = ["accept", "accept_ready"];
/// See [`ACCEPTED`].
pub(super) const SETTLED: &str = "settled";

/// The name of [`Event::PhoneLegEnded`], by which the history's lines of it are counted.
pub(super) const PHONE_LEFT: &str = "phone_left";

/// The name of [`Event::ExotelNoAnswer`], by which the history shows that it happened.
pub(super) const EXOTEL_SILENT: &str = "exotel_silent";

/// Something that happened to a call, whoever reported it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A witness of the call (Exotel's webhook, the PBX's hook) has told what it knows of it.
    CallerReported {
        /// The leg on which the caller waits.
        caller_leg: Option<Leg>,
        /// Exotel's id of the call.
        call_sid: Option<CallSid>,
    },
    /// Pushes went out to these devices, the last of them at this moment.
    PushSent {
        /// The devices whose push service took the push.
        devices: BTreeSet<DeviceId>,
        /// When the last of them had been handed over.
        finished_at: Timestamp,
    },
    /// No device could be woken.
    PushNotSent(EndReason),
    /// The phone of the app that calls is registered with this PBX, one of several, and is to be called there. The call
    /// knows that before anything is asked for: whatever is done about this leg then, is done at that PBX.
    CallerPhoneLocated(PbxName),
    /// The phone of the app that calls is being called.
    CallerPhoneDialed,
    /// The phone that was woken is being called.
    PhoneDialed,
    /// The phone of the app that calls could not be called.
    CallerUnreachable,
    /// Exotel has said how far an outbound call has come.
    ExotelProgress {
        /// Exotel's id of the call.
        call_sid: CallSid,
        /// How far.
        progress: OutboundProgress,
    },
    /// Exotel did not take an outbound call on.
    OutboundCallRejected(EndReason),
    /// Exotel did not answer, and may have placed an outbound call.
    ExotelNoAnswer,
    /// An app took the call.
    Accepted {
        /// Who.
        by: CallParty,
        /// Whether the app was running already.
        readiness: Readiness,
    },
    /// An app did not want the call.
    Declined {
        /// Who.
        by: CallParty,
    },
    /// An app ended the call.
    HungUp {
        /// Who.
        by: CallParty,
    },
    /// The caller's leg is gone.
    CallerLegEnded {
        /// The leg that it was, where the witness knows it.
        leg: Option<Leg>,
        /// Whether that leg had been answered, which only joining it to the phone does.
        answered: bool,
        /// Who hung up.
        by: CallSide,
    },
    /// The phone's leg is gone.
    PhoneLegEnded {
        /// Where it was.
        pbx: PbxName,
        /// Whether the phone had answered it.
        answered: bool,
        /// The Q.850 cause, 0 where none was given.
        cause: u16,
        /// Who hung up.
        by: CallSide,
    },
    /// The two legs have been joined.
    Bridged,
    /// Asterisk says, when asked, that they have not.
    NotBridged {
        /// The phone is being called at this moment.
        rings: bool,
    },
    /// Exotel has begun to stream the call's audio to us.
    StreamStarted,
    /// Exotel streams the call's audio no longer.
    StreamStopped(StopReason),
    /// A timer of this call has fired.
    TimerFired,
    /// Another region's version of the call has taken this one's place, and lacks something of it.
    ReplicaOverwritten(Box<Call>),
    /// The effects that were owed since this moment have been carried out.
    EffectsCompleted {
        /// [`super::Call::effects_pending_since`], as it was when they were begun.
        effects_pending_since: Timestamp,
    },
}

impl Event {
    /// The extension whose app sent this event. `None` for an event from the PBX, Exotel or a timer.
    #[must_use]
    pub const fn app(&self) -> Option<&Extension> {
        match self {
            Self::Accepted { by, .. } | Self::Declined { by } | Self::HungUp { by } => {
                Some(&by.extension)
            }
            Self::CallerReported { .. }
            | Self::PushSent { .. }
            | Self::PushNotSent(_)
            | Self::CallerPhoneLocated(_)
            | Self::CallerPhoneDialed
            | Self::PhoneDialed
            | Self::CallerUnreachable
            | Self::ExotelProgress { .. }
            | Self::OutboundCallRejected(_)
            | Self::ExotelNoAnswer
            | Self::CallerLegEnded { .. }
            | Self::PhoneLegEnded { .. }
            | Self::Bridged
            | Self::NotBridged { .. }
            | Self::StreamStarted
            | Self::StreamStopped(_)
            | Self::TimerFired
            | Self::ReplicaOverwritten(_)
            | Self::EffectsCompleted { .. } => None,
        }
    }

    /// The event's name in histories and logs.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::CallerReported {
                caller_leg: Some(_),
                ..
            } => "caller_arrived",
            Self::CallerReported {
                caller_leg: None, ..
            } => "announced",
            Self::PushSent { .. } => "rang",
            Self::PushNotSent(_) => "nobody_rang",
            Self::CallerPhoneLocated(_) => "caller_found",
            Self::CallerPhoneDialed => "caller_called",
            Self::PhoneDialed => "phone_called",
            Self::CallerUnreachable => "caller_unreachable",
            Self::ExotelProgress { .. } => "reported",
            Self::OutboundCallRejected(_) => "not_placed",
            Self::ExotelNoAnswer => EXOTEL_SILENT,
            Self::Accepted {
                readiness: Readiness::Running,
                ..
            } => ACCEPTED[0],
            Self::Accepted {
                readiness: Readiness::Woken,
                ..
            } => ACCEPTED[1],
            Self::Declined { .. } => "decline",
            Self::HungUp { .. } => "hangup",
            Self::CallerLegEnded { .. } => "caller_left",
            Self::PhoneLegEnded { .. } => PHONE_LEFT,
            Self::Bridged => "bridged",
            Self::NotBridged { .. } => "not_bridged",
            Self::StreamStarted => "stream_started",
            Self::StreamStopped(_) => "stream_stopped",
            Self::TimerFired => "timer_fired",
            Self::ReplicaOverwritten(_) => "overwritten",
            Self::EffectsCompleted { .. } => SETTLED,
        }
    }

    /// By whom, or with what cause, for the history.
    #[must_use]
    pub fn by(&self) -> Option<String> {
        match self {
            Self::CallerReported {
                caller_leg: leg, ..
            } => leg.as_ref().map(ToString::to_string),
            Self::CallerPhoneLocated(pbx) => Some(pbx.to_string()),
            Self::PushSent { devices, .. } => Some(format!("{} devices", devices.len())),
            Self::PushNotSent(why) | Self::OutboundCallRejected(why) => {
                Some(why.as_str().to_owned())
            }
            Self::ExotelProgress { progress, .. } => Some(progress.as_str().to_owned()),
            Self::StreamStopped(reason) => Some(reason.as_str().to_owned()),
            Self::Accepted { by, .. } | Self::Declined { by } | Self::HungUp { by } => {
                Some(by.to_string())
            }
            Self::CallerLegEnded { answered, .. } => Some(format!("answered={answered}")),
            Self::PhoneLegEnded {
                answered, cause, ..
            } => Some(format!("answered={answered} cause={cause}")),
            Self::ReplicaOverwritten(version) => Some(version.status.as_str().to_owned()),
            Self::CallerPhoneDialed
            | Self::PhoneDialed
            | Self::CallerUnreachable
            | Self::ExotelNoAnswer
            | Self::Bridged
            | Self::NotBridged { .. }
            | Self::StreamStarted
            | Self::TimerFired
            | Self::EffectsCompleted { .. } => None,
        }
    }
}

/// Why Exotel streams a call's audio no longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The flow went on to something else.
    Stopped,
    /// The call is over.
    CallEnded,
}

impl StopReason {
    /// As it stands in Exotel's frame.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::CallEnded => "callended",
        }
    }
}

/// A side of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallSide {
    /// Who dialled.
    Caller,
    /// Whose phone was wanted.
    Callee,
    /// Neither: Ringback took the leg down, in this region or another.
    Neither,
}

/// Whether the app was running when the call came (S1's actions `accept` and `accept_ready`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// `accept`: it was running. It may still register with SIP only seconds later.
    Running,
    /// `accept_ready`: the push woke it, and it has made itself ready.
    Woken,
}

/// An app that acts on a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallParty {
    /// The extension that its token speaks for.
    pub extension: Extension,
    /// Its device. An app that names none speaks for the extension as a whole.
    pub device: Option<DeviceId>,
}

impl fmt::Display for CallParty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.device {
            Some(device) => write!(f, "{}/{device}", self.extension),
            None => write!(f, "{}", self.extension),
        }
    }
}

/// Why a call was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The caller hung up.
    CallerHungUp,
    /// The person called declined.
    CalleeDeclined,
    /// The person called hung up.
    CalleeHungUp,
    /// Nobody answered while it rang.
    NoAnswer,
    /// The extension has no device.
    NoDevice,
    /// No push service took a push.
    PushFailed,
    /// The phone was ready but its SIP leg could not be brought up.
    PhoneUnreachable,
    /// The phone was ready but the legs were not joined in time.
    NotConnected,
    /// They talked for longer than a call may last.
    TalkedTooLong,
    /// The phone of the app that calls could not be called.
    CallerUnreachable,
    /// One of the two hung up; Exotel does not say which, or it was told to another region.
    HungUp,
    /// The number called was busy.
    NumberBusy,
    /// The network could not connect the numbers.
    NetworkFailed,
    /// Exotel refused: a number that it cannot call, or something that the account may not do.
    ExotelRefused,
    /// The account at Exotel has no money left.
    ExotelNoBalance,
    /// Exotel was asked for too many calls within a minute.
    ExotelTooMany,
    /// Exotel could not be reached, or failed.
    ExotelUnavailable,
    /// This deployment has no usable account at Exotel.
    ExotelNotConfigured,
    /// Nothing was ever heard of the call again.
    NeverReported,
}

impl EndReason {
    /// As it stands in histories, logs and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::CalleeDeclined => "callee_declined",
            Self::CalleeHungUp => "callee_hung_up",
            Self::NoAnswer => "no_answer",
            Self::NoDevice => "no_device",
            Self::PushFailed => "push_failed",
            Self::PhoneUnreachable => "phone_unreachable",
            Self::NotConnected => "not_connected",
            Self::TalkedTooLong => "talked_too_long",
            Self::CallerUnreachable => "caller_unreachable",
            Self::HungUp => "hung_up",
            Self::NumberBusy => "number_busy",
            Self::NetworkFailed => "network_failed",
            Self::ExotelRefused => "exotel_refused",
            Self::ExotelNoBalance => "exotel_no_balance",
            Self::ExotelTooMany => "exotel_too_many",
            Self::ExotelUnavailable => "exotel_unavailable",
            Self::ExotelNotConfigured => "exotel_not_configured",
            Self::NeverReported => "never_reported",
        }
    }
}
