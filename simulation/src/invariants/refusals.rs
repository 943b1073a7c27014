//! Calls that were refused because their callee took none.

use ringback_core::call::{Call, CallWaiting, Refusal};

use super::Checks;
use crate::process::MOST_SKEW;
use crate::sim::Sim;
use crate::state::State;
use crate::state::table::{Key, Value, short};

/// A call is stored so long after Asterisk was asked whether the callee talks: the rest of the second in which the callee is looked up,
/// and a slow table.
const STORED_WITHIN: u64 = 1_000 + 3_500;

/// A conversation is noted within this time, in both regions: its report, the stream and replication take it.
const NOTED_WITHIN: u64 = 4_000;

/// Checks a refusal at the moment at which it is stored.
pub fn check_refusal(sim: &Sim, state: &mut State, call: &Call, refusal: Refusal) {
    let (plan, now) = (sim.plan(), sim.elapsed());
    let extension = plan.calls[state.truth.caller_of(call.call_id)].extension;
    let is_right = match refusal {
        Refusal::Busy => state.truth.talks.iter().any(|talk| {
            let talks_there = plan.calls[state.truth.caller_of(talk.call)].extension == extension;
            talks_there && talk.ended.is_none_or(|ended| now <= ended + STORED_WITHIN)
        }),
        Refusal::DoNotDisturb => plan.do_not_disturb[extension]
            .is_some_and(|until| now <= until + STORED_WITHIN + MOST_SKEW),
    };
    if !is_right {
        let details = format!("{}: {refusal:?}", short(call.call_id));
        state
            .truth
            .violated(now, "nobody is refused without a reason", details);
    }
}

impl Checks<'_> {
    /// A refused call rings no device. In the other region, it may have been stored as one that rings. A connected app gets an update of
    /// a call whose refusal takes longer than a second, which needs a fault.
    pub(super) fn refused_calls_ring_nowhere(&mut self) {
        let state = self.state;
        for call in state.tables[0]
            .calls()
            .filter(|call| call.refusal().is_some())
        {
            let truth = state.truth.call(call.call_id);
            if truth.is_some_and(|call| call.stored_in == [true, true]) {
                continue;
            }
            let mut rings = state.phones.extensions.iter().flatten();
            let rang = rings.find(|device| {
                let mut rings = device.rings.iter();
                rings.any(|ring| {
                    let rang = ring.pushes > 0 || (ring.began.is_some() && self.has_no_fault());
                    ring.call == call.call_id && rang
                })
            });
            if let Some(device) = rang {
                let details = format!("{} for {}", device.id, short(call.call_id));
                self.violated("a refused call rings no device", details);
            }
        }
    }

    /// Without faults, a call that comes during a conversation is refused.
    pub(super) fn second_calls_are_refused(&mut self) {
        let (state, plan) = (self.state, self.sim.plan());
        if plan.settings.call_waiting == CallWaiting::Ring || !self.has_no_fault() {
            return;
        }
        let extension = |call| plan.calls[state.truth.caller_of(call)].extension;
        for call in state.tables[0].calls().filter(|call| !call.is_to_number()) {
            let id = call.call_id;
            let stored = state
                .truth
                .call(id)
                .and_then(|call| call.known_in.into_iter().flatten().min());
            let Some(stored) = stored else { continue };
            let mut talks = state
                .truth
                .talks
                .iter()
                .filter(|talk| talk.call != id && extension(talk.call) == extension(id));
            let is_during = talks.any(|talk| {
                let is_on = talk.ended.is_none_or(|ended| ended > stored);
                talk.began + NOTED_WITHIN < stored && is_on
            });
            if is_during && call.refusal().is_none() {
                let details = format!("{}: {:?}", short(id), call.status);
                self.violated("a second call is refused", details);
            }
        }
    }

    /// No hint outlives its conversation.
    pub(super) fn nobody_stays_busy(&mut self) {
        for region in self.regions() {
            let mut items = self.state.tables[region].items.iter();
            let left = items.find_map(|(key, item)| match (key, &item.value) {
                (Key::During(_, call), Value::Talks(true)) => Some(*call),
                _ => None,
            });
            if let Some(call) = left {
                let details = format!("{} in region {region}", short(call));
                self.violated("nobody stays busy", details);
            }
        }
    }
}
