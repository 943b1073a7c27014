//! Crashes of functions: one crash before and one after each request that a function sends for a call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_local::faults::rule::{Fault, KillPoint, RequestStep, Rule};
use ringback_local::settings::Settings;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::call_run::{CallResult, Scenario, ring, run_call};
use crate::faults::{from, rule};
use crate::harness::Harness;
use crate::report;
use ringback_e2e::outcome_table::{OutcomeRow, table};

/// The number of concurrent calls. The local cloud needs about a second of CPU for each, and Asterisk 22.10.1 crashed
/// with eight of them on a busy machine.
const AT_ONCE: usize = 4;
/// The number of calls to try until the crash happens.
const TRIES: usize = 3;
/// The maximum time from the end of the ring to the busy signal when a function crashes. SQS redelivers the timer
/// after 15 s, and another call's crash may hit the same batch once more.
pub(crate) const AFTER_A_DEATH: Duration = Duration::from_secs(2 * 15 + 4);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_function_crash_at_any_request_loses_no_call() -> Result<()> {
    let harness = Harness::open(2 * AT_ONCE).await?;
    let (settings, mut rows) = (Settings::from_environment(), Vec::new());
    for scenario in Scenario::ALL {
        let only = settings.variable("CHAOS_ONLY");
        if only.is_none_or(|only| only.split(',').any(|it| it == format!("{scenario:?}"))) {
            rows.push(every_death_in(&harness, scenario).await?);
        }
    }
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}

/// The name of the fault in the tables.
pub(crate) fn fault_name(scenario: Scenario) -> String {
    format!("function crash: {}", scenario.name())
}

async fn every_death_in(harness: &Arc<Harness>, scenario: Scenario) -> Result<OutcomeRow> {
    let well = run_call(harness, scenario, &[]).await?;
    ensure!(well.problems.is_empty(), "{}: {well}", scenario.name());
    let steps: BTreeSet<RequestStep> = well
        .steps
        .into_iter()
        .filter(|step| !step.function.is_empty())
        .collect();
    println!(
        "{}: {} requests, {:?} after {:.1?}",
        scenario.name(),
        steps.len(),
        well.end,
        well.waited
    );
    let deaths: Vec<(RequestStep, KillPoint)> = steps
        .into_iter()
        .flat_map(|step| [KillPoint::Before, KillPoint::After].map(|moment| (step.clone(), moment)))
        .collect();
    let wanted = deaths.len();
    let result = all(harness, scenario, deaths).await?;
    ensure!(
        result.len() * 2 >= wanted,
        "of {wanted} deaths {} came",
        result.len()
    );
    let promised = ring() + Duration::from_secs(2) + AFTER_A_DEATH;
    let row = report::row(&fault_name(scenario), &result, promised);
    println!("{}", table(std::slice::from_ref(&row)));
    row.save()?;
    Ok(row)
}

async fn all(
    harness: &Arc<Harness>,
    scenario: Scenario,
    deaths: Vec<(RequestStep, KillPoint)>,
) -> Result<Vec<CallResult>> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    for (step, moment) in deaths {
        let (harness, at_once) = (Arc::clone(harness), Arc::clone(&at_once));
        playing.spawn(async move {
            let _turn = at_once.acquire().await?;
            let rules = [death(&step, moment)];
            let mut result = run_call(&harness, scenario, &rules).await?;
            // Not every call takes the same path, so another call may send the request that this one did not.
            for _ in 1..TRIES {
                if result.hits > 0 || result.is_lost() {
                    break;
                }
                result = run_call(&harness, scenario, &rules).await?;
            }
            let RequestStep {
                function,
                operation,
                nth,
                ..
            } = &step;
            println!(
                "  {moment:?} {function} {operation} #{nth} ({} hit): {result}",
                result.hits
            );
            anyhow::Ok(result)
        });
    }
    let mut all = Vec::new();
    while let Some(result) = playing.join_next().await {
        let result = result??;
        // A call without a crash is not counted, unless it was lost.
        if result.hits > 0 || result.is_lost() {
            all.push(result);
        }
    }
    Ok(all)
}

fn death(step: &RequestStep, moment: KillPoint) -> Rule {
    let any = rule(step.system, &step.operation, Some(1), Fault::Kill(moment));
    Rule {
        skip: step.nth,
        ..from(&step.function, any)
    }
}
