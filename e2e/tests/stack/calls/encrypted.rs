//! Encrypted calls: SIP over TLS and SRTP, on the phone's leg and on the trunk's leg.

use std::time::Duration;

use anyhow::{Result, ensure};
use reqwest::StatusCode;
use ringback_sip::{Caller, OutgoingCall, Phone, Trunk};
use serde_json::json;

use ringback_e2e::fixture::{CALLER, Conversation, Fixture, SOON, call_sid};

/// An extension with a phone that uses TLS.
const ENCRYPTED: &str = "1003";
/// An extension with a phone that uses WebRTC.
const WEBRTC: &str = "1004";
/// Long enough for an INVITE to arrive.
const A_WHILE: Duration = Duration::from_secs(2);

fn is_srtp(offer: &str) -> bool {
    let profiles = offer.lines().filter(|line| line.starts_with("m="));
    profiles
        .clone()
        .all(|line| line.split(' ').nth(2) == Some("RTP/SAVP"))
        && offer.matches("\na=crypto:").count() >= profiles.count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_over_tls_is_offered_srtp_and_talks_with_an_unencrypted_caller() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app(ENCRYPTED).await?;
    let mut phone = fixture.phone(ENCRYPTED).await?;
    let conversation = Conversation::start(&app, &mut phone).await?;
    let offer = conversation.callee.offer();
    ensure!(is_srtp(&offer), "{offer}");
    // `both_hear` counts only SRTP that was decrypted and came from the other leg.
    conversation.both_hear().await?;
    conversation.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_answers_srtp_unencrypted_gets_no_call_and_no_media() -> Result<()> {
    let fixture = Fixture::open().await?;
    let phone = fixture.phone(ENCRYPTED).await?.without_srtp();
    let offer = answer_unencrypted(&fixture, phone).await?;
    ensure!(is_srtp(&offer), "{offer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_webrtc_phone_that_registers_and_answers_unencrypted_gets_no_call_and_no_media()
-> Result<()> {
    let fixture = Fixture::open().await?;
    let password = &fixture.stack.phone(WEBRTC).unwrap().sip_password;
    let phone = Phone::new(fixture.pbx, WEBRTC, password).await?;
    let offer = answer_unencrypted(&fixture, phone).await?;
    ensure!(offer.contains(" UDP/TLS/RTP/SAVPF "), "{offer}");
    Ok(())
}

/// Calls a phone that answers without encryption. Returns the SDP offer.
async fn answer_unencrypted(fixture: &Fixture, mut phone: Phone) -> Result<String> {
    let app = fixture.app(phone.extension()).await?;
    let caller = fixture.dial(phone.extension()).await?;
    let id = app.receives_call().await?;
    phone.register().await?;
    app.respond("accept_ready", &id).await?;
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    leg.ended(SOON).await?;
    ensure!(
        leg.media().received() == 0,
        "unencrypted media reached the phone"
    );
    // The caller still hears ringing: the phone may register again and is then called once more.
    ensure!(
        caller.answered(A_WHILE).await.is_err(),
        "the call was bridged"
    );
    ensure!(app.call(&id).await?["status"] == "mobile_ready");
    caller.cancel().await?;
    // Wait, so that the next test's phone does not ring for this call.
    app.wait_for_status(&id, "canceled").await?;
    Ok(leg.offer().into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_phone_that_registers_over_udp_is_not_called() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app(ENCRYPTED).await?;
    let password = &fixture.stack.phone(ENCRYPTED).unwrap().sip_password;
    let mut phone = Phone::new(fixture.pbx, ENCRYPTED, password).await?;
    let caller = fixture.dial(ENCRYPTED).await?;
    let id = app.receives_call().await?;
    phone.register().await?;
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status == StatusCode::BAD_GATEWAY, "{status}: {answer}");
    ensure!(
        phone.next_call(A_WHILE).await.is_err(),
        "the phone was called"
    );
    // The originate was retried until the call's deadline.
    let (code, _) = caller.rejected(SOON).await?;
    assert_eq!(code, 486);
    app.wait_for_status(&id, "failed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unencrypted_phone_is_offered_unencrypted_media() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let conversation = Conversation::start(&app, &mut phone).await?;
    let offer = conversation.callee.offer();
    ensure!(
        offer.contains(" RTP/AVP ") && !offer.contains("a=crypto"),
        "{offer}"
    );
    conversation.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encrypted_and_an_unencrypted_phone_see_and_hear_each_other() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client(ENCRYPTED).await?;
    let mut caller = fixture.phone(ENCRYPTED).await?.with_video();
    caller.register().await?;
    let mut callee = fixture.phone("1002").await?.with_video();
    let message = json!({ "type": "incoming_call", "callerId": ENCRYPTED, "recipientId": "1002", "callType": "video" });
    client.send(message).await?;
    let caller = caller.next_call(SOON).await?;
    let offer = caller.offer();
    ensure!(caller.offers_video() && is_srtp(&offer), "{offer}");
    caller.answer().await?;
    let id = app.receives_call().await?;
    callee.register().await?;
    app.respond("accept_ready", &id).await?;
    let callee = callee.next_call(SOON).await?;
    callee.answer().await?;
    app.wait_for_status(&id, "in_progress").await?;
    for (one, other) in [(&caller, &callee), (&callee, &caller)] {
        one.media().hears(other.media(), SOON).await?;
        one.media().sees(other.media(), SOON).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_on_an_encrypted_trunk_talks_with_encrypted_and_unencrypted_phones() -> Result<()>
{
    for extension in [ENCRYPTED, "1001"] {
        let fixture = Fixture::open().await?;
        let trunk = encrypted_trunk(&fixture).await?;
        let app = fixture.app(extension).await?;
        let mut phone = fixture.registered_phone(extension).await?;
        let caller = call(&fixture, &trunk, extension).await?;
        caller.ringing(SOON).await?;
        let id = app.receives_call().await?;
        app.respond("accept_ready", &id).await?;
        let conversation = Conversation::join(&app, &mut phone, caller, id).await?;
        conversation.both_hear().await?;
        conversation.end(&app).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trunk_with_srtp_rejects_unencrypted_calls() -> Result<()> {
    let fixture = Fixture::open().await?;
    let over_tls = encrypted_trunk(&fixture).await?.without_srtp();
    let (code, _) = call(&fixture, &over_tls, ENCRYPTED)
        .await?
        .rejected(SOON)
        .await?;
    assert_eq!(code, 488, "over TLS");
    let source = &fixture.stack.sip.encrypted_trunk_source;
    let over_udp = Trunk::bind(&format!("{source}:0")).await?;
    let number = fixture.number_of(ENCRYPTED);
    let sid = call_sid();
    let refused = over_udp.call(fixture.pbx, number, Caller::number(CALLER), Some(&sid));
    let (code, _) = refused.await?.rejected(SOON).await?;
    assert_eq!(code, 488, "over UDP");
    Ok(())
}

async fn encrypted_trunk(fixture: &Fixture) -> Result<Trunk> {
    let source = format!("{}:0", fixture.stack.sip.encrypted_trunk_source);
    let ca_pem = &fixture.stack.ari.ca_pem;
    Ok(Trunk::over_tls(&source, fixture.pbx_over_tls()?, ca_pem).await?)
}

async fn call(fixture: &Fixture, trunk: &Trunk, extension: &str) -> Result<OutgoingCall> {
    let (pbx, number) = (fixture.pbx_over_tls()?, fixture.number_of(extension));
    let sid = call_sid();
    let caller = Caller::number(CALLER);
    Ok(trunk.call(pbx, number, caller, Some(&sid)).await?)
}
