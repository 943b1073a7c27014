//! Two real PBXs: a call stays on the PBX that it came in on, an unreachable PBX is skipped, and each PBX reports to the
//! second region what the first one does not accept. The local stack must be running.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{App, Conversation, Fixture, SOON, call_sid};
use ringback_e2e::pbx::{DialplanGlobals, FrozenPbx};
use ringback_sip::{IncomingCall, Phone};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// The index of the second PBX.
const SECOND: usize = 1;
/// The maximum time from a report to the push in the local cloud when nothing fails.
const TOLD_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_the_second_pbx_talks_to_a_phone_there() -> Result<()> {
    let fixture = Fixture::open().await?.at_pbx(SECOND)?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let talking = Conversation::start(&app, &mut phone).await?;
    talking.both_hear().await?;
    let history = app.call(&talking.id).await?["history"].to_string();
    assert!(history.contains("pbx2/"), "{history}");
    talking.caller.hang_up().await?;
    app.wait_for_status(&talking.id, "completed").await?;
    phone.unregister().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_of_an_unknown_pbx_is_rejected_by_name() -> Result<()> {
    let fixture = Fixture::open().await?;
    let number = fixture.number_of("1001").to_owned();
    let sid = call_sid();
    let form = [
        ("channel_id", "1795149002.1"),
        ("caller", "09876543210"),
        ("number", number.as_str()),
        ("call_sid", sid.as_str()),
        ("pbx", "pbx9"),
    ];
    let (status, answer) = fixture.pbx_reports("incoming", &form).await?;
    assert_eq!(
        (status.as_u16(), &answer["code"]),
        (400, &"bad_field".into())
    );
    let error = answer["error"]
        .as_str()
        .context("the answer has no error")?;
    assert!(error.starts_with("pbx "), "{error}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_pbx_is_skipped() -> Result<()> {
    let fixture = Fixture::open().await?.at_pbx(SECOND)?;
    let (first, second) = (
        FrozenPbx::stop(&fixture, 0)?,
        fixture.registered_phone("1001").await?,
    );
    let (status, found) = health(&fixture).await?;
    assert_eq!(status, 200, "{found}");
    assert_eq!(
        found["pbxs"],
        json!({ "pbx1": "unreachable", "pbx2": "ok" })
    );
    assert_eq!(found["dependencies"]["asterisk"], "ok");

    let app = fixture.app("1002").await?;
    let mut callee = fixture.phone("1002").await?;
    let talking = Conversation::start(&app, &mut callee).await?;
    talking.both_hear().await?;
    talking.caller.hang_up().await?;
    app.wait_for_status(&talking.id, "completed").await?;
    let caller = an_app_calls(&fixture, &app, second, &mut callee).await?;

    let other = FrozenPbx::stop(&fixture, SECOND)?;
    let (status, found) = health(&fixture).await?;
    assert_eq!(status, 503, "{found}");
    assert_eq!(found["dependencies"]["asterisk"], "unreachable");

    drop((first, other));
    all_are_well(&fixture).await?;
    for mut phone in [caller, callee] {
        phone.unregister().await?;
    }
    Ok(())
}

/// 1001 calls 1002 and hangs up after a while.
async fn an_app_calls(
    fixture: &Fixture,
    app: &App<'_>,
    mut own: Phone,
    callee: &mut Phone,
) -> Result<Phone> {
    let mut client = fixture.client("1001").await?;
    let message = json!({
        "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "voice",
    });
    client.send(message).await?;
    let caller: IncomingCall = own.next_call(SOON).await?;
    caller.answer().await?;
    let data = next_of_type(&mut client, "call_initiated").await?["data"].clone();
    let id = data["callId"]
        .as_str()
        .context("the push has no call id")?
        .to_owned();
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status == 200, "{status}: {answer}");
    let called = callee.next_call(SOON).await?;
    called.answer().await?;
    app.wait_for_status(&id, "in_progress").await?;
    caller.media().hears(called.media(), SOON).await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    Ok(own)
}

/// The current health: an earlier result is cached for a second.
async fn health(fixture: &Fixture) -> Result<(u16, Value)> {
    sleep(Duration::from_millis(1_100)).await;
    let url = format!("{}/health", fixture.stack.http_url);
    let answer = fixture.http.get(url).send().await?;
    Ok((answer.status().as_u16(), answer.json().await?))
}

async fn all_are_well(fixture: &Fixture) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let (_, found) = health(fixture).await?;
        if found["pbxs"] == json!({ "pbx1": "ok", "pbx2": "ok" }) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{found}");
    }
}

/// The real region is the second one here; the first one does not exist.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_region_delays_one_caller_by_seconds_and_the_next_ones_not_at_all() -> Result<()> {
    let fixture = Fixture::open().await?.at_pbx(SECOND)?;
    let frozen = TcpListener::bind("127.0.0.1:0").await?;
    let refusing = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    // The CURL() timeouts of the dialplan: 2 s to connect, 5 s for the response.
    let lost = [
        (format!("http://{refusing}"), 0),
        ("http://region.invalid".to_owned(), 2),
        (format!("http://{}", frozen.local_addr()?), 5),
    ];
    let globals = DialplanGlobals::of(&fixture, SECOND)?;
    let there = globals.get("RINGBACK_HOOK_URL").await?;
    globals.set("RINGBACK_FALLBACK_HOOK_URL", &there).await?;
    let mut outcome = Ok(());
    for (url, seconds) in lost {
        globals.set("RINGBACK_HOOK_URL", &url).await?;
        globals.set("RINGBACK_AVOID_UNTIL", "0").await?;
        let first = Duration::from_secs(seconds) + TOLD_WITHIN;
        outcome = outcome.and(is_woken_within(&fixture, first, &url).await);
        outcome = outcome.and(is_woken_within(&fixture, TOLD_WITHIN, &url).await);
    }
    globals.set("RINGBACK_HOOK_URL", &there).await?;
    globals.set("RINGBACK_FALLBACK_HOOK_URL", "").await?;
    globals.set("RINGBACK_AVOID_UNTIL", "0").await?;
    outcome?;
    is_woken_within(&fixture, TOLD_WITHIN, &there).await
}

/// A caller dials, and an app receives the push within this time.
async fn is_woken_within(fixture: &Fixture, time: Duration, url: &str) -> Result<()> {
    let app = fixture.app("1001").await?;
    let began = Instant::now();
    let caller = fixture.dial("1001").await?;
    let id = app.receives_call_within(time + SOON).await?;
    let took = began.elapsed();
    caller.hang_up().await?;
    app.wait_for_status(&id, "canceled").await?;
    ensure!(took < time, "push after {took:?} with {url} lost");
    Ok(())
}
