//! Callers who hear busy: the person talks to another one (`CallWaiting=busy`), or wants no calls.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Method, StatusCode};
use ringback::platform::clock;
use ringback_sip::{Caller, OutgoingCall};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use ringback_e2e::clients::{next_of_type, status_updates, statuses_of};
use ringback_e2e::fixture::{
    App, CALLER, Conversation, Fixture, SOON, call_sid, unused_mobile_number,
};
use ringback_e2e::observed_function::{ObservedFunction, passthru};

/// Reports calls as Exotel does, to a function with `CallWaiting=busy`. The deployed functions do the rest.
struct BusyWebhook<'a> {
    fixture: &'a Fixture,
    function: ObservedFunction,
}

impl<'a> BusyWebhook<'a> {
    async fn start(fixture: &'a Fixture) -> Result<Self> {
        let variables = [("CALL_WAITING", "busy")];
        let function = ObservedFunction::start_with(fixture, "exotel-webhook", &variables).await?;
        Ok(Self { fixture, function })
    }

    /// The webhook reports this caller, and its leg arrives. Returns the leg, and the webhook's answer.
    async fn call(&mut self, number: &str) -> Result<(OutgoingCall, Value)> {
        let sid = call_sid();
        let event = passthru(self.fixture, number, &sid, "1001")?;
        let (answer, _) = self.function.invoke(&event).await?;
        let caller = Caller::number(number);
        let leg = self.fixture.dial_as("1001", caller, Some(&sid)).await?;
        Ok((leg, answer))
    }
}

async fn ring_again(app: &App<'_>, rings: usize) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while app.count_pushes("incoming_call").await? < rings {
        ensure!(Instant::now() < deadline, "fewer than {rings} rings");
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_caller_hears_busy_while_the_first_conversation_goes_on() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut webhook = BusyWebhook::start(&fixture).await?;
    let (caller, answer) = webhook.call(CALLER).await?;
    let id = app.receives_call().await?;
    ensure!(answer["call_id"] == id.as_str(), "{answer}");
    let mut phone = fixture.registered_phone("1001").await?;
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    fixture.notes_talk("1001", true).await?;

    let second = unused_mobile_number();
    let mut client = fixture.client("1001").await?;
    let (leg, answer) = webhook.call(&second).await?;
    assert_eq!(answer["status"], "declined");
    assert_eq!(leg.rejected(SOON).await?.0, 486);
    let refused = answer["call_id"].as_str().context("call_id")?;
    let call = app.call(refused).await?;
    assert_eq!(
        (&call["status"], &call["reason"]),
        (&"declined".into(), &"busy".into())
    );
    // A connected app rings for `ringing`.
    let updates = status_updates(&mut client, refused).await?;
    assert_eq!(statuses_of(&updates), ["busy"]);
    let notice = app.push("call_cancelled").await?;
    assert_eq!(notice["data"]["reason"], "busy");
    assert_eq!(notice["android"]["collapse_key"], "missed_calls");
    assert_eq!(app.count_pushes("incoming_call").await?, 1);
    talk.both_hear().await?;

    // The deployed functions have the default: a second call rings.
    let other = fixture
        .dial_as("1001", Caller::number(&second), None)
        .await?;
    ring_again(&app, 2).await?;
    other.cancel().await?;
    talk.both_hear().await?;

    talk.end(&app).await?;
    fixture.notes_talk("1001", false).await?;
    let (third, answer) = webhook.call(&unused_mobile_number()).await?;
    assert_eq!(answer["status"], "waiting_for_mobile");
    ring_again(&app, 3).await?;
    third.cancel().await?;
    app.unregister().await
}

async fn set_do_not_disturb(app: &App<'_>, of: &str, until: Value) -> Result<(StatusCode, Value)> {
    let path = format!("/api/extensions/{of}/do-not-disturb");
    app.ask(Method::PUT, &path, Some(json!({ "until": until })))
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn no_phone_rings_before_the_end_of_do_not_disturb() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut client = fixture.client("1001").await?;
    let until = clock::now() + Duration::from_secs(6);
    let (status, answer) = set_do_not_disturb(&app, "1001", until.as_millis().into()).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    assert_eq!(answer["until"], until.as_millis());

    let leg = fixture.dial("1001").await?;
    assert_eq!(leg.rejected(SOON).await?.0, 486);
    let notice = app.push("call_cancelled").await?;
    assert_eq!(notice["data"]["reason"], "do_not_disturb");
    let refused = notice["data"]["call_id"].as_str().context("call_id")?;
    let updates = status_updates(&mut client, refused).await?;
    assert_eq!(statuses_of(&updates), ["busy"]);
    assert_eq!(updates[0]["reason"], "do_not_disturb");
    assert_eq!(app.count_pushes("incoming_call").await?, 0);

    let left = until.since(clock::now()) + Duration::from_millis(200);
    ensure!(
        left > Duration::from_millis(200),
        "the refused call took too long"
    );
    sleep(left).await;
    let (caller, _) = app.is_called().await?;
    caller.cancel().await?;

    // It can be ended early.
    let until = clock::now() + Duration::from_secs(30);
    for until in [until.as_millis().into(), Value::Null] {
        let (status, answer) = set_do_not_disturb(&app, "1001", until).await?;
        ensure!(status == StatusCode::OK, "{answer}");
    }
    let caller = fixture.dial("1001").await?;
    ring_again(&app, 2).await?;
    caller.cancel().await?;
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn do_not_disturb_is_set_by_its_own_extension_and_within_a_year() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let now = clock::now().as_millis();
    let year = 365 * 24 * 60 * 60 * 1000;
    for (of, until, expected, code) in [
        ("1002", Value::Null, 403, "not_your_extension"),
        ("1001!", Value::Null, 400, "bad_field"),
        ("1001", json!("soon"), 400, "bad_field"),
        ("1001", json!(now + year + 60_000), 400, "bad_field"),
    ] {
        let (status, answer) = set_do_not_disturb(&app, of, until).await?;
        assert_eq!((status.as_u16(), &answer["code"]), (expected, &code.into()));
    }
    // A time that has passed is no longer.
    let (status, answer) = set_do_not_disturb(&app, "1001", json!(now - 1_000)).await?;
    assert_eq!((status, &answer["until"]), (StatusCode::OK, &Value::Null));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_calls_somebody_who_wants_no_calls_gets_an_error() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let until = clock::now() + Duration::from_secs(5);
    let (status, answer) = set_do_not_disturb(&app, "1002", until.as_millis().into()).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    let mut client = fixture.client("1001").await?;
    let call = json!({ "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "voice" });
    client.send(call).await?;
    let error = next_of_type(&mut client, "error").await?;
    assert_eq!(
        (&error["code"], &error["status"]),
        (&"do_not_disturb".into(), &"declined".into())
    );
    assert_eq!(app.count_pushes("incoming_call").await?, 0);
    set_do_not_disturb(&app, "1002", Value::Null).await?;
    app.unregister().await
}
