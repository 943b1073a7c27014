//! The timers of one region: delayed messages of SQS, on time, and schedules of EventBridge Scheduler, up to a minute late.

use std::time::Duration;

use ringback_core::call::{Backstop, Call};
use ringback_core::timestamp::Timestamp;

use crate::faults::Fault;
use crate::process::Process;
use crate::random::Part;
use crate::sim::Sim;
use crate::state::table::short;
use crate::state::timers::{Message, Timer};

/// SQS delays no message for longer.
const LONGEST_DELAY: Duration = Duration::from_secs(900);
const VISIBILITY: u64 = 15_000;
const MOST_RECEIVES: u32 = 10;
/// How many messages a process gets at once.
const BATCH: usize = 5;

/// No timer could be armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no timer could be armed")]
pub struct NotArmed;

/// Arms a timer of the call: a message, and its backstop if it gets one. One of them is enough for a live call, behind
/// which the stream's schedule stands. An ended call needs the message.
pub async fn arm(
    process: &Process,
    call: &Call,
    at: Timestamp,
    now: Timestamp,
    backstop: Option<Backstop>,
) -> Result<(), NotArmed> {
    let delay = at.since(now);
    process.note(|| {
        format!(
            "arms a timer in {} ms for {}",
            delay.as_millis(),
            short(call.call_id)
        )
    });
    process.sim.state().timers[process.region].armed += 1;
    let schedule = |may_fail| {
        backstop.map_or(Ok(()), |backstop| {
            create_schedule(process, call, backstop, may_fail)
        })
    };
    if delay > LONGEST_DELAY {
        return schedule(true);
    }
    let on_time = send(process, check(call), delay.as_millis().div_ceil(1000), true);
    // Nothing promises a timer if SQS loses the message and the scheduler fails.
    let backstop = schedule(on_time != Ok(Sent::Lost));
    let on_time = on_time.map(|_| ());
    if call.status.is_final() {
        return on_time;
    }
    on_time.or(backstop)
}

/// Creates the backstop of a new call: a schedule, or a message if the scheduler rejects it.
pub fn create_backstop(process: &Process, call: &Call, backstop: Backstop) -> Result<(), NotArmed> {
    let delay = backstop.at.since(process.now());
    if !delay.is_zero() && create_schedule(process, call, backstop, true).is_ok() {
        return Ok(());
    }
    send(
        process,
        check(call),
        delay.as_millis().div_ceil(1000),
        false,
    )
    .map(|_| ())
}

fn check(call: &Call) -> Timer {
    Timer {
        call_id: call.call_id,
        overwritten: None,
    }
}

/// Sends what replication has overwritten to the queue.
pub fn send_overwritten(process: &Process, version: &Call) -> Result<(), NotArmed> {
    let timer = Timer {
        call_id: version.call_id,
        overwritten: Some(Box::new(version.clone())),
    };
    send(process, timer, 0, false).map(|_| ())
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    Accepted,
    /// SQS has accepted it, and will never deliver it.
    Lost,
}

/// `may_be_lost`: not a message that nothing else stands behind.
fn send(
    process: &Process,
    timer: Timer,
    delay_seconds: u128,
    may_be_lost: bool,
) -> Result<Sent, NotArmed> {
    let (sim, region) = (&process.sim, process.region);
    if sim.fault(Fault::QueueFails) {
        return Err(NotArmed);
    }
    if may_be_lost && sim.fault(Fault::QueueLost) {
        return Ok(Sent::Lost);
    }
    let copies = if sim.fault(Fault::QueueTwice) { 2 } else { 1 };
    for _ in 0..copies {
        let late = if sim.fault(Fault::QueueLate) {
            sim.between(Part::Timers, 1_000, 20_000)
        } else {
            sim.between(Part::Timers, 20, 300)
        };
        let delay = u64::try_from(delay_seconds * 1000).unwrap_or(0);
        let message = Message {
            serial: sim.serial(),
            timer: timer.clone(),
            visible_at: sim.elapsed() + delay + late,
            receives: 0,
        };
        let visible_at = message.visible_at;
        sim.state().timers[region].messages.push(message);
        deliver_at(sim, region, visible_at);
    }
    Ok(Sent::Accepted)
}

fn deliver_at(sim: &Sim, region: usize, visible_at: u64) {
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep_until(visible_at).await;
        sim.until_there(region).await;
        deliver(&sim, region).await;
    });
}

/// Gives the messages that are visible now to one process. Those that fail become visible again.
async fn deliver(sim: &Sim, region: usize) {
    let elapsed = sim.elapsed();
    let again_at = elapsed + VISIBILITY;
    let mut batch = Vec::new();
    {
        let mut state = sim.state();
        let timers = &mut state.timers[region];
        timers.messages.retain(|message| {
            let is_dead = message.receives >= MOST_RECEIVES && message.visible_at <= elapsed;
            timers.dead += usize::from(is_dead);
            !is_dead
        });
        for message in &mut timers.messages {
            if message.visible_at <= elapsed && batch.len() < BATCH {
                message.visible_at = again_at;
                message.receives += 1;
                batch.push(message.clone());
            }
        }
    }
    if batch.is_empty() {
        return;
    }
    let serials: Vec<u32> = batch.iter().map(|message| message.serial).collect();
    let handled = (sim.handlers().messages)(sim, region, batch)
        .await
        .unwrap_or_default();
    let mut state = sim.state();
    state.timers[region]
        .messages
        .retain(|message| !handled.contains(&message.serial));
    drop(state);
    if serials.iter().any(|serial| !handled.contains(serial)) {
        deliver_at(sim, region, again_at);
    }
}

fn create_schedule(
    process: &Process,
    call: &Call,
    Backstop { phase, at }: Backstop,
    may_fail: bool,
) -> Result<(), NotArmed> {
    let (sim, region) = (&process.sim, process.region);
    if may_fail && sim.fault(Fault::SchedulerFails) {
        return Err(NotArmed);
    }
    let name = (call.call_id, phase);
    {
        let schedules = &mut sim.state().timers[region].schedules;
        if schedules.contains(&name) {
            return Ok(());
        }
        schedules.push(name);
    }
    let in_time = at.since(sim.now()).as_millis();
    let fires_at =
        sim.elapsed() + u64::try_from(in_time).unwrap_or(0) + sim.between(Part::Timers, 0, 60_000);
    let sim = sim.clone();
    sim.clone().spawn(async move {
        sim.sleep_until(fires_at).await;
        sim.until_there(region).await;
        let is_there = {
            let schedules = &mut sim.state().timers[region].schedules;
            let place = schedules.iter().position(|known| *known == name);
            place.map(|place| schedules.swap_remove(place)).is_some()
        };
        if is_there {
            (sim.handlers().schedule)(&sim, region, name.0).await;
        }
    });
    Ok(())
}

/// Deletes the schedules of a call. Its messages cannot be deleted.
pub fn disarm(process: &Process, call: &Call) {
    let phases = call.backstop_phases();
    let schedules = &mut process.sim.state().timers[process.region].schedules;
    schedules.retain(|(id, phase)| *id != call.call_id || !phases.contains(phase));
}
