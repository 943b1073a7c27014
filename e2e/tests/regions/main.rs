//! Two regions and the loss of one: real callers on a real Asterisk, two deployments with a replicated table, and apps
//! that switch to the other region when one does not answer. The stack must have two regions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod region_add;
mod region_loss;
mod region_loss_run;
mod region_pair;
mod report;
mod steady_calls;
mod update_stand_in;

use ringback::platform::clock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use region_loss_run::RegionLossRun;
use region_pair::{check_same_end, client, item, ring, two_regions, wait_for_update};
use reqwest::StatusCode;
use ringback_e2e::fixture::{CALLER, SOON, status_and_body};
use ringback_local::region_outage::RegionState;
use ringback_local::settings::Settings;
use ringback_sip::Caller;
use serde_json::json;

/// A slow replication.
const LAG: Duration = Duration::from_secs(1);
/// A caller hears busy within this time after the end of the ring.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
/// The other region's timer fires this much later than the own region's.
const OTHER_TIMER_DELAY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_arrives_before_its_call_is_replicated_waits_for_it() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    let mut phone = primary.registered_phone("1001").await?;
    loss.wait_until_replicated(SOON).await?;
    loss.lag(LAG).await?;
    let (caller, id) = app.is_called().await?;
    let (status, answer) = app
        .in_region(&fallback)
        .respond("accept_ready", &id)
        .await?;
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    caller.hang_up().await?;
    check_same_end(&primary, &fallback, &id, "completed").await?;
    Ok(())
}

/// A killed app gets its push from one region, and its answers arrive in the other one, before the call does.
#[tokio::test(flavor = "multi_thread")]
async fn the_token_of_a_push_answers_its_call_in_either_region() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    loss.wait_until_replicated(SOON).await?;
    loss.lag(LAG).await?;
    let (caller, id) = app.is_called().await?;
    let push = app.push("incoming_call").await?;
    let url = push["data"]["answer_url"].as_str().context("answer_url")?;
    let path = url.strip_prefix(&primary.stack.http_url);
    let path = path.context("the URL of the region that sent the push")?;
    for action in ["ringing", "decline"] {
        let url = format!("{}{path}", fallback.stack.http_url);
        let answer = json!({ "action": action });
        let answer = fallback.http.post(url).json(&answer).send().await?;
        let (status, body) = status_and_body(answer).await?;
        ensure!(status == StatusCode::OK, "{action}: {status} {body}");
    }
    ensure!(caller.rejected(SOON).await?.0 == 486);
    check_same_end(&primary, &fallback, &id, "declined").await?;
    for region in [&primary, &fallback] {
        let call = app.in_region(region).call(&id).await?;
        let receipt = &call["ring_receipts"][app.device.as_str()];
        ensure!(receipt["platform"] == "fcm", "{call:#}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_accepted_in_both_regions_at_once_is_bridged_once() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let tablet = primary.app("1001").await?;
    let mobile = primary.app("1001").await?;
    let mut phone = primary.registered_phone("1001").await?;
    loss.wait_until_replicated(SOON).await?;
    let (caller, id) = tablet.is_called().await?;
    loss.wait_until_replicated(SOON).await?;
    loss.lag(LAG).await?;
    let there = mobile.in_region(&fallback);
    let (one, other) = tokio::join!(
        tablet.respond("accept_ready", &id),
        there.respond("accept_ready", &id)
    );
    let statuses = [one?.0, other?.0];
    ensure!(statuses.contains(&StatusCode::OK), "{statuses:?}");
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    ensure!(
        phone.next_call(2 * LAG).await.is_err(),
        "the phone was called twice"
    );
    ensure!(!caller.events().is_over(), "the call was cut off");
    caller.hang_up().await?;
    check_same_end(&primary, &fallback, &id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_call_ends_in_time_after_its_region_is_lost() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    loss.wait_until_replicated(SOON).await?;
    // The PBX repeats its report after 5 s. The caller's name must not break out of that command.
    let named = Caller::number(CALLER).named(r"Asha (home,x)v(RINGBACK_PATH=/^a=b) \\ (");
    let caller = primary.dial_as("1001", named, None).await?;
    let id = app.receives_call().await?;
    loss.wait_until_replicated(SOON).await?;
    loss.primary_is(RegionState::Refusing).await?;
    let (code, _) = caller.rejected(ring() + 2 * SOON).await?;
    let now = clock::now();
    ensure!(code == 486, "the caller was rejected with {code}");
    let call = item(&fallback, &id)
        .await?
        .context("the call does not exist")?;
    let rings_until = call.get("rings_until").and_then(|at| at.as_n().ok());
    let rings_until: u64 = rings_until
        .context("the call has no end of its ring")?
        .parse()?;
    let late = Duration::from_millis(now.as_millis().saturating_sub(rings_until));
    println!("busy {late:.1?} after the end of the ring, from the remaining region");
    ensure!(late <= BUSY_WITHIN + OTHER_TIMER_DELAY, "{late:?} late");
    app.in_region(&fallback)
        .wait_for_status(&id, "timed_out")
        .await?;
    app.push("call_cancelled").await?;
    loss.primary_is(RegionState::Up).await?;
    check_same_end(&primary, &fallback, &id, "timed_out").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_in_either_region_receive_updates_of_calls_in_both() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let mut here = client(&primary).await?;
    let mut there = client(&fallback).await?;
    // Twice, because a client that the other region cannot reach would be removed after the first call.
    for lag in [Duration::ZERO, LAG] {
        let app = primary.app("1001").await?;
        loss.wait_until_replicated(SOON).await?;
        loss.lag(lag).await?;
        let (caller, id) = app.is_called().await?;
        wait_for_update(&mut here, &id, "ringing").await?;
        wait_for_update(&mut there, &id, "ringing").await?;
        let (status, answer) = app
            .in_region(&fallback)
            .respond_without_device("decline", &id)
            .await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        // The region that has not received of the decline yet receives the PBX's report that the caller's leg ended, and
        // must not take it for an abandoned call.
        wait_for_update(&mut there, &id, "busy").await?;
        wait_for_update(&mut here, &id, "busy").await?;
        caller.rejected(SOON).await?;
        check_same_end(&primary, &fallback, &id, "declined").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn losing_the_primary_region_loses_no_call() -> Result<()> {
    let settings = Settings::from_environment();
    let seconds = |name: &str, unless: u64| -> Result<Duration> {
        let set = settings.variable(name).map(str::parse).transpose()?;
        Ok(Duration::from_secs(set.unwrap_or(unless)))
    };
    let run = RegionLossRun {
        every: Duration::from_millis(1_500),
        before: seconds("REGION_WELL_SECONDS", 6)?,
        // Longer than a ring, so that a call that is placed at the loss ends before the region comes back.
        lost: seconds("REGION_LOST_SECONDS", 16)?,
        after: seconds("REGION_WELL_SECONDS", 6)?,
        lag: seconds("REPLICATION_LAG_SECONDS", LAG.as_secs())?,
    };
    let conditions: &[RegionState] = if settings.variable("REGION_LOST_BOTH_WAYS").is_some() {
        &[RegionState::Refusing, RegionState::Silent]
    } else {
        &[RegionState::Silent]
    };
    for condition in conditions {
        let (primary, fallback, loss) = two_regions().await?;
        let report = run.run(&primary, &fallback, &loss, *condition).await;
        loss.primary_is(RegionState::Up).await?;
        report?;
    }
    Ok(())
}
