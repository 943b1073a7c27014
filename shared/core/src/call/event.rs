//! What can happen to a call.

use std::fmt;

use super::{Call, CallStatus, EndReason, PushedDevices, Refusal, RingReceipt};
use crate::ids::{CallSid, DeviceId, Extension, Leg, PbxName};
use crate::timestamp::Timestamp;

/// Something that happened to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Exotel's webhook or the PBX reports the call and its caller.
    CallerReported {
        /// The leg on which the caller waits, if the PBX reports.
        caller_leg: Option<Leg>,
        /// Exotel's id of the call, if it is known.
        call_sid: Option<CallSid>,
    },
    /// The app that started the call asks for it again, with the same `clientReference`.
    RequestedAgain,
    /// Push services accepted pushes to these devices. If to none: connected clients took the ring, or a push may succeed later.
    PushSent(PushedDevices),
    /// No device can be reached by any means, for this reason.
    PushNotSent(EndReason),
    /// The callee of a new call takes no call now.
    CalleeUnavailable(Refusal),
    /// An app reports that its device rings.
    DeviceRings {
        /// The app. Its device is known.
        by: CallParty,
        /// Its report.
        receipt: RingReceipt,
    },
    /// The phone of the calling app is registered with this PBX, which will dial it. The call stores the PBX before the phone is
    /// dialed, so that a later hang-up goes to the right PBX.
    CallerPhoneLocated(PbxName),
    /// The PBX dials the phone of the calling app.
    CallerPhoneDialed,
    /// The phone of the calling app could not be dialed.
    CallerUnreachable,
    /// Exotel reports the status of a call to a number.
    ExotelProgress {
        /// Exotel's id of the call.
        call_sid: CallSid,
        /// The status, in Ringback's words.
        status: CallStatus,
    },
    /// Exotel rejected a call to a number, for this reason.
    OutboundCallRejected(EndReason),
    /// Exotel did not answer the request for a call to a number. It may have placed the call.
    ExotelNoAnswer,
    /// An app accepts the call.
    Accepted {
        /// The app.
        by: CallParty,
        /// Whether the app was running already.
        readiness: Readiness,
    },
    /// An app declines the call.
    Declined {
        /// The app.
        by: CallParty,
    },
    /// An app hangs up.
    HungUp {
        /// The app.
        by: CallParty,
    },
    /// The caller's leg ended.
    CallerLegEnded {
        /// The leg, if the reporter knows it.
        leg: Option<Leg>,
        /// Whether the leg was answered. Only bridging answers it.
        answered: bool,
        /// The side that hung up.
        by: CallSide,
    },
    /// The phone has not answered the INVITE of its leg at all, and has registered again since: it has left the address of that leg.
    PhoneMoved {
        /// The number of the leg.
        attempt: u32,
    },
    /// Exotel no longer calls the agent of this call: the agent did not answer, or the conversation is over. The caller may be on the
    /// line.
    AgentDone,
    /// The phone's leg ended.
    PhoneLegEnded {
        /// The PBX of the leg.
        pbx: PbxName,
        /// The number of the leg.
        attempt: u32,
        /// Whether the phone answered it.
        answered: bool,
        /// The Q.850 cause; 0 if there is none.
        cause: u16,
        /// The side that hung up.
        by: CallSide,
    },
    /// The two legs were bridged.
    Bridged,
    /// Asterisk answers that the two legs are not bridged.
    NotBridged {
        /// Whether the phone rings at this moment.
        rings: bool,
    },
    /// Asterisk says that the call, which was in progress, has no legs any more.
    BridgeEnded,
    /// Exotel began to stream the call's audio.
    StreamStarted,
    /// Exotel stopped streaming the call's audio.
    StreamStopped(StopReason),
    /// A timer of this call fired.
    TimerFired,
    /// The queue delivers a message of this call again. The process that had it before has failed, perhaps after it sent pushes.
    TimerRepeated,
    /// Replication replaced this version of the call by the other region's, which lacks something of it.
    ReplicaOverwritten(Box<Call>),
    /// The effects pending since this moment are completed.
    EffectsCompleted {
        /// [`Call::effects_pending_since`] when the effects were started.
        effects_pending_since: Timestamp,
    },
}

impl Event {
    /// The app that sent this event. `None` for an event from the PBX, Exotel or a timer.
    #[must_use]
    pub const fn app(&self) -> Option<&CallParty> {
        match self {
            Self::DeviceRings { by, .. }
            | Self::Accepted { by, .. }
            | Self::Declined { by }
            | Self::HungUp { by } => Some(by),
            Self::CallerReported { .. }
            | Self::RequestedAgain
            | Self::PushSent(_)
            | Self::PushNotSent(_)
            | Self::CalleeUnavailable(_)
            | Self::CallerPhoneLocated(_)
            | Self::CallerPhoneDialed
            | Self::CallerUnreachable
            | Self::ExotelProgress { .. }
            | Self::OutboundCallRejected(_)
            | Self::ExotelNoAnswer
            | Self::CallerLegEnded { .. }
            | Self::PhoneMoved { .. }
            | Self::AgentDone
            | Self::PhoneLegEnded { .. }
            | Self::Bridged
            | Self::BridgeEnded
            | Self::NotBridged { .. }
            | Self::StreamStarted
            | Self::StreamStopped(_)
            | Self::TimerFired
            | Self::TimerRepeated
            | Self::ReplicaOverwritten(_)
            | Self::EffectsCompleted { .. } => None,
        }
    }

    /// The event's name in histories and logs.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        self.description().0
    }

    /// The line of the call's history: the event's name, and its source or cause.
    #[must_use]
    pub fn description(&self) -> (&'static str, Option<String>) {
        match self {
            Self::CallerReported {
                caller_leg: Some(leg),
                ..
            } => ("caller_leg_arrived", Some(leg.to_string())),
            Self::CallerReported {
                caller_leg: None, ..
            } => ("call_reported", None),
            Self::RequestedAgain => ("requested_again", None),
            Self::PushSent(pushed) if pushed.devices.is_empty() => match pushed.clients {
                0 => ("push_delayed", None),
                clients => ("clients_rung", Some(clients.to_string())),
            },
            Self::PushSent(PushedDevices { devices, .. }) => {
                let plural = if devices.len() == 1 { "" } else { "s" };
                (
                    "push_sent",
                    Some(format!("{} device{plural}", devices.len())),
                )
            }
            Self::PushNotSent(reason) => ("push_not_sent", Some(reason.as_str().to_owned())),
            Self::CalleeUnavailable(refusal) => {
                let reason = refusal.reason().as_str();
                ("callee_unavailable", Some(reason.to_owned()))
            }
            Self::DeviceRings { by, .. } => ("ringing", Some(by.to_string())),
            Self::CallerPhoneLocated(pbx) => ("caller_phone_located", Some(pbx.to_string())),
            Self::CallerPhoneDialed => ("caller_phone_dialed", None),
            Self::CallerUnreachable => ("caller_unreachable", None),
            Self::ExotelProgress { status, .. } => {
                ("exotel_progress", Some(status.as_str().to_owned()))
            }
            Self::OutboundCallRejected(reason) => {
                ("outbound_call_rejected", Some(reason.as_str().to_owned()))
            }
            Self::ExotelNoAnswer => ("exotel_no_answer", None),
            Self::Accepted { by, readiness } => (readiness.as_str(), Some(by.to_string())),
            Self::Declined { by } => ("decline", Some(by.to_string())),
            Self::HungUp { by } => ("hangup", Some(by.to_string())),
            Self::CallerLegEnded { answered, by, .. } => {
                let elsewhere = match by {
                    CallSide::AnsweredElsewhere => " answered_elsewhere",
                    CallSide::DeclinedElsewhere => " declined_elsewhere",
                    CallSide::Caller | CallSide::Callee | CallSide::Neither => "",
                };
                (
                    "caller_leg_ended",
                    Some(format!("answered={answered}{elsewhere}")),
                )
            }
            Self::PhoneMoved { attempt } => ("phone_moved", Some(format!("attempt={attempt}"))),
            Self::AgentDone => ("agent_done", None),
            Self::PhoneLegEnded {
                answered, cause, ..
            } => (
                "phone_leg_ended",
                Some(format!("answered={answered} cause={cause}")),
            ),
            Self::Bridged => ("bridged", None),
            Self::BridgeEnded => ("bridge_ended", None),
            Self::NotBridged { .. } => ("not_bridged", None),
            Self::StreamStarted => ("stream_started", None),
            Self::StreamStopped(reason) => ("stream_stopped", Some(reason.as_str().to_owned())),
            Self::TimerFired => ("timer_fired", None),
            Self::TimerRepeated => ("timer_repeated", None),
            Self::ReplicaOverwritten(version) => (
                "replica_overwritten",
                Some(version.status.as_str().to_owned()),
            ),
            Self::EffectsCompleted { .. } => ("effects_completed", None),
        }
    }
}

/// Why Exotel stopped streaming a call's audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopReason {
    /// The flow of the call continued with another applet.
    Stopped,
    /// The call ended.
    CallEnded,
}

impl StopReason {
    /// The reason as Exotel's frame writes it.
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
    /// The side that dialed.
    Caller,
    /// The side that was called.
    Callee,
    /// Neither: Ringback ended the leg, in this region or in the other one.
    Neither,
    /// Neither: the trunk canceled the caller's leg, because the call was answered at another destination.
    AnsweredElsewhere,
    /// Neither: the trunk canceled the caller's leg, because the call was declined at another destination.
    DeclinedElsewhere,
}

/// Whether the app was running when the call arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readiness {
    /// Action `accept`: the app was running. Its SIP registration may still follow seconds later.
    Running,
    /// Action `accept_ready`: the push woke the app, and it is ready now.
    Woken,
}

impl Readiness {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "accept",
            Self::Woken => "accept_ready",
        }
    }
}

/// An app that acts on a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallParty {
    /// The extension that its token names.
    pub extension: Extension,
    /// Its device. `None`: the app acts for the extension as a whole.
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
