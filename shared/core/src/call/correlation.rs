//! How reports without Exotel's CallSid are matched to a call.

use crate::ids::Extension;
use crate::phone_number::PhoneNumber;

/// A caller who waits for an extension. Two reports with the same key, while the phone rings, are about the same call.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CorrelationKey {
    /// The extension that is called, so that callers with the same number or none are never mixed up across extensions.
    pub extension: Extension,
    /// The caller's number. `None` if it is withheld.
    pub caller: Option<PhoneNumber>,
}
