//! What this region does for calls that the other region stored or changed.

use ringback::platform::clock;
use ringback::platform::config::ConfigError;
use ringback::start::Start;
use ringback::timers::{CallTimers, TimerError, replica};

use crate::stream_records::CallChange;

/// This region's duties as the second of two.
pub(crate) struct ReplicaDuties {
    pub(crate) region: String,
    timeouts: CallTimers,
}

impl ReplicaDuties {
    /// `None` if there is no other region.
    pub(crate) fn from_start(start: &Start) -> Result<Option<Self>, ConfigError> {
        if start.other_region().is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            region: start.region().to_owned(),
            timeouts: start.timeouts()?,
        }))
    }

    /// Does what this change requires of this region, if anything. May run twice for the same change.
    pub(crate) async fn perform(&self, change: &CallChange) -> Result<(), TimerError> {
        let stored_in = change.stored_in.as_deref();
        let duty = replica::duty(
            change.before.as_ref(),
            &change.after,
            stored_in,
            &self.region,
        );
        match duty {
            Some(duty) => replica::fulfil(&duty, &self.timeouts, clock::now()).await,
            None => Ok(()),
        }
    }
}
