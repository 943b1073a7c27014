//! The devices that a call must reach.

use ringback_core::call::EndReason;

use super::Checks;
use crate::faults::Fault;
use crate::state::table::short;

/// A push service accepts a push again 10 s after it has rejected one. Timers, the push and the clocks take the rest.
const SENT_AGAIN_WITHIN: u64 = 15_000;

impl Checks<'_> {
    /// No call ends for lack of a device if the extension has a push address or a connected app.
    pub(super) fn reachable_extensions_ring(&mut self) {
        let state = self.state;
        for call in self
            .regions()
            .flat_map(|region| state.tables[region].calls())
        {
            let could_not_ring = matches!(
                call.end_reason(),
                Some(EndReason::NoDevice | EndReason::PushFailed)
            );
            if !could_not_ring {
                continue;
            }
            let called = self.sim.plan().calls[state.truth.caller_of(call.call_id)].extension;
            let mut devices = state.phones.extensions[called].iter();
            let is_reachable =
                devices.any(|device| device.plan.has_address || device.plan.connected_to.is_some());
            if is_reachable {
                let details = format!("{}: {:?}", short(call.call_id), call.end_reason());
                self.violated("an extension that can be reached rings", details);
            }
        }
    }

    /// If one rejected push is the only fault, its device gets another one.
    pub(super) fn delayed_pushes_are_sent_again(&mut self) {
        let state = self.state;
        let [(_, Fault::PushRejected)] = state.faults.happened() else {
            return;
        };
        if !self.sim.plan().has_no_planned_fault() {
            return;
        }
        for call in state.tables[0].calls().filter(|call| !call.is_to_number()) {
            let Some(truth) = state.truth.call(call.call_id) else {
                continue;
            };
            let stored = truth.known_in.iter().flatten().min();
            let due = stored.map_or(u64::MAX, |stored| stored + SENT_AGAIN_WITHIN);
            let stopped = truth.ended.into_iter().chain(truth.ready).min();
            if truth.rings_until <= due || stopped.is_some_and(|stopped| stopped <= due) {
                continue;
            }
            let called = self.sim.plan().calls[state.truth.caller_of(call.call_id)].extension;
            for device in &state.phones.extensions[called] {
                let mut rings = device.rings.iter();
                let is_pushed = rings.any(|ring| ring.call == call.call_id && ring.pushes > 0);
                let needs_push = device.plan.has_address && !call.declined_by.contains(&device.id);
                if needs_push && !is_pushed {
                    let details = format!("{} for {}", device.id, short(call.call_id));
                    self.violated("a delayed push is sent again", details);
                }
            }
        }
    }
}
