//! The state of one run, its virtual time and its tasks.

use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::LocalBoxFuture;
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::clock::START;
use crate::faults::{Fault, Faults};
use crate::random::Part;
use crate::requests::{Answer, Request};
use crate::scenario::Scenario;
use crate::state::State;
use crate::state::table::Record;
use crate::state::timers::Message;

/// One run. Clones share it.
#[derive(Clone)]
pub struct Sim(Arc<Shared>);

struct Shared {
    handlers: Handlers,
    state: Mutex<State>,
    plan: Scenario,
    started: Instant,
    tasks: AtomicUsize,
    idle: Notify,
}

/// Code that acts in a region on an input of this type.
pub type Handler<Input, Output> = for<'a> fn(&'a Sim, usize, Input) -> LocalBoxFuture<'a, Output>;

/// The code that acts on what a part sends or reports. A run gives it to [`Sim`] as values, so the parts do not import it.
#[derive(Clone, Copy)]
pub struct Handlers {
    /// Sends a request to a function, and waits for the answer.
    pub request: Handler<Request, Answer>,
    /// SQS delivers messages. Returns those that were handled, or `None` if the process has crashed.
    pub messages: Handler<Vec<Message>, Option<Vec<u32>>>,
    /// The schedule of a call fires.
    pub schedule: Handler<CallId, ()>,
    /// The stream of the table delivers changes. Returns how many were handled, or `None` if the process has crashed.
    pub records: Handler<Vec<Record>, Option<usize>>,
    /// A leg of this caller from the trunk has ended, and was bridged or not.
    pub leg_ended: fn(&Sim, &mut State, usize, bool),
}

impl Sim {
    pub fn new(seed: u64, without: &[u32], record: bool, handlers: Handlers) -> Self {
        let faults = Faults::draw(seed, without);
        let plan = Scenario::draw(seed, &faults);
        let state = State::new(seed, &plan, faults, record);
        Self(Arc::new(Shared {
            handlers,
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

    pub fn handlers(&self) -> &Handlers {
        &self.0.handlers
    }

    /// Sends a request to a function of this region, and waits for the answer.
    pub async fn request(&self, region: usize, request: Request) -> Answer {
        (self.handlers().request)(self, region, request).await
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
