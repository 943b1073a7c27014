//! The PBX is killed during its calls and restarts without them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use ringback_sip::Caller;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::pbx;
use crate::play::{End, Scenario, play, ring};
use crate::seat::Device;
use crate::stage::Stage;

/// The time from the end of the ring until the timer has ended the call.
const GRACE: Duration = Duration::from_secs(6);
const LOOKS_EVERY: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_pbx_that_dies_leaves_no_phone_ringing_and_takes_new_calls() -> Result<()> {
    let stage = Stage::open(2).await?;
    let mut seat = stage.seat().await?;
    seat.get_ready(1).await?;
    let pbx = stage.fixture.stack.sip.address.parse()?;
    let caller = Caller::number(&stage.new_caller());
    let _waits = stage.trunk.call(pbx, &seat.number, caller, None).await?;
    let device = seat.devices[0].clone();
    let id = device.woken(ring()).await?.context("a call")?;

    pbx::signal(Signal::SIGKILL)?;
    pbx::wait_until_back(&stage.fixture).await?;
    let stands = over(&device, &id).await?;
    ensure!(
        ["timed_out", "canceled"].contains(&stands["status"].as_str().unwrap_or_default()),
        "{stands}"
    );
    ensure!(
        device.push("call_cancelled", GRACE).await?.is_some(),
        "a phone rings for nobody"
    );
    stage.leave(seat).await;

    let next = play(&stage, Scenario::Answered, &[]).await?;
    ensure!(
        next.end == End::Bridged && next.problems.is_empty(),
        "afterwards: {next}"
    );
    ensure!(
        stage.fixture.channels().await?.is_empty(),
        "channels are left"
    );
    Ok(())
}

async fn over(device: &Device, id: &str) -> Result<Value> {
    let patience = Instant::now() + ring() + GRACE;
    loop {
        let stands = device.call(id).await?.unwrap_or_default();
        if stands["ended_at"].is_u64() || Instant::now() > patience {
            return Ok(stands);
        }
        sleep(LOOKS_EVERY).await;
    }
}
