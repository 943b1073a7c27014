//! What this region does for calls that the other region stored or changed.

use ringback::platform::clock;
use ringback::platform::config::ConfigError;
use ringback::start::Start;
use ringback::timers::{CallTimers, TimerError};
use ringback_core::call::replication_action;

use crate::stream_records::CallChange;

/// This region's duties as the second of two.
pub(crate) struct ReplicaDuties {
    pub(crate) region: String,
    timers: CallTimers,
}

impl ReplicaDuties {
    /// `None` if there is no other region.
    pub(crate) fn from_start(start: &Start) -> Result<Option<Self>, ConfigError> {
        if start.other_region().is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            region: start.region().to_owned(),
            timers: start.timeouts()?,
        }))
    }

    /// Does what this change requires of this region, if anything. May run twice for the same change.
    pub(crate) async fn perform(&self, change: &CallChange) -> Result<(), TimerError> {
        let stored_in = change.stored_in.as_deref();
        let before = change.before.as_ref();
        match replication_action(before, &change.after, stored_in, &self.region) {
            Some(action) => self.timers.replicate(&action, clock::now()).await,
            None => Ok(()),
        }
    }
}
