//! What must be true when nothing more can happen.

use ringback_core::call::CallStatus;

use super::state::{CallerLeg, Content, Happens, PhoneLeg, State, Time};
use super::world::World;

/// A phone that was dialed just as its call ended stops ringing within this time.
const RINGS_ON_FOR: Time = 6_000;

impl World {
    /// Whether only timers are left that find nothing to do: the call has ended, and needs no cancellation of unrecorded pushes.
    pub fn is_over(&self, state: &State) -> bool {
        let is_timer = |content| content == Content::Event(Happens::TimerFired);
        let mut versions = state.stored.iter().flatten();
        state.processes.is_empty()
            && state.replicas.is_empty()
            && state
                .messages
                .iter()
                .all(|message| is_timer(message.content))
            && state.caller == CallerLeg::Gone
            && state.phone == PhoneLeg::None
            && state.stored[0].is_some()
            && versions.all(|version| {
                let call = self.rules.call(version.call);
                let has_ended = call.status.is_final() && call.effects_pending_since.is_none();
                has_ended && call.pushed.is_some()
            })
            && self.choices(state).is_empty()
    }

    /// Time passes until `until`. A phone that rings for a call that has ended must not ring for so long.
    pub fn phone_must_not_ring(&self, state: &mut State, until: Time) {
        let ended = state
            .stored
            .iter()
            .flatten()
            .map(|version| self.rules.ended_at(version.call));
        let last_ended = ended.reduce(|one, other| Some(one?.max(other?))).flatten();
        let rings = matches!(state.phone, PhoneLeg::Rings { .. });
        if rings && last_ended.is_some_and(|ended| until > ended + RINGS_ON_FOR) {
            state.truth.violated("no phone rings for an ended call");
        }
    }

    /// The promises that the end of a world breaks.
    pub fn broken_at_end(&self, state: &State) -> Vec<&'static str> {
        let mut broken = Vec::new();
        let truth = state.truth;
        let was_bridged = truth.bridged_at.is_some();
        let regions = usize::from(self.scope.regions);
        let stored = state.stored.iter().take(regions);
        let calls: Vec<_> = stored
            .map(|version| version.map(|version| self.rules.call(version.call)))
            .collect();
        if calls.iter().any(|call| *call != calls[0]) {
            broken.push("both regions settle on the same call");
        }
        for call in calls.iter().flatten() {
            if !call.status.is_final() {
                broken.push("every call comes to an end");
            } else if call.effects_pending_since.is_some() {
                broken.push("no effect stays pending");
            }
            let is_completed = call.status == CallStatus::Completed;
            if was_bridged && !is_completed && !truth.met_too_late() {
                broken.push("a call that was bridged ends as completed");
            }
            if !was_bridged && is_completed {
                broken.push("a call that was never bridged does not end as completed");
            }
        }
        if !matches!(state.caller, CallerLeg::None | CallerLeg::Gone) {
            broken.push("every caller is bridged or refused");
        }
        if state.phone != PhoneLeg::None {
            broken.push("no leg is left");
        }
        for device in &state.devices {
            if device.pushes > 0 && !device.is_settled && !device.is_canceled {
                broken.push("every device that rang is silenced");
            }
            if device.pushes > 1 && state.faults_left == self.scope.faults {
                broken.push("a push is sent once");
            }
        }
        let had_no_fault = state.faults_left == self.scope.faults;
        if had_no_fault
            && !self.scope.phone_may_wait
            && truth.is_accept_done
            && !was_bridged
            && !truth.caller_left
        {
            broken.push("who accepts is bridged");
        }
        broken
    }
}
