//! The data of all parts of a run. What the parts do is in their own files.

pub mod counted;
pub mod exotel;
pub mod pbx;
pub mod phones;
pub mod table;
pub mod timers;
pub mod truth;

use ringback_core::ids::CallId;

use crate::clock::{Seconds, millis};
use crate::faults::{Fault, Faults};
use crate::random::{Random, generator};
use crate::scenario::Scenario;
use counted::Counted;
use exotel::{Exotel, TrunkCall};
use pbx::{Pbx, Role};
use phones::Phones;
use table::{Table, short};
use timers::Timers;
use truth::{Talk, Truth};

/// A process ends a leg within this after it has asked whether the leg is bridged.
const LOOKS_BEFORE: u64 = 100;

/// All that changes in a run.
pub struct State {
    pub random: Random,
    pub faults: Faults,
    pub tables: [Table; 2],
    pub timers: [Timers; 2],
    pub pbxs: Vec<Pbx>,
    pub phones: Phones,
    pub exotel: Exotel,
    /// What the trunk knows of each caller.
    pub trunk: Vec<TrunkCall>,
    pub truth: Truth,
    /// What the metrics of each region have counted.
    pub counted: [Counted; 2],
    /// What happened, if it is recorded.
    pub timeline: Option<Vec<String>>,
    pub serial: u32,
}

impl State {
    pub fn new(seed: u64, plan: &Scenario, faults: Faults, record: bool) -> Self {
        Self {
            tables: ["table 0", "table 1"].map(|name| Table::draw(&mut generator(seed, name))),
            timers: [Timers::default(), Timers::default()],
            pbxs: Pbx::all(plan.pbxs),
            phones: Phones::of(plan, &mut generator(seed, "phones")),
            exotel: Exotel::default(),
            trunk: vec![TrunkCall::default(); plan.calls.len()],
            truth: Truth::default(),
            counted: [Counted::default(), Counted::default()],
            timeline: record.then(Vec::new),
            serial: 0,
            random: Random::of(seed),
            faults,
        }
    }

    /// Adds a line to the timeline, if it is recorded.
    pub fn note(&mut self, elapsed: u64, line: impl FnOnce() -> String) {
        if let Some(timeline) = &mut self.timeline {
            timeline.push(format!("{:>9} s  {}", Seconds(elapsed).to_string(), line()));
        }
    }

    /// The legs on which this caller from the trunk waits or talks.
    pub fn legs_of(&self, caller: usize) -> Vec<u32> {
        let channels = self.pbxs.iter().flat_map(|pbx| &pbx.channels);
        let own =
            channels.filter(|leg| leg.caller == caller && matches!(leg.role, Role::Caller(_)));
        own.map(|leg| leg.serial).collect()
    }

    /// Whether this caller is bridged.
    pub fn is_talking(&self, caller: usize) -> bool {
        let mut channels = self.pbxs.iter().flat_map(|pbx| &pbx.channels);
        channels.any(|leg| leg.caller == caller && leg.bridged_to.is_some())
    }

    /// A conversation is over. `by_us`: Ringback has ended it.
    pub fn parted(&mut self, plan: &Scenario, elapsed: u64, call: CallId, by_us: bool) {
        // While both regions live and cannot hear each other, one of them may end a call that only the other has seen answered.
        let were_apart = plan.cut.is_some() || self.faults.count(Fault::ReplicationLate) > 0;
        let truth = &mut self.truth;
        let is_open = |talk: &Talk| talk.call == call && talk.ended.is_none();
        let Some(place) = truth.talks.iter().position(is_open) else {
            return;
        };
        truth.talks[place].ended = Some(elapsed);
        let talk = &truth.talks[place];
        let lasted = elapsed - talk.began;
        let reached_limit = lasted + 4_000 >= millis(plan.settings.talk);
        let app_hung_up = truth.app_hung_up(call);
        // Of a caller on two legs, the other region may know only the one that has left.
        let is_half_known = plan.region_loss.is_some() && truth.has_two_legs(call);
        // Asterisk ends no leg under a condition. The process has looked before the legs met.
        let has_just_met = lasted < LOOKS_BEFORE;
        let met_late = has_just_met || truth.met_too_late(talk);
        let may_end = app_hung_up || reached_limit || met_late || were_apart || is_half_known;
        if by_us && !may_end {
            let details = format!("{} after {lasted} ms", short(call));
            truth.violated(elapsed, "no conversation is cut off", details);
        }
    }
}
