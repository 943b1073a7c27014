//! Every secret is replaced during calls: conversations continue, waiting callers are answered, and nothing is
//! deployed. Deployed functions and a real Asterisk; the local stack must be running.

mod secret_rotation;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use ringback_client::{Client, Credential};
use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{App, CALLER, Conversation, Fixture, SOON, call_sid};
use ringback_sip::Caller;
use secret_rotation::Rotation;
use serde_json::json;

/// A caller who is not answered.
const UNANSWERED_CALLER: &str = "+919876500017";
/// The longest ring timeout of a test stack; see `RING_TIMEOUT_SECONDS` in the Makefile.
const LONGEST_RING: Duration = Duration::from_secs(35);

#[tokio::test(flavor = "multi_thread")]
async fn replacing_every_secret_during_calls_loses_none() -> Result<()> {
    let fixture = Fixture::open().await?;
    let rotation = Rotation::prepare(&fixture).await?;
    let outcome = calls_survive(&rotation, &fixture).await;
    rotation.restore().await?;
    outcome?;
    // The stack works with the restored secrets.
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    Conversation::start(&app, &mut phone)
        .await?
        .both_hear()
        .await
}

async fn calls_survive(rotation: &Rotation<'_>, fixture: &Fixture) -> Result<()> {
    let (mut app, mut talker) = (fixture.app("1001").await?, fixture.app("1002").await?);
    let (mut phone, mut talkers_phone) =
        (fixture.phone("1001").await?, fixture.phone("1002").await?);
    let talking = Conversation::start(&talker, &mut talkers_phone).await?;
    let unanswered = Caller::number(UNANSWERED_CALLER);
    let unanswered = fixture
        .dial_as("1002", unanswered, Some(&call_sid()))
        .await?;
    let (waiting, id) = app.is_called().await?;
    let old_token = app.token.clone();

    rotation.replace_all().await?;

    // The conversation continues.
    talking.both_hear().await?;
    // The waiting caller is answered with a new app token, ARI password and webhook secret.
    app.token = rotation.token_of("1001")?;
    talker.token = rotation.token_of("1002")?;
    phone.register().await?;
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    let callee = phone.next_call(SOON).await?;
    callee.answer().await?;
    waiting.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    waiting.media().hears(callee.media(), SOON).await?;
    // An app that still has its old token is accepted too.
    app.token = old_token;
    waiting.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    talking.caller.hang_up().await?;
    talker.wait_for_status(&talking.id, "completed").await?;
    // The unanswered caller hears busy, from a function that has not run since the rotation.
    let busy = unanswered.rejected(LONGEST_RING).await?;
    ensure!(busy.0 == 486, "{busy:?}");

    exotel_calls(rotation, fixture, &mut app).await?;
    apps_call(rotation, fixture).await
}

/// Exotel's flow uses the new secret or still the old one. The push uses the new service account.
async fn exotel_calls(rotation: &Rotation<'_>, fixture: &Fixture, app: &mut App<'_>) -> Result<()> {
    for secret in [rotation.webhook_secret(), rotation.old_webhook_secret()] {
        let sid = call_sid();
        let url = format!("{}/exotel/webhook?secret={secret}", fixture.stack.http_url);
        let (status, answer) = fixture
            .passthru_at(&url, &sid, CALLER, fixture.number_of("1001"))
            .await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        let id = answer["call_id"].as_str().context("the call has no id")?;
        let pushes = fixture.pushes_to(&app.push_token).await?;
        let woken = pushes.iter().any(|push| push["data"]["call_id"] == id);
        ensure!(woken, "no push for {id}");
        let (status, answer) = app.respond("decline", id).await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");

        let stream = format!("{}?secret={secret}", fixture.stack.ws_url);
        Client::connect_as(&stream, &Credential::InUrl).await?;
    }
    Ok(())
}

/// An app calls a telephone: Exotel's API accepts only the new key.
async fn apps_call(rotation: &Rotation<'_>, fixture: &Fixture) -> Result<()> {
    let token = rotation.token_of("1001")?;
    let mut client = Client::connect(&fixture.stack.ws_url, &token).await?;
    let own_number = &fixture
        .stack
        .phone("1001")
        .context("1001 has no phone")?
        .mobile_number;
    let wants = json!({
        "type": "incoming_call", "callerId": own_number, "recipientId": CALLER, "callType": "voice",
    });
    client.send(wants).await?;
    let data = next_of_type(&mut client, "call_initiated").await?["data"].clone();
    let id = data["callId"].as_str().context("the call has no id")?;
    let sid = fixture
        .exotel_call_sids(id)
        .await?
        .pop()
        .context("Exotel has not placed the call")?;
    let answers = fixture
        .exotel_event(&sid, json!({ "status": "completed" }))
        .await?;
    ensure!(answers["answers"][0]["status"] == 200, "{answers}");
    Ok(())
}
