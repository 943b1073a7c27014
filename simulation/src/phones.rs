//! The callee's devices: their apps, which pushes wake, and their phones, which register with the PBX. And the calling app.

use std::collections::BTreeSet;

use fastrand::Rng;
use ringback_core::call::{Call, CallParty, CancelAudience, Event, Readiness};
use ringback_core::ids::{CallId, ChannelId, DeviceId, Extension};
use ringback_core::timestamp::Timestamp;

use crate::faults::Fault;
use crate::functions::{self, Answer};
use crate::pbx;
use crate::scenario::{Answers, DevicePlan, Reaction, Scenario};
use crate::sim::{Sim, State};
use crate::table::short;

/// All phones and apps.
pub struct Phones {
    pub devices: Vec<PhoneDevice>,
    /// Whether the apps name their device.
    name_devices: bool,
    /// Where the phone of the calling app is registered.
    caller_at: usize,
    /// How often the callee's phone was dialed.
    dialed: u32,
}

/// One device of the callee.
pub struct PhoneDevice {
    pub id: DeviceId,
    pub plan: DevicePlan,
    pub rings: Vec<Ring>,
    pub has_accepted: bool,
    is_registered: bool,
}

/// One call on one device.
pub struct Ring {
    pub call: CallId,
    /// How often a push was sent, and whether a cancellation was sent after the last one.
    pub pushes: u32,
    pub is_canceled: bool,
    /// The app knows what became of the call without a cancellation.
    pub is_settled: bool,
    /// When the ring that was seen last began and ended.
    pub rings_since: Option<u64>,
    has_reacted: bool,
}

const CALLEE: &str = "1001";
const CALLER: &str = "1002";
const ATTEMPTS: usize = 8;
const PAUSE: u64 = 700;

pub fn callee() -> Option<Extension> {
    Extension::try_from(CALLEE).ok()
}

pub fn caller() -> Option<Extension> {
    Extension::try_from(CALLER).ok()
}

impl Phones {
    pub fn of(plan: &Scenario, rng: &mut Rng) -> Self {
        let id = |number: usize| DeviceId::try_from(format!("device{number}")).ok();
        let device = |(number, plan): (usize, &DevicePlan)| {
            Some(PhoneDevice {
                id: id(number)?,
                plan: *plan,
                rings: Vec::new(),
                has_accepted: false,
                is_registered: false,
            })
        };
        let devices: Vec<_> = plan.devices.iter().enumerate().filter_map(device).collect();
        Self {
            name_devices: devices.len() > 1 || rng.bool(),
            devices,
            caller_at: rng.usize(0..plan.pbxs),
            dialed: 0,
        }
    }

    fn party(&self, device: usize) -> Option<CallParty> {
        let id = self.devices[device].id.clone();
        Some(CallParty {
            extension: callee()?,
            device: self.name_devices.then_some(id),
        })
    }
}

impl PhoneDevice {
    fn ring_of(&mut self, call: CallId) -> &mut Ring {
        let place = self.rings.iter().position(|ring| ring.call == call);
        let place = place.unwrap_or_else(|| {
            self.rings.push(Ring {
                call,
                pushes: 0,
                is_canceled: false,
                is_settled: false,
                rings_since: None,
                has_reacted: false,
            });
            self.rings.len() - 1
        });
        &mut self.rings[place]
    }
}

/// Sends a push to each device. Returns those to which it was sent.
pub fn ring(sim: &Sim, call: &Call) -> BTreeSet<DeviceId> {
    let mut sent = BTreeSet::new();
    for number in 0..sim.plan().devices.len() {
        if sim.fault(Fault::PushRejected) {
            continue;
        }
        {
            let mut state = sim.state();
            let device = &mut state.phones.devices[number];
            sent.insert(device.id.clone());
            let ring = device.ring_of(call.call_id);
            ring.pushes += 1;
            ring.is_canceled = false;
        }
        if sim.fault(Fault::PushLost) {
            continue;
        }
        let late = if sim.fault(Fault::PushLate) {
            sim.between(1_000, 20_000)
        } else {
            sim.between(100, 1_500)
        };
        let (id, until) = (call.call_id, call.rings_until);
        let sim = sim.clone();
        sim.clone().spawn(async move {
            sim.sleep(late).await;
            device_rings(&sim, number, id, until).await;
        });
    }
    sent
}

async fn device_rings(sim: &Sim, number: usize, call: CallId, until: Timestamp) {
    let ring_time = until.since(sim.now()).as_millis();
    let plan = {
        let mut state = sim.state();
        let elapsed = sim.elapsed();
        let device = &mut state.phones.devices[number];
        let plan = device.plan;
        let ring = device.ring_of(call);
        if ring.has_reacted || ring_time == 0 {
            return;
        }
        ring.has_reacted = true;
        ring.rings_since = Some(elapsed);
        plan
    };
    sim.note(|| format!("device{number} rings for {}", short(call)));
    let stops = sim.clone();
    sim.spawn(async move {
        stops.sleep(u64::try_from(ring_time).unwrap_or(0)).await;
        stops.state().phones.devices[number]
            .ring_of(call)
            .rings_since = None;
    });
    sim.sleep(plan.after).await;
    let still_rings = {
        let mut state = sim.state();
        state.phones.devices[number]
            .ring_of(call)
            .rings_since
            .is_some()
    };
    if still_rings {
        react(sim, number, call, plan).await;
    }
}

async fn react(sim: &Sim, number: usize, call: CallId, plan: DevicePlan) {
    let Some(by) = sim.state().phones.party(number) else {
        return;
    };
    sim.note(|| format!("the user of device{number} reacts: {:?}", plan.reaction));
    let accepts = |readiness| Event::Accepted {
        by: by.clone(),
        readiness,
    };
    match plan.reaction {
        Reaction::Ignore => {}
        Reaction::Decline => {
            let answer = respond(sim, number, call, Event::Declined { by }).await;
            settle(sim, number, call, answer);
        }
        Reaction::AcceptAndDie => {
            register(sim, number, plan.registers_after);
            functions::app_responds(sim, 0, call, accepts(Readiness::Running)).await;
            let mut state = sim.state();
            state.phones.devices[number].ring_of(call).is_settled = true;
        }
        Reaction::Accept | Reaction::AcceptTwice => {
            register(sim, number, plan.registers_after);
            sim.state().phones.devices[number].has_accepted = true;
            if plan.reaction == Reaction::AcceptTwice {
                let (again, event) = (sim.clone(), accepts(Readiness::Running));
                sim.spawn(async move {
                    respond(&again, number, call, event).await;
                });
                sim.sleep(plan.answers_after).await;
            }
            let answer = respond(sim, number, call, accepts(Readiness::Woken)).await;
            settle(sim, number, call, answer);
        }
    }
}

fn register(sim: &Sim, number: usize, after: u64) {
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(after).await;
        sim.state().phones.devices[number].is_registered = true;
    });
}

fn settle(sim: &Sim, number: usize, call: CallId, answer: Answer) {
    let mut state = sim.state();
    if answer == Answer::Rejected {
        state.phones.devices[number].has_accepted = false;
    }
    let ring = state.phones.devices[number].ring_of(call);
    ring.rings_since = None;
    ring.is_settled = matches!(answer, Answer::Done(_) | Answer::Rejected);
}

/// The app repeats its request until it is answered, to the regions in turn.
async fn respond(sim: &Sim, number: usize, call: CallId, event: Event) -> Answer {
    for attempt in 0..ATTEMPTS {
        let region = if sim.plan().regions == 2 {
            attempt % 2
        } else {
            0
        };
        let answer = functions::app_responds(sim, region, call, event.clone()).await;
        sim.note(|| format!("device{number} gets {answer} from region {region}"));
        match answer {
            Answer::Done(_) | Answer::Rejected => return answer,
            Answer::NoSuchCall | Answer::Failed | Answer::Nothing => sim.sleep(PAUSE).await,
        }
    }
    Answer::Nothing
}

/// The app that is in the call hangs up through Ringback.
pub async fn app_hangs_up(sim: &Sim, call: CallId, is_caller: bool) {
    let number = {
        let state = sim.state();
        let mut devices = state.phones.devices.iter();
        devices.position(|device| device.has_accepted).unwrap_or(0)
    };
    let by = match is_caller {
        true => caller().map(|extension| CallParty {
            extension,
            device: None,
        }),
        false => sim.state().phones.party(number),
    };
    if let Some(by) = by {
        respond(sim, number, call, Event::HungUp { by }).await;
    }
}

/// Sends a cancellation to the devices of this audience.
pub fn cancel(sim: &Sim, call: &Call, to: &CancelAudience) {
    for number in 0..sim.plan().devices.len() {
        let mut state = sim.state();
        let device = &mut state.phones.devices[number];
        if !to.includes(&device.id) {
            continue;
        }
        device.ring_of(call.call_id).is_canceled = true;
        let arrives_after = state.rng.u64(100..1_500);
        drop(state);
        let (sim, id) = (sim.clone(), call.call_id);
        sim.clone().spawn(async move {
            sim.sleep(arrives_after).await;
            sim.state().phones.devices[number].ring_of(id).rings_since = None;
        });
    }
}

/// Whether a phone of the callee is registered. The callee's phones register with all PBXs.
pub fn is_registered(state: &State, _pbx: usize) -> bool {
    state
        .phones
        .devices
        .iter()
        .any(|device| device.is_registered)
}

pub fn is_caller_registered(state: &State, pbx: usize) -> bool {
    state.phones.caller_at == pbx
}

/// The callee's phone rings on this leg, and does what its user wants.
pub fn phone_rings(sim: &Sim, state: &mut State, pbx: usize, id: ChannelId, serial: u32) {
    state.phones.dialed += 1;
    let is_first = state.phones.dialed == 1;
    let mut devices = state.phones.devices.iter();
    let Some(device) = devices.find(|device| device.has_accepted && device.is_registered) else {
        return;
    };
    let plan = device.plan;
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep(plan.answers_after).await;
        match plan.answers {
            Answers::Never => {}
            Answers::Declines => pbx::end_if(&sim, pbx, &id, serial, 21, |_| true),
            Answers::AtTheSecondAttempt if is_first => {
                pbx::end_if(&sim, pbx, &id, serial, 20, |_| true)
            }
            Answers::Yes | Answers::AtTheSecondAttempt => {
                pbx::phone_answers(&sim, pbx, &id, serial)
            }
        }
    });
}
