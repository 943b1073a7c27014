//! What the metrics and the clients of each region are told.

use ringback::telemetry::metrics::{CallMetrics, Measurement, is_counted_in};
use ringback_core::call::{Call, CallStatus};
use ringback_core::ids::CallId;

use super::Checks;
use crate::functions::REGIONS;
use crate::sim::Sim;
use crate::table::{Record, short};

/// What a region has counted.
#[derive(Default)]
pub struct Counted {
    /// How often each call was counted as ended, and how it was counted last.
    ends: Vec<(CallId, u32, CallStatus)>,
    /// Calls whose changes the stream has shown again.
    repeated: Vec<CallId>,
}

impl Counted {
    /// The real metrics of this change, if this region counts it.
    pub fn count(&mut self, sim: &Sim, region: usize, record: &Record) {
        let stored_in = Some(REGIONS[record.stored_in]);
        if sim.plan().regions == 2 && !is_counted_in(REGIONS[region], stored_in) {
            return;
        }
        let id = record.after.call_id;
        let metrics = CallMetrics::of_change(record.before.as_deref(), &record.after);
        for measurement in metrics.measurements() {
            let known = self.ends.iter_mut().find(|(known, ..)| *known == id);
            match (measurement, known) {
                (Measurement::EndedAs(status), None) => self.ends.push((id, 1, *status)),
                (Measurement::EndedAs(status), Some((_, times, last))) => {
                    *times += 1;
                    *last = *status;
                }
                (Measurement::Corrected { outcome, .. }, Some((.., last))) => *last = *outcome,
                (
                    Measurement::Corrected { .. } | Measurement::Count(_) | Measurement::Time(..),
                    _,
                ) => {}
            }
        }
    }

    /// The stream shows the changes of this call again: what they count is counted twice.
    pub fn is_repeated(&mut self, call: CallId) {
        self.repeated.push(call);
    }

    fn of(&self, call: CallId) -> Option<(u32, CallStatus)> {
        let known = self.ends.iter().find(|(known, ..)| *known == call);
        known.map(|(_, times, last)| (*times, *last))
    }
}

impl Checks<'_> {
    /// Each call is counted as ended once, where it was stored, and as what it was.
    pub(super) fn metrics_count_each_call(&mut self) {
        let state = self.state;
        for call in state.tables[0]
            .calls()
            .filter(|call| call.status.is_final())
        {
            self.metrics_count(call);
        }
    }

    fn metrics_count(&mut self, call: &Call) {
        let state = self.state;
        let id = call.call_id;
        let mut counts = self
            .regions()
            .filter_map(|region| state.counted[region].of(id));
        let found: Vec<_> = counts.by_ref().collect();
        let was_repeated = self
            .regions()
            .any(|region| state.counted[region].repeated.contains(&id));
        // Both regions stored the call before they heard of each other: each may count it.
        let was_stored_twice = state
            .truth
            .call(id)
            .is_some_and(|call| call.stored_in == [true, true]);
        if found.is_empty() {
            self.violated("metrics count each call", short(id));
        }
        let times: u32 = found.iter().map(|(times, _)| times).sum();
        if times > 1 && !was_repeated && !was_stored_twice {
            self.violated(
                "metrics count the end of a call once",
                format!("{}: {found:?}", short(id)),
            );
        }
        let last = found.iter().map(|(_, last)| *last);
        if !was_stored_twice && last.clone().any(|last| last != call.status) {
            let details = format!("{}: {found:?} instead of {:?}", short(id), call.status);
            self.violated("metrics count a call as what it was", details);
        }
    }

    pub(super) fn clients_know_the_end(&mut self) {
        for region in self.regions() {
            for call in self.state.tables[region].calls() {
                let updates = self.state.truth.updates[region].iter();
                let of_call = updates.filter(|(id, ..)| *id == call.call_id);
                // Their times may be those of clocks that differ.
                let known = of_call.last().map(|(_, status, _)| *status);
                if call.status.is_final() && known != Some(call.status) {
                    let id = short(call.call_id);
                    let details = format!("{id}: {known:?} instead of {:?}", call.status);
                    self.violated("clients know how the call ended", details);
                }
            }
        }
    }
}
