//! Calls that were refused because their callee took none.

use std::time::Duration;

use ringback_core::call::{Call, CallWaiting, EndReason, Refusal};

use super::Checks;
use crate::clock::START;
use crate::process::MOST_SKEW;
use crate::sim::Sim;
use crate::state::State;
use crate::state::table::{Key, Value, short};
use crate::state::truth::Talk;

/// How long a call waits for the answer whether its callee talks.
const ASKED_WITHIN: u64 = 1_000;

/// A refusal is stored so long after Asterisk was asked whether the callee talks: the rest of that second, and a slow table.
const STORED_WITHIN: u64 = ASKED_WITHIN + 3_500;

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
        // The process that stores a call asks at the time that it writes into the call.
        Refusal::DoNotDisturb => plan.do_not_disturb[extension].is_some_and(|until| {
            let until = START + Duration::from_millis(until + MOST_SKEW);
            call.created_at < until
        }),
    };
    if !is_right {
        let details = format!("{}: {refusal:?}", short(call.call_id));
        state
            .truth
            .violated(now, "nobody is refused without a reason", details);
    }
}

impl Checks<'_> {
    /// Without faults, a refused call rings no device. A fault may let two processes handle one report at once, and one of them rings before
    /// the other one refuses. Then `devices_are_silenced` holds. An app that is connected to the other region may ring for a moment, if the
    /// conversation is not noted there yet or not any more.
    pub(super) fn refused_calls_ring_nowhere(&mut self) {
        let state = self.state;
        if !self.has_no_fault() {
            return;
        }
        for call in state.tables[0]
            .calls()
            .filter(|call| call.refusal().is_some())
        {
            let is_noted = call.refusal() != Some(Refusal::Busy)
                || self.others_talk(call, |talk, stored| {
                    let is_noted = talk.ended.is_none_or(|ended| ended > stored + NOTED_WITHIN);
                    talk.began + NOTED_WITHIN < stored && is_noted
                });
            let mut devices = state.phones.extensions.iter().flatten();
            let rang = devices.find(|device| {
                let mut rings = device.rings.iter();
                rings.any(|ring| {
                    let rang = ring.pushes > 0 || (ring.began.is_some() && is_noted);
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
        for call in state.tables[0].calls().filter(|call| !call.is_to_number()) {
            let is_during = self.others_talk(call, |talk, stored| {
                let is_on = talk.ended.is_none_or(|ended| ended > stored + ASKED_WITHIN);
                talk.began + NOTED_WITHIN < stored && is_on
            });
            let gives_up = call.end_reason() == Some(EndReason::CallerHungUp);
            let waited = call.ended_at().map(|at| at.since(call.created_at));
            let gave_up_first = gives_up
                && waited.is_some_and(|waited| waited < Duration::from_millis(ASKED_WITHIN));
            if is_during && call.refusal().is_none() && !gave_up_first {
                let details = format!("{}: {:?}", short(call.call_id), call.status);
                self.violated("a second call is refused", details);
            }
        }
    }

    /// Whether the callee has a conversation in another call that is as asked. `is_asked` also gets the time at which this call was stored.
    fn others_talk(&self, call: &Call, is_asked: impl Fn(&Talk, u64) -> bool) -> bool {
        let (truth, plan) = (&self.state.truth, self.sim.plan());
        let known_in = truth.call(call.call_id).map(|call| call.known_in);
        let Some(stored) = known_in.and_then(|known| known.into_iter().flatten().min()) else {
            return false;
        };
        let extension = |call| plan.calls[truth.caller_of(call)].extension;
        let callee = extension(call.call_id);
        let mut others = truth.talks.iter().filter(|talk| talk.call != call.call_id);
        others.any(|talk| extension(talk.call) == callee && is_asked(talk, stored))
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
