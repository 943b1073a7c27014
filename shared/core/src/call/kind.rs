//! The kinds of calls, and what only one kind has.

use serde::{Deserialize, Serialize};

use crate::ids::{DeviceId, Extension};
use crate::phone_number::{Caller, CallerName, PhoneNumber};

/// The kind of a call, with the data that only this kind has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallKind {
    /// A caller on the telephone network reached the PBX through the trunk. The callee's app is woken by a push.
    FromTrunk {
        /// The caller's number. `None` if it is withheld.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        number: Option<PhoneNumber>,
        /// The caller's name, if the trunk reports one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<CallerName>,
    },
    /// An app calls another app. The PBX dials both phones.
    BetweenApps {
        /// The extension of the calling app.
        caller: Extension,
        /// The device that starts the call, if the app names it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        device: Option<DeviceId>,
    },
    /// An app asks Exotel to connect two telephone numbers. The PBX has no part in it.
    ToNumber {
        /// The number that Exotel calls first: the one at which the app's user answers.
        from: PhoneNumber,
        /// The number that Exotel calls when the first has answered.
        to: PhoneNumber,
    },
}

impl CallKind {
    /// The kind of a call from this caller to an app.
    #[must_use]
    pub fn to_app(caller: Caller) -> Self {
        match caller.extension {
            Some(caller) => Self::BetweenApps {
                caller,
                device: None,
            },
            None => Self::FromTrunk {
                number: caller.number,
                name: caller.name,
            },
        }
    }

    /// Who calls. For [`CallKind::ToNumber`], the number that Exotel calls first.
    #[must_use]
    pub fn caller(&self) -> Caller {
        match self {
            Self::FromTrunk { number, name } => Caller::on_network(number.clone(), name.clone()),
            Self::BetweenApps { caller, .. } => Caller::app(caller.clone()),
            Self::ToNumber { from, .. } => Caller::on_network(Some(from.clone()), None),
        }
    }

    /// The extension of the calling app, if an app calls another.
    #[must_use]
    pub const fn calling_app(&self) -> Option<&Extension> {
        match self {
            Self::BetweenApps { caller, .. } => Some(caller),
            Self::FromTrunk { .. } | Self::ToNumber { .. } => None,
        }
    }

    /// The device that starts a call to another app, if its app names it.
    #[must_use]
    pub const fn calling_device(&self) -> Option<&DeviceId> {
        match self {
            Self::BetweenApps { device, .. } => device.as_ref(),
            Self::FromTrunk { .. } | Self::ToNumber { .. } => None,
        }
    }
}

/// Voice or video: `callType` in messages of apps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallType {
    /// Audio only.
    #[default]
    Voice,
    /// Audio and video.
    Video,
}

impl CallType {
    /// The type as pushes write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voice => "voice",
            Self::Video => "video",
        }
    }
}
