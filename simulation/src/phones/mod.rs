//! The callee's devices: their apps, which pushes wake, and their phones. And the calling apps.

mod registration;
mod ringing;

use fastrand::Rng;
use ringback_core::call::{CallParty, Event, Readiness};
use ringback_core::ids::{CallId, DeviceId, Extension};

use registration::{Contact, register, unregister};
pub use registration::{Registration, is_registered, phone_rings};
pub use ringing::{Ring, cancel, count, ring};

use crate::functions::{self, Answer};
use crate::scenario::{DevicePlan, Reaction, Response, Scenario};
use crate::sim::{Sim, State};

/// All phones and apps.
pub struct Phones {
    /// The devices of each extension.
    pub extensions: Vec<Vec<PhoneDevice>>,
    /// Whether the apps name their device if they are the only one.
    name_devices: bool,
    /// Where the phones of the calling apps are registered.
    caller_at: usize,
    /// The address at which each PBX reaches each extension: the one that registered last.
    contacts: Vec<Contact>,
    pub registrations: Vec<Registration>,
    /// The calls for which the callee's phone was dialed.
    dialed: Vec<CallId>,
}

/// One device of the callee.
pub struct PhoneDevice {
    pub id: DeviceId,
    pub plan: DevicePlan,
    pub rings: Vec<Ring>,
    /// Which of its addresses the phone has now.
    address: u32,
    has_registered: bool,
}

/// A device of an extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    pub extension: usize,
    pub device: usize,
}

const ATTEMPTS: usize = 8;
const PAUSE: u64 = 700;

pub fn callee(number: usize) -> Option<Extension> {
    Extension::try_from(format!("{}", 1001 + number).as_str()).ok()
}

pub fn caller(number: usize) -> Option<Extension> {
    Extension::try_from(format!("{}", 2001 + number).as_str()).ok()
}

impl Phones {
    pub fn of(plan: &Scenario, rng: &mut Rng) -> Self {
        let device = |(number, plan): (usize, &DevicePlan)| {
            Some(PhoneDevice {
                id: DeviceId::try_from(format!("device{number}").as_str()).ok()?,
                plan: plan.clone(),
                rings: Vec::new(),
                address: 0,
                has_registered: false,
            })
        };
        let extension = |devices: &Vec<DevicePlan>| {
            let devices = devices.iter().enumerate();
            devices.filter_map(device).collect()
        };
        Self {
            extensions: plan.extensions.iter().map(extension).collect(),
            name_devices: rng.bool(),
            caller_at: rng.usize(0..plan.pbxs),
            contacts: Vec::new(),
            registrations: Vec::new(),
            dialed: Vec::new(),
        }
    }

    pub fn device(&mut self, at: At) -> &mut PhoneDevice {
        &mut self.extensions[at.extension][at.device]
    }

    fn party(&self, at: At) -> Option<CallParty> {
        let devices = &self.extensions[at.extension];
        let id = devices[at.device].id.clone();
        Some(CallParty {
            extension: callee(at.extension)?,
            device: (self.name_devices || devices.len() > 1).then_some(id),
        })
    }
}

/// What the user of this device does with the call.
fn response(sim: &Sim, at: At, call: CallId) -> Option<Response> {
    let caller = sim.state().truth.caller_of(call);
    let plan = &sim.plan().calls[caller];
    plan.responses.get(at.device).copied()
}

async fn react(sim: &Sim, at: At, call: CallId, response: Response) {
    let Some(by) = sim.state().phones.party(at) else {
        return;
    };
    let device = at.device;
    if response.reaction != Reaction::Ignore {
        let mut state = sim.state();
        let elapsed = sim.elapsed();
        state.phones.device(at).ring_of(call).stops(elapsed);
    }
    sim.note(|| format!("the user of device{device} reacts: {:?}", response.reaction));
    let accepts = |readiness| Event::Accepted {
        by: by.clone(),
        readiness,
    };
    let has_accepted = |sim: &Sim| {
        let mut state = sim.state();
        state.phones.device(at).ring_of(call).has_accepted = true;
    };
    match response.reaction {
        Reaction::Ignore => {}
        Reaction::Decline => {
            let answer = respond(sim, call, Event::Declined { by }).await;
            settle(sim, at, call, answer);
        }
        Reaction::AcceptAndDie => {
            register(sim, at);
            functions::app_responds(sim, 0, call, accepts(Readiness::Running)).await;
            let mut state = sim.state();
            state.phones.device(at).ring_of(call).is_settled = true;
        }
        Reaction::Accept | Reaction::AcceptTwice => {
            register(sim, at);
            has_accepted(sim);
            if response.reaction == Reaction::AcceptTwice {
                let (again, event) = (sim.clone(), accepts(Readiness::Running));
                sim.spawn(async move {
                    respond(&again, call, event).await;
                });
                sim.sleep(response.answers_after).await;
            }
            let answer = respond(sim, call, accepts(Readiness::Woken)).await;
            settle(sim, at, call, answer);
        }
    }
}

/// The app knows what has become of its request. One that was rejected takes no call, so its phone leaves.
fn settle(sim: &Sim, at: At, call: CallId, answer: Answer) {
    let mut state = sim.state();
    let ring = state.phones.device(at).ring_of(call);
    let had_accepted = ring.has_accepted;
    if answer == Answer::Rejected {
        ring.has_accepted = false;
    }
    ring.is_settled = matches!(answer, Answer::Done(_) | Answer::Rejected);
    if had_accepted && answer == Answer::Rejected {
        unregister(sim, &mut state, at);
    }
}

/// The app repeats its request until it is answered, to the regions in turn.
pub async fn respond(sim: &Sim, call: CallId, event: Event) -> Answer {
    for attempt in 0..ATTEMPTS {
        let region = if sim.plan().regions == 2 {
            attempt % 2
        } else {
            0
        };
        let answer = functions::app_responds(sim, region, call, event.clone()).await;
        sim.note(|| {
            format!(
                "the app gets {answer} for {} from region {region}",
                event.as_str()
            )
        });
        match answer {
            Answer::Done(_) | Answer::Rejected => return answer,
            Answer::NoSuchCall | Answer::Failed | Answer::Nothing => sim.sleep(PAUSE).await,
        }
    }
    Answer::Nothing
}

/// The app that is in the call hangs up through Ringback.
pub async fn app_hangs_up(sim: &Sim, call: CallId, calling: usize, is_caller: bool) {
    let extension = sim.plan().calls[calling].extension;
    let by = if is_caller {
        caller(calling).map(|extension| CallParty {
            extension,
            device: None,
        })
    } else {
        let state = sim.state();
        let mut devices = state.phones.extensions[extension].iter();
        let accepted = |device: &PhoneDevice| {
            let mut rings = device.rings.iter();
            rings.any(|ring| ring.call == call && ring.has_accepted)
        };
        let device = devices.position(accepted).unwrap_or(0);
        state.phones.party(At { extension, device })
    };
    if let Some(by) = by {
        respond(sim, call, Event::HungUp { by }).await;
    }
}

/// The phone of a calling app is registered with one PBX.
pub fn is_caller_registered(state: &State, pbx: usize) -> bool {
    state.phones.caller_at == pbx
}
