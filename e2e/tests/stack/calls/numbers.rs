//! Telephone numbers of other countries, and extensions that look like telephone numbers or are long.

use anyhow::{Context, Result};
use ringback_client::Client;
use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{App, Fixture, SOON, call_sid};
use ringback_e2e::sip_account::SipAccount;
use ringback_sip::Caller;
use serde_json::json;

use crate::access::tokens::{Secrets, claims_of, hs256, with};

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_caller_is_shown_with_the_country_that_the_trunk_sends() -> Result<()> {
    let fixture = Fixture::open().await?;
    let foreign = "+14155550123";
    for (caller, expected) in [
        (Caller::number(foreign), foreign),
        (Caller::number("0014155550123"), foreign),
        // Ten digits, which would be an Indian number.
        (
            Caller::number("6561234567").in_header("+6561234567"),
            "+6561234567",
        ),
        (
            Caller::number("4155550123").in_header("<sip:14155550123@trunk.example;user=phone>"),
            foreign,
        ),
        (
            Caller::number("09876543210").in_header("x"),
            "+919876543210",
        ),
        (Caller::withheld().in_header(foreign), "anonymous"),
    ] {
        let app = fixture.app("1001").await?;
        let call = fixture.dial_as("1001", caller, Some(&call_sid())).await?;
        let id = app.receives_call().await?;
        let push = app.push("incoming_call").await?;
        assert_eq!(push["data"]["caller_number"], expected);
        // The phone shows the same number.
        let mut phone = fixture.registered_phone("1001").await?;
        app.respond("accept_ready", &id).await?;
        let leg = phone.next_call(SOON).await?;
        assert_eq!(leg.caller().number, expected);
        leg.answer().await?;
        call.answered(SOON).await?;
        call.hang_up().await?;
        app.wait_for_status(&id, "completed").await?;
        app.unregister().await?;
    }
    Ok(())
}

/// An app of an extension that the stack has no phone for.
async fn app_of<'a>(fixture: &'a Fixture, extension: &str) -> Result<App<'a>> {
    let secrets = Secrets::of(fixture).await?;
    let mut app = fixture.unregistered_app("1001");
    let claims = with(&claims_of(&app.token)?, "extension", json!(extension));
    app.token = hs256(&claims, secrets.get("app", "jwt_secret")?)?;
    app.extension = extension.to_owned();
    Ok(app)
}

#[tokio::test(flavor = "multi_thread")]
async fn extensions_of_many_digits_and_of_64_characters_call_and_are_called() -> Result<()> {
    let fixture = Fixture::open().await?;
    let sub = "8c2f6a1e-5b7d-4f3a-9c0e-1d2b3a4f5e6d";
    for extension in ["98765432", sub, &"x-1".repeat(22)[..64]] {
        let callee = app_of(&fixture, extension).await?;
        let account = SipAccount::of(&callee).await?;
        let mut callee_phone = account.phone(&fixture, 0, true).await?;
        callee_phone.register().await?;
        let caller = fixture.app("1001").await?;
        let mut caller_phone = fixture.registered_phone("1001").await?;
        let mut client = fixture.client("1001").await?;
        let call = json!({ "type": "incoming_call", "recipientId": extension, "recipientType": "extension", "callType": "voice" });
        client.send(call).await?;
        let own_leg = caller_phone.next_call(SOON).await?;
        assert_eq!(own_leg.caller().number, extension);
        own_leg.answer().await?;
        let id = callee.receives_call().await?;
        callee.respond("accept_ready", &id).await?;
        let leg = callee_phone.next_call(SOON).await?;
        leg.answer().await?;
        callee.wait_for_status(&id, "in_progress").await?;
        own_leg.media().hears(leg.media(), SOON).await?;
        leg.hang_up().await?;
        callee.wait_for_status(&id, "completed").await?;

        // And back. The app's own extension is no telephone number, whatever it looks like.
        let mut client = Client::connect(&fixture.stack.ws_url, &callee.token).await?;
        let back = json!({ "type": "incoming_call", "callerId": extension, "recipientId": "1001", "callType": "voice", "deviceId": callee.device });
        client.send(back).await?;
        let own_leg = callee_phone.next_call(SOON).await?;
        own_leg.answer().await?;
        let started = next_of_type(&mut client, "call_initiated").await?;
        let id = started["data"]["callId"].as_str().context("an id")?;
        caller.respond("accept_ready", id).await?;
        let leg = caller_phone.next_call(SOON).await?;
        assert_eq!(leg.caller().number, extension);
        leg.answer().await?;
        caller.wait_for_status(id, "in_progress").await?;
        own_leg.hang_up().await?;
        caller.wait_for_status(id, "completed").await?;
        callee.unregister().await?;
        caller.unregister().await?;
    }
    Ok(())
}
