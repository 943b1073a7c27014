//! The metrics of each region, and the updates to its clients.

use std::cmp::Ordering;

use ringback_core::call::CallStatus;

use super::Checks;
use crate::state::table::short;

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
                let is_assumed = matches!(
                    status,
                    CallStatus::TimedOut | CallStatus::Failed | CallStatus::Declined
                );
                let goes_back = |next: CallStatus| match next.rank().cmp(&status.rank()) {
                    // The legs may meet in the moment in which the call ends.
                    _ if next == CallStatus::Completed && next != *status => false,
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
