//! How soon things must happen. Each promised time is extended by what the faults of the run can add to it, and by nothing else.

use ringback_core::call::CallStatus;

use super::Checks;
use crate::clock::millis;
use crate::faults::Fault;
use crate::pbx::LONGEST_WAIT;
use crate::process::MOST_SKEW;
use crate::state::phones::Ring;
use crate::state::table::short;
use crate::state::truth::{CallTruth, PhoneLeg, Wait};

/// Busy follows the deadline within this time. A phone leg ends within it after its call. A phone is dialed within it.
const PROMISED: u64 = 2_000;

/// The longest lag of replication without a fault.
const REPLICATED_WITHIN: u64 = 1_500;

/// A cancellation is sent within 2 s, and takes up to 1.5 s to its device.
const SILENT_WITHIN: u64 = 4_000;

/// The PBX waits so long for an answer. Then a timer, which is accurate to a second, continues to dial the phone.
const PBX_PATIENCE: u64 = 3_500;
const TIMER_CONTINUES_WITHIN: u64 = 4_000;

/// All attempts of the dialplan to reach a function.
const LONGEST_REPORT: u64 = 21_500;

/// How often the dialplan tries to report, with one region.
const FEWEST_ATTEMPTS: u64 = 3;

/// The queue delivers a message again.
const REDELIVERY: u64 = 15_000 + 2_000;

/// A schedule fires 5 s after the time to connect, 15 s, and is accurate to a minute.
const SCHEDULE: u64 = 15_000 + 5_000 + 60_000 + 2_000;

/// How much longer one fault can make a caller wait. `None`: there is no bound but that of the PBX.
const fn delays_busy(fault: Fault) -> Option<u64> {
    match fault {
        Fault::ColdStart => Some(4_000),
        Fault::RequestLost => Some(5_000),
        Fault::StoreSlow | Fault::AriSlow => Some(6_000),
        Fault::Crash
        | Fault::StoreFails
        | Fault::StoreAnswerLost
        | Fault::AriFails
        | Fault::AriAnswerLost => Some(REDELIVERY),
        Fault::QueueLate => Some(20_000),
        Fault::QueueLost | Fault::QueueFails => Some(SCHEDULE),
        Fault::ReplicationLate => None,
        _ => Some(0),
    }
}

/// How much longer one fault can make a phone's leg exist after its call. `None`: until the leg is answered or times out.
const fn delays_hangup(fault: Fault) -> Option<u64> {
    match fault {
        Fault::ColdStart => Some(4_000),
        Fault::AriSlow => Some(2_000),
        // The region that dialed the phone hears of the end from its stream.
        Fault::StreamLate => Some(10_000),
        Fault::QueueLate => Some(20_000),
        Fault::Crash
        | Fault::StoreFails
        | Fault::StoreAnswerLost
        | Fault::StoreSlow
        | Fault::AriFails
        | Fault::AriAnswerLost
        | Fault::QueueFails
        | Fault::QueueLost
        | Fault::ReplicationLate => None,
        _ => Some(0),
    }
}

/// How much longer one fault can make a device ring after its call. `None`: until the end of the ring.
const fn delays_silence(fault: Fault) -> Option<u64> {
    match fault {
        Fault::ColdStart => Some(4_000),
        Fault::StreamLate => Some(10_000),
        Fault::QueueLate => Some(20_000),
        Fault::Crash
        | Fault::StoreFails
        | Fault::StoreAnswerLost
        | Fault::StoreSlow
        | Fault::QueueFails
        | Fault::QueueLost
        | Fault::ReplicationLate => None,
        _ => Some(0),
    }
}

/// How much longer one fault can keep a ready phone from being dialed.
const fn delays_dialing(fault: Fault) -> Option<u64> {
    match fault {
        Fault::RequestTwice
        | Fault::QueueTwice
        | Fault::StreamTwice
        | Fault::PushRejected
        | Fault::PushLost
        | Fault::PushLate
        | Fault::ExotelLost
        | Fault::ExotelTwice
        | Fault::ExotelLate
        | Fault::ExotelRejects
        | Fault::ExotelAnswerLost
        | Fault::SchedulerFails => Some(0),
        // The PBX reports the caller's leg to the other region, which must merge it with the accept.
        Fault::AnswerLost => Some(REPLICATED_WITHIN),
        Fault::ColdStart => Some(4_000),
        // The region that has the caller's leg may hear late that the other one has overwritten it.
        Fault::StreamLate => Some(10_000),
        Fault::StoreSlow | Fault::AriSlow => Some(6_000),
        Fault::RequestLost => Some(5_000),
        _ => None,
    }
}

/// How much longer one fault can keep a call from hearing that its caller has gone. `None`: until its deadline.
const fn delays_report(fault: Fault) -> Option<u64> {
    match fault {
        Fault::HookLost => None,
        other => delays_dialing(other),
    }
}

impl Checks<'_> {
    /// What all faults of the run add together.
    fn delay(&self, of: fn(Fault) -> Option<u64>) -> Option<u64> {
        if !self.sim.plan().has_no_planned_fault() {
            return None;
        }
        let skew = if self.sim.plan().clocks_differ {
            2 * MOST_SKEW + 1_000
        } else {
            0
        };
        let mut faults = self.state.faults.happened().iter();
        faults.try_fold(skew, |sum, (_, fault)| Some(sum + of(*fault)?))
    }

    /// A caller is bridged or refused in time. The PBX itself ends each wait after its limit.
    pub(super) fn callers_do_not_wait(&mut self) {
        let state = self.state;
        let delay = self.delay(delays_busy);
        for wait in &state.truth.waits {
            let left = wait.left.unwrap_or(u64::MAX);
            if left > wait.arrived + LONGEST_REPORT + LONGEST_WAIT {
                let details = format!("since {} ms until {left} ms", wait.arrived);
                self.violated("every caller is bridged or refused", details);
            }
            let call = wait.call.and_then(|call| state.truth.call(call));
            // Callers with one number may be taken for each other.
            let may_be_mistaken = self.sim.plan().calls.len() > 1 && !self.has_no_fault();
            let is_clear = !wait.is_one_of_several && !may_be_mistaken;
            let Some((call, delay)) = call.zip(delay).filter(|_| is_clear) else {
                continue;
            };
            // Both functions that would arm a timer may fail. Then the schedule ends the call.
            let without_timers = if state.faults.count(Fault::StoreAnswerLost) > 1 {
                SCHEDULE
            } else {
                0
            };
            let due = self.deadline(call).max(wait.arrived) + PROMISED + delay + without_timers;
            if left > due {
                let details = format!("{}: {left} ms instead of {due} ms", short(call.id));
                self.violated("every caller is bridged or refused in time", details);
            }
        }
    }

    /// A call ends when its caller has gone.
    pub(super) fn calls_end_with_their_caller(&mut self) {
        let state = self.state;
        // A report never arrives if all its attempts are lost.
        let is_lost = state.faults.count(Fault::RequestLost) >= FEWEST_ATTEMPTS;
        // Callers with one number may be taken for each other.
        let may_be_mistaken = self.sim.plan().calls.len() > 1;
        let is_clear = !is_lost && !may_be_mistaken;
        let Some(delay) = self.delay(delays_report).filter(|_| is_clear) else {
            return;
        };
        let waits = state.truth.waits.iter();
        for wait in waits.filter(|wait| !wait.was_bridged && !wait.is_one_of_several) {
            let call = wait.call.and_then(|call| state.truth.call(call));
            let Some((call, left)) = call.zip(wait.left) else {
                continue;
            };
            // Its report was overtaken by that of its end.
            let is_stored_later = call.known_in.iter().flatten().all(|known| *known > left);
            let due = left + PROMISED + delay;
            if !is_stored_later && call.ended.is_none_or(|ended| ended > due) {
                let details = format!("{}: {:?} instead of {due} ms", short(call.id), call.ended);
                self.violated("a call ends when its caller has gone", details);
            }
        }
    }

    /// Until when the call may ring and connect.
    fn deadline(&self, call: &CallTruth) -> u64 {
        let connect = millis(self.sim.plan().settings.connect);
        let connected = call.ready.map_or(0, |ready| ready + connect);
        call.rings_until.max(connected)
    }

    /// A phone's leg that is not bridged ends with its call.
    pub(super) fn phone_legs_end_with_their_call(&mut self) {
        let state = self.state;
        let Some(delay) = self.delay(delays_hangup) else {
            return;
        };
        let legs = state.truth.phone_legs.iter().filter(|leg| !leg.was_bridged);
        // Two regions may each dial for a leg of their own. The call names one of them.
        let may_be_unknown =
            |leg: &&PhoneLeg| self.sim.plan().regions == 2 && state.truth.has_two_legs(leg.call);
        for leg in legs.filter(|leg| !may_be_unknown(leg)) {
            let Some(over) = state.truth.call(leg.call).and_then(|call| call.ended) else {
                continue;
            };
            // The region that dialed the phone hears of the end by replication.
            let replicated = if self.sim.plan().regions == 2 {
                REPLICATED_WITHIN
            } else {
                0
            };
            let due = over.max(leg.began) + PROMISED + replicated + delay;
            let ended = leg.ended.unwrap_or(u64::MAX);
            if ended > due {
                let details = format!("{}: {ended} ms instead of {due} ms", short(leg.call));
                self.violated("a phone's leg ends with its call", details);
            }
        }
    }

    /// When app, caller's leg and phone are there, the phone is dialed at once.
    pub(super) fn ready_phones_are_dialed(&mut self) {
        let state = self.state;
        let Some(delay) = self.delay(delays_dialing) else {
            return;
        };
        for wait in state
            .truth
            .waits
            .iter()
            .filter(|wait| !wait.is_one_of_several)
        {
            let call = wait.call.and_then(|call| state.truth.call(call));
            let Some((call, ready)) = call.and_then(|call| Some((call, call.ready?))) else {
                continue;
            };
            let Some(due) = self.dial_due(wait, call, ready, delay) else {
                continue;
            };
            let is_over = wait.left.is_some_and(|left| left <= due)
                || call.ended.is_some_and(|ended| ended <= due);
            let mut legs = state.truth.phone_legs.iter();
            let is_dialed = |leg: &PhoneLeg| leg.call == call.id && leg.began <= due;
            if !is_over && !legs.any(is_dialed) {
                let details = format!("{} by {due} ms", short(call.id));
                self.violated("a ready phone is dialed at once", details);
            }
        }
    }

    /// A phone that is called at an address which it has left is called at its new one as soon as it registers there.
    pub(super) fn moved_phones_are_called_again(&mut self) {
        let state = self.state;
        let Some(delay) = self.delay(delays_dialing) else {
            return;
        };
        let legs = &state.truth.phone_legs;
        for (leg, missed_by) in legs.iter().filter_map(|leg| Some((leg, leg.missed_by?))) {
            let mut known = state.phones.registrations.iter();
            let moved = known.find(|known| {
                let is_later = known.from > leg.began;
                let is_called = leg.ended.is_none_or(|ended| known.from < ended);
                (known.pbx, known.account) == missed_by && is_later && is_called
            });
            let Some(moved) = moved else { continue };
            let due = moved.from + PROMISED + delay;
            let call = state.truth.call(leg.call);
            let mut waits = state.truth.waits.iter();
            let is_over = call.is_none_or(|call| call.ended.is_some_and(|ended| ended <= due))
                || waits.all(|wait| {
                    wait.call != Some(leg.call) || wait.left.is_some_and(|left| left <= due)
                })
                || moved.until.is_some_and(|until| until <= due);
            let is_again =
                |next: &PhoneLeg| next.call == leg.call && (moved.from..=due).contains(&next.began);
            if !is_over && !legs.iter().any(is_again) {
                let details = format!("{} by {due} ms", short(leg.call));
                self.violated("a phone that has moved is called again", details);
            }
        }
    }

    /// When the phone must have been dialed, if it was registered for long enough.
    fn dial_due(&self, wait: &Wait, call: &CallTruth, ready: u64, delay: u64) -> Option<u64> {
        let since = wait.arrived.max(ready);
        let extension = self.sim.plan().calls[self.state.truth.caller_of(call.id)].extension;
        let phones = &self.state.phones;
        // If devices with several accounts have accepted, the regions may not agree at once on which of them is called.
        let account = phones.accepting_account(extension, call.id)?;
        let known = phones.registrations.iter().find(|known| {
            let is_there = known.until.is_none_or(|until| until > since);
            (known.pbx, known.account) == (wait.pbx, account) && is_there
        })?;
        let due = delay
            + if known.from > since + PBX_PATIENCE {
                known.from + TIMER_CONTINUES_WITHIN + PROMISED
            } else {
                known.from.max(since) + PROMISED
            };
        known.until.is_none_or(|until| until > due).then_some(due)
    }

    /// A device stops ringing soon after its call is answered elsewhere or over.
    pub(super) fn devices_stop_ringing(&mut self) {
        let state = self.state;
        for device in state.phones.extensions.iter().flatten() {
            for ring in &device.rings {
                self.device_stops_ringing(ring);
            }
        }
    }

    fn device_stops_ringing(&mut self, ring: &Ring) {
        let Some(call) = self.state.truth.call(ring.call) else {
            return;
        };
        let Some(began) = ring.began else { return };
        let ended = ring.ended.unwrap_or(u64::MAX);
        if ended > call.rings_until.max(began) + 1_000 && !ring.has_accepted {
            let details = format!("{} until {ended} ms", short(ring.call));
            self.violated("no device rings after the end of the ring", details);
        }
        // A push that arrives after the cancellation rings until the end of the ring that it names.
        let was_overtaken = ring.silenced.is_some_and(|silenced| silenced <= began);
        let (Some(delay), false) = (self.delay(delays_silence), was_overtaken) else {
            return;
        };
        // A connected app without a push hears of the end, not of the answer of another device.
        let answered = call.ready.filter(|_| ring.pushes > 0);
        let is_over = call.ended.into_iter().chain(answered).min();
        let Some(due) = is_over.map(|over| over.max(began) + SILENT_WITHIN + delay) else {
            return;
        };
        if ended > due && !ring.has_accepted {
            let details = format!("{}: {ended} ms instead of {due} ms", short(ring.call));
            self.violated("a device stops ringing with its call", details);
        }
    }

    /// Until the end of the call is reported, a call to a number is as Exotel says.
    pub(super) fn exotels_word_counts(&mut self) {
        let state = self.state;
        for region in self.regions() {
            for call in state.tables[region]
                .calls()
                .filter(|call| call.is_to_number())
            {
                let placed: Option<CallStatus> = state.exotel.placed(call.call_id);
                let Some(truth) = placed.filter(|_| call.call_sid.is_some()) else {
                    continue;
                };
                if call.status != truth {
                    let id = short(call.call_id);
                    let details = format!(
                        "{id}: {:?} instead of {truth:?} in region {region}",
                        call.status
                    );
                    self.violated("a call to a number ends as Exotel says", details);
                }
            }
        }
    }
}
