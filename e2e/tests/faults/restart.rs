//! The PBX is killed during its calls and restarts without them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ringback_sip::Caller;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::call_run::{CallEnd, Scenario, ring, run_call};
use crate::harness::Harness;
use crate::pbx;
use crate::subscriber::Device;

/// The time from the end of the ring until the timer has ended the call.
const GRACE: Duration = Duration::from_secs(6);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_pbx_crash_leaves_no_phone_ringing_and_new_calls_succeed() -> Result<()> {
    let harness = Harness::open(2).await?;
    let mut subscriber = harness.subscriber().await?;
    subscriber.prepare(1).await?;
    let pbx = harness.fixture.stack.sip.address.parse()?;
    let caller = Caller::number(&harness.new_caller());
    let _waits = harness
        .trunk
        .call(pbx, &subscriber.number, caller, None)
        .await?;
    let device = subscriber.devices[0].clone();
    let id = device.receives_call(ring()).await?.context("no push")?;

    pbx::signal(Signal::SIGKILL)?;
    pbx::wait_until_back(&harness.fixture).await?;
    let state = over(&device, &id).await?;
    ensure!(
        ["timed_out", "canceled"].contains(&state["status"].as_str().unwrap_or_default()),
        "{state}"
    );
    ensure!(
        device.push("call_cancelled", GRACE).await?.is_some(),
        "a phone keeps ringing without a caller"
    );
    harness.put_back(subscriber).await;

    let next = run_call(&harness, Scenario::Answered, &[]).await?;
    ensure!(
        next.end == CallEnd::Bridged && next.problems.is_empty(),
        "afterwards: {next}"
    );
    ensure!(
        harness.fixture.channels().await?.is_empty(),
        "channels are left"
    );
    Ok(())
}

async fn over(device: &Device, id: &str) -> Result<Value> {
    let deadline = Instant::now() + ring() + GRACE;
    loop {
        let state = device.call(id).await?.unwrap_or_default();
        if state["ended_at"].is_u64() || Instant::now() > deadline {
            return Ok(state);
        }
        sleep(POLL_INTERVAL).await;
    }
}
