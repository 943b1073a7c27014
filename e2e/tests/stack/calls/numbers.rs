//! Telephone numbers of other countries, and extensions that look like telephone numbers or are long.

use anyhow::{Context, Result};
use ringback_client::Client;
use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{App, Fixture, SOON, call_sid};
use ringback_e2e::sip_account::SipAccount;
use ringback_sip::{Caller, Phone};
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

        // The other direction. An app's own extension is never read as a telephone number.
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

/// A phone with an account of this name on the first PBX, as `phones.conf` has one for an extension: all of its devices share it.
async fn phone_with_shared_account(fixture: &Fixture, name: &str) -> Result<Phone> {
    let ari = &fixture.stack.ari;
    let objects = [
        ("auth", vec![("username", name), ("password", PASSWORD)]),
        (
            "aor",
            vec![("max_contacts", "1"), ("remove_existing", "yes")],
        ),
        (
            "endpoint",
            vec![
                ("context", "ringback-phones"),
                ("identify_by", "username"),
                ("auth", name),
                ("aors", name),
                ("disallow", "all"),
                ("allow", "ulaw,alaw"),
                ("direct_media", "no"),
            ],
        ),
    ];
    for (kind, options) in objects {
        let url = format!(
            "{}/asterisk/config/dynamic/res_pjsip/{kind}/{name}",
            ari.local_url
        );
        let options = options.iter();
        let options = options.map(|(name, value)| json!({ "attribute": name, "value": value }));
        let request = fixture.http.put(url);
        let request = request.basic_auth(&ari.username, Some(&ari.password));
        let body = json!({ "fields": options.collect::<Vec<_>>() });
        request.json(&body).send().await?.error_for_status()?;
    }
    let mut phone = Phone::new(fixture.pbx, name, PASSWORD).await?;
    phone.register().await?;
    Ok(phone)
}

const PASSWORD: &str = "not-a-secret-of-a-deployment";

/// Asterisk limits the name of a channel, which contains that of the account.
#[tokio::test(flavor = "multi_thread")]
async fn a_shared_account_of_64_characters_is_called() -> Result<()> {
    let fixture = Fixture::open().await?;
    let name = &"y-2".repeat(22)[..64];
    let callee = app_of(&fixture, name).await?;
    callee.register_for_push().await?;
    let mut phone = phone_with_shared_account(&fixture, name).await?;
    let mut caller_phone = fixture.registered_phone("1001").await?;
    let mut client = fixture.client("1001").await?;
    let call = json!({ "type": "incoming_call", "recipientId": name, "callType": "voice" });
    client.send(call).await?;
    let own_leg = caller_phone.next_call(SOON).await?;
    own_leg.answer().await?;
    let id = callee.receives_call().await?;
    callee.respond("accept_ready", &id).await?;
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    callee.wait_for_status(&id, "in_progress").await?;
    own_leg.media().hears(leg.media(), SOON).await?;
    leg.hang_up().await?;
    let ended = callee.wait_for_status(&id, "completed").await?;
    assert_eq!(ended["reason"], "callee_hung_up");
    callee.unregister().await
}
