//! What effects do outside: at the PBX, the devices and the timers.

use ringback_core::call::CallStatus;

use super::state::{
    CallerLeg, Content, Do, Happens, Message, PHONE_RINGS, PhoneLeg, Side, Source, State, Task,
    Time, Work,
};
use super::world::World;

const NORMAL: u16 = 16;
const USER_BUSY: u16 = 17;

/// A leg of the call.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum LegOf {
    Caller,
    Phone,
}

impl World {
    /// Carries one effect out. Returns what follows: the event that it causes, or its next request.
    pub fn carry_out(
        &mut self,
        state: &mut State,
        region: u8,
        work: &Work,
        effect: Do,
    ) -> Option<Task> {
        let call = self.rules.call(work.call);
        let knows_caller = call.caller_channel().is_some();
        let phone_too = call.ready_at.map(|_| Task::Do(Do::EndPhone));
        match effect {
            Do::SendPush => return Some(Task::Handle(send_pushes(state))),
            Do::CancelPush(to) => cancel_pushes(state, to),
            Do::DialCallerPhone => {
                if matches!(state.caller, CallerLeg::None | CallerLeg::Gone) {
                    state.caller = CallerLeg::Dialed;
                }
                return Some(Task::Handle(Happens::CallerPhoneDialed));
            }
            Do::Bridge => {
                call.caller_leg.as_ref()?;
                let rings = matches!(state.phone, PhoneLeg::Rings { .. });
                if rings && state.phone_attempt < call.phone_attempt {
                    end_leg(state, LegOf::Phone, NORMAL, true);
                }
                if state.phone == PhoneLeg::None {
                    state.phone_attempt = call.phone_attempt;
                    let until = state.clock + PHONE_RINGS;
                    state.phone = PhoneLeg::Rings { until };
                }
                return Some(Task::Do(Do::LookForCaller));
            }
            Do::LookForCaller => {
                let is_gone = matches!(state.caller, CallerLeg::None | CallerLeg::Gone);
                return is_gone.then_some(Task::Do(Do::LookAtUselessPhone));
            }
            Do::LookAtUselessPhone => {
                let rings = matches!(state.phone, PhoneLeg::Rings { .. });
                return rings.then_some(Task::Do(Do::EndPhone));
            }
            Do::CheckBridge => {
                return Some(Task::Handle(match state.phone {
                    PhoneLeg::Talks => Happens::Bridged,
                    PhoneLeg::Rings { .. } => Happens::NotBridged { rings: true },
                    PhoneLeg::None if call.status == CallStatus::InProgress => Happens::BridgeEnded,
                    PhoneLeg::None => Happens::NotBridged { rings: false },
                }));
            }
            // The phone of a calling app answers before it waits, so the state of its leg says nothing.
            Do::SendBusy if knows_caller && !self.scope.from_app => {
                let is_answered = state.caller == CallerLeg::Talks;
                let next = if is_answered {
                    Do::LookForTalk
                } else {
                    Do::RefuseCaller
                };
                return Some(Task::Do(next));
            }
            Do::SendBusy | Do::LookForTalk if state.phone == PhoneLeg::Talks => {
                return Some(Task::Handle(Happens::Bridged));
            }
            Do::SendBusy if knows_caller => return Some(Task::Do(Do::RefuseCaller)),
            Do::SendBusy | Do::LookForTalk => return phone_too,
            Do::RefuseCaller => {
                take_down(state, LegOf::Caller, USER_BUSY);
                return phone_too;
            }
            Do::HangUp => {
                if knows_caller {
                    take_down(state, LegOf::Caller, NORMAL);
                }
                return phone_too;
            }
            // It ends the legs that the call knows.
            Do::EndPhone if state.phone_attempt > call.phone_attempt => {}
            Do::EndPhone => take_down(state, LegOf::Phone, NORMAL),
            Do::ArmTimer(at) => {
                arm(state, region, at, work.now);
                if let Some(backstop) = self.rules.backstop(work.call, at) {
                    create_schedule(state, region, true, backstop);
                }
            }
            Do::DisarmTimer => state.messages.retain(|message| {
                message.region != region || !matches!(message.from, Source::Schedule { .. })
            }),
            // The process does this one itself.
            Do::MarkEffectsCompleted(_) => {}
        }
        None
    }
}

/// Sends a delayed message for a timer.
pub fn arm(state: &mut State, region: u8, at: Time, now: Time) {
    const LONGEST_DELAY: Time = 900_000;
    let delay = at.saturating_sub(now);
    if delay <= LONGEST_DELAY {
        let due = state.clock + delay.div_ceil(1_000) * 1_000;
        let fired = Content::Event(Happens::TimerFired);
        state.send_at(due, region, fired, Source::Queue);
    }
}

/// Creates a schedule, if there is none yet.
pub fn create_schedule(state: &mut State, region: u8, talk: bool, at: Time) {
    let from = Source::Schedule { talk };
    let is_there = |message: &Message| message.from == from && message.region == region;
    if !state.messages.iter().any(is_there) {
        let fired = Content::Event(Happens::TimerFired);
        state.send_at(at.max(state.clock), region, fired, from);
    }
}

fn send_pushes(state: &mut State) -> Happens {
    for number in 0..state.devices.len() {
        let device = &mut state.devices[number];
        device.pushes += 1;
        device.is_canceled = false;
        let push = Content::Push(u8::try_from(number).unwrap_or(0));
        state.send(0, push, Source::PushService);
    }
    Happens::PushSent { at: state.clock }
}

fn cancel_pushes(state: &mut State, to: u8) {
    for (number, device) in state.devices.iter_mut().enumerate() {
        if to & (1 << number) != 0 {
            device.is_canceled = true;
            device.rings = None;
        }
    }
}

/// Ringback ends a leg.
fn take_down(state: &mut State, leg: LegOf, cause: u16) {
    let talks = state.caller == CallerLeg::Talks;
    let truth = state.truth;
    let is_excused =
        truth.app_hung_up || truth.caller_left || truth.met_too_late() || truth.was_replicated_late;
    if talks && !is_excused {
        state.truth.violated("no conversation is cut off");
    }
    end_leg(state, leg, cause, true);
}

/// A leg ends, with the one that it is bridged to, and the dialplan reports both. A leg that is gone ends no more.
pub fn end_leg(state: &mut State, leg: LegOf, cause: u16, by_us: bool) {
    let talks = state.caller == CallerLeg::Talks;
    let ends_caller = match state.caller {
        CallerLeg::None | CallerLeg::Gone => false,
        CallerLeg::Dialed | CallerLeg::Waits => leg == LegOf::Caller,
        CallerLeg::Talks => true,
    };
    let ends_phone = match state.phone {
        PhoneLeg::None => false,
        PhoneLeg::Rings { .. } => leg == LegOf::Phone,
        PhoneLeg::Talks => true,
    };
    let of_this = |is_caller: bool| {
        if is_caller {
            Side::Caller
        } else {
            Side::Callee
        }
    };
    let by = |is_caller: bool| match by_us {
        true if talks => Side::Neither,
        true if is_caller && cause == USER_BUSY => Side::Neither,
        true => of_this(is_caller),
        false => of_this(leg == LegOf::Caller),
    };
    if ends_caller {
        state.caller = CallerLeg::Gone;
        let clock = state.clock;
        state.messages.retain(|message| {
            message.due <= clock || !matches!(message.from, Source::Arrival { .. })
        });
        let ended = Happens::CallerLegEnded {
            answered: talks,
            by: by(true),
        };
        report(state, ended);
    }
    if ends_phone {
        state.phone = PhoneLeg::None;
        let ended = Happens::PhoneLegEnded {
            attempt: state.phone_attempt,
            answered: talks,
            cause: if leg == LegOf::Phone { cause } else { NORMAL },
            by: by(false),
        };
        report(state, ended);
    }
}

/// The dialplan reports an event.
pub fn report(state: &mut State, event: Happens) {
    state.send(state.reports_to, Content::Event(event), Source::Hook);
}
