//! What users do with a call, and what their apps then send.

use ringback_core::call::{CallParty, Event, PushPlatform, Readiness, RingReceipt};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

use super::registration::{register, unregister};
use crate::requests::{Answer, Request};
use crate::scenario::{Reaction, Response};
use crate::sim::Sim;
use crate::state::phones::{At, PhoneDevice, calling_extension};

const ATTEMPTS: usize = 8;
const PAUSE: u64 = 700;

/// An app that a push has started has a few seconds to report that it rings.
const REPORT_ATTEMPTS: usize = 3;

pub async fn react(sim: &Sim, at: At, call: CallId, response: Response) {
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
            let by = with_answer_url(sim, at).unwrap_or(by);
            let answer = respond(sim, call, Event::Declined { by }).await;
            settle(sim, at, call, answer);
        }
        Reaction::AcceptAndDie => {
            register(sim, at);
            sim.request(0, Request::AppResponds(call, accepts(Readiness::Running)))
                .await;
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

/// The app as the token in its push names it, if it uses the token.
fn with_answer_url(sim: &Sim, at: At) -> Option<CallParty> {
    let mut state = sim.state();
    let party = state.phones.party(at)?;
    let device = state.phones.device(at);
    device.plan.uses_answer_url.then(|| CallParty {
        device: Some(device.id.clone()),
        ..party
    })
}

/// The app reports that its device rings, if it uses the token of its push.
pub async fn report_ringing(sim: &Sim, at: At, call: CallId, pushed_at: Timestamp) {
    let Some(by) = with_answer_url(sim, at) else {
        return;
    };
    for attempt in 0..REPORT_ATTEMPTS {
        let region = attempt % sim.plan().regions;
        let receipt = RingReceipt {
            at: sim.now(),
            pushed_at,
            platform: PushPlatform::Fcm,
        };
        let by = by.clone();
        let event = Event::DeviceRings { by, receipt };
        let answer = sim.request(region, Request::AppResponds(call, event)).await;
        if matches!(answer, Answer::Done(_)) {
            sim.state().phones.device(at).ring_of(call).is_reported = true;
            return;
        }
        sim.sleep(PAUSE).await;
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
        let answer = sim
            .request(region, Request::AppResponds(call, event.clone()))
            .await;
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
        calling_extension(calling).map(|extension| CallParty {
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
