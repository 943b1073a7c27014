//! The machine's clock. `clippy.toml` forbids reading it anywhere else.

use std::time::{SystemTime, UNIX_EPOCH};

use ringback_core::timestamp::Timestamp;

/// The current time.
#[must_use]
#[allow(
    clippy::disallowed_methods,
    reason = "the one place where the clock is read"
)]
pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
