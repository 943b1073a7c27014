//! How the handling of an event ends.

use std::time::Duration;

use ringback_core::call::{Call, RejectReason};

use super::StartLimit;
use crate::store::StoreError;
use crate::store::calls::ReplicationWaitError;

/// The result of an event.
#[derive(Debug)]
pub struct EventOutcome {
    /// The call as it is now.
    pub call: Call,
    /// Why the event was rejected, if it was.
    pub rejected: Option<RejectReason>,
}

/// Why an event could not be handled.
#[derive(Debug, thiserror::Error)]
pub enum SwitchboardError<E: std::error::Error + 'static> {
    /// There is no such call: it never existed, or its item has expired.
    #[error("there is no such call")]
    NoSuchCall,
    /// The other region may have stored the call, and the app's extension already waits for a call to be replicated. A retry after
    /// this time, or in the other region, may succeed.
    #[error("the call is not in this region yet")]
    NotHereYet(Duration),
    /// The extension starts too many calls. A retry after `wait` may succeed.
    #[error("the extension starts too many calls")]
    TooMany {
        /// The limit that it has reached.
        limit: StartLimit,
        /// When the next call is allowed. For [`StartLimit::Concurrent`], an estimate.
        wait: Duration,
    },
    /// Concurrent changes kept overtaking this one. A retry succeeds.
    #[error("the call kept changing")]
    Contended,
    /// The table. A retry may succeed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An effect failed after its change was saved. Repeating the event tries it again.
    #[error("an effect failed")]
    Effect {
        /// The call as it was saved.
        call: Box<Call>,
        /// Why.
        source: E,
    },
}

impl<E: std::error::Error> From<ReplicationWaitError> for SwitchboardError<E> {
    fn from(error: ReplicationWaitError) -> Self {
        match error {
            ReplicationWaitError::WaitsAlready(wait) => Self::NotHereYet(wait),
            ReplicationWaitError::Store(error) => Self::Store(error),
        }
    }
}
