//! Builds the table rows from the results of the calls.

use std::time::Duration;

use crate::play::{End, Played};
use ringback_e2e::outcome_table::{Row, millis};

/// Summarizes these calls. None may have waited longer than `promised`.
pub(crate) fn row(fault: &str, played: &[Played], promised: Duration) -> Row {
    let is_lost = |it: &&Played| it.is_lost() || it.counted() > promised;
    let count = |end| {
        let well = played.iter().filter(|it| it.end == end && !is_lost(it));
        well.count()
    };
    let waits = played.iter().filter(|it| it.end != End::GaveUp);
    let waits: Vec<u64> = waits.map(|it| millis(it.waited)).collect();
    let longest = |it: &&Played| (it.hits, it.hit_for);
    let met = played.iter().max_by_key(longest);
    Row {
        fault: fault.to_owned(),
        calls: played.len(),
        bridged: count(End::Bridged),
        busy: count(End::Busy),
        gave_up: count(End::GaveUp),
        lost: played.iter().filter(is_lost).count(),
        waits: waits.iter().min().copied().zip(waits.iter().max().copied()),
        codes: played.iter().filter_map(|it| it.story.sip).collect(),
        told: played.iter().filter_map(Played::told).collect(),
        crashes: played.iter().map(|it| it.crashes).sum(),
        met: met.map_or((0, 0), |it| (it.hits, millis(it.hit_for))),
    }
}

impl Played {
    /// What the app received, for example `accept_ready 502, 200`.
    fn told(&self) -> Option<String> {
        let of_apps = self.story.answers.iter().filter(|(what, _)| {
            !["passthru", "in-progress", "completed", "busy"].contains(&what.as_str())
        });
        let told: Vec<String> = of_apps
            .map(|(what, status)| match status {
                0 => format!("`{what}`"),
                status => format!("`{what}` {status}"),
            })
            .collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}
