//! What the simulated people, PBXs, Exotel and tables saw.

use ringback_core::call::{Call, CallStatus};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

use super::phones::Account;
use super::table::short;
use crate::clock::{START, Seconds, millis};
use crate::scenario::Scenario;

/// What has truly happened. Times are in milliseconds after the start.
#[derive(Default)]
pub struct Truth {
    pub talks: Vec<Talk>,
    pub calls: Vec<CallTruth>,
    pub waits: Vec<Wait>,
    pub phone_legs: Vec<PhoneLeg>,
    /// The updates that clients of each region got: the call, its status and when it changed.
    pub updates: [Vec<(CallId, CallStatus, Timestamp)>; 2],
    /// Calls by their ids, as numbers of the plan.
    callers: Vec<(CallId, usize)>,
    hung_up_by_app: Vec<CallId>,
    /// The callers who have given up or were bridged. Their apps reject further INVITEs.
    wait_no_more: Vec<usize>,
    pub violations: Vec<Violation>,
}

/// Two people are bridged.
#[derive(Debug)]
pub struct Talk {
    pub call: CallId,
    pub began: u64,
    pub ended: Option<u64>,
    /// A report that shows the conversation has reached a region that knows the call.
    pub is_reported: bool,
}

/// What the tables and the people know of one call.
#[derive(Debug)]
pub struct CallTruth {
    pub id: CallId,
    /// Which regions have stored it.
    pub stored_in: [bool; 2],
    /// When each region first knew it.
    pub known_in: [Option<u64>; 2],
    /// The last moment of its ring that a table has named.
    pub rings_until: u64,
    /// When it was first ready in a table.
    pub ready: Option<u64>,
    /// When it first ended in a table, and when it first ended there other than as completed.
    pub ended: Option<u64>,
    pub unanswered_end: Option<u64>,
}

/// A caller waits on a leg.
#[derive(Debug)]
pub struct Wait {
    serial: u32,
    caller: usize,
    pub call: Option<CallId>,
    pub pbx: usize,
    pub arrived: u64,
    pub left: Option<u64>,
    pub was_bridged: bool,
    /// The trunk has brought the same call on another leg besides.
    pub is_one_of_several: bool,
}

/// A leg to a phone.
#[derive(Debug)]
pub struct PhoneLeg {
    serial: u32,
    pub call: CallId,
    pub began: u64,
    pub ended: Option<u64>,
    pub was_bridged: bool,
    /// The PBX that calls it at an address that it has left, and the account called.
    pub missed_by: Option<(usize, Account)>,
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

/// A call that ends while its legs meet may end them: the two people have not talked yet.
const MEETS_WITHIN: u64 = 2_000;

impl Truth {
    pub fn violated(&mut self, at: u64, promise: &'static str, details: String) {
        self.violations.push(Violation {
            at,
            promise,
            details,
        });
    }

    /// The id stands for this call of the plan.
    pub fn names(&mut self, id: CallId, caller: usize) {
        if !self.callers.iter().any(|(known, _)| *known == id) {
            self.callers.push((id, caller));
        }
    }

    /// Which call of the plan this is.
    pub fn caller_of(&self, id: CallId) -> usize {
        let known = self.callers.iter().find(|(known, _)| *known == id);
        known.map_or(0, |(_, caller)| *caller)
    }

    pub fn call(&self, id: CallId) -> Option<&CallTruth> {
        self.calls.iter().find(|call| call.id == id)
    }

    /// An app hangs up, maybe before the call is stored.
    pub fn app_hangs_up(&mut self, id: CallId) {
        self.hung_up_by_app.push(id);
    }

    pub fn app_hung_up(&self, id: CallId) -> bool {
        self.hung_up_by_app.contains(&id)
    }

    pub fn caller_waits_no_more(&mut self, caller: usize) {
        self.wait_no_more.push(caller);
    }

    pub fn is_awaited_by(&self, caller: usize) -> bool {
        !self.wait_no_more.contains(&caller)
    }

    pub fn caller_waits(
        &mut self,
        elapsed: u64,
        (caller, serial): (usize, u32),
        pbx: usize,
        call: Option<CallId>,
    ) {
        self.waits.push(Wait {
            serial,
            caller,
            call,
            pbx,
            arrived: elapsed,
            left: None,
            was_bridged: false,
            is_one_of_several: false,
        });
    }

    /// The leg's call is known.
    pub fn leg_is_of(&mut self, serial: u32, call: CallId) {
        for wait in &mut self.waits {
            if wait.serial == serial {
                wait.call = Some(call);
            }
        }
    }

    /// The same call arrives on another leg.
    pub fn has_several_legs(&mut self, serials: &[u32]) {
        for wait in &mut self.waits {
            wait.is_one_of_several |= serials.contains(&wait.serial);
        }
    }

    /// Whether the trunk has brought this call on two legs at once. One of them may be over by now, and its PBX may not have heard yet to
    /// which call it belongs.
    pub fn has_two_legs(&self, call: CallId) -> bool {
        let caller = self.caller_of(call);
        let mut waits = self.waits.iter().filter(|wait| wait.is_one_of_several);
        waits.any(|wait| wait.caller == caller || wait.call == Some(call))
    }

    /// The caller has left, was refused or was bridged.
    pub fn caller_left(&mut self, elapsed: u64, serial: u32) {
        for wait in &mut self.waits {
            if wait.serial == serial {
                wait.left.get_or_insert(elapsed);
            }
        }
    }

    pub fn phone_is_dialed(
        &mut self,
        elapsed: u64,
        serial: u32,
        call: CallId,
        missed_by: Option<(usize, Account)>,
    ) {
        self.phone_legs.push(PhoneLeg {
            serial,
            call,
            began: elapsed,
            ended: None,
            was_bridged: false,
            missed_by,
        });
    }

    pub fn phone_leg_ended(&mut self, elapsed: u64, serial: u32) {
        for leg in &mut self.phone_legs {
            if leg.serial == serial {
                leg.ended = Some(elapsed);
            }
        }
    }

    /// The phone's leg with the second number takes the caller's leg with the first one.
    pub fn bridged(
        &mut self,
        plan: &Scenario,
        elapsed: u64,
        call: CallId,
        (caller, phone): (u32, u32),
    ) {
        // While the regions are apart, an app may repeat its accept in the one that has not heard of the conversation.
        let may_repeat = plan.cut.is_some() || plan.region_loss.is_some();
        let is_second = |talk: &Talk| talk.call == call && !(may_repeat && talk.ended.is_some());
        if self.talks.iter().any(is_second) {
            self.violated(elapsed, "at most one bridge", short(call));
        }
        self.caller_left(elapsed, caller);
        for wait in &mut self.waits {
            wait.was_bridged |= wait.serial == caller;
        }
        for leg in &mut self.phone_legs {
            leg.was_bridged |= leg.serial == phone;
        }
        self.talks.push(Talk {
            call,
            began: elapsed,
            ended: None,
            is_reported: false,
        });
    }

    pub fn talk_is_reported(&mut self, call: CallId) {
        for talk in &mut self.talks {
            talk.is_reported |= talk.call == call;
        }
    }

    /// Whether the call had ended before its legs met.
    pub fn met_too_late(&self, talk: &Talk) -> bool {
        let end = self.call(talk.call).and_then(|call| call.unanswered_end);
        end.is_some_and(|end| end <= talk.began + MEETS_WITHIN)
    }

    /// What a table now has of a call.
    pub fn saw_write(&mut self, elapsed: u64, region: usize, after: &Call, stored_in: usize) {
        let place = self.calls.iter().position(|call| call.id == after.call_id);
        let place = place.unwrap_or_else(|| {
            self.calls.push(CallTruth {
                id: after.call_id,
                stored_in: [false; 2],
                known_in: [None; 2],
                rings_until: 0,
                ready: None,
                ended: None,
                unanswered_end: None,
            });
            self.calls.len() - 1
        });
        let call = &mut self.calls[place];
        call.stored_in[stored_in] = true;
        call.known_in[region].get_or_insert(elapsed);
        let until = after.rings_until.since(START);
        call.rings_until = call.rings_until.max(millis(until));
        if after.ready_at.is_some() {
            call.ready.get_or_insert(elapsed);
        }
        if after.status.is_final() {
            call.ended.get_or_insert(elapsed);
            if after.status != CallStatus::Completed {
                call.unanswered_end.get_or_insert(elapsed);
            }
        }
    }
}
