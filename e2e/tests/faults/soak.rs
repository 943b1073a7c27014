//! Mixed calls with random faults for a configurable time: no call is lost, and memory, items and channels do not
//! grow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use ringback_local::settings::Settings;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::call_run::{CallResult, Scenario, ring, run_call, run_call_with};
use crate::harness::Harness;
use crate::report;
use crate::systems::{Case, cases};
use ringback_e2e::memory::ProcessMemory;
use ringback_e2e::outcome_table::table;

pub(crate) const FAULT: &str = "mixed calls, half of them with a random fault";

/// The number of concurrent calls.
const AT_ONCE: usize = 6;
/// How long calls start, unless `MINUTES` is set. The simulation mixes many more calls and faults.
const SHORT: Duration = Duration::from_secs(20);
/// The shortest and the longest warm-up.
const WARM_UP: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(60)];
/// All effects of a call are complete after this time.
const EFFECTS_COMPLETE_WITHIN: Duration = Duration::from_secs(20);
/// How much a function's process may grow after the first minute, in kilobytes. An invocation must not leak.
const GROWTH: u64 = 6 * 1_024;
/// The maximum time from the end of the ring until a caller hears busy.
const GRACE: Duration = Duration::from_secs(36);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`, and `make soak`"]
async fn mixed_calls_lose_nothing_and_leak_nothing() -> Result<()> {
    let settings = Settings::from_environment();
    let minutes = settings.variable("MINUTES").map(str::parse).transpose()?;
    let length = minutes.map_or(SHORT, |minutes: u64| Duration::from_secs(60 * minutes));
    let harness = Harness::open(2 * AT_ONCE).await?;
    let cases: Arc<Vec<Case>> = Arc::new(cases().into_iter().filter(Case::is_short).collect());

    // Warm-up: the first calls start the processes and fill their caches.
    let [shortest, longest] = WARM_UP;
    let warm_up = (length / 6).clamp(shortest, longest);
    let mut result = calls_for(&harness, &cases, warm_up).await?;
    harness.clear().await?;
    let (memory_before, items_before) = (memory(), items_for_good(&harness).await?);
    result.extend(calls_for(&harness, &cases, length).await?);
    sleep(EFFECTS_COMPLETE_WITHIN).await;

    let row = report::row(FAULT, &result, ring() + GRACE);
    println!("\n{}", table(std::slice::from_ref(&row)));
    row.save()?;
    nothing_grew(&memory_before, &memory())?;
    harness.clear().await?;
    let items = items_for_good(&harness).await?;
    ensure!(
        items <= items_before,
        "the items grew from {items_before:?} to {items:?}"
    );
    let channels = harness.fixture.channels().await?;
    ensure!(channels.is_empty(), "channels are left: {channels:?}");
    ensure!(row.lost == 0, "calls were lost");
    Ok(())
}

/// Runs calls for this time, as many at once as this machine sustains, and waits for their ends.
async fn calls_for(
    harness: &Arc<Harness>,
    cases: &Arc<Vec<Case>>,
    length: Duration,
) -> Result<Vec<CallResult>> {
    let until = Instant::now() + length;
    let mut playing = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (harness, cases) = (Arc::clone(harness), Arc::clone(cases));
        playing.spawn(async move {
            let mut all = Vec::new();
            while Instant::now() < until {
                all.push(any_call(&harness, &cases).await?);
            }
            anyhow::Ok(all)
        });
    }
    let mut all = Vec::new();
    while let Some(result) = playing.join_next().await {
        all.extend(result??);
    }
    Ok(all)
}

async fn any_call(harness: &Arc<Harness>, cases: &[Case]) -> Result<CallResult> {
    let case = &cases[fastrand::usize(..cases.len())];
    let scenario = Scenario::ALL[fastrand::usize(..Scenario::ALL.len())];
    let result = match fastrand::bool() {
        true => run_call(harness, case.scenario, &case.rules).await?,
        // The faults of other calls may hit a process that also works for this one.
        false => run_call_with(harness, scenario, &[], true).await?,
    };
    if !result.problems.is_empty() {
        println!("  {} or {scenario:?}: {result}", case.fault);
    }
    Ok(result)
}

/// The memory of each function in kilobytes.
fn memory() -> BTreeMap<&'static str, u64> {
    let functions = [
        "asterisk-incoming",
        "broadcast",
        "call-response",
        "call-status",
        "call-timeout",
        "exotel-webhook",
        "ws-message",
    ];
    let known = functions.into_iter();
    known
        .filter_map(|name| Some((name, ProcessMemory::of_function(name)?.now)))
        .collect()
}

fn nothing_grew(before: &BTreeMap<&str, u64>, after: &BTreeMap<&str, u64>) -> Result<()> {
    println!("memory of the functions in kB: {before:?}, then {after:?}");
    for (name, now) in after {
        let then = before.get(name).copied().unwrap_or(*now);
        ensure!(*now < then + GROWTH, "{name} grew from {then} to {now} kB");
    }
    Ok(())
}

/// The number of items that do not expire, by kind.
async fn items_for_good(harness: &Harness) -> Result<BTreeMap<String, usize>> {
    let client = aws_sdk_dynamodb::Client::new(&harness.fixture.aws);
    let mut kinds = BTreeMap::new();
    let mut pages = client
        .scan()
        .table_name(&harness.fixture.stack.aws.table)
        .filter_expression("attribute_not_exists(expires_at)")
        .into_paginator()
        .items()
        .send();
    while let Some(item) = pages.next().await {
        let item = item?;
        let key = item.get("pk").and_then(|pk| pk.as_s().ok());
        let of: Option<&AttributeValue> = item.get("sk");
        let kind = key
            .and_then(|key| key.split('#').next())
            .unwrap_or_default();
        let what = of
            .and_then(|sk| sk.as_s().ok())
            .and_then(|sk| sk.split('#').next());
        *kinds
            .entry(format!("{kind} {}", what.unwrap_or_default()))
            .or_default() += 1;
    }
    Ok(kinds)
}
