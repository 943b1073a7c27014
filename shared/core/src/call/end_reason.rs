//! Why a call ended.

use serde::{Deserialize, Serialize};

/// Why a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// The caller hung up.
    CallerHungUp,
    /// The trunk canceled the call, because it was answered at another destination.
    AnsweredElsewhere,
    /// The trunk canceled the call, because it was declined at another destination.
    DeclinedElsewhere,
    /// The callee declined.
    CalleeDeclined,
    /// The callee hung up.
    CalleeHungUp,
    /// The callee was in another conversation, and takes one call at a time.
    Busy,
    /// The callee wants no calls now.
    DoNotDisturb,
    /// The call was not answered while the phone rang.
    NoAnswer,
    /// The extension has no device.
    NoDevice,
    /// No push service accepted a push.
    PushFailed,
    /// The app was ready, but its phone did not answer the SIP call.
    PhoneUnreachable,
    /// The app was ready, but the legs were not bridged in time.
    NotConnected,
    /// The conversation reached its time limit.
    TalkedTooLong,
    /// The phone of the calling app could not be reached.
    CallerUnreachable,
    /// One side hung up. Exotel does not say which one, or the other region has that report.
    HungUp,
    /// The number called was busy.
    NumberBusy,
    /// The telephone network could not connect the numbers.
    NetworkFailed,
    /// Exotel refused: it cannot call one of the numbers, or the account may not.
    ExotelRefused,
    /// The account at Exotel has no balance left.
    ExotelNoBalance,
    /// The account at Exotel has reached its requests per minute.
    ExotelTooMany,
    /// Exotel could not be reached, or answered with a server error.
    ExotelUnavailable,
    /// This deployment has no usable account at Exotel.
    ExotelNotConfigured,
    /// No report about the call arrived within its time limit.
    NeverReported,
}

impl EndReason {
    /// The reason as histories, logs and answers write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller_hung_up",
            Self::AnsweredElsewhere => "answered_elsewhere",
            Self::DeclinedElsewhere => "declined_elsewhere",
            Self::CalleeDeclined => "callee_declined",
            Self::CalleeHungUp => "callee_hung_up",
            Self::Busy => "busy",
            Self::DoNotDisturb => "do_not_disturb",
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
