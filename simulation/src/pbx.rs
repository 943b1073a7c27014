//! The PBXs: their channels, and what their dialplan does.

use ringback::switchboard::InboundCallReport;
use ringback_core::call::{CallSide, CorrelationKey, Event};
use ringback_core::ids::{CallId, CallSid, ChannelId, Leg, PbxName};

use crate::faults::Fault;
use crate::functions::{self, Answer, Named};
use crate::phones;
use crate::scenario::HangsUp;
use crate::sim::{Sim, State};

/// One PBX.
pub struct Pbx {
    pub name: PbxName,
    down_until: u64,
    /// Until when its reports go to the other region first.
    avoid_until: u64,
    channels: Vec<Channel>,
}

/// A channel that exists now.
#[derive(Clone, Debug)]
pub struct Channel {
    pub id: ChannelId,
    serial: u32,
    role: Role,
    /// The call, once the PBX knows it.
    call: Option<CallId>,
    /// Whether its SIP call was answered.
    pub is_up: bool,
    bridged_to: Option<ChannelId>,
}

#[derive(Clone, Debug)]
enum Role {
    /// A caller from the trunk.
    Caller(Box<InboundCallReport>),
    /// The leg of the calling app.
    AppCaller,
    /// The leg of the callee's phone, for the caller on this channel.
    Phone(ChannelId),
}

/// Who ended a leg, as the dialplan sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HungUpBy {
    This,
    Other,
    Neither,
}

/// How a request to dial a phone ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Originated {
    UnderWay,
    NotRegistered,
}

pub const NORMAL: u16 = 16;
pub const USER_BUSY: u16 = 17;
const NO_ANSWER: u16 = 19;
/// The dialplan's cause for a phone that answers after its caller has left.
const CALLER_GONE: u16 = 26;
/// `RINGBACK_MAX_WAIT_SECONDS`.
pub const LONGEST_WAIT: u64 = 60_000;
const ORIGINATE_TIMEOUT: u64 = 30_000;
const AVOIDED_FOR: u64 = 20_000;

impl Pbx {
    pub fn all(count: usize) -> Vec<Self> {
        let named = |number: usize| PbxName::try_from(format!("pbx{number}")).ok();
        let pbx = |name| Self {
            name,
            down_until: 0,
            avoid_until: 0,
            channels: Vec::new(),
        };
        (1..=count).filter_map(named).map(pbx).collect()
    }

    pub const fn is_down(&self, elapsed: u64) -> bool {
        elapsed < self.down_until
    }

    pub fn channel(&self, id: &ChannelId) -> Option<&Channel> {
        self.channels.iter().find(|channel| channel.id == *id)
    }

    fn channel_mut(&mut self, id: &ChannelId) -> Option<&mut Channel> {
        self.channels.iter_mut().find(|channel| channel.id == *id)
    }

    pub fn channels(&self) -> &[Channel] {
        &self.channels
    }
}

/// A caller from the trunk arrives, and waits as the dialplan has it.
pub async fn caller_arrives(
    sim: &Sim,
    pbx: usize,
    mut report: InboundCallReport,
    sid: Option<CallSid>,
) {
    let number = sim.serial();
    let seconds = sim.now().as_millis() / 1000;
    let Ok(id) = ChannelId::try_from(format!("{seconds}.{number}")) else {
        return;
    };
    let leg = Leg {
        pbx: sim.state().pbxs[pbx].name.clone(),
        channel: id.clone(),
    };
    report.call_sid = sid;
    let by_sid = report.call_sid.as_ref().map(CallId::of_call_sid);
    let known = by_sid.or_else(|| CallId::of_leg(&leg, &report.extension));
    report.call_id = known.unwrap_or(report.call_id);
    report.caller_leg = Some(leg);
    if sim.state().pbxs[pbx].is_down(sim.elapsed()) {
        return;
    }
    let channel = Channel {
        id: id.clone(),
        serial: number,
        role: Role::Caller(Box::new(report.clone())),
        call: None,
        is_up: false,
        bridged_to: None,
    };
    sim.note(|| format!("a caller waits on {id}"));
    {
        let mut state = sim.state();
        state.pbxs[pbx].channels.push(channel);
        state.truth.caller_waits(sim.elapsed());
    }
    caller_loses_patience(sim, pbx, id.clone(), number);
    wait_for_bridge(sim, pbx, &id, number, Arrival::Trunk(report)).await;
}

enum Arrival {
    Trunk(InboundCallReport),
    App(Named, Event),
}

/// The dialplan reports the caller, and again after 5 s if there are two regions. Then it waits.
async fn wait_for_bridge(sim: &Sim, pbx: usize, id: &ChannelId, serial: u32, mut arrival: Arrival) {
    let waits = |sim: &Sim| {
        let state = sim.state();
        let channel = state.pbxs[pbx].channel(id);
        channel.is_some_and(|channel| channel.serial == serial && channel.bridged_to.is_none())
    };
    let answer = post(sim, pbx, &arrival).await;
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
    if let Some(channel) = sim.state().pbxs[pbx].channel_mut(id) {
        channel.call = Some(call);
    }
    let mut left = LONGEST_WAIT;
    if sim.plan().regions == 2 {
        sim.sleep(5_000).await;
        left -= 5_000;
        if waits(sim) {
            if let Arrival::Trunk(report) = &mut arrival {
                report.call_id = call;
            }
            let again = sim.clone();
            sim.spawn(async move {
                post(&again, pbx, &arrival).await;
            });
        }
    }
    sim.sleep(left).await;
    if waits(sim) {
        sim.note(|| format!("the PBX itself ends {id}"));
    }
    end(USER_BUSY);
}

fn caller_loses_patience(sim: &Sim, pbx: usize, id: ChannelId, serial: u32) {
    let Some(patience) = sim.plan().patience else {
        return;
    };
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(patience).await;
        let mut state = sim.state();
        let channel = state.pbxs[pbx]
            .channel(&id)
            .filter(|channel| channel.serial == serial);
        if channel.is_some_and(|channel| channel.bridged_to.is_none()) {
            state.truth.caller_gave_up = true;
            end_leg(&sim, &mut state, pbx, &id, NORMAL, HungUpBy::This);
        }
    });
}

/// Sends a report as the dialplan does: up to four times, to two regions in turn, or three times to one.
async fn post(sim: &Sim, pbx: usize, arrival: &Arrival) -> Answer {
    let is_two = sim.plan().regions == 2;
    let attempts = if is_two { 4 } else { 3 };
    let mut region = usize::from(is_two && sim.state().pbxs[pbx].avoid_until > sim.elapsed());
    for attempt in 1..=attempts {
        let answer = match arrival {
            Arrival::Trunk(report) => functions::caller_arrives(sim, region, report.clone()).await,
            Arrival::App(named, event) => {
                functions::pbx_reports(sim, region, named.clone(), event.clone()).await
            }
        };
        match answer {
            Answer::NoSuchCall if is_two && attempt == 1 => region = 1 - region,
            Answer::Done(_) | Answer::Rejected | Answer::NoSuchCall => return answer,
            Answer::Failed | Answer::Nothing => {
                if is_two && region == 0 {
                    sim.state().pbxs[pbx].avoid_until = sim.elapsed() + AVOIDED_FOR;
                }
                if is_two {
                    region = 1 - region;
                }
                if attempt < attempts && (!is_two || attempt % 2 == 0) {
                    sim.sleep(500).await;
                }
            }
        }
    }
    Answer::Nothing
}

/// Reports an event beside the leg, which does not wait for the answer.
fn report(sim: &Sim, pbx: usize, named: Named, event: Event) {
    let sim = sim.clone();
    sim.clone().spawn(async move {
        if sim.fault(Fault::HookLost) {
            return;
        }
        sim.note(|| format!("the PBX reports {}", event.as_str()));
        let answer = post(&sim, pbx, &Arrival::App(named, event)).await;
        sim.note(|| format!("the PBX gets {answer:?}"));
    });
}

/// Dials the callee's phone. Asterisk rejects a second channel with the same id.
pub fn dial_phone(
    sim: &Sim,
    state: &mut State,
    pbx: usize,
    call: CallId,
    caller: &ChannelId,
) -> Originated {
    let id = ChannelId::of_phone(call);
    if state.pbxs[pbx].channel(&id).is_some() {
        return Originated::UnderWay;
    }
    if !phones::is_registered(state, pbx) {
        return Originated::NotRegistered;
    }
    if state.pbxs.iter().any(|pbx| pbx.channel(&id).is_some()) {
        state
            .truth
            .violated(sim.elapsed(), "two phone legs at once", format!("{id}"));
    }
    let serial = originate(
        sim,
        state,
        pbx,
        id.clone(),
        Role::Phone(caller.clone()),
        call,
    );
    phones::phone_rings(sim, state, pbx, id, serial);
    Originated::UnderWay
}

/// Dials the phone of the calling app, which answers by itself.
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
    let serial = originate(sim, state, pbx, id.clone(), Role::AppCaller, call);
    let answers_after = state.rng.u64(100..1_500);
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(answers_after).await;
        let arrival = {
            let mut state = sim.state();
            let name = state.pbxs[pbx].name.clone();
            let Some(channel) = state.pbxs[pbx]
                .channel_mut(&id)
                .filter(|leg| leg.serial == serial)
            else {
                return;
            };
            channel.is_up = true;
            state.truth.caller_waits(sim.elapsed());
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
        wait_for_bridge(
            &sim,
            pbx,
            &id,
            serial,
            Arrival::App(Named::ById(call), arrival),
        )
        .await;
    });
    Originated::UnderWay
}

fn originate(
    sim: &Sim,
    state: &mut State,
    pbx: usize,
    id: ChannelId,
    role: Role,
    call: CallId,
) -> u32 {
    state.serial += 1;
    let serial = state.serial;
    let channel = Channel {
        id: id.clone(),
        serial,
        role,
        call: Some(call),
        is_up: false,
        bridged_to: None,
    };
    state.pbxs[pbx].channels.push(channel);
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(ORIGINATE_TIMEOUT).await;
        end_if(&sim, pbx, &id, serial, NO_ANSWER, |channel| !channel.is_up);
    });
    serial
}

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

/// The callee's phone answers: its leg takes the caller's away from its wait, if that is still there.
pub fn phone_answers(sim: &Sim, pbx: usize, id: &ChannelId, serial: u32) {
    let mut state = sim.state();
    let pbx_state = &mut state.pbxs[pbx];
    let Some(phone) = pbx_state.channel_mut(id).filter(|leg| leg.serial == serial) else {
        return;
    };
    phone.is_up = true;
    let (Role::Phone(caller), Some(call)) = (phone.role.clone(), phone.call) else {
        return;
    };
    let Some(waiting) = pbx_state.channel_mut(&caller) else {
        return end_leg(sim, &mut state, pbx, id, CALLER_GONE, HungUpBy::This);
    };
    waiting.is_up = true;
    waiting.bridged_to = Some(id.clone());
    let is_app_call = matches!(waiting.role, Role::AppCaller);
    if let Some(phone) = pbx_state.channel_mut(id) {
        phone.bridged_to = Some(caller.clone());
    }
    state.truth.bridged(sim.elapsed(), call);
    drop(state);
    sim.note(|| format!("BRIDGED: {caller} and {id}"));
    report(sim, pbx, Named::ById(call), Event::Bridged);
    let sim = sim.clone();
    let phone = id.clone();
    sim.clone().spawn(async move {
        sim.sleep(sim.plan().talk).await;
        hang_up(&sim, pbx, call, &caller, &phone, is_app_call).await;
    });
}

async fn hang_up(
    sim: &Sim,
    pbx: usize,
    call: CallId,
    caller: &ChannelId,
    phone: &ChannelId,
    is_app_call: bool,
) {
    let is_bridged = |sim: &Sim| {
        let state = sim.state();
        state.pbxs[pbx]
            .channel(phone)
            .is_some_and(|channel| channel.bridged_to.is_some())
    };
    if !is_bridged(sim) {
        return;
    }
    let side = match sim.plan().hangs_up {
        HangsUp::CallersApp if !is_app_call => HangsUp::Caller,
        side => side,
    };
    sim.note(|| format!("hangs up: {side:?}"));
    match side {
        HangsUp::Nobody => return,
        HangsUp::CalleesApp | HangsUp::CallersApp => {
            sim.state().truth.app_hung_up = true;
            phones::app_hangs_up(sim, call, side == HangsUp::CallersApp).await;
            sim.sleep(10_000).await;
        }
        HangsUp::Caller | HangsUp::CalleesPhone => {}
    }
    let leg = if matches!(side, HangsUp::Caller | HangsUp::CallersApp) {
        caller
    } else {
        phone
    };
    if is_bridged(sim) {
        end_leg(sim, &mut sim.state(), pbx, leg, NORMAL, HungUpBy::This);
    }
}

/// Ends a leg, and the leg that it is bridged to. The dialplan reports both.
pub fn end_leg(sim: &Sim, state: &mut State, pbx: usize, id: &ChannelId, cause: u16, by: HungUpBy) {
    let channels = &mut state.pbxs[pbx].channels;
    let Some(place) = channels.iter().position(|channel| channel.id == *id) else {
        return;
    };
    let channel = channels.remove(place);
    let elapsed = sim.elapsed();
    if let Some(timeline) = &mut state.timeline {
        timeline.push(format!(
            "{elapsed:>6} ms leg {id} ends: cause {cause}, by {by:?}"
        ));
    }
    if let (Some(_), Some(call)) = (&channel.bridged_to, channel.call) {
        state.truth.parted(sim, call, by == HungUpBy::Neither);
    } else if !matches!(channel.role, Role::Phone(_)) {
        state.truth.caller_left(elapsed);
    }
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
        (HungUpBy::Other, true) | (HungUpBy::This | HungUpBy::Neither, false) => CallSide::Caller,
        (HungUpBy::Other, false) | (HungUpBy::This | HungUpBy::Neither, true) => CallSide::Callee,
    };
    let event = if is_phone {
        Event::PhoneLegEnded {
            pbx: name.clone(),
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
        (Some(call), _) => Named::ById(call),
        (None, Role::Caller(report)) => match &report.call_sid {
            Some(sid) => Named::ById(CallId::of_call_sid(sid)),
            None => Named::ByCaller(CorrelationKey {
                extension: report.extension.clone(),
                caller: report.caller.number.clone(),
            }),
        },
        (None, Role::AppCaller | Role::Phone(_)) => return,
    };
    report(sim, pbx, named, event);
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
        match (channel.bridged_to, channel.call) {
            (Some(_), Some(call)) => state.truth.parted(sim, call, false),
            _ => state.truth.caller_left(elapsed),
        }
    }
}
