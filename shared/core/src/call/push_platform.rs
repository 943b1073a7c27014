//! The services that deliver pushes to devices.

use serde::{Deserialize, Serialize};

use crate::ids::BadName;

/// A push service. The order is that in which a ring tries them: a VoIP push and a push of FCM start a terminated app, an alert does
/// not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushPlatform {
    /// Apple's service for VoIP calls.
    ApnsVoip,
    /// Google's Firebase Cloud Messaging.
    Fcm,
    /// Apple's service for alerts.
    Apns,
}

impl PushPlatform {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ApnsVoip, Self::Fcm, Self::Apns];

    /// Its name in requests, and the attribute of a device's item that has the address.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ApnsVoip => "apns_voip",
            Self::Fcm => "fcm",
            Self::Apns => "apns",
        }
    }

    /// Apple ends apps that receive a VoIP push and report no new call.
    ///
    /// <https://developer.apple.com/documentation/pushkit/responding-to-voip-notifications-from-pushkit>
    #[must_use]
    pub const fn accepts_cancellations(self) -> bool {
        match self {
            Self::ApnsVoip => false,
            Self::Fcm | Self::Apns => true,
        }
    }
}

impl TryFrom<&str> for PushPlatform {
    type Error = BadName;

    fn try_from(text: &str) -> Result<Self, BadName> {
        let mut all = Self::ALL.into_iter();
        all.find(|platform| platform.as_str() == text)
            .ok_or(BadName {
                what: "platform",
                rule: "must be fcm, apns or apns_voip",
            })
    }
}
