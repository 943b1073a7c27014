//! The message that a timer sends to the function `call-timeout`.

use ringback_core::call::{Call, Event};
use ringback_core::ids::CallId;
use serde::{Deserialize, Serialize};

/// What `call-timeout` receives: `{"call_id": "…"}`, from the queue or from a schedule.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerMessage {
    /// The call to check.
    pub call_id: CallId,
    /// A version of the call that replication has overwritten. It is merged with the stored version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwritten: Option<Box<Call>>,
}

impl TimerMessage {
    /// Checks a call.
    pub(super) const fn check(call_id: CallId) -> Self {
        Self {
            call_id,
            overwritten: None,
        }
    }

    /// Merges a version that replication has overwritten.
    pub(super) fn merge(overwritten: &Call) -> Self {
        Self {
            call_id: overwritten.call_id,
            overwritten: Some(Box::new(overwritten.clone())),
        }
    }

    /// The event that this message stands for.
    #[must_use]
    pub fn event(self) -> Event {
        self.overwritten
            .map_or(Event::TimerFired, Event::ReplicaOverwritten)
    }
}
