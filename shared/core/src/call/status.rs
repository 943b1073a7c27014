//! Where a call is in its life.

use serde::{Deserialize, Serialize};

/// Where a call is in its life. `snake_case` on the wire and in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallStatus {
    /// The caller waits, and the push is on its way to the phone.
    WaitingForMobile,
    /// The app is ready, and the two legs are being bridged.
    MobileReady,
    /// Exotel has the request to connect two numbers.
    Initiated,
    /// One of the two numbers rings.
    Ringing,
    /// The two sides talk.
    InProgress,
    /// The two sides have talked.
    Completed,
    /// The callee did not want the call.
    Declined,
    /// The call was not answered in time.
    TimedOut,
    /// The caller hung up before the call was answered.
    Canceled,
    /// The call could not be carried out.
    Failed,
}

impl CallStatus {
    /// Whether the call has ended.
    #[must_use]
    pub const fn is_final(self) -> bool {
        self.rank() == Self::Completed.rank()
    }

    /// How far this is in the life of a call: a call only moves to a higher rank. All final states have the same rank.
    #[must_use]
    pub const fn rank(self) -> u8 {
        match self {
            Self::WaitingForMobile | Self::Initiated => 0,
            Self::MobileReady | Self::Ringing => 1,
            Self::InProgress => 2,
            Self::Completed | Self::Declined | Self::TimedOut | Self::Canceled | Self::Failed => 3,
        }
    }

    /// The status as it is written on the wire and in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForMobile => "waiting_for_mobile",
            Self::MobileReady => "mobile_ready",
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Declined => "declined",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
        }
    }
}
