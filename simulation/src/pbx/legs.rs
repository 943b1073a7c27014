//! How legs end, and what the dialplan reports of them.

use ringback_core::call::{CallSide, CorrelationKey, Event};
use ringback_core::ids::{ChannelId, Leg, PbxName};

use super::reports::post;
use crate::faults::Fault;
use crate::requests::{Answer, Named, Request};
use crate::sim::Sim;
use crate::state::State;
use crate::state::pbx::{Channel, Role};

/// Who ended a leg, as the dialplan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HungUpBy {
    This,
    Other,
    Neither,
    /// The trunk. Its CANCEL says that another leg was answered.
    AnsweredElsewhere,
}

pub const NORMAL: u16 = 16;
/// The dialplan's cause for a phone that answers after its caller has left.
pub const CALLER_GONE: u16 = 26;
pub const USER_BUSY: u16 = 17;
pub const REJECTED: u16 = 21;
/// `RINGBACK_MAX_WAIT_SECONDS`.
pub const LONGEST_WAIT: u64 = 60_000;

/// Ends a leg from its own side if it is still this one and `holds`.
pub fn end_if(
    sim: &Sim,
    pbx: usize,
    id: &ChannelId,
    serial: u32,
    cause: u16,
    holds: impl Fn(&Channel) -> bool,
) {
    let mut state = sim.state();
    let channel = state.pbxs[pbx]
        .channel(id)
        .filter(|channel| channel.serial == serial);
    if channel.is_some_and(holds) {
        end_leg(sim, &mut state, pbx, id, cause, HungUpBy::This);
    }
}

/// Reports an event beside the leg, which does not wait for the answer.
pub fn report(sim: &Sim, pbx: usize, named: Named, event: Event) {
    let sim = sim.clone();
    sim.clone().spawn(async move {
        if sim.fault(Fault::HookLost) {
            return;
        }
        sim.note(|| format!("the PBX reports {}", event.as_str()));
        let shows_talk = matches!(
            event,
            Event::Bridged | Event::CallerLegEnded { answered: true, .. }
        );
        let call = match named {
            Named::Id(id) if shows_talk => Some(id),
            _ => None,
        };
        let answer = post(&sim, pbx, &Request::PbxReports(named, event)).await;
        sim.note(|| format!("the PBX gets {answer}"));
        if let (Some(call), Answer::Done(_)) = (call, answer) {
            sim.state().truth.talk_is_reported(call);
        }
    });
}

/// Ends a leg, and the leg that it is bridged to. The dialplan reports both.
pub fn end_leg(sim: &Sim, state: &mut State, pbx: usize, id: &ChannelId, cause: u16, by: HungUpBy) {
    let channels = &mut state.pbxs[pbx].channels;
    let Some(place) = channels.iter().position(|channel| channel.id == *id) else {
        return;
    };
    let channel = channels.remove(place);
    let elapsed = sim.elapsed();
    state.note(elapsed, || {
        format!("leg {id} ends: cause {cause}, by {by:?}")
    });
    is_over(sim, state, &channel, by == HungUpBy::Neither);
    let name = state.pbxs[pbx].name.clone();
    report_end(sim, pbx, &name, &channel, cause, by);
    if let Some(other) = channel.bridged_to {
        let other_by = if by == HungUpBy::This {
            HungUpBy::Other
        } else {
            by
        };
        let place = state.pbxs[pbx]
            .channels
            .iter()
            .position(|known| known.id == other);
        if let Some(place) = place {
            let other = state.pbxs[pbx].channels.remove(place);
            is_over(sim, state, &other, by == HungUpBy::Neither);
            report_end(sim, pbx, &name, &other, NORMAL, other_by);
        }
    }
}

fn report_end(sim: &Sim, pbx: usize, name: &PbxName, channel: &Channel, cause: u16, by: HungUpBy) {
    let is_phone = matches!(channel.role, Role::Phone(_));
    let answered = if is_phone {
        channel.is_up && cause != CALLER_GONE
    } else {
        channel.bridged_to.is_some()
    };
    let by = match (by, is_phone) {
        (HungUpBy::Neither, _) if answered => CallSide::Neither,
        (HungUpBy::Neither, false) if cause == USER_BUSY => CallSide::Neither,
        (HungUpBy::AnsweredElsewhere, _) => CallSide::AnsweredElsewhere,
        (HungUpBy::Other, true) | (HungUpBy::This | HungUpBy::Neither, false) => CallSide::Caller,
        (HungUpBy::Other, false) | (HungUpBy::This | HungUpBy::Neither, true) => CallSide::Callee,
    };
    let event = if is_phone {
        Event::PhoneLegEnded {
            pbx: name.clone(),
            attempt: channel.id.phone_of().map_or(0, |(_, attempt)| attempt),
            answered,
            cause,
            by,
        }
    } else {
        let leg = Some(Leg {
            pbx: name.clone(),
            channel: channel.id.clone(),
        });
        Event::CallerLegEnded { leg, answered, by }
    };
    let named = match (channel.call, &channel.role) {
        (Some(call), _) => Named::Id(call),
        (None, Role::Caller(report)) => match &report.call_sid {
            Some(sid) => {
                let leg = Leg {
                    pbx: name.clone(),
                    channel: channel.id.clone(),
                };
                Named::Leg(sid.clone(), report.extension.clone(), leg)
            }
            None => Named::Caller(CorrelationKey {
                extension: report.extension.clone(),
                caller: report.caller.number.clone(),
            }),
        },
        (None, Role::AppCaller | Role::Phone(_)) => return,
    };
    report(sim, pbx, named, event);
}

/// The people notice that this leg is over. `by_us`: Ringback has ended it.
fn is_over(sim: &Sim, state: &mut State, channel: &Channel, by_us: bool) {
    let elapsed = sim.elapsed();
    if let (Some(_), Some(call)) = (&channel.bridged_to, channel.call) {
        state.parted(sim.plan(), elapsed, call, by_us);
    }
    match &channel.role {
        Role::Phone(_) => state.truth.phone_leg_ended(elapsed, channel.serial),
        Role::AppCaller => state.truth.caller_left(elapsed, channel.serial),
        Role::Caller(_) => {
            state.truth.caller_left(elapsed, channel.serial);
            let was_bridged = channel.bridged_to.is_some();
            (sim.handlers().leg_ended)(sim, state, channel.caller, was_bridged);
        }
    }
}

/// The trunk cancels the other legs of this caller: one was answered, or the caller has given up.
pub fn cancel_other_legs(sim: &Sim, state: &mut State, caller: usize, except: u32) {
    for pbx in 0..state.pbxs.len() {
        let is_waiting = |leg: &&Channel| {
            sim.plan().ring_together(leg.caller, caller)
                && leg.serial != except
                && leg.bridged_to.is_none()
                && match leg.role {
                    Role::Caller(_) => true,
                    Role::AppCaller => leg.is_up,
                    Role::Phone(_) => false,
                }
        };
        let legs = state.pbxs[pbx].channels.iter().filter(is_waiting);
        let canceled = |leg: &Channel| {
            // Not every trunk gives a reason.
            let has_reason = except != 0 && leg.serial.is_multiple_of(2);
            let is_trunk = matches!(leg.role, Role::Caller(_));
            let by = if has_reason && is_trunk {
                HungUpBy::AnsweredElsewhere
            } else {
                HungUpBy::This
            };
            (leg.id.clone(), by)
        };
        for (id, by) in legs.map(canceled).collect::<Vec<_>>() {
            end_leg(sim, state, pbx, &id, NORMAL, by);
        }
    }
}

/// The PBX restarts and has forgotten its channels. It reports none of them.
pub async fn restart(sim: &Sim, pbx: usize, at: u64) {
    sim.sleep_until(at).await;
    sim.note(|| format!("PBX {pbx} restarts"));
    let elapsed = sim.elapsed();
    let mut state = sim.state();
    state.pbxs[pbx].down_until = elapsed + 4_000;
    let forgotten = std::mem::take(&mut state.pbxs[pbx].channels);
    for channel in forgotten {
        is_over(sim, &mut state, &channel, false);
    }
}
