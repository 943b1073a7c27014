//! Builds the table rows from the results of the calls.

use std::time::Duration;

use crate::call_run::{CallEnd, CallResult};
use ringback_e2e::outcome_table::{OutcomeRow, millis};

/// Summarizes these calls. None may have waited longer than `promised`.
pub(crate) fn row(fault: &str, result: &[CallResult], promised: Duration) -> OutcomeRow {
    let is_lost = |it: &&CallResult| it.is_lost() || it.counted() > promised;
    let count = |end| {
        let well = result.iter().filter(|it| it.end == end && !is_lost(it));
        well.count()
    };
    let waits = result.iter().filter(|it| it.end != CallEnd::Abandoned);
    let waits: Vec<u64> = waits.map(|it| millis(it.waited)).collect();
    let longest = |it: &&CallResult| (it.hits, it.hit_for);
    let met = result.iter().max_by_key(longest);
    OutcomeRow {
        fault: fault.to_owned(),
        calls: result.len(),
        bridged: count(CallEnd::Bridged),
        busy: count(CallEnd::Busy),
        abandoned: count(CallEnd::Abandoned),
        lost: result.iter().filter(is_lost).count(),
        waits: waits.iter().min().copied().zip(waits.iter().max().copied()),
        codes: result.iter().filter_map(|it| it.observations.sip).collect(),
        app_results: result.iter().filter_map(CallResult::app_results).collect(),
        crashes: result.iter().map(|it| it.crashes).sum(),
        occurrences: met.map_or((0, 0), |it| (it.hits, millis(it.hit_for))),
    }
}

impl CallResult {
    /// FaultKind the app received, for example `accept_ready 502, 200`.
    fn app_results(&self) -> Option<String> {
        let of_apps = self.observations.answers.iter().filter(|(what, _)| {
            !["passthru", "in-progress", "completed", "busy"].contains(&what.as_str())
        });
        let results: Vec<String> = of_apps
            .map(|(what, status)| match status {
                0 => format!("`{what}`"),
                status => format!("`{what}` {status}"),
            })
            .collect();
        (!results.is_empty()).then(|| results.join(", "))
    }
}
