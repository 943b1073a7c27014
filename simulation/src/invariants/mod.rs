//! What `docs/promises.md` promises, as code. The truth is what the simulated people, PBXs and Exotel saw.
//!
//! | promise | check |
//! | --- | --- |
//! | Bridged, or busy in time; its three fallbacks | `callers_do_not_wait`: 2 s after the deadline, and what each fault adds to it |
//! | No silence until then | not checked: Asterisk's ringing is its own (`e2e/tests`) |
//! | Every device that rang receives a cancellation | `devices_are_silenced` |
//! | A phone that receives nothing more stops at the end of its ring | `devices_stop_ringing` |
//! | No ghost ring; a device stops soon after its call | `devices_stop_ringing`, `calls_end_with_their_caller` |
//! | A leg of a phone ends within 2 s of its call | `phone_legs_end_with_their_call` |
//! | An extension that can be reached rings | `reachable_extensions_ring` |
//! | A push that is not accepted now is sent again while it can help | `delayed_pushes_are_sent_again` |
//! | Nobody is refused without a reason, or stays busy; a refused call rings no device | `check_refusal`, `refused_calls_ring_nowhere`, `second_calls_are_refused`, `nobody_stays_busy` |
//! | One bridge; one leg to the phone | `Truth::bridged`, `pbx::dial_phone` |
//! | A phone that moves is called at its new address within 2 s | `moved_phones_are_called_again` |
//! | Each device gets a push once, unless its process crashed | `devices_are_silenced` |
//! | Exotel is asked once to place a call | `exotel::place` |
//! | Clients receive each status once and in order | `clients_get_updates_in_order`, without faults |
//! | Clients know the newest status in the end | `clients_know_the_end`. The field `timestamp` is not checked: clocks differ |
//! | A region may fail: the other one accepts the answer | `who_accepts_is_bridged` |
//! | Its own timer ends the ring within 3 s | not checked: with a lost region, only the PBX's limit in `callers_do_not_wait` is |
//! | Bridged once, and one end in both regions | `Truth::bridged`, `regions_agree` |
//! | A PBX may fail: calls on other PBXs continue | `State::parted`: Ringback cuts off no conversation. `/health` is no part of a call |
//! | A phone that loses its network is detected | not checked: SIP session timers are Asterisk's own (`e2e/tests/faults/silence.rs`) |
//! | Requests that a person waits for are retried | `ready_phones_are_dialed`, `callers_do_not_wait` |
//! | Not guaranteed: that a short conversation is shown as one | `SHORT_TALK` in `conversations_are_completed` |
//! | Not guaranteed: that a conversation is shown that no report shows | `Talk::is_reported` |
//! | Not guaranteed: that a call survives its PBX | `conversations_are_completed` skips a PBX that restarts |
//! | Not guaranteed: regions that cannot reach each other | `State::parted` |
//!
//! Besides: metrics count each call once (`metrics_count_each_call`), a call to a number ends as Exotel says (`exotels_word_counts`),
//! both regions keep each report of a ringing device that got its answer (`reports_are_kept`), and nothing remains (`nothing_is_left`,
//! `calls_have_ended`).

mod counts;
mod reach;
mod refusals;
mod times;

use ringback_core::call::{CallStatus, EndReason, PushedDevices};
use ringback_core::ids::{CallId, DeviceId};

pub use refusals::check_refusal;

use crate::faults::Fault;
use crate::scenario::{Answers, Attempts, Kind};
use crate::sim::Sim;
use crate::state::State;
use crate::state::phones::{PhoneDevice, Ring};
use crate::state::table::short;

/// A conversation that is shorter than this may be taken for none if its report is overtaken by a hang-up.
const SHORT_TALK: u64 = 5_000;

/// A phone that registers later than this may be too late for its call.
const CONNECTS_WITHIN: u64 = 10_000;

/// Clocks differ by this, and a region hears of the other one's changes within it.
const LAST_MOMENT: u64 = 2_000;

/// An app that gets no answer asks the other region after 3.7 s.
const ASKS_BOTH_WITHIN: u64 = 5_000;

/// More timers than this for one call mean that timers arm timers.
const MOST_TIMERS: usize = 200;

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
        checks.metrics_count_each_call();
        checks.clients_get_updates_in_order();
        checks.callers_do_not_wait();
        checks.calls_end_with_their_caller();
        checks.phone_legs_end_with_their_call();
        checks.ready_phones_are_dialed();
        checks.moved_phones_are_called_again();
        checks.devices_stop_ringing();
        checks.who_accepts_is_bridged();
        checks.exotels_word_counts();
        checks.reports_are_kept();
        checks.reachable_extensions_ring();
        checks.delayed_pushes_are_sent_again();
        checks.refused_calls_ring_nowhere();
        checks.second_calls_are_refused();
        checks.nobody_stays_busy();
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
            // Each of two regions may know another of the legs on which the trunk has brought one caller.
            let is_two = self.sim.plan().regions == 2;
            let is_excused = |call| is_two && self.state.truth.has_two_legs(call);
            let mut left = pbx.channels.iter();
            let left = left.find(|leg| !leg.call.is_some_and(is_excused));
            if let Some(channel) = left {
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
        let are_timers_lost = self.are_timers_lost();
        for region in self.regions() {
            for call in self.state.tables[region].calls() {
                let id = short(call.call_id);
                if !call.status.is_final() {
                    self.violated(
                        "every call comes to an end",
                        format!("{id}: {:?}", call.status),
                    );
                } else if call.effects_pending_since.is_some() && !are_timers_lost {
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
            let app_hung_up = truth.app_hung_up(talk.call);
            let is_unclear = lasted < SHORT_TALK && app_hung_up;
            let is_unknown = !talk.is_reported || self.sim.plan().restart.is_some();
            if truth.met_too_late(talk) || is_unclear || is_unknown {
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

    /// SQS has rejected or lost two timers.
    fn are_timers_lost(&self) -> bool {
        let lost = [Fault::QueueLost, Fault::QueueFails];
        let lost = lost.map(|fault| self.state.faults.count(fault));
        lost.iter().sum::<u64>() > 1
    }

    /// Both regions may have sent pushes, and the table has rejected a record of them twice, or its answers were lost, or one region was
    /// lost while they could not hear each other.
    fn are_records_lost(&self) -> bool {
        let plan = self.sim.plan();
        let was_lost_apart = plan.cut.is_some() && plan.region_loss.is_some();
        let unsaved = [Fault::StoreFails, Fault::StoreAnswerLost];
        let unsaved = unsaved.map(|fault| self.state.faults.count(fault));
        let are_rejected = plan.regions == 2 && unsaved.iter().sum::<u64>() > 1;
        was_lost_apart || are_rejected
    }

    fn devices_are_silenced(&mut self) {
        let state = self.state;
        let is_lost = self.are_timers_lost() || self.are_records_lost();
        for device in state.phones.extensions.iter().flatten() {
            for ring in &device.rings {
                let id = short(ring.call);
                let knows = ring.is_settled || ring.is_canceled;
                let is_known = self.has_decided(ring.call, &device.id)
                    || self.earlier_pushes_are_unknown(ring.call);
                if ring.pushes > 0 && !knows && !is_known && !is_lost {
                    let details = format!("{} for {id}", device.id);
                    self.violated("every device that rang is silenced", details);
                }
                if ring.began.is_some() && ring.ended.is_none() {
                    self.violated("no device rings on", format!("{} for {id}", device.id));
                }
                if ring.pushes > 1 && !self.may_push_again(ring.call) {
                    self.violated("a push is sent once", format!("{} for {id}", device.id));
                }
            }
        }
    }

    fn reports_are_kept(&mut self) {
        let state = self.state;
        for device in state.phones.extensions.iter().flatten() {
            for ring in device.rings.iter().filter(|ring| ring.is_reported) {
                for region in self.regions() {
                    let call = state.tables[region].call(ring.call);
                    let is_kept =
                        call.is_some_and(|(call, _)| call.ring_receipts.contains_key(&device.id));
                    if !is_kept {
                        let id = short(ring.call);
                        let details = format!("{} for {id} in region {region}", device.id);
                        self.violated("a report of a ringing device is kept", details);
                    }
                }
            }
        }
    }

    /// No push could be sent, and the record of earlier ones is lost. They end by themselves.
    fn earlier_pushes_are_unknown(&self, call: CallId) -> bool {
        let known = self.state.tables[0].call(call);
        known.is_some_and(|(call, _)| call.end_reason() == Some(EndReason::PushFailed))
    }

    /// Whether the call knows that this device has answered or declined it.
    fn has_decided(&self, call: CallId, device: &DeviceId) -> bool {
        let Some((call, _)) = self.state.tables[0].call(call) else {
            return false;
        };
        let has_answered = call.answered_by.as_ref().is_some_and(|by| {
            let named = by.device.as_ref();
            named.is_none_or(|named| named == device)
        });
        // An app that does not name its device is on the only one.
        let is_only = |pushed: &PushedDevices| pushed.devices.iter().all(|rang| rang == device);
        let has_declined_unnamed = call.end_reason() == Some(EndReason::CalleeDeclined)
            && call.declined_by.is_empty()
            && call.pushed.as_ref().is_some_and(is_only);
        has_answered || has_declined_unnamed || call.declined_by.contains(device)
    }

    /// Whether the only fault is the loss of a region, while the call rang and was known in the other one, and its user accepted early
    /// enough to ask that region too.
    fn continues_elsewhere(&self, device: &PhoneDevice, ring: &Ring) -> bool {
        let plan = self.sim.plan();
        let call = self.state.truth.call(ring.call);
        let (Some(loss), Some(call), Some(tapped)) = (plan.region_loss, call, ring.ended) else {
            return false;
        };
        let has_other_fault = plan.cut.is_some()
            || plan.restart.is_some()
            || !self.state.faults.happened().is_empty();
        let was_known = call.known_in[1 - loss.region].is_some_and(|known| known < loss.from);
        let is_pushed = ring.pushes == 1;
        // The lost region ends the ring if it comes back at that moment, before it hears of the accept. The same holds later, until the
        // PBX shows that the phone rings.
        let registers_after = device.plan.registers_after.iter().flatten().max();
        let rings_from = tapped + registers_after.copied().unwrap_or_default();
        let hears_too_late = loss.until + LAST_MOMENT > call.rings_until
            && loss.until < call.rings_until.max(rings_from) + LAST_MOMENT;
        // The region is lost before the other one hears of the accept.
        let takes_it_along = (tapped..tapped + LAST_MOMENT).contains(&loss.from);
        let is_in_time = tapped + ASKS_BOTH_WITHIN < call.rings_until;
        was_known
            && is_pushed
            && !has_other_fault
            && is_in_time
            && !hears_too_late
            && !takes_it_along
    }

    /// A push is sent again only if its process has crashed or could not complete the effects, or if the other region has overwritten
    /// its record, and a timer or a report comes before both versions are merged.
    fn may_push_again(&self, call: CallId) -> bool {
        let call = self.state.truth.call(call);
        if call.is_some_and(|call| call.stored_in == [true, true]) {
            return true;
        }
        let explains = |fault| {
            matches!(
                fault,
                Fault::Crash
                    | Fault::RequestLost
                    | Fault::StoreFails
                    | Fault::StoreAnswerLost
                    | Fault::StoreSlow
                    | Fault::AriFails
                    | Fault::AriAnswerLost
                    | Fault::AriSlow
                    | Fault::QueueFails
                    | Fault::QueueLate
                    | Fault::StreamLate
                    | Fault::ReplicationLate
            ) || (self.sim.plan().regions == 2
                // Each region may find that a delayed push is due. Without an answer, the PBX reports to the other region.
                && matches!(fault, Fault::ColdStart | Fault::PushRejected | Fault::AnswerLost))
        };
        let mut happened = self.state.faults.happened().iter();
        happened.any(|(_, fault)| explains(*fault)) || !self.sim.plan().has_no_planned_fault()
    }

    fn has_no_fault(&self) -> bool {
        self.state.faults.happened().is_empty() && self.sim.plan().has_no_planned_fault()
    }

    /// Without faults, a caller who stays is bridged to the only device once its user has accepted and its phone answers. If a region
    /// is lost that the other one knows the call of, too.
    fn who_accepts_is_bridged(&mut self) {
        let (state, plan) = (self.state, self.sim.plan());
        // Two callers may be mistaken for each other, or answered with one phone.
        let [call] = plan.calls.as_slice() else {
            return;
        };
        let [device] = state.phones.extensions[call.extension].as_slice() else {
            return;
        };
        let mut rings = device.rings.iter();
        let Some(ring) = rings.find(|ring| ring.has_accepted) else {
            return;
        };
        let stays_registered = device.plan.moves.is_none()
            && (device.plan.registers_after.iter())
                .all(|after| after.is_some_and(|after| after < CONNECTS_WITHIN));
        let answers = call
            .responses
            .iter()
            .all(|response| matches!(response.answers, Answers::Yes | Answers::AtTheSecondAttempt));
        let has_one_leg = !matches!(
            call.kind,
            Kind::FromTrunk {
                attempts: Attempts::Parallel(_),
                ..
            }
        );
        let stays = call.patience.is_none() && has_one_leg;
        // The other region's timer may end the ring before it hears of an accept at the last moment.
        let is_early = ring
            .ended
            .zip(state.truth.call(ring.call))
            .is_some_and(|(tapped, call)| tapped + LAST_MOMENT < call.rings_until);
        let is_willing = stays_registered && answers && stays && is_early;
        let may_fail = !self.has_no_fault() && !self.continues_elsewhere(device, ring);
        if is_willing && !may_fail && state.truth.talks.is_empty() {
            self.violated("who accepts is bridged", device.id.to_string());
        }
    }
}
