//! What people and their phones do.

use super::effects::{LegOf, end_leg, report};
use super::scope::{HangsUp, Moment, Reaction};
use super::state::{
    CallerLeg, Content, Happens, LONGEST_TALK, LONGEST_WAIT, PhoneLeg, RING, SHORTEST_TALK, Side,
    Source, State, Time,
};
use super::step::Step;
use super::world::World;

const NORMAL: u16 = 16;
const NO_ANSWER: u16 = 19;
const CALLER_GONE: u16 = 26;
/// If the app's request to hang up is lost, its user hangs the phone up.
const HANGS_UP_ITSELF_AFTER: Time = 10_000;

impl World {
    /// When the ring ends.
    pub fn deadline(&self, state: &State) -> Time {
        let known = state.stored.iter().flatten().next();
        known.map_or(RING, |version| self.rules.rings_until(version.call))
    }

    pub fn push_arrives(&self, state: &mut State, device: u8) {
        let (clock, deadline) = (state.clock, self.deadline(state));
        let device = &mut state.devices[usize::from(device)];
        if !device.has_reacted && clock < deadline {
            device.rings.get_or_insert(clock);
        }
    }

    fn may_react(&self, state: &State, rings_since: Time) -> bool {
        let (clock, deadline) = (state.clock, self.deadline(state));
        match self.scope.at {
            Moment::AtOnce => clock == rings_since,
            Moment::WhileItRings => clock <= deadline,
            Moment::AtTheDeadline => clock == deadline || clock + 1 == deadline,
        }
    }

    fn caller_may_leave(&self, state: &State) -> bool {
        let in_time = match self.scope.at {
            Moment::AtOnce => state.clock < SHORTEST_TALK,
            Moment::WhileItRings | Moment::AtTheDeadline => state.clock <= self.deadline(state),
        };
        self.scope.caller_may_leave
            && in_time
            && state.caller == CallerLeg::Waits
            && !state.truth.caller_left
    }

    /// What users may do now. They need not.
    pub fn choices(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        for (number, device) in (0..).zip(&state.devices) {
            if device.has_reacted
                || !device
                    .rings
                    .is_some_and(|since| self.may_react(state, since))
            {
                continue;
            }
            steps.push(Step::React(number));
        }
        let answers = state.devices.iter().any(|device| device.answers);
        let phone_rings = matches!(state.phone, PhoneLeg::Rings { .. });
        if self.scope.phone_may_wait && phone_rings && answers {
            steps.push(Step::PhoneAnswers);
        }
        if self.caller_may_leave(state) {
            steps.push(Step::CallerLeaves);
        }
        if talk(state).is_some_and(|lasts| lasts >= SHORTEST_TALK) && !state.truth.app_hung_up {
            steps.push(Step::HangUp);
        }
        steps
    }

    /// What phones do now, and what users must do now.
    pub fn reactions(&self, state: &State) -> Vec<Step> {
        let mut steps = Vec::new();
        if state.caller == CallerLeg::Dialed {
            steps.push(Step::CallerPhoneAnswers);
        }
        if let PhoneLeg::Rings { until } = state.phone {
            let answers = state.devices.iter().any(|device| device.answers);
            if answers && !self.scope.phone_may_wait {
                steps.push(Step::PhoneAnswers);
            } else if state.clock >= until {
                steps.push(Step::PhoneGivesUp);
            }
        }
        if state.caller == CallerLeg::Waits && state.clock >= LONGEST_WAIT {
            steps.push(Step::PbxGivesUp);
        }
        let longest = LONGEST_TALK + self.extra(state);
        if talk(state).is_some_and(|lasts| lasts >= longest) {
            steps.push(Step::HangUp);
        }
        steps
    }

    fn extra(&self, state: &State) -> Time {
        if state.truth.app_hung_up {
            HANGS_UP_ITSELF_AFTER
        } else {
            0
        }
    }

    /// The moments at which users or phones may or must do something.
    pub fn moments(&self, state: &State, moments: &mut Vec<Time>) {
        let may_react_later = state
            .devices
            .iter()
            .any(|device| device.rings.is_some() && !device.has_reacted);
        let may_leave_later = self.scope.caller_may_leave && state.caller == CallerLeg::Waits;
        if self.scope.at != Moment::AtOnce && (may_react_later || may_leave_later) {
            let deadline = self.deadline(state);
            moments.extend([deadline - 1, deadline]);
        }
        if let PhoneLeg::Rings { until } = state.phone {
            moments.push(until);
        }
        if state.caller == CallerLeg::Waits {
            moments.push(LONGEST_WAIT);
        }
        if let (CallerLeg::Talks, Some(began)) = (state.caller, state.truth.bridged_at) {
            let latest = began + LONGEST_TALK + self.extra(state);
            moments.extend([began + SHORTEST_TALK, latest]);
        }
    }

    pub fn react(&self, state: &mut State, number: u8) {
        let reaction = self.scope.devices[usize::from(number)];
        let device = &mut state.devices[usize::from(number)];
        device.has_reacted = true;
        device.rings = None;
        device.answers = reaction == Reaction::Accept;
        let event = match reaction {
            Reaction::Accept => Happens::Accepted(number),
            Reaction::Decline => Happens::Declined(number),
        };
        let region = self.scope.region_of(number);
        state.send(region, Content::Event(event), Source::App(number));
    }

    pub fn hang_up(&self, state: &mut State) {
        match self.scope.hangs_up {
            HangsUp::Caller => end_leg(state, LegOf::Caller, NORMAL, false),
            HangsUp::App if !state.truth.app_hung_up => {
                state.truth.app_hung_up = true;
                let devices = state.devices.iter();
                let answered = devices.take_while(|device| !device.answers).count();
                let last = state.devices.len().saturating_sub(1);
                let number = u8::try_from(answered.min(last)).unwrap_or(0);
                let region = self.scope.region_of(number);
                let event = Content::Event(Happens::AppHangsUp(number));
                state.send(region, event, Source::App(number));
            }
            HangsUp::App | HangsUp::Phone => end_leg(state, LegOf::Phone, NORMAL, false),
        }
    }
}

/// How long the two have talked.
fn talk(state: &State) -> Option<Time> {
    let began = state.truth.bridged_at?;
    (state.caller == CallerLeg::Talks).then(|| state.clock - began)
}

pub fn caller_leaves(state: &mut State) {
    state.truth.caller_left = true;
    end_leg(state, LegOf::Caller, NORMAL, false);
}

pub fn caller_phone_answers(state: &mut State) {
    state.caller = CallerLeg::Waits;
    let reported = Content::Event(Happens::CallerReported);
    state.send(0, reported, Source::Arrival { again: false });
}

/// The phone's leg takes the caller's away from its wait, if that is still there.
pub fn phone_answers(state: &mut State) {
    if state.caller == CallerLeg::Waits {
        if state.truth.bridged_at.is_some() {
            state.truth.violated("at most one bridge");
        }
        state.caller = CallerLeg::Talks;
        state.phone = PhoneLeg::Talks;
        state.truth.bridged_at = Some(state.clock);
        report(state, Happens::Bridged);
    } else {
        state.phone = PhoneLeg::None;
        let ended = Happens::PhoneLegEnded {
            attempt: state.phone_attempt,
            answered: false,
            cause: CALLER_GONE,
            by: Side::Callee,
        };
        report(state, ended);
    }
}

pub fn phone_gives_up(state: &mut State) {
    end_leg(state, LegOf::Phone, NO_ANSWER, false);
}

/// The PBX ends a wait that Ringback should have ended.
pub fn pbx_gives_up(state: &mut State) {
    state.truth.violated("Ringback ends each wait");
    end_leg(state, LegOf::Caller, NORMAL, false);
}
