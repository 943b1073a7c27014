//! What a call depends on: the backstop of a new call, and this region's part for calls that the other region stored or
//! changed.

use ringback::platform::clock;
use ringback::platform::config::ConfigError;
use ringback::start::Start;
use ringback::telemetry::metrics::is_counted_in;
use ringback::timers::{CallTimers, TimerError};
use ringback_core::call::stream_action;

use crate::stream_records::CallChange;

/// The duties of this region.
pub(crate) struct CallDuties {
    region: String,
    timers: CallTimers,
}

impl CallDuties {
    pub(crate) fn from_start(start: &Start) -> Result<Self, ConfigError> {
        Ok(Self {
            region: start.region().to_owned(),
            timers: start.timeouts()?,
        })
    }

    /// Does what this change requires of this region, if anything. May run twice for the same change.
    pub(crate) async fn perform(&self, change: &CallChange) -> Result<(), TimerError> {
        let stored_in = change.stored_in.as_deref();
        let before = change.before.as_ref();
        match stream_action(before, &change.after, stored_in, &self.region) {
            Some(action) => self.timers.perform(&action, clock::now()).await,
            None => Ok(()),
        }
    }

    /// Whether this region counts the call in its metrics.
    pub(crate) fn counts(&self, change: &CallChange) -> bool {
        is_counted_in(&self.region, change.stored_in.as_deref())
    }
}
