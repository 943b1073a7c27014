//! A caller waits, as the dialplan has it.

use ringback::switchboard::InboundCallReport;
use ringback_core::ids::{CallId, CallSid, ChannelId, Leg};

use super::legs::{HungUpBy, LONGEST_WAIT, USER_BUSY, end_leg};
use super::reports::{post, post_while};
use crate::requests::{Answer, Request};
use crate::sim::Sim;
use crate::state::pbx::{Channel, Role};

/// A caller from the trunk arrives, and waits. Returns whether the PBX takes the leg.
pub fn caller_arrives(
    sim: &Sim,
    caller: usize,
    pbx: usize,
    mut report: InboundCallReport,
    sid: Option<CallSid>,
) -> bool {
    let serial = sim.serial();
    let seconds = sim.now().as_millis() / 1000;
    let Ok(id) = ChannelId::try_from(format!("{seconds}.{serial}")) else {
        return false;
    };
    if sim.state().pbxs[pbx].is_down(sim.elapsed()) {
        return false;
    }
    let leg = Leg {
        pbx: sim.state().pbxs[pbx].name.clone(),
        channel: id.clone(),
    };
    report.call_sid = sid;
    let by_leg = || CallId::of_leg(&leg, &report.extension);
    report.call_id = report.call_sid.is_none().then(by_leg).flatten();
    report.caller_leg = Some(leg.clone());
    let channel = Channel {
        id: id.clone(),
        serial,
        caller,
        role: Role::Caller(Box::new(report.clone())),
        call: None,
        is_up: false,
        bridged_to: None,
        dialed: None,
    };
    sim.note(|| format!("caller {caller} waits on {id}"));
    {
        let mut state = sim.state();
        state.pbxs[pbx].channels.push(channel);
        let (elapsed, truth) = (sim.elapsed(), &mut state.truth);
        if let Some(id) = report.call_id {
            truth.names(id, caller);
        }
        truth.caller_waits(elapsed, (caller, serial), pbx, None);
        let legs = state.legs_of(caller);
        if legs.len() > 1 {
            state.truth.has_several_legs(&legs);
        }
    }
    let waits = sim.clone();
    sim.spawn(async move {
        wait_for_bridge(&waits, pbx, &id, serial, Request::CallerArrives(report)).await;
    });
    true
}

/// The dialplan reports the caller, and again after 5 s if there are two regions. Then it waits.
pub async fn wait_for_bridge(
    sim: &Sim,
    pbx: usize,
    id: &ChannelId,
    serial: u32,
    mut report: Request,
) {
    let waits = |sim: &Sim| {
        let state = sim.state();
        let channel = state.pbxs[pbx].channel(id);
        channel.is_some_and(|channel| channel.serial == serial && channel.bridged_to.is_none())
    };
    let answer = post_while(sim, pbx, &report, || waits(sim)).await;
    let end = |cause| {
        if waits(sim) {
            end_leg(sim, &mut sim.state(), pbx, id, cause, HungUpBy::This);
        }
    };
    let call = match answer {
        Answer::Done(call) => call,
        Answer::Rejected | Answer::NoSuchCall => return end(1),
        Answer::Failed | Answer::Nothing => return end(34),
    };
    knows_call(sim, pbx, id, serial, call);
    let mut left = LONGEST_WAIT;
    if sim.plan().regions == 2 {
        sim.sleep(5_000).await;
        left -= 5_000;
        if waits(sim) {
            if let Request::CallerArrives(report) = &mut report {
                report.call_id = Some(call);
            }
            let again = sim.clone();
            sim.spawn(async move {
                post(&again, pbx, &report).await;
            });
        }
    }
    sim.sleep(left).await;
    if waits(sim) {
        sim.note(|| format!("the PBX itself ends {id}"));
    }
    end(USER_BUSY);
}

fn knows_call(sim: &Sim, pbx: usize, id: &ChannelId, serial: u32, call: CallId) {
    let mut state = sim.state();
    let channel = state.pbxs[pbx].channel_mut(id);
    if let Some(channel) = channel.filter(|channel| channel.serial == serial) {
        channel.call = Some(call);
        let caller = channel.caller;
        state.truth.names(call, caller);
    }
    state.truth.leg_is_of(serial, call);
}
