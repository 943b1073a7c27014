//! The metrics of each region, and the updates to its clients.

use std::cmp::Ordering;

use ringback::telemetry::metrics::{CallMetrics, Measurement, is_counted_in};
use ringback_core::call::CallStatus;
use ringback_core::ids::CallId;

use super::Checks;
use crate::functions::REGIONS;
use crate::sim::Sim;
use crate::table::{Record, short};

/// What a region has counted.
#[derive(Default)]
pub struct Counted {
    /// How often each call is counted with each end. One that is taken back is not counted.
    ends: Vec<(CallId, CallStatus, i32)>,
    /// Calls with changes that the stream has repeated.
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
            match measurement {
                Measurement::EndedAs(status) => self.add(id, *status, 1),
                Measurement::NotEndedAs(status) => self.add(id, *status, -1),
                Measurement::Count(_) | Measurement::Time(..) => {}
            }
        }
    }

    fn add(&mut self, id: CallId, status: CallStatus, number: i32) {
        let mut ends = self.ends.iter_mut();
        match ends.find(|(call, known, _)| (*call, *known) == (id, status)) {
            Some((.., times)) => *times += number,
            None => self.ends.push((id, status, number)),
        }
    }

    /// The stream shows the changes of this call again: what they count is counted twice.
    pub fn is_repeated(&mut self, call: CallId) {
        self.repeated.push(call);
    }

    /// The ends with which the call is counted.
    fn of(&self, id: CallId) -> impl Iterator<Item = (CallStatus, i32)> {
        let of_call = self.ends.iter().filter(move |(call, ..)| *call == id);
        let ends = of_call.map(|(_, status, times)| (*status, *times));
        ends.filter(|(_, times)| *times != 0)
    }
}

impl Checks<'_> {
    /// Each call is counted as ended once, with its end, and in one region.
    pub(super) fn metrics_count_each_call(&mut self) {
        let state = self.state;
        for call in state.tables[0]
            .calls()
            .filter(|call| call.status.is_final())
        {
            let id = call.call_id;
            let (counted, truth) = (&state.counted, state.truth.call(id));
            // The stream shows each change at least once.
            let was_repeated = counted.iter().any(|region| region.repeated.contains(&id));
            // Both regions stored the call before they heard of each other: each may count it.
            let was_stored_twice = truth.is_some_and(|call| call.stored_in == [true, true]);
            if was_repeated || was_stored_twice {
                continue;
            }
            let found: Vec<_> = counted.iter().flat_map(|region| region.of(id)).collect();
            if found != [(call.status, 1)] {
                let details = format!("{}: {found:?} instead of {:?}", short(id), call.status);
                self.violated("metrics count each call once, with its end", details);
            }
        }
    }

    /// Without faults, clients get each status once and in order.
    pub(super) fn clients_get_updates_in_order(&mut self) {
        if !self.has_no_fault() {
            return;
        }
        let state = self.state;
        for region in self.regions() {
            let updates = &state.truth.updates[region];
            for (place, (id, status, _)) in updates.iter().enumerate() {
                let mut later = updates[place + 1..]
                    .iter()
                    .filter(|(other, ..)| other == id);
                // A call that was given up may be found bridged. Two regions may change the call before they hear of each other.
                let is_one = self.sim.plan().regions == 1;
                let is_assumed = matches!(status, CallStatus::TimedOut | CallStatus::Failed);
                let goes_back = |next: CallStatus| match next.rank().cmp(&status.rank()) {
                    Ordering::Less => !is_assumed,
                    Ordering::Equal => is_one,
                    Ordering::Greater => false,
                };
                if let Some((_, next, _)) = later.next().filter(|(_, next, _)| goes_back(*next)) {
                    let details = format!(
                        "{}: {next:?} after {status:?} in region {region}",
                        short(*id)
                    );
                    self.violated("clients get each status once and in order", details);
                }
            }
        }
    }

    pub(super) fn clients_know_the_end(&mut self) {
        for region in self.regions() {
            for call in self.state.tables[region].calls() {
                let updates = self.state.truth.updates[region].iter();
                let mut of_call = updates.filter(|(id, ..)| *id == call.call_id);
                // Their times may be those of clocks that differ.
                let known = of_call.next_back().map(|(_, status, _)| *status);
                if call.status.is_final() && known != Some(call.status) {
                    let id = short(call.call_id);
                    let details = format!("{id}: {known:?} instead of {:?}", call.status);
                    self.violated("clients know how the call ended", details);
                }
            }
        }
    }
}
