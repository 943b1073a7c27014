//! A process of a function. It may crash at each of its steps, and the region may be lost under it.

use std::future::{Future, pending};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use futures::future::{Either, select};
use ringback_core::timestamp::Timestamp;
use tokio::sync::Notify;

use crate::faults::Fault;
use crate::random::Part;
use crate::sim::Sim;

/// One process.
pub struct Process {
    pub sim: Sim,
    pub region: usize,
    name: &'static str,
    serial: u32,
    /// How far its clock is ahead, in milliseconds, plus [`MOST_SKEW`].
    skew: u64,
    steps_left: AtomicU32,
    is_dead: AtomicBool,
    died: Notify,
    /// When it must be done, by its own clock.
    pub until: Timestamp,
}

/// Clocks are ahead or behind by this at most, in milliseconds: two of them differ by twice as much.
pub const MOST_SKEW: u64 = 1_000;

impl Process {
    /// The time by the clock of this process.
    pub fn now(&self) -> Timestamp {
        self.sim.now().before(Duration::from_millis(MOST_SKEW)) + Duration::from_millis(self.skew)
    }

    /// The process continues, or crashes here.
    pub async fn step(&self, before: &'static str) {
        let left = self.steps_left.load(Relaxed);
        self.steps_left.store(left.saturating_sub(1), Relaxed);
        let is_over = left == 0 || self.sim.is_lost(self.region);
        if is_over && !self.is_dead.swap(true, Relaxed) {
            self.note(|| format!("crashes {before}"));
            self.died.notify_one();
        }
        if is_over || self.is_dead.load(Relaxed) {
            pending::<()>().await;
        }
    }

    pub fn note(&self, line: impl FnOnce() -> String) {
        let Self {
            sim,
            region,
            name,
            serial,
            ..
        } = self;
        sim.note(|| format!("region {region} {name} {serial} {}", line()));
    }
}

/// A function: its name and its timeout in milliseconds.
#[derive(Clone, Copy)]
pub struct Function(pub &'static str, pub u64);

/// Runs a function in a new process. `None` if the process crashes or exceeds its timeout.
pub async fn run<T, F>(
    sim: &Sim,
    region: usize,
    function: Function,
    body: impl FnOnce(Arc<Process>) -> F,
) -> Option<T>
where
    F: Future<Output = T>,
{
    let Function(name, timeout) = function;
    if sim.fault(Fault::ColdStart) {
        let start = sim.between(Part::Processes, 500, 4_000);
        sim.sleep(start).await;
    }
    let steps = if sim.fault(Fault::Crash) {
        sim.between(Part::Processes, 0, 16)
    } else {
        u64::from(u32::MAX)
    };
    let is_off = sim.plan().clocks_differ && sim.between(Part::Processes, 0, 1) == 0;
    let skew = if is_off {
        sim.between(Part::Processes, 0, 2 * MOST_SKEW)
    } else {
        MOST_SKEW
    };
    let mut process = Process {
        sim: sim.clone(),
        region,
        name,
        serial: sim.serial(),
        skew,
        steps_left: AtomicU32::new(u32::try_from(steps).unwrap_or(u32::MAX)),
        is_dead: AtomicBool::new(false),
        died: Notify::new(),
        until: sim.now(),
    };
    process.until = process.now() + Duration::from_millis(timeout.saturating_sub(1_000));
    let process = Arc::new(process);
    let watched = process.clone();
    let body = Box::pin(body(process));
    let running = tokio::time::timeout(Duration::from_millis(timeout), body);
    match select(Box::pin(running), Box::pin(watched.died.notified())).await {
        Either::Left((Ok(done), _)) => Some(done),
        Either::Left((Err(_), _)) => {
            watched.note(|| "exceeds its timeout".to_owned());
            None
        }
        Either::Right(_) => None,
    }
}
