//! SIP beside the simple call: digits, early media, reliable responses, session timers, UPDATE and re-INVITE.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringback_e2e::fixture::{CALLER, Conversation, Fixture, SOON, call_sid};
use ringback_sip::{CallStage, Caller, Hold, Media, OutgoingCall, Trunk};
use serde_json::json;
use tokio::time::sleep;

use super::{hears_again, until};

async fn gets_digits(media: &Media, expected: &str) -> Result<()> {
    let result = until("digits are missing", || media.digits() == expected).await;
    result.with_context(|| format!("got {:?} of {expected:?}", media.digits()))
}

/// A call from a trunk whose INVITEs have one more header.
async fn call_with(fixture: &Fixture, name: &str, value: &str) -> Result<OutgoingCall> {
    let source = &fixture.stack.sip.trunk_source;
    let trunk = Trunk::bind(&format!("{source}:0"))
        .await?
        .with_header(name, value);
    let (number, caller) = (fixture.number_of("1001"), Caller::number(CALLER));
    Ok(trunk
        .call(fixture.pbx, number, caller, Some(&call_sid()))
        .await?)
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_reach_the_other_party_as_events_whether_sent_as_events_or_as_info() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let talk = Conversation::start(&app, &mut fixture.phone("1001").await?).await?;
    talk.both_hear().await?;
    let (caller, callee) = (&talk.caller, &talk.callee);
    let sides = [
        (caller.leg(), caller.media(), callee.media()),
        (callee.leg(), callee.media(), caller.media()),
    ];
    for (leg, media, other) in sides {
        for digit in "1#".chars() {
            media.press(digit);
        }
        gets_digits(other, "1#").await?;
        leg.info('7').await?;
        gets_digits(other, "1#7").await?;
    }
    talk.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_hears_only_ringing_while_the_phone_sends_early_media() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = app.is_called().await?;
    app.respond("accept_ready", &id).await?;
    let callee = phone.next_call(SOON).await?;
    callee.send_early_media()?;
    sleep(Duration::from_millis(500)).await;
    let stages: Vec<CallStage> = caller
        .events()
        .all()
        .into_iter()
        .map(|it| it.stage)
        .collect();
    assert_eq!(stages, [CallStage::Ringing { code: 180 }]);
    assert_eq!(caller.media().received(), 0);
    callee.answer().await?;
    caller.answered(SOON).await?;
    let talk = Conversation { id, caller, callee };
    talk.both_hear().await?;
    talk.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calling_app_hears_the_ringing_tone_and_no_early_media() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut caller = fixture.registered_phone("1001").await?;
    let mut callee = fixture.registered_phone("1002").await?;
    let call = json!({ "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "voice" });
    client.send(call).await?;
    let caller = caller.next_call(SOON).await?;
    caller.answer().await?;
    let id = app.receives_call().await?;
    app.respond("accept_ready", &id).await?;
    let callee = callee.next_call(SOON).await?;
    callee.send_early_media()?;
    let heard = caller.media().received_sound();
    until("no ringing tone", || {
        caller.media().received_sound() > heard + 10
    })
    .await?;
    assert_eq!(caller.media().received_from(callee.media()), 0);
    callee.answer().await?;
    caller.media().hears(callee.media(), SOON).await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn reliable_responses_are_acknowledged_and_sent() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    // The PBX rejects an extension that it does not know with 420.
    let (code, _) = call_with(&fixture, "Require", "unknown")
        .await?
        .rejected(SOON)
        .await?;
    assert_eq!(code, 420);
    let caller = call_with(&fixture, "Require", "100rel").await?;
    caller.ringing(SOON).await?;
    let id = app.receives_call().await?;
    app.respond("accept_ready", &id).await?;
    let callee = phone.next_call(SOON).await?;
    ensure!(callee.ring_reliably(SOON).await?, "no PRACK");
    callee.answer().await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    let talk = Conversation { id, caller, callee };
    talk.both_hear().await?;
    talk.end(&app).await?;
    Ok(())
}

/// [RFC 4028](https://www.rfc-editor.org/rfc/rfc4028): no session is shorter than 90 s. `faults/silence.rs` plays a call
/// that lasts longer.
#[tokio::test(flavor = "multi_thread")]
async fn phone_and_trunk_have_session_timers() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    // JsSIP offers 60 s by default, and then tries again.
    let (code, _) = call_with(&fixture, "Session-Expires", "60")
        .await?
        .rejected(SOON)
        .await?;
    assert_eq!(code, 422);
    let caller = call_with(&fixture, "Session-Expires", "90").await?;
    let id = app.receives_call().await?;
    app.respond("accept_ready", &id).await?;
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    let offered = talk.callee.header("Session-Expires").unwrap_or_default();
    ensure!(offered.starts_with("90"), "{offered}");
    for leg in [talk.callee.leg(), talk.caller.leg()] {
        let session = leg.refresh().await?.unwrap_or_default();
        ensure!(session.starts_with("90"), "{session}");
    }
    talk.both_hear().await?;
    talk.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_holds_and_resumes_the_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let talk = Conversation::start(&app, &mut fixture.phone("1001").await?).await?;
    let (caller, callee) = (talk.caller.media(), talk.callee.media());
    talk.callee.leg().update(Some(Hold::SendOnly)).await?;
    until("no music", || caller.received_sound() > 10).await?;
    talk.callee.leg().update(None).await?;
    hears_again(caller, callee).await?;
    talk.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_re_invite_moves_the_media_of_either_party() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let talk = Conversation::start(&app, &mut fixture.phone("1001").await?).await?;
    talk.both_hear().await?;
    let phone = talk.callee.leg().with_new_media().await?;
    phone.media().hears(talk.caller.media(), SOON).await?;
    talk.caller.media().hears(phone.media(), SOON).await?;
    let trunk = talk.caller.leg().with_new_media().await?;
    trunk.media().hears(phone.media(), SOON).await?;
    phone.media().hears(trunk.media(), SOON).await?;
    assert_eq!(app.call(&talk.id).await?["status"], "in_progress");
    talk.end(&app).await?;
    Ok(())
}
