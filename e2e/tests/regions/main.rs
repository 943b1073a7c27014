//! Two regions and the loss of one: real callers on a real Asterisk, two deployments with a replicated table, and apps
//! that switch to the other region when one does not answer. The stack must have two regions.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod both;
mod course;
mod loss;
mod report;
mod steady_calls;

use ringback::platform::clock;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use both::{client, ends_alike, hears, item, ring, two_regions};
use course::Course;
use reqwest::StatusCode;
use ringback_e2e::fixture::{CALLER, SOON};
use ringback_local::loss::Condition;
use ringback_local::settings::Settings;
use ringback_sip::Caller;

/// A slow replication.
const LAG: Duration = Duration::from_secs(1);
/// A caller hears busy within this time after the end of the ring.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
/// The other region's timer fires this much later than the own region's.
const AFTER_THE_OTHER: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_is_faster_than_its_call_waits_for_it() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    let mut phone = primary.registered_phone("1001").await?;
    loss.everything_has_come(SOON).await?;
    loss.lag(LAG).await?;
    let caller = primary.dial("1001").await?;
    let id = app.woken().await?;
    let (status, answer) = app.in_region(&fallback).says("accept_ready", &id).await?;
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    caller.hang_up().await?;
    ends_alike(&primary, &fallback, &id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_that_decide_one_call_at_once_bridge_it_once() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let tablet = primary.app("1001").await?;
    let mobile = primary.app("1001").await?;
    let mut phone = primary.registered_phone("1001").await?;
    loss.everything_has_come(SOON).await?;
    let caller = primary.dial("1001").await?;
    let id = tablet.woken().await?;
    loss.everything_has_come(SOON).await?;
    loss.lag(LAG).await?;
    let there = mobile.in_region(&fallback);
    let (one, other) = tokio::join!(
        tablet.says("accept_ready", &id),
        there.says("accept_ready", &id)
    );
    let statuses = [one?.0, other?.0];
    ensure!(statuses.contains(&StatusCode::OK), "{statuses:?}");
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    ensure!(
        phone.next_call(2 * LAG).await.is_err(),
        "its phone was called twice"
    );
    ensure!(!caller.events().is_over(), "somebody has cut them off");
    caller.hang_up().await?;
    ends_alike(&primary, &fallback, &id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_answers_ends_in_time_when_its_region_is_lost() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    loss.everything_has_come(SOON).await?;
    // The PBX repeats its report after 5 s. The caller's name must not break out of that command.
    let named = Caller::number(CALLER).named(r"Asha (home,x)v(RINGBACK_PATH=/^a=b) \\ (");
    let caller = primary.dial_as("1001", named, None).await?;
    let id = app.woken().await?;
    loss.everything_has_come(SOON).await?;
    loss.primary_is(Condition::Refuses).await?;
    let (code, _) = caller.rejected(ring() + 2 * SOON).await?;
    let now = clock::now();
    ensure!(code == 486, "the caller heard {code}");
    let call = item(&fallback, &id).await?.context("the call")?;
    let rings_until = call.get("rings_until").and_then(|at| at.as_n().ok());
    let rings_until: u64 = rings_until.context("its ring's end")?.parse()?;
    let late = Duration::from_millis(now.as_millis().saturating_sub(rings_until));
    println!("busy {late:.1?} after the ring's end, by the region that is left");
    ensure!(late <= BUSY_WITHIN + AFTER_THE_OTHER, "{late:?} late");
    app.in_region(&fallback).sees(&id, "timed_out").await?;
    app.push("call_cancelled").await?;
    loss.primary_is(Condition::Well).await?;
    ends_alike(&primary, &fallback, &id, "timed_out").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_either_region_hear_of_calls_in_both() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let mut here = client(&primary).await?;
    let mut there = client(&fallback).await?;
    // Twice, because a client that the other region cannot reach would be removed after the first call.
    for lag in [Duration::ZERO, LAG] {
        let app = primary.app("1001").await?;
        loss.everything_has_come(SOON).await?;
        loss.lag(lag).await?;
        let caller = primary.dial("1001").await?;
        let id = app.woken().await?;
        hears(&mut here, &id, "ringing").await?;
        hears(&mut there, &id, "ringing").await?;
        let (status, answer) = app
            .in_region(&fallback)
            .says_anonymously("decline", &id)
            .await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        // The region that has not heard of the decline yet receives the PBX's report that the caller's leg ended, and
        // must not take it for an abandoned call.
        hears(&mut there, &id, "busy").await?;
        hears(&mut here, &id, "busy").await?;
        caller.rejected(SOON).await?;
        ends_alike(&primary, &fallback, &id, "declined").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_when_the_primary_is() -> Result<()> {
    let settings = Settings::from_environment();
    let seconds = |name: &str, unless: u64| -> Result<Duration> {
        let set = settings.variable(name).map(str::parse).transpose()?;
        Ok(Duration::from_secs(set.unwrap_or(unless)))
    };
    let course = Course {
        every: Duration::from_millis(1_500),
        before: seconds("REGION_WELL_SECONDS", 8)?,
        lost: seconds("REGION_LOST_SECONDS", 12)?,
        after: seconds("REGION_WELL_SECONDS", 8)?,
        lag: seconds("REPLICATION_LAG_SECONDS", LAG.as_secs())?,
    };
    let conditions: &[Condition] = if settings.variable("REGION_LOST_BOTH_WAYS").is_some() {
        &[Condition::Refuses, Condition::Silent]
    } else {
        &[Condition::Silent]
    };
    for condition in conditions {
        let (primary, fallback, loss) = two_regions().await?;
        let report = course.run(&primary, &fallback, &loss, *condition).await;
        loss.primary_is(Condition::Well).await?;
        report?;
    }
    Ok(())
}
