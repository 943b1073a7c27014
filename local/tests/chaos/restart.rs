//! The PBX starts anew in the middle of its calls, and remembers none of them.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringback_local::pbx::source;
use ringback_local::process::output;
use ringback_local::settings::{PBXS, Settings};
use ringback_sip::Caller;
use serde_json::Value;
use tokio::time::{Instant, sleep};

use crate::play::{End, Scenario, play, ring};
use crate::seat::Device;
use crate::stage::Stage;

/// It is there again within a second or two.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(20);
/// When a ring is over that nobody ends but its timer.
const GRACE: Duration = Duration::from_secs(6);
const LOOKS_EVERY: Duration = Duration::from_millis(200);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn a_pbx_that_starts_anew_leaves_no_phone_ringing_and_takes_new_calls() -> Result<()> {
    let stage = Stage::open(2).await?;
    let mut seat = stage.seat().await?;
    seat.get_ready(1).await?;
    let pbx = stage.scene.stack.sip.address.parse()?;
    let caller = Caller::number(&stage.new_caller());
    let _waits = stage.trunk.call(pbx, &seat.number, caller, None).await?;
    let device = seat.devices[0].clone();
    let id = device.woken(ring()).await?.context("a call")?;

    start_anew().await?;
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
        stage.scene.channels().await?.is_empty(),
        "channels are left"
    );
    Ok(())
}

/// The process stays, and all that it knew of calls is gone.
async fn start_anew() -> Result<()> {
    let settings = Settings::from_environment();
    let asterisk = source::obtain(&settings).await?;
    let configuration = asterisk.inside(&PBXS[0]).join("etc/asterisk.conf");
    let configuration = configuration.to_string_lossy();
    // It may be gone before it has answered.
    let _ = output(&mut asterisk.remote(&PBXS[0], &configuration, "core restart now")).await;
    let patience = Instant::now() + COMES_BACK_WITHIN;
    while output(&mut asterisk.remote(&PBXS[0], &configuration, "core waitfullybooted"))
        .await
        .is_err()
    {
        ensure!(Instant::now() < patience, "Asterisk does not come back");
        sleep(LOOKS_EVERY).await;
    }
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
