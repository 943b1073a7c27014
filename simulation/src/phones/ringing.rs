//! Pushes ring devices, and silence them.

use ringback::push::{RetryAfter, RingResult};
use ringback_core::call::{Call, CallStatus, CancelAudience};
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;

use super::reactions::{react, report_ringing};
use super::registration::response;
use crate::faults::Fault;
use crate::random::Part;
use crate::sim::Sim;
use crate::state::State;
use crate::state::phones::{At, called_extension};
use crate::state::table::short;

const CLIENT_GETS_MESSAGE_AFTER: u64 = 50;

/// Which of the called extensions this is.
pub fn number_of(sim: &Sim, extension: &Extension) -> Option<usize> {
    let mut numbers = 0..sim.plan().extensions.len();
    numbers.find(|number| called_extension(*number).as_ref() == Some(extension))
}

/// All devices of the call's extension.
fn devices(sim: &Sim, call: &Call) -> Vec<At> {
    let Some(extension) = number_of(sim, &call.extension) else {
        return Vec::new();
    };
    let devices = 0..sim.plan().extensions[extension].len();
    devices.map(|device| At { extension, device }).collect()
}

/// The devices of the call's extension that have a push address.
fn registered(sim: &Sim, call: &Call) -> Vec<At> {
    let mut all = devices(sim, call);
    all.retain(|at| sim.state().phones.device(*at).plan.has_address);
    all
}

/// How many devices with a push address the call's extension has.
pub fn count(sim: &Sim, call: &Call) -> usize {
    registered(sim, call).len()
}

/// Sends a push to each device that needs one. A push service that rejects one accepts another one later.
pub fn ring(sim: &Sim, call: &Call, now: Timestamp) -> RingResult {
    let mut result = RingResult::default();
    for at in registered(sim, call) {
        let id = sim.state().phones.device(at).id.clone();
        if call.needs_no_push(&id) {
            continue;
        }
        if sim.fault(Fault::PushRejected) {
            result.retry_at = Some(RetryAfter::SERVER_ERROR.next_attempt(call.created_at, now));
            continue;
        }
        {
            let mut state = sim.state();
            let device = state.phones.device(at);
            result.accepted.insert(id);
            let ring = device.ring_of(call.call_id);
            ring.pushes += 1;
            ring.is_canceled = false;
        }
        if sim.fault(Fault::PushLost) {
            continue;
        }
        let late = if sim.fault(Fault::PushLate) {
            sim.between(Part::Pushes, 1_000, 20_000)
        } else {
            sim.between(Part::Pushes, 100, 1_500)
        };
        let (id, until, pushed_at) = (call.call_id, call.rings_until, sim.now());
        let sim = sim.clone();
        sim.clone().spawn(async move {
            sim.sleep(late).await;
            device_rings(&sim, at, id, until, Some(pushed_at)).await;
        });
    }
    result
}

/// Rings the connected apps of this region. Returns how many are connected in all regions.
pub fn ring_clients(sim: &Sim, region: usize, call: &Call) -> u32 {
    let mut clients = 0;
    for at in devices(sim, call) {
        let connected_to = sim.state().phones.device(at).plan.connected_to;
        clients += u32::from(connected_to.is_some());
        if connected_to == Some(region) {
            rings_soon(sim, at, call);
        }
    }
    clients
}

fn rings_soon(sim: &Sim, at: At, call: &Call) {
    let (sim, id, until) = (sim.clone(), call.call_id, call.rings_until);
    sim.clone().spawn(async move {
        sim.sleep(CLIENT_GETS_MESSAGE_AFTER).await;
        device_rings(&sim, at, id, until, None).await;
    });
}

/// The connected apps of this region get a status update: they ring, or stop ringing.
pub fn update_clients(sim: &Sim, region: usize, call: &Call) {
    for at in devices(sim, call) {
        if sim.state().phones.device(at).plan.connected_to != Some(region) {
            continue;
        }
        if call.status == CallStatus::WaitingForMobile {
            rings_soon(sim, at, call);
            continue;
        }
        let (sim, id) = (sim.clone(), call.call_id);
        sim.clone().spawn(async move {
            sim.sleep(CLIENT_GETS_MESSAGE_AFTER).await;
            let elapsed = sim.elapsed();
            let mut state = sim.state();
            let ring = state.phones.device(at).ring_of(id);
            ring.silenced.get_or_insert(elapsed);
            ring.stops(elapsed);
        });
    }
}

/// An app that reads its call before it rings, as iOS apps must, does not ring for one that is over.
fn is_known_to_be_over(state: &State, at: At, call: CallId) -> bool {
    let looks = state.phones.extensions[at.extension][at.device]
        .plan
        .looks_before_it_rings;
    let known = state.tables[0].call(call);
    looks && known.is_some_and(|(call, _)| call.status.is_final())
}

/// `pushed_at`: when the push was sent, or `None` for a message to a connected app, which has no `answer_url`.
async fn device_rings(
    sim: &Sim,
    at: At,
    call: CallId,
    until: Timestamp,
    pushed_at: Option<Timestamp>,
) {
    let ring_time = until.since(sim.now()).as_millis();
    let Some(response) = response(sim, at, call) else {
        return;
    };
    {
        let mut state = sim.state();
        if is_known_to_be_over(&state, at, call) {
            return;
        }
        let ring = state.phones.device(at).ring_of(call);
        if ring.began.is_some() || ring_time == 0 {
            return;
        }
        ring.began = Some(sim.elapsed());
    }
    sim.note(|| {
        format!(
            "device{} of {} rings for {}",
            at.device,
            at.extension,
            short(call)
        )
    });
    if let Some(pushed_at) = pushed_at {
        let reports = sim.clone();
        sim.spawn(async move {
            report_ringing(&reports, at, call, pushed_at).await;
        });
    }
    let stops = sim.clone();
    sim.spawn(async move {
        stops.sleep(u64::try_from(ring_time).unwrap_or(0)).await;
        let mut state = stops.state();
        state.phones.device(at).ring_of(call).stops(stops.elapsed());
    });
    sim.sleep(response.after).await;
    let still_rings = sim.state().phones.device(at).ring_of(call).rings();
    if still_rings {
        react(sim, at, call, response).await;
    }
}

/// Sends a cancellation to the devices of this audience.
pub fn cancel(sim: &Sim, call: &Call, to: &CancelAudience) {
    for at in registered(sim, call) {
        let mut state = sim.state();
        let device = state.phones.device(at);
        if !to.includes(&device.id) {
            continue;
        }
        device.ring_of(call.call_id).is_canceled = true;
        let arrives_after = state.random.of_part(Part::Pushes).u64(100..1_500);
        drop(state);
        let (sim, id) = (sim.clone(), call.call_id);
        sim.clone().spawn(async move {
            sim.sleep(arrives_after).await;
            let elapsed = sim.elapsed();
            let mut state = sim.state();
            let ring = state.phones.device(at).ring_of(id);
            ring.silenced.get_or_insert(elapsed);
            ring.stops(elapsed);
        });
    }
}
