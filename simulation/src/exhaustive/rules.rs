//! The real rules. Each question is asked once, and its answer kept: the calls that a scope knows are few.

use std::collections::{BTreeSet, HashMap};
use std::rc::Rc;
use std::time::Duration;

use ringback_core::call::{
    Backstop, Call, CallKind, CallParty, CallSettings, CallSide, CallType, CallWaiting, Decision,
    DeclineEnds, Effect, Event, NewCall, PushedDevices, Readiness, Rejection, StreamAction, decide,
    first_effects, stream_action, unread_update,
};
use ringback_core::ids::{BadName, CallId, ChannelId, DeviceId, Extension, Leg, PbxName};
use ringback_core::timestamp::Timestamp;

use super::state::{CallRef, Do, Happens, RING, Side, Time};

const START: u64 = 1_795_000_000_000;
const REGIONS: [&str; 2] = ["primary", "fallback"];

/// All calls that were ever stored, and what the rules say about them.
pub struct Rules {
    calls: Vec<Call>,
    places: HashMap<String, CallRef>,
    decided: HashMap<(CallRef, Happens, Time), Rc<Decided>>,
    streamed: HashMap<(Option<CallRef>, CallRef, u8, u8), Streamed>,
    names: Names,
}

struct Names {
    callee: Extension,
    caller: Extension,
    devices: Vec<DeviceId>,
    pbx: PbxName,
    leg: ChannelId,
    call: CallId,
}

/// What follows from an event.
#[derive(Debug)]
pub struct Decided {
    /// The call to store. `None`: it stays as it is.
    pub next: Option<CallRef>,
    pub is_rejected: bool,
    pub first: Vec<Do>,
    pub last: Vec<Do>,
}

/// What a region does about a change in its table's stream.
#[derive(Clone, Copy, Debug)]
pub enum Streamed {
    Nothing,
    CreateBackstop(Time),
    ArmTimer { at: Time, backstop: Time },
    Merge,
}

fn at(time: Time) -> Timestamp {
    Timestamp::from_millis(START + u64::from(time))
}

fn since_start(moment: Timestamp) -> Time {
    u32::try_from(moment.as_millis().saturating_sub(START)).unwrap_or(Time::MAX)
}

impl Rules {
    pub fn new(devices: usize, from_app: bool) -> Result<Self, BadName> {
        let callee = Extension::try_from("1001")?;
        let devices = (0..devices).map(|number| DeviceId::try_from(format!("device{number}")));
        let pbx = PbxName::try_from("pbx")?;
        let leg = ChannelId::try_from("1795000000.1")?;
        let arrival = Leg {
            pbx: pbx.clone(),
            channel: leg.clone(),
        };
        let call = CallId::of_leg(&arrival, &callee).unwrap_or_else(CallId::fresh);
        let leg = if from_app {
            ChannelId::of_app_caller(call)
        } else {
            leg
        };
        Ok(Self {
            calls: Vec::new(),
            places: HashMap::new(),
            decided: HashMap::new(),
            streamed: HashMap::new(),
            names: Names {
                caller: Extension::try_from("1002")?,
                devices: devices.collect::<Result<_, _>>()?,
                callee,
                pbx,
                leg,
                call,
            },
        })
    }

    pub fn call(&self, place: CallRef) -> &Call {
        &self.calls[usize::from(place)]
    }

    /// When the ring of a call ends.
    pub fn rings_until(&self, place: CallRef) -> Time {
        since_start(self.call(place).rings_until)
    }

    /// When a call ended.
    pub fn ended_at(&self, place: CallRef) -> Option<Time> {
        self.call(place).ended_at().map(since_start)
    }

    /// Whether the effects pending since this moment are the last that were completed.
    pub fn has_completed(&self, place: CallRef, since: Time) -> bool {
        self.call(place).effects_completed == Some(at(since))
    }

    /// Keeps what the rules read of a call. Each region counts its versions, and a version that says the same counts as the same.
    fn keep(&mut self, mut call: Call) -> CallRef {
        call.version = 1;
        call.history.clear();
        call.expires_at = 0;
        let key = format!("{call:?}");
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        let place = CallRef::try_from(self.calls.len()).unwrap_or(CallRef::MAX);
        self.calls.push(call);
        self.places.insert(key, place);
        place
    }

    /// The new call, and its first effects.
    pub fn begin(&mut self, from_app: bool, now: Time) -> (CallRef, Vec<Do>) {
        let kind = if from_app {
            CallKind::BetweenApps {
                caller: self.names.caller.clone(),
                device: None,
            }
        } else {
            CallKind::FromTrunk {
                number: None,
                name: None,
            }
        };
        let new = NewCall {
            call_id: self.names.call,
            extension: self.names.callee.clone(),
            kind,
            call_type: CallType::Voice,
            caller_leg: (!from_app).then(|| self.names.leg()),
            call_sid: None,
        };
        let seconds = Duration::from_secs;
        let settings = CallSettings {
            ring: Duration::from_millis(RING.into()),
            connect: seconds(15),
            talk: seconds(600),
            check: seconds(30),
            decline_ends: DeclineEnds::Device,
            kept_seconds: 7 * 24 * 60 * 60,
            unanswered: Rejection::default(),
            call_waiting: CallWaiting::default(),
        };
        let call = Call::new(new, settings, at(now));
        let mut effects = first_effects(&call);
        if from_app {
            // Such a call's timer is armed before it is stored.
            effects.retain(|effect| !matches!(effect, Effect::ArmTimer(_)));
        }
        let effects = self.names.small(&effects);
        (self.keep(call), effects)
    }

    pub fn decide(&mut self, call: CallRef, event: Happens, now: Time) -> Rc<Decided> {
        let key = (call, event, now);
        if let Some(known) = self.decided.get(&key) {
            return known.clone();
        }
        let stored = self.call(call).clone();
        let full = self.event(event);
        let (next, effects, is_rejected) = handle(&stored, &full, at(now));
        let next = next.map(|next| self.keep(next));
        let (last, first) =
            self.names.small(&effects).into_iter().partition(|effect| {
                matches!(effect, Do::MarkEffectsCompleted(_) | Do::DisarmTimer)
            });
        let decided = Rc::new(Decided {
            next,
            is_rejected,
            first,
            last,
        });
        self.decided.insert(key, decided.clone());
        decided
    }

    pub fn streamed(
        &mut self,
        before: Option<CallRef>,
        after: CallRef,
        stored_in: u8,
        here: u8,
    ) -> Streamed {
        let key = (before, after, stored_in, here);
        if let Some(known) = self.streamed.get(&key) {
            return *known;
        }
        let region = |number: u8| REGIONS[usize::from(number)];
        let before = before.map(|before| self.call(before));
        let stored_in = Some(region(stored_in));
        let action = match stream_action(before, self.call(after), stored_in, region(here)) {
            None => Streamed::Nothing,
            Some(StreamAction::CreateBackstop { backstop, .. }) => {
                Streamed::CreateBackstop(since_start(backstop.at))
            }
            Some(StreamAction::ArmTimer { at, backstop, .. }) => Streamed::ArmTimer {
                at: since_start(at),
                backstop: since_start(backstop.at),
            },
            Some(StreamAction::Merge(_)) => Streamed::Merge,
        };
        self.streamed.insert(key, action);
        action
    }

    /// When the backstop of a conversation fires, if a timer gets one.
    pub fn backstop(&self, call: CallRef, timer: Time) -> Option<Time> {
        let Backstop { at: moment, .. } = self.call(call).backstop(at(timer))?;
        Some(since_start(moment))
    }

    fn event(&self, event: Happens) -> Event {
        let names = &self.names;
        let leg = || names.leg();
        match event {
            Happens::CallerReported => Event::CallerReported {
                caller_leg: Some(leg()),
                call_sid: None,
            },
            Happens::RequestedAgain => Event::RequestedAgain,
            Happens::PushSent { at: moment } => Event::PushSent(PushedDevices {
                devices: names.devices.iter().cloned().collect(),
                at: at(moment),
                are_all: true,
                retry_at: None,
                earlier: [].into(),
                clients: 0,
            }),
            Happens::CallerPhoneDialed => Event::CallerPhoneDialed,
            Happens::Accepted(device) => Event::Accepted {
                by: names.party(device),
                readiness: Readiness::Woken,
            },
            Happens::Declined(device) => Event::Declined {
                by: names.party(device),
            },
            Happens::AppHangsUp(device) => Event::HungUp {
                by: names.party(device),
            },
            Happens::CallerLegEnded { answered, by } => Event::CallerLegEnded {
                leg: Some(leg()),
                answered,
                by: by.into(),
            },
            Happens::PhoneLegEnded {
                attempt,
                answered,
                cause,
                by,
            } => Event::PhoneLegEnded {
                pbx: names.pbx.clone(),
                attempt,
                answered,
                cause,
                by: by.into(),
            },
            Happens::Bridged => Event::Bridged,
            Happens::BridgeEnded => Event::BridgeEnded,
            Happens::NotBridged { rings } => Event::NotBridged { rings },
            Happens::TimerFired => Event::TimerFired,
            Happens::Overwritten(call) => {
                Event::ReplicaOverwritten(Box::new(self.call(call).clone()))
            }
            Happens::EffectsCompleted { pending_since } => Event::EffectsCompleted {
                effects_pending_since: at(pending_since),
            },
        }
    }
}

/// Handles an event as the switchboard does: first the write that needs no reading, then the decision about the call.
fn handle(call: &Call, event: &Event, now: Timestamp) -> (Option<Call>, Vec<Effect>, bool) {
    if let Some(unread) = unread_update(event, now)
        && unread
            .update
            .conditions
            .iter()
            .all(|condition| condition.holds(call))
    {
        let next = call.apply(&unread.update.change);
        let effects = unread.effects(&next, now);
        return (Some(next), effects, false);
    }
    match decide(call, event, now) {
        Decision::Advance { change, effects } => (Some(call.apply(&change)), effects, false),
        Decision::Stay { effects } => (None, effects, false),
        Decision::Reject(_) => (None, Vec::new(), true),
    }
}

impl Names {
    fn leg(&self) -> Leg {
        Leg {
            pbx: self.pbx.clone(),
            channel: self.leg.clone(),
        }
    }

    fn party(&self, device: u8) -> CallParty {
        CallParty {
            extension: self.callee.clone(),
            device: self.devices.get(usize::from(device)).cloned(),
        }
    }

    fn small(&self, effects: &[Effect]) -> Vec<Do> {
        let small = |effect: &Effect| match effect {
            Effect::SendPush => Some(Do::SendPush),
            Effect::CancelPush { to, .. } => {
                let bits = self.devices.iter().enumerate();
                let included = bits.filter(|(_, device)| to.includes(device));
                Some(Do::CancelPush(
                    included.map(|(number, _)| 1_u8 << number).sum(),
                ))
            }
            Effect::DialCallerPhone => Some(Do::DialCallerPhone),
            Effect::Bridge => Some(Do::Bridge),
            Effect::CheckBridge => Some(Do::CheckBridge),
            Effect::SendBusy => Some(Do::SendBusy),
            Effect::HangUp => Some(Do::HangUp),
            Effect::ArmTimer(at) => Some(Do::ArmTimer(since_start(*at))),
            Effect::MarkEffectsCompleted(since) => {
                Some(Do::MarkEffectsCompleted(since_start(*since)))
            }
            Effect::DisarmTimer => Some(Do::DisarmTimer),
            // Only for calls to numbers.
            Effect::PlaceOutboundCall | Effect::QueryExotel => None,
        };
        let all: BTreeSet<Do> = effects.iter().filter_map(small).collect();
        all.into_iter().collect()
    }
}

impl From<Side> for CallSide {
    fn from(side: Side) -> Self {
        match side {
            Side::Caller => Self::Caller,
            Side::Callee => Self::Callee,
            Side::Neither => Self::Neither,
        }
    }
}
