//! The state of one run, its virtual time and its tasks.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ringback_core::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::exotel::Exotel;
use crate::faults::{Fault, Faults};
use crate::invariants::{Counted, Truth};
use crate::pbx::Pbx;
use crate::phones::Phones;
use crate::random::{Part, Random, generator};
use crate::scenario::Scenario;
use crate::table::Table;
use crate::timers::Timers;
use crate::trunk::TrunkCall;

/// When each run starts.
pub const START: Timestamp = Timestamp::from_millis(1_795_000_000_000);

/// One run. Clones share it.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    plan: Scenario,
    started: Instant,
    tasks: AtomicUsize,
    idle: Notify,
}

/// All that changes in a run.
pub struct State {
    pub random: Random,
    pub faults: Faults,
    pub tables: [Table; 2],
    pub timers: [Timers; 2],
    pub pbxs: Vec<Pbx>,
    pub phones: Phones,
    pub exotel: Exotel,
    /// What the trunk knows of each caller.
    pub trunk: Vec<TrunkCall>,
    pub truth: Truth,
    /// What the metrics of each region have counted.
    pub counted: [Counted; 2],
    /// What happened, if it is recorded.
    pub timeline: Option<Vec<String>>,
    pub serial: u32,
}

impl Sim {
    pub fn new(seed: u64, without: &[u32], record: bool) -> Self {
        let faults = Faults::draw(seed, without);
        let plan = Scenario::draw(seed, &faults);
        let state = State {
            tables: ["table 0", "table 1"].map(|name| Table::draw(&mut generator(seed, name))),
            timers: [Timers::default(), Timers::default()],
            pbxs: Pbx::all(plan.pbxs),
            phones: Phones::of(&plan, &mut generator(seed, "phones")),
            exotel: Exotel::default(),
            trunk: vec![TrunkCall::default(); plan.calls.len()],
            truth: Truth::default(),
            counted: [Counted::default(), Counted::default()],
            timeline: record.then(Vec::new),
            serial: 0,
            random: Random::of(seed),
            faults,
        };
        Self(Arc::new(Shared {
            state: Mutex::new(state),
            plan,
            started: Instant::now(),
            tasks: AtomicUsize::new(0),
            idle: Notify::new(),
        }))
    }

    pub fn plan(&self) -> &Scenario {
        &self.0.plan
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Milliseconds since the start.
    pub fn elapsed(&self) -> u64 {
        u64::try_from(self.0.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// The true time. Clocks of processes differ from it.
    pub fn now(&self) -> Timestamp {
        START + Duration::from_millis(self.elapsed())
    }

    pub async fn sleep(&self, millis: u64) {
        tokio::time::sleep(Duration::from_millis(millis)).await;
    }

    pub async fn sleep_until(&self, elapsed: u64) {
        self.sleep(elapsed.saturating_sub(self.elapsed())).await;
    }

    /// Runs this beside all other tasks. The run ends when no task is left.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.0.tasks.fetch_add(1, Relaxed);
        let sim = self.clone();
        tokio::task::spawn_local(async move {
            task.await;
            if sim.0.tasks.fetch_sub(1, Relaxed) == 1 {
                sim.0.idle.notify_one();
            }
        });
    }

    /// Waits until no task is left. Returns whether that was so within the longest time that a run may take.
    pub async fn until_idle(&self, longest: Duration) -> bool {
        tokio::time::timeout(longest, self.0.idle.notified())
            .await
            .is_ok()
    }

    /// A random number for this part of the run.
    pub fn between(&self, part: Part, least: u64, most: u64) -> u64 {
        self.state().random.of_part(part).u64(least..=most)
    }

    pub fn fault(&self, fault: Fault) -> bool {
        let Some(number) = self.state().faults.happens(fault) else {
            return false;
        };
        self.note(|| format!("FAULT {number}: {fault:?}"));
        true
    }

    /// Adds a line to the timeline, if it is recorded.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let elapsed = self.elapsed();
        self.state().note(elapsed, line);
    }

    /// A number that nothing else in this run has.
    pub fn serial(&self) -> u32 {
        let mut state = self.state();
        state.serial += 1;
        state.serial
    }

    /// Whether this region is lost at this moment.
    pub fn is_lost(&self, region: usize) -> bool {
        let elapsed = self.elapsed();
        let loss = self.plan().region_loss;
        loss.is_some_and(|loss| loss.region == region && (loss.from..loss.until).contains(&elapsed))
    }

    /// Waits until the region is there.
    pub async fn until_there(&self, region: usize) {
        if self.is_lost(region)
            && let Some(loss) = self.plan().region_loss
        {
            self.sleep_until(loss.until).await;
        }
    }
}

impl State {
    /// Adds a line to the timeline, if it is recorded.
    pub fn note(&mut self, elapsed: u64, line: impl FnOnce() -> String) {
        if let Some(timeline) = &mut self.timeline {
            timeline.push(format!("{:>9} s  {}", Seconds(elapsed).to_string(), line()));
        }
    }
}

/// Milliseconds, shown as seconds.
pub struct Seconds(pub u64);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{:03}", self.0 / 1000, self.0 % 1000)
    }
}
