//! What `docs/promises.md` promises, as code. The truth is what the simulated people, PBXs and Exotel saw.

use ringback_core::call::{Call, CallStatus};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

use crate::pbx::LONGEST_WAIT;
use crate::scenario::{Answers, Kind};
use crate::sim::{Seconds, Sim, State};
use crate::table::short;

/// What has truly happened.
#[derive(Default)]
pub struct Truth {
    talks: Vec<Talk>,
    /// When each call first ended in a table, other than as completed.
    unanswered_ends: Vec<(CallId, u64)>,
    /// The updates that clients of each region got: the call, its status and when it changed.
    pub updates: [Vec<(CallId, CallStatus, Timestamp)>; 2],
    pub app_hung_up: bool,
    pub caller_gave_up: bool,
    pub was_replicated_late: bool,
    waits_since: Option<u64>,
    longest_wait: u64,
    pub violations: Vec<Violation>,
}

/// Two people are bridged.
#[derive(Debug)]
struct Talk {
    call: CallId,
    began: u64,
    ended: Option<u64>,
}

/// A promise that was broken.
#[derive(Clone, Debug)]
pub struct Violation {
    /// When, in milliseconds after the start.
    pub at: u64,
    /// Which promise.
    pub promise: &'static str,
    /// Details.
    pub details: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            at,
            promise,
            details,
        } = self;
        let at = Seconds(*at);
        write!(f, "BROKEN at {at} s: {promise}. Details: {details}")
    }
}

/// A call that ends while its legs meet may end them: nobody has talked yet.
const MEETS_WITHIN: u64 = 2_000;

/// A conversation that is shorter than this may be taken for none if its report is overtaken by a hang-up.
const SHORT_TALK: u64 = 5_000;

/// More timers than this for one call mean that timers arm timers.
const MOST_TIMERS: usize = 200;

impl Truth {
    pub fn violated(&mut self, at: u64, promise: &'static str, details: String) {
        self.violations.push(Violation {
            at,
            promise,
            details,
        });
    }

    pub fn caller_waits(&mut self, elapsed: u64) {
        self.waits_since.get_or_insert(elapsed);
    }

    /// The caller has left, was refused or was bridged.
    pub fn caller_left(&mut self, elapsed: u64) {
        if let Some(since) = self.waits_since.take() {
            self.longest_wait = self.longest_wait.max(elapsed - since);
        }
    }

    pub fn bridged(&mut self, elapsed: u64, call: CallId) {
        if self.talks.iter().any(|talk| talk.call == call) {
            self.violated(elapsed, "at most one bridge", short(call));
        }
        self.caller_left(elapsed);
        self.talks.push(Talk {
            call,
            began: elapsed,
            ended: None,
        });
    }

    /// While both regions live and cannot hear each other, one of them may end a call that only the other has seen answered.
    fn were_apart(&self, sim: &Sim) -> bool {
        sim.plan().cut.is_some() || self.was_replicated_late
    }

    /// Whether the call had ended before its legs met.
    fn met_too_late(&self, talk: &Talk) -> bool {
        let mut ends = self.unanswered_ends.iter();
        ends.any(|(call, at)| *call == talk.call && *at <= talk.began + MEETS_WITHIN)
    }

    /// A conversation is over. `by_us`: Ringback has ended it.
    pub fn parted(&mut self, sim: &Sim, call: CallId, by_us: bool) {
        let elapsed = sim.elapsed();
        let Some(place) = self
            .talks
            .iter()
            .position(|talk| talk.call == call && talk.ended.is_none())
        else {
            return;
        };
        self.talks[place].ended = Some(elapsed);
        let talk = &self.talks[place];
        let longest = sim.plan().limits.talk.as_millis();
        let reached_limit = u128::from(elapsed - talk.began) + 4_000 >= longest;
        if by_us
            && !self.app_hung_up
            && !reached_limit
            && !self.met_too_late(talk)
            && !self.were_apart(sim)
        {
            let details = format!("{} after {} ms", short(call), elapsed - talk.began);
            self.violated(elapsed, "nobody who talks is cut off", details);
        }
    }

    pub fn saw_write(&mut self, elapsed: u64, before: Option<&Call>, after: &Call) {
        let ends = after.status.is_final() && before.is_none_or(|call| !call.status.is_final());
        if ends && after.status != CallStatus::Completed {
            self.unanswered_ends.push((after.call_id, elapsed));
        }
    }
}

/// Checks what must be true when nothing more can happen.
pub fn check_end(sim: &Sim, is_idle: bool) {
    let mut found = Vec::new();
    {
        let state = sim.state();
        let mut checks = Checks {
            sim,
            state: &state,
            found: &mut found,
        };
        if !is_idle {
            checks.violated(
                "every call comes to an end",
                "something still happens after hours".to_owned(),
            );
        }
        checks.nothing_is_left();
        checks.regions_agree();
        checks.calls_have_ended();
        checks.conversations_are_completed();
        checks.clients_know_the_end();
        checks.devices_are_silenced();
        checks.callers_do_not_wait();
        checks.who_accepts_is_bridged();
        checks.exotels_word_counts();
    }
    let mut state = sim.state();
    let at = sim.elapsed();
    for (promise, details) in found {
        state.truth.violated(at, promise, details);
    }
}

struct Checks<'a> {
    sim: &'a Sim,
    state: &'a State,
    found: &'a mut Vec<(&'static str, String)>,
}

impl Checks<'_> {
    fn violated(&mut self, promise: &'static str, details: String) {
        self.found.push((promise, details));
    }

    fn regions(&self) -> std::ops::Range<usize> {
        0..self.sim.plan().regions
    }

    fn nothing_is_left(&mut self) {
        for region in self.regions() {
            let timers = &self.state.timers[region];
            if !timers.messages.is_empty() {
                self.violated(
                    "nothing remains armed",
                    format!("messages in region {region}"),
                );
            }
            if timers.armed > MOST_TIMERS {
                self.violated(
                    "timers do not multiply",
                    format!("{} in region {region}", timers.armed),
                );
            }
            if timers.dead > 0 {
                self.violated(
                    "no timer fails for good",
                    format!("{} in region {region}", timers.dead),
                );
            }
        }
        for pbx in &self.state.pbxs {
            if let Some(channel) = pbx.channels().first() {
                self.violated("no leg is left", format!("{channel:?}"));
            }
        }
    }

    fn regions_agree(&mut self) {
        if self.sim.plan().regions < 2 {
            return;
        }
        let [first, second] = &self.state.tables;
        for (here, there) in [(first, second), (second, first)] {
            for call in here.calls() {
                let other = there.call(call.call_id).map(|(call, _)| call);
                if other != Some(call) {
                    let (here, there) = (call.status, other.map(|call| call.status));
                    let details = format!("{}: {here:?} and {there:?}", short(call.call_id));
                    self.violated("both regions settle on the same call", details);
                }
            }
        }
    }

    fn calls_have_ended(&mut self) {
        for region in self.regions() {
            for call in self.state.tables[region].calls() {
                let id = short(call.call_id);
                if !call.status.is_final() {
                    self.violated(
                        "every call comes to an end",
                        format!("{id}: {:?}", call.status),
                    );
                } else if call.effects_pending_since.is_some() {
                    self.violated(
                        "no effect stays pending",
                        format!("{id} in region {region}"),
                    );
                }
            }
        }
    }

    fn conversations_are_completed(&mut self) {
        let truth = &self.state.truth;
        for talk in &truth.talks {
            let lasted = talk.ended.unwrap_or(u64::MAX).saturating_sub(talk.began);
            let is_unclear = lasted < SHORT_TALK && truth.app_hung_up;
            if truth.met_too_late(talk) || is_unclear || self.sim.plan().restart.is_some() {
                continue;
            }
            for region in self.regions() {
                let call = self.state.tables[region].call(talk.call);
                let status = call.map(|(call, _)| call.status);
                if status != Some(CallStatus::Completed) {
                    let details = format!("{}: {status:?} in region {region}", short(talk.call));
                    self.violated("a call that was bridged ends as completed", details);
                }
            }
        }
    }

    fn clients_know_the_end(&mut self) {
        for region in self.regions() {
            for call in self.state.tables[region].calls() {
                let updates = self.state.truth.updates[region].iter();
                let of_call = updates.filter(|(id, ..)| *id == call.call_id);
                // Their times may be those of clocks that differ.
                let last = of_call.last();
                let known = last.map(|(_, status, _)| *status);
                if call.status.is_final() && known != Some(call.status) {
                    let details = format!(
                        "{}: {known:?} instead of {:?}",
                        short(call.call_id),
                        call.status
                    );
                    self.violated("clients know how the call ended", details);
                }
            }
        }
    }

    fn devices_are_silenced(&mut self) {
        for device in &self.state.phones.devices {
            for ring in &device.rings {
                let id = short(ring.call);
                if ring.pushes > 0 && !ring.is_settled && !ring.is_canceled {
                    self.violated(
                        "every device that rang is silenced",
                        format!("{} for {id}", device.id),
                    );
                }
                if ring.rings_since.is_some() {
                    self.violated("no device rings on", format!("{} for {id}", device.id));
                }
                if ring.pushes > 1
                    && self.state.faults.happened().is_empty()
                    && self.has_no_planned_fault()
                {
                    self.violated("a push is sent once", format!("{} for {id}", device.id));
                }
            }
        }
    }

    fn has_no_planned_fault(&self) -> bool {
        let plan = self.sim.plan();
        plan.region_loss.is_none() && plan.cut.is_none() && plan.restart.is_none()
    }

    /// A caller is bridged or refused in time. The PBX itself ends each wait after its limit.
    fn callers_do_not_wait(&mut self) {
        let waited = self.state.truth.longest_wait;
        if waited > LONGEST_WAIT + 30_000 {
            self.violated(
                "every caller is bridged or refused",
                format!("after {waited} ms"),
            );
        }
        let has_no_fault = self.state.faults.happened().is_empty() && self.has_no_planned_fault();
        let limits = self.sim.plan().limits;
        let longest = limits.ring + limits.connect;
        let longest = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX) + 12_000;
        if has_no_fault && waited > longest {
            self.violated(
                "every caller is bridged or refused in time",
                format!("after {waited} ms"),
            );
        }
    }

    /// Without faults, a caller who stays is bridged to the only device once its user has accepted and its phone answers.
    fn who_accepts_is_bridged(&mut self) {
        let plan = self.sim.plan();
        let [device] = self.state.phones.devices.as_slice() else {
            return;
        };
        let is_willing = device.has_accepted
            && matches!(
                device.plan.answers,
                Answers::Yes | Answers::AtTheSecondAttempt
            );
        let has_no_fault = self.state.faults.happened().is_empty() && self.has_no_planned_fault();
        if is_willing
            && has_no_fault
            && plan.patience.is_none()
            && self.state.truth.talks.is_empty()
        {
            self.violated("who accepts is bridged", device.id.to_string());
        }
    }

    fn exotels_word_counts(&mut self) {
        let Kind::ToNumber(_) = self.sim.plan().kind else {
            return;
        };
        let Some(truth) = self.state.exotel.placed else {
            return;
        };
        for region in self.regions() {
            for call in self.state.tables[region].calls() {
                if call.call_sid.is_some() && call.status != truth {
                    let details =
                        format!("{:?} instead of {truth:?} in region {region}", call.status);
                    self.violated("a call to a number ends as Exotel says", details);
                }
            }
        }
    }
}
