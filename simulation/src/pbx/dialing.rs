//! The PBX dials phones, and bridges them to the callers who wait.

use ringback_core::call::Event;
use ringback_core::ids::{CallId, ChannelId, Leg};

use super::legs::{
    CALLER_GONE, HungUpBy, NORMAL, REJECTED, cancel_other_legs, end_if, end_leg, report,
};
use super::waiting::wait_for_bridge;
use crate::faults::Fault;
use crate::phones::{self, PhoneReply};
use crate::random::Part;
use crate::requests::{Named, Request};
use crate::scenario::HangsUp;
use crate::sim::Sim;
use crate::state::State;
use crate::state::pbx::{Channel, Role};
use crate::state::phones::Account;

const NO_ANSWER: u16 = 19;
const EARLIER_LEG_ENDS_WITHIN: u64 = 1_000;
const ORIGINATE_TIMEOUT: u64 = 30_000;

/// How a request to dial a phone ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Originated {
    UnderWay,
    NotRegistered,
}

/// The state of the leg to the callee's phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// The phone rings or has answered, or the leg has ended.
    Reached,
    /// The caller has gone, and the phone does not know.
    CallerGone,
    /// The phone has not reacted to its INVITE.
    Unanswered,
    /// The phone has not reacted to its INVITE, and has registered again since.
    Moved,
}

/// Looks at the leg to the callee's phone.
pub fn phone_progress(state: &State, pbx: usize, id: &ChannelId) -> Progress {
    let channels = &state.pbxs[pbx];
    let Some(leg) = channels.channel(id).filter(|leg| !leg.is_up) else {
        return Progress::Reached;
    };
    if let Role::Phone(waiting) = &leg.role
        && channels.channel(waiting).is_none()
    {
        return Progress::CallerGone;
    }
    let Some((dialed, false)) = &leg.dialed else {
        return Progress::Reached;
    };
    let now = phones::contact(state, pbx, dialed.account);
    if now.is_some_and(|now| now != dialed) {
        Progress::Moved
    } else {
        Progress::Unanswered
    }
}

fn two_legs(sim: &Sim, state: &mut State, id: &ChannelId) {
    let (at, details) = (sim.elapsed(), format!("{id}"));
    (state.truth).violated(at, "two phone legs at once", details);
}

/// A leg of an earlier attempt ends soon after this one begins.
fn expect_one_leg(sim: &Sim, call: CallId, id: &ChannelId) {
    let (sim, id) = (sim.clone(), id.clone());
    sim.clone().spawn(async move {
        sim.sleep(EARLIER_LEG_ENDS_WITHIN).await;
        let mut state = sim.state();
        let legs = state.pbxs.iter().flat_map(|pbx| &pbx.channels);
        let is_phone = |leg: &&Channel| matches!(leg.role, Role::Phone(_));
        let legs: Vec<_> = legs
            .filter(|leg| is_phone(leg) && leg.call == Some(call))
            .map(|leg| leg.id.clone())
            .collect();
        if legs.len() > 1 && legs.contains(&id) {
            two_legs(&sim, &mut state, &id);
        }
    });
}

/// Dials the callee's phone on this channel. Asterisk rejects a second channel with the same id.
pub fn dial_phone(
    sim: &Sim,
    state: &mut State,
    pbx: usize,
    (call, id): (CallId, &ChannelId),
    account: Account,
    waiting: &ChannelId,
) -> Originated {
    if state.pbxs[pbx].channel(id).is_some() {
        return Originated::UnderWay;
    }
    let known = state.pbxs[pbx].channel(waiting);
    let caller = known.map_or_else(|| state.truth.caller_of(call), |leg| leg.caller);
    let Some(contact) = phones::contact(state, pbx, account).cloned() else {
        return Originated::NotRegistered;
    };
    // Two regions may each dial for a leg of their own, if the trunk brings the caller on two legs at once or replication is cut.
    let has_two_legs = state.truth.has_two_legs(call) && sim.plan().regions == 2;
    let are_apart = sim.plan().cut.is_some() || sim.plan().region_loss.is_some() || has_two_legs;
    let mut channels = state.pbxs.iter().flat_map(|pbx| &pbx.channels);
    if !are_apart && channels.any(|leg| leg.id == *id) {
        two_legs(sim, state, id);
    }
    // A region may not have heard yet that the other one has dialed the phone elsewhere. And a request to dial the phone may reach
    // Asterisk after the phone has moved and was dialed again.
    if sim.plan().regions == 1 && state.faults.count(Fault::AriSlow) == 0 {
        expect_one_leg(sim, call, id);
    }
    let role = Role::Phone(waiting.clone());
    let serial = originate(sim, state, pbx, id.clone(), role, (call, caller));
    let is_there = phones::is_there(state, &contact);
    let missed_by = (!is_there).then_some((pbx, account));
    (state.truth).phone_is_dialed(sim.elapsed(), serial, call, missed_by);
    let reply = phones::phone_rings(sim, state, call, &contact);
    if let Some(leg) = state.pbxs[pbx].channel_mut(id) {
        leg.dialed = Some((contact, is_there));
    }
    let (sim, id) = (sim.clone(), id.clone());
    sim.clone().spawn(async move {
        match reply.await {
            PhoneReply::Answers => phone_answers(&sim, pbx, &id, serial),
            PhoneReply::Refuses(cause) => end_if(&sim, pbx, &id, serial, cause, |_| true),
            PhoneReply::Rings => {}
        }
    });
    Originated::UnderWay
}

/// Dials the phone of the calling app. It answers at once, without its user.
pub fn dial_caller(sim: &Sim, state: &mut State, pbx: usize, call: CallId) -> Originated {
    let id = ChannelId::of_app_caller(call);
    if state.pbxs[pbx].channel(&id).is_some() {
        return Originated::UnderWay;
    }
    if !phones::is_caller_registered(state, pbx) {
        return Originated::NotRegistered;
    }
    if state.pbxs.iter().any(|pbx| pbx.channel(&id).is_some()) {
        state
            .truth
            .violated(sim.elapsed(), "two caller legs at once", format!("{id}"));
    }
    let caller = state.truth.caller_of(call);
    let serial = originate(sim, state, pbx, id.clone(), Role::AppCaller, (call, caller));
    let answers_after = state.random.of_part(Part::Phones).u64(100..1_500);
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(answers_after).await;
        let arrival = {
            let mut state = sim.state();
            let name = state.pbxs[pbx].name.clone();
            let is_awaited = state.truth.is_awaited_by(caller);
            let Some(channel) = state.pbxs[pbx]
                .channel_mut(&id)
                .filter(|leg| leg.serial == serial)
            else {
                return;
            };
            if !is_awaited {
                // The app picks up only while its user waits for the call.
                end_leg(&sim, &mut state, pbx, &id, REJECTED, HungUpBy::This);
                return;
            }
            channel.is_up = true;
            state
                .truth
                .caller_waits(sim.elapsed(), (caller, serial), pbx, Some(call));
            let caller_leg = Some(Leg {
                pbx: name,
                channel: id.clone(),
            });
            Event::CallerReported {
                caller_leg,
                call_sid: None,
            }
        };
        sim.note(|| format!("the calling app's phone waits on {id}"));
        let report = Request::PbxReports(Named::Id(call), arrival);
        wait_for_bridge(&sim, pbx, &id, serial, report).await;
    });
    Originated::UnderWay
}

fn originate(
    sim: &Sim,
    state: &mut State,
    pbx: usize,
    id: ChannelId,
    role: Role,
    (call, caller): (CallId, usize),
) -> u32 {
    state.serial += 1;
    let serial = state.serial;
    let channel = Channel {
        id: id.clone(),
        serial,
        caller,
        role,
        call: Some(call),
        is_up: false,
        bridged_to: None,
        dialed: None,
    };
    state.pbxs[pbx].channels.push(channel);
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(ORIGINATE_TIMEOUT).await;
        end_if(&sim, pbx, &id, serial, NO_ANSWER, |channel| !channel.is_up);
    });
    serial
}

/// The callee's phone answers: its leg takes the caller's away from its wait, if that is still there.
fn phone_answers(sim: &Sim, pbx: usize, id: &ChannelId, serial: u32) {
    let mut state = sim.state();
    let pbx_state = &mut state.pbxs[pbx];
    let Some(phone) = pbx_state.channel_mut(id).filter(|leg| leg.serial == serial) else {
        return;
    };
    phone.is_up = true;
    let (Role::Phone(waiting), Some(call)) = (phone.role.clone(), phone.call) else {
        return;
    };
    let waits = |leg: &&mut Channel| leg.bridged_to.is_none();
    let Some(leg) = pbx_state.channel_mut(&waiting).filter(waits) else {
        return end_leg(sim, &mut state, pbx, id, CALLER_GONE, HungUpBy::This);
    };
    leg.is_up = true;
    leg.bridged_to = Some(id.clone());
    // The phone's leg names the call, even if the answer with the call's id was lost.
    leg.call = Some(call);
    let is_app_call = matches!(leg.role, Role::AppCaller);
    let (caller, caller_serial) = (leg.caller, leg.serial);
    if let Some(phone) = pbx_state.channel_mut(id) {
        phone.bridged_to = Some(waiting.clone());
    }
    let (plan, elapsed) = (sim.plan(), sim.elapsed());
    (state.truth).bridged(plan, elapsed, call, (caller_serial, serial));
    state.truth.caller_waits_no_more(caller);
    cancel_other_legs(sim, &mut state, caller, caller_serial);
    drop(state);
    sim.note(|| format!("BRIDGED: {waiting} and {id}"));
    report(sim, pbx, Named::Id(call), Event::Bridged);
    let sim = sim.clone();
    let talk = Conversation {
        pbx,
        call,
        caller,
        leg: waiting,
        phone: id.clone(),
        is_app_call,
    };
    sim.clone().spawn(async move {
        sim.sleep(sim.plan().calls[caller].talk).await;
        hang_up(&sim, &talk).await;
    });
}

struct Conversation {
    pbx: usize,
    call: CallId,
    caller: usize,
    leg: ChannelId,
    phone: ChannelId,
    is_app_call: bool,
}

async fn hang_up(sim: &Sim, talk: &Conversation) {
    let is_bridged = |sim: &Sim| {
        let state = sim.state();
        state.pbxs[talk.pbx]
            .channel(&talk.phone)
            .is_some_and(|channel| channel.bridged_to.is_some())
    };
    if !is_bridged(sim) {
        return;
    }
    let side = match sim.plan().calls[talk.caller].hangs_up {
        HangsUp::CallersApp if !talk.is_app_call => HangsUp::Caller,
        side => side,
    };
    sim.note(|| format!("hangs up: {side:?}"));
    match side {
        HangsUp::Nobody => return,
        HangsUp::CalleesApp | HangsUp::CallersApp => {
            sim.state().truth.app_hangs_up(talk.call);
            phones::app_hangs_up(sim, talk.call, talk.caller, side == HangsUp::CallersApp).await;
            sim.sleep(10_000).await;
        }
        HangsUp::Caller | HangsUp::CalleesPhone => {}
    }
    let leg = if matches!(side, HangsUp::Caller | HangsUp::CallersApp) {
        &talk.leg
    } else {
        &talk.phone
    };
    if is_bridged(sim) {
        end_leg(sim, &mut sim.state(), talk.pbx, leg, NORMAL, HungUpBy::This);
    }
}
