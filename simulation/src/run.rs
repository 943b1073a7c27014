//! One run: what people do, until nothing more happens.

use std::time::Duration;

use crate::clock::Seconds;
use crate::faults::{CUT, Fault, REGION_LOSS, RESTART};
use crate::invariants::check_end;
use crate::scenario::{Kind, Scenario};
use crate::sim::{Handlers, Sim};
use crate::state::truth::Violation;
use crate::{apps, functions, pbx, trunk};

/// How a run went.
#[derive(Debug)]
pub struct Outcome {
    /// How many calls there were.
    pub calls: usize,
    /// The promises that were broken.
    pub violations: Vec<Violation>,
    /// The faults that happened, with their numbers.
    pub faults: Vec<(u32, Fault)>,
    /// Which of the planned faults there were, by their numbers.
    pub planned: Vec<u32>,
    /// What happened, if it was recorded.
    pub timeline: Vec<String>,
    /// The scenario in words.
    pub scenario: String,
}

/// A run may last so long. Calls last ten minutes at most, and their timers fire within minutes.
const LONGEST_RUN: Duration = Duration::from_secs(4 * 60 * 60);

/// The parts that others reach through [`Sim`].
const HANDLERS: Handlers = Handlers {
    request: |sim, region, request| Box::pin(functions::send(sim, region, request)),
    messages: |sim, region, batch| Box::pin(functions::call_timeout(sim, region, batch)),
    schedule: |sim, region, call| Box::pin(functions::schedule_fired(sim, region, call)),
    records: |sim, region, batch| Box::pin(functions::broadcast(sim, region, batch)),
    leg_ended: trunk::leg_ended,
};

/// Runs one seed, without the faults of these numbers.
///
/// # Errors
/// When tokio cannot start.
pub fn simulate(seed: u64, without: &[u32], record: bool) -> std::io::Result<Outcome> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()?;
    let tasks = tokio::task::LocalSet::new();
    Ok(tasks.block_on(&runtime, async {
        let sim = Sim::new(seed, without, record, HANDLERS);
        begin(&sim);
        let is_idle = sim.until_idle(LONGEST_RUN).await;
        check_end(&sim, is_idle);
        let mut state = sim.state();
        let scenario = if record {
            format!("{:#?}", sim.plan())
        } else {
            String::new()
        };
        Outcome {
            calls: sim.plan().calls.len(),
            violations: std::mem::take(&mut state.truth.violations),
            faults: state.faults.happened().to_vec(),
            planned: planned(sim.plan()),
            timeline: state.timeline.take().unwrap_or_default(),
            scenario,
        }
    }))
}

fn planned(plan: &Scenario) -> Vec<u32> {
    let all = [
        (plan.region_loss.is_some(), REGION_LOSS),
        (plan.cut.is_some(), CUT),
        (plan.restart.is_some(), RESTART),
    ];
    all.into_iter()
        .filter_map(|(is_planned, number)| is_planned.then_some(number))
        .collect()
}

/// The large faults stand at the beginning of the timeline.
fn note_plan(sim: &Sim) {
    let plan = sim.plan();
    if let Some(loss) = plan.region_loss {
        let (from, until) = (Seconds(loss.from), Seconds(loss.until));
        let how = if loss.silent {
            "does not answer"
        } else {
            "refuses connections"
        };
        let region = loss.region;
        sim.note(|| {
            format!("PLANNED {REGION_LOSS}: region {region} {how} from {from} s to {until} s")
        });
    }
    if let Some((from, until)) = plan.cut {
        let (from, until) = (Seconds(from), Seconds(until));
        sim.note(|| format!("PLANNED {CUT}: no replication from {from} s to {until} s"));
    }
    if let Some((pbx, at)) = plan.restart {
        let at = Seconds(at);
        sim.note(|| format!("PLANNED {RESTART}: PBX {pbx} restarts at {at} s"));
    }
}

fn begin(sim: &Sim) {
    note_plan(sim);
    for (number, plan) in sim.plan().calls.iter().enumerate() {
        let (people, kind, starts) = (sim.clone(), plan.kind, plan.starts);
        sim.spawn(async move {
            people.sleep(starts).await;
            match kind {
                Kind::FromTrunk { .. } => trunk::call(&people, number).await,
                Kind::BetweenApps | Kind::ToNumber(_) => apps::call(&people, number).await,
            }
        });
    }
    if let Some((pbx, at)) = sim.plan().restart {
        let sim = sim.clone();
        sim.clone()
            .spawn(async move { pbx::restart(&sim, pbx, at).await });
    }
}
