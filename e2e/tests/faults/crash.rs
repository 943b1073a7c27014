//! Crashes of functions: one crash before and one after each kind of request that a function sends for a call.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures::stream::{self, StreamExt as _, TryStreamExt as _};
use ringback_local::faults::rule::{Fault, KillPoint, RequestStep, Rule};
use ringback_local::settings::Settings;

use crate::call_run::{CallResult, Scenario, ring, run_call};
use crate::faults::{from, rule};
use crate::harness::Harness;
use crate::report;
use ringback_e2e::outcome_table::table;

/// The number of concurrent calls. The local cloud needs about a second of CPU for each, and Asterisk 22.10.1 crashed
/// with eight of them on a busy machine.
const AT_ONCE: usize = 6;
/// The number of calls to try until the crash happens.
const TRIES: usize = 3;
/// The maximum time from the end of the ring to the busy signal when a function crashes. SQS redelivers the timer
/// after 15 s, and another call's crash may hit the same batch once more.
pub(crate) const AFTER_A_DEATH: Duration = Duration::from_secs(2 * 15 + 4);

/// One crash in one flow.
struct Death {
    scenario: Scenario,
    step: RequestStep,
    moment: KillPoint,
}

/// The simulation crashes a function at each step of each flow. On the real stack, each kind of request has one crash
/// before it and one after it, in one of the flows that send it.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_function_crash_at_any_kind_of_request_loses_no_call() -> Result<()> {
    let harness = Harness::open(2 * AT_ONCE).await?;
    let settings = Settings::from_environment();
    let only = settings.variable("CHAOS_ONLY");
    let flows = Scenario::ALL.into_iter().filter(|scenario| {
        only.is_none_or(|only| only.split(',').any(|it| it == format!("{scenario:?}")))
    });
    let mut flows = concurrently(flows, |scenario| requests_of(&harness, scenario)).await?;
    flows.sort();
    let mut results: BTreeMap<Scenario, Vec<CallResult>> = BTreeMap::new();
    for (scenario, result) in concurrently(spread(&flows), |death| dies(&harness, death)).await? {
        results.entry(scenario).or_default().push(result);
    }
    let mut rows = Vec::new();
    for (scenario, _) in flows {
        let mut results = results.remove(&scenario).unwrap_or_default();
        let wanted = results.len();
        // A call without a crash is not counted, unless it was lost.
        results.retain(|result| result.hits > 0 || result.is_lost());
        ensure!(
            wanted > 0 && results.len() * 2 >= wanted,
            "{}: of {wanted} crashes {} happened",
            scenario.name(),
            results.len()
        );
        let promised = ring() + Duration::from_secs(2) + AFTER_A_DEATH;
        let row = report::row(&fault_name(scenario), &results, promised);
        row.save()?;
        rows.push(row);
    }
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}

/// The name of the fault in the tables.
pub(crate) fn fault_name(scenario: Scenario) -> String {
    format!("function crash: {}", scenario.name())
}

/// Runs these calls, `AT_ONCE` at a time, and returns the results in any order.
async fn concurrently<I, T, F: Future<Output = Result<T>>>(
    calls: impl IntoIterator<Item = I>,
    run: impl Fn(I) -> F,
) -> Result<Vec<T>> {
    let running = stream::iter(calls).map(run).buffer_unordered(AT_ONCE);
    running.try_collect().await
}

/// The requests that the functions send in a call of this flow without faults.
async fn requests_of(
    harness: &Arc<Harness>,
    scenario: Scenario,
) -> Result<(Scenario, BTreeSet<RequestStep>)> {
    let well = run_call(harness, scenario, &[]).await?;
    ensure!(well.problems.is_empty(), "{}: {well}", scenario.name());
    println!(
        "{}: {} requests, {:?} after {:.1?}",
        scenario.name(),
        well.steps.len(),
        well.end,
        well.waited
    );
    let steps = well.steps.into_iter();
    let of_functions = steps.filter(|step| !step.function.is_empty());
    Ok((scenario, of_functions.collect()))
}

/// The crashes before and after each kind of request. A flow gets as few of them as possible, so the kinds that few flows
/// send come first.
fn spread(flows: &[(Scenario, BTreeSet<RequestStep>)]) -> Vec<Death> {
    let mut kinds: BTreeMap<_, Vec<(Scenario, &RequestStep)>> = BTreeMap::new();
    for (scenario, steps) in flows {
        for step in steps {
            let work = scenario.special_work(&step.function);
            let kind = (work, &step.function, &step.operation);
            let senders = kinds.entry(kind).or_default();
            if senders.last().is_none_or(|(last, _)| last != scenario) {
                senders.push((*scenario, step));
            }
        }
    }
    let mut kinds: Vec<_> = kinds.into_iter().collect();
    kinds.sort_by_key(|((work, ..), senders)| (work.is_none(), senders.len()));
    let mut deaths: Vec<Death> = Vec::new();
    for (_, senders) in kinds {
        for moment in [KillPoint::Before, KillPoint::After] {
            let so_far = |scenario| {
                deaths
                    .iter()
                    .filter(|death| death.scenario == scenario)
                    .count()
            };
            let fewest = senders.iter().min_by_key(|(scenario, _)| so_far(*scenario));
            deaths.extend(fewest.map(|(scenario, step)| Death {
                scenario: *scenario,
                step: (*step).clone(),
                moment,
            }));
        }
    }
    deaths
}

async fn dies(harness: &Arc<Harness>, death: Death) -> Result<(Scenario, CallResult)> {
    let rules = [death.rule()];
    let mut result = run_call(harness, death.scenario, &rules).await?;
    // Not every call takes the same path, so another call may send the request that this one did not.
    for _ in 1..TRIES {
        if result.hits > 0 || result.is_lost() {
            break;
        }
        result = run_call(harness, death.scenario, &rules).await?;
    }
    let RequestStep {
        function,
        operation,
        nth,
        ..
    } = &death.step;
    println!(
        "  {:?}: {:?} {function} {operation} #{nth} ({} hit): {result}",
        death.scenario, death.moment, result.hits
    );
    Ok((death.scenario, result))
}

impl Death {
    fn rule(&self) -> Rule {
        let Self { step, moment, .. } = self;
        let any = rule(step.system, &step.operation, Some(1), Fault::Kill(*moment));
        Rule {
            skip: step.nth,
            ..from(&step.function, any)
        }
    }
}
