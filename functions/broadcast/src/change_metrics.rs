//! The metrics of a change.

use ringback::telemetry::metrics::CallMetrics;

use crate::replica_duties::ReplicaDuties;
use crate::stream_records::CallChange;

/// The metrics of this change, if this region counts the call.
pub(crate) fn measure(change: &CallChange, duties: Option<&ReplicaDuties>) -> Option<CallMetrics> {
    is_counted_here(change, duties)
        .then(|| CallMetrics::of_change(change.before.as_ref(), &change.after))
}

/// Both regions see every change, so only the region that stored the call counts it.
fn is_counted_here(change: &CallChange, duties: Option<&ReplicaDuties>) -> bool {
    match (duties, &change.stored_in) {
        (Some(duties), Some(stored_in)) => duties.region == *stored_in,
        _ => true,
    }
}
