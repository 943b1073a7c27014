//! Counts the devices that had reported that they ring, and have stopped.

use std::error::Error as _;

use ringback::store::ring_reports::RingReports;
use ringback::telemetry::metrics;
use ringback_core::call::Call;

use crate::stream_records::CallChange;

/// The counts of all devices.
pub(crate) struct SilentDevices {
    reports: RingReports,
}

/// The call after this change, if it has just ended, or if a device has reported after the end.
pub(crate) fn call_to_count(change: &CallChange) -> Option<Call> {
    let (before, after) = (change.before.as_ref(), &change.after);
    let is_known = before.is_some_and(|before| {
        before.status.is_final() && before.ring_receipts == after.ring_receipts
    });
    let is_counted = after.status.is_final() && !after.is_to_number() && !is_known;
    is_counted.then(|| after.clone())
}

impl SilentDevices {
    pub(crate) const fn new(reports: RingReports) -> Self {
        Self { reports }
    }

    /// Counts these calls, one after the other: they may have rung the same device. A failure is only logged: one push of many is
    /// not counted then.
    pub(crate) async fn count(&self, calls: &[Call]) {
        for call in calls {
            let call_id = call.call_id;
            match self.reports.count(call).await {
                Ok(silent) => {
                    for device_id in silent {
                        metrics::device_silent();
                        tracing::warn!(%call_id, extension = %call.extension, %device_id, "device has stopped reporting that it rings");
                    }
                }
                Err(error) => {
                    tracing::warn!(%call_id, %error, cause = ?error.source(), "pushes without a report not counted");
                }
            }
        }
    }
}
