//! Virtual time.

use std::time::Duration;

use ringback_core::timestamp::Timestamp;

/// When each run starts.
pub const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

/// Milliseconds, shown as seconds.
pub struct Seconds(pub u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}

/// The milliseconds of a duration.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
