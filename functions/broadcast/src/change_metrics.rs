//! The metrics of a change.

use ringback::telemetry::metrics::{CallMetrics, is_counted_in};

use crate::replica_duties::ReplicaDuties;
use crate::stream_records::CallChange;

/// The metrics of this change, if this region counts the call.
pub(crate) fn measure(change: &CallChange, duties: Option<&ReplicaDuties>) -> Option<CallMetrics> {
    let stored_in = change.stored_in.as_deref();
    let counts = duties.is_none_or(|duties| is_counted_in(&duties.region, stored_in));
    counts.then(|| CallMetrics::of_change(change.before.as_ref(), &change.after))
}
