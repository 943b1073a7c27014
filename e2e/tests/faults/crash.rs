//! Crashes of functions: one crash before and one after each request that a function sends for a call.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_local::faults::rule::{Fault, Moment, Rule, Step};
use ringback_local::settings::Settings;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::play::{Played, Scenario, play, ring};
use crate::report;
use crate::stage::Stage;
use ringback_e2e::outcome_table::{Row, table};

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
async fn a_function_that_dies_at_any_request_loses_no_call() -> Result<()> {
    let stage = Stage::open(2 * AT_ONCE).await?;
    let (settings, mut rows) = (Settings::from_environment(), Vec::new());
    for scenario in Scenario::ALL {
        let only = settings.variable("CHAOS_ONLY");
        if only.is_none_or(|only| only.split(',').any(|it| it == format!("{scenario:?}"))) {
            rows.push(every_death_in(&stage, scenario).await?);
        }
    }
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}

/// The name of the fault in the tables.
pub(crate) fn fault_of(scenario: Scenario) -> String {
    format!("a function dies: {}", scenario.name())
}

async fn every_death_in(stage: &Arc<Stage>, scenario: Scenario) -> Result<Row> {
    let well = play(stage, scenario, &[]).await?;
    ensure!(well.problems.is_empty(), "{}: {well}", scenario.name());
    let steps: BTreeSet<Step> = well
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
    let deaths: Vec<(Step, Moment)> = steps
        .into_iter()
        .flat_map(|step| [Moment::Before, Moment::After].map(|moment| (step.clone(), moment)))
        .collect();
    let wanted = deaths.len();
    let played = all(stage, scenario, deaths).await?;
    ensure!(
        played.len() * 2 >= wanted,
        "of {wanted} deaths {} came",
        played.len()
    );
    let promised = ring() + Duration::from_secs(2) + AFTER_A_DEATH;
    let row = report::row(&fault_of(scenario), &played, promised);
    println!("{}", table(std::slice::from_ref(&row)));
    row.keep()?;
    Ok(row)
}

async fn all(
    stage: &Arc<Stage>,
    scenario: Scenario,
    deaths: Vec<(Step, Moment)>,
) -> Result<Vec<Played>> {
    let at_once = Arc::new(Semaphore::new(AT_ONCE));
    let mut playing = JoinSet::new();
    for (step, moment) in deaths {
        let (stage, at_once) = (Arc::clone(stage), Arc::clone(&at_once));
        playing.spawn(async move {
            let _turn = at_once.acquire().await?;
            let rules = [death(&step, moment)];
            let mut played = play(&stage, scenario, &rules).await?;
            // Not every call takes the same path, so another call may send the request that this one did not.
            for _ in 1..TRIES {
                if played.hits > 0 || played.is_lost() {
                    break;
                }
                played = play(&stage, scenario, &rules).await?;
            }
            let Step {
                function,
                operation,
                nth,
                ..
            } = &step;
            println!(
                "  {moment:?} {function} {operation} #{nth} ({} hit): {played}",
                played.hits
            );
            anyhow::Ok(played)
        });
    }
    let mut all = Vec::new();
    while let Some(played) = playing.join_next().await {
        let played = played??;
        // A call without a crash is not counted, unless it was lost.
        if played.hits > 0 || played.is_lost() {
            all.push(played);
        }
    }
    Ok(all)
}

fn death(step: &Step, moment: Moment) -> Rule {
    Rule {
        system: step.system,
        operation: Some(step.operation.clone()),
        function: Some(step.function.clone()),
        play: None,
        skip: step.nth,
        times: Some(1),
        one_in: None,
        fault: Fault::Kill(moment),
    }
}
