//! Missed calls: what a device that was offline during the ring learns later.

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use ringback::platform::clock;
use ringback::store::Table;
use ringback::store::missed_calls::MissedCalls;
use ringback_core::ids::{CallId, Extension};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_e2e::offline_device::delivered_at;

/// The ring of the test stack, and a little more.
const AFTER_THE_RING: std::time::Duration = std::time::Duration::from_secs(12);

/// Waits until FCM has got this many messages of this kind for the app's device, and returns the last one.
async fn nth_push(
    fixture: &Fixture,
    app: &App<'_>,
    count: usize,
    is_kind: impl Fn(&Value) -> bool,
) -> Result<Value> {
    let deadline = Instant::now() + SOON;
    loop {
        let mut pushes = fixture.pushes_to(&app.push_token).await?;
        pushes.retain(&is_kind);
        if pushes.len() >= count {
            return pushes.pop().context("a push");
        }
        if Instant::now() > deadline {
            bail!("{} of {count} pushes", pushes.len());
        }
        sleep(std::time::Duration::from_millis(20)).await;
    }
}

fn is_ring(push: &Value) -> bool {
    push["data"]["type"] == "incoming_call"
}

fn is_notice(push: &Value) -> bool {
    push["android"]["collapse_key"] == "missed_calls"
}

/// The caller gives up during the `number`th ring of the app. Returns the notice.
async fn misses_call(fixture: &Fixture, app: &App<'_>, number: usize) -> Result<Value> {
    let caller = fixture.dial("1001").await?;
    nth_push(fixture, app, number, is_ring).await?;
    caller.cancel().await?;
    nth_push(fixture, app, number, is_notice).await
}

async fn asks_for_calls(app: &App<'_>) -> Result<Value> {
    let path = format!("/api/calls?extension={}", app.extension);
    let (status, answer) = app.ask(Method::GET, &path, None).await?;
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    Ok(answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_was_offline_gets_one_notice_of_all_missed_calls() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    asks_for_calls(&app).await?;
    let mut last = Value::Null;
    for number in 1..=5 {
        last = misses_call(&fixture, &app, number).await?;
        assert_eq!(last["data"]["missed_calls"], number.to_string());
    }
    let data = &last["data"];
    assert_eq!(
        (&data["type"], &data["reason"]),
        (&"call_cancelled".into(), &"caller_hung_up".into())
    );
    assert_eq!(last["android"]["ttl"], "86400s");
    assert_eq!(last["android"]["priority"], "HIGH");
    assert_eq!(last["apns"]["headers"]["apns-push-type"], "alert");
    assert_eq!(
        last["apns"]["payload"]["aps"]["alert"]["title"],
        "5 missed calls"
    );
    // During the ring, each cancellation replaces the push of its call.
    let pushes = fixture.pushes_to(&app.push_token).await?;
    for ring in pushes.iter().filter(|push| is_ring(push)) {
        let of_this_call = |push: &&Value| push["data"]["call_id"] == ring["data"]["call_id"];
        let of_this_call = pushes.iter().filter(of_this_call);
        let keys: Vec<_> = of_this_call
            .map(|push| push["android"]["collapse_key"].as_str())
            .collect();
        let id = ring["data"]["call_id"].as_str();
        assert_eq!(keys, [id, id, Some("missed_calls")]);
    }

    let delivered = delivered_at(&pushes, (clock::now() + AFTER_THE_RING).as_millis())?;
    assert_eq!(delivered, [last]);

    let answer = asks_for_calls(&app).await?;
    let calls = answer["calls"].as_array().context("calls")?;
    let missed = calls
        .iter()
        .filter(|call| call["reason"] == "caller_hung_up");
    ensure!(missed.count() >= 5, "{answer}");
    let notice = misses_call(&fixture, &app, 6).await?;
    assert_eq!(notice["data"]["missed_calls"], "1");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_answered_is_missed_and_one_answered_elsewhere_is_not() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (app, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let (caller, id) = app.is_called().await?;
    let (status, answer) = other.respond("decline", &id).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    let cancel = app.push("call_cancelled").await?;
    assert_eq!(cancel["data"]["reason"], "declined_elsewhere");
    assert_eq!(cancel["android"]["collapse_key"], id);
    let ttl = cancel["android"]["ttl"].as_str().context("ttl")?;
    let seconds: u64 = ttl.trim_end_matches('s').parse()?;
    ensure!((60..=70).contains(&seconds), "{ttl}");
    assert_eq!(cancel["apns"]["headers"]["apns-push-type"], "background");
    caller.rejected(SOON).await?;
    assert_eq!(fixture.pushes_to(&app.push_token).await?.len(), 2);

    other.unregister().await?;
    let _caller = fixture.dial("1001").await?;
    nth_push(&fixture, &app, 2, is_ring).await?;
    sleep(AFTER_THE_RING).await;
    let notice = nth_push(&fixture, &app, 1, is_notice).await?;
    assert_eq!(notice["data"]["reason"], "timeout");
    let delivered = delivered_at(
        &fixture.pushes_to(&app.push_token).await?,
        clock::now().as_millis() + 60_000,
    )?;
    assert_eq!(delivered, [notice]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_call_is_counted_once_however_often_it_is_recorded() -> Result<()> {
    let fixture = Fixture::open().await?;
    let client = aws_sdk_dynamodb::Client::new(&fixture.aws);
    let missed = MissedCalls::new(Table::new(client, fixture.stack.aws.table.as_str()));
    let mut call = ringback_core::testing::a_call(clock::now());
    call.extension = Extension::try_from(CallId::fresh().key())?;
    let until = clock::now();
    for _ in 0..3 {
        assert_eq!(missed.add(&call, until).await?, 1);
    }
    for count in 2..=100_u64 {
        call.call_id = CallId::fresh();
        assert_eq!(missed.add(&call, until).await?, count.min(99));
    }
    missed.forget(&call.extension).await?;
    assert_eq!(missed.add(&call, until).await?, 1);
    Ok(())
}
