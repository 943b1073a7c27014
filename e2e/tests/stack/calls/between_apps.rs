//! An app calls another app: the callee's app receives a push, and both phones are bridged in Asterisk.

use anyhow::Result;
use ringback_client::Client;
use ringback_sip::{IncomingCall, Phone};
use serde_json::{Value, json};

use ringback_e2e::clients::{next_of_type, status_updates, statuses_of};
use ringback_e2e::fixture::{App, Fixture, SOON};

async fn calls_1002(client: &mut Client, call_type: &str) -> Result<()> {
    let message = json!({ "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": call_type });
    Ok(client.send(message).await?)
}

/// A call between apps with both phones connected.
struct Talking {
    id: String,
    caller: IncomingCall,
    callee: IncomingCall,
}

impl Talking {
    /// 1001 calls 1002. The caller's phone answers automatically, the callee's phone after its app has accepted.
    async fn begin(
        client: &mut Client,
        call_type: &str,
        caller: &mut Phone,
        app: &App<'_>,
        callee: &mut Phone,
    ) -> Result<Self> {
        calls_1002(client, call_type).await?;
        let caller = caller.next_call(SOON).await?;
        caller.answer().await?;
        let id = app.receives_call().await?;
        let data = next_of_type(client, "call_initiated").await?["data"].clone();
        assert_eq!(
            (&data["callId"], &data["callType"]),
            (&id.as_str().into(), &call_type.into())
        );
        callee.register().await?;
        let (status, answer) = app.respond("accept_ready", &id).await?;
        assert_eq!(status, 200, "{answer}");
        let callee = callee.next_call(SOON).await?;
        callee.answer().await?;
        app.wait_for_status(&id, "in_progress").await?;
        Ok(Self { id, caller, callee })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_apps_talk_and_clients_receive_all_updates() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut called = fixture.client("1002").await?;
    let (mut caller, mut callee) = (
        fixture.registered_phone("1001").await?,
        fixture.phone("1002").await?,
    );
    let talking = Talking::begin(&mut client, "voice", &mut caller, &app, &mut callee).await?;
    assert_eq!(talking.callee.caller().number, "1001");
    assert_eq!(talking.caller.caller().number, "1002");
    for leg in [&talking.caller, &talking.callee] {
        assert_eq!(leg.header("X-Ringback-Call-Id"), Some(talking.id.as_str()));
    }
    talking
        .caller
        .media()
        .hears(talking.callee.media(), SOON)
        .await?;
    talking
        .callee
        .media()
        .hears(talking.caller.media(), SOON)
        .await?;
    talking.caller.hang_up().await?;
    talking.callee.ended(SOON).await?;
    for client in [&mut client, &mut called] {
        let updates = status_updates(client, &talking.id).await?;
        assert_eq!(
            statuses_of(&updates),
            ["ringing", "in-progress", "completed"]
        );
        assert_eq!(
            (&updates[0]["from"], &updates[0]["to"]),
            (&"1001".into(), &"1002".into())
        );
        assert_eq!(updates[2]["reason"], "caller_hung_up");
    }
    let caller_sees = fixture.unregistered_app("1001").call(&talking.id).await?;
    assert_eq!(caller_sees["status"], "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_with_video_see_each_other() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut caller = fixture.phone("1001").await?.with_video();
    caller.register().await?;
    let mut callee = fixture.phone("1002").await?.with_video();
    let talking = Talking::begin(&mut client, "video", &mut caller, &app, &mut callee).await?;
    assert!(talking.caller.offers_video() && talking.callee.offers_video());
    assert_eq!(
        app.push("incoming_call").await?["data"]["call_type"],
        "video"
    );
    talking
        .caller
        .media()
        .sees(talking.callee.media(), SOON)
        .await?;
    talking
        .callee
        .media()
        .sees(talking.caller.media(), SOON)
        .await?;
    talking
        .caller
        .media()
        .hears(talking.callee.media(), SOON)
        .await?;
    talking.callee.hang_up().await?;
    talking.caller.ended(SOON).await?;
    assert_eq!(
        app.wait_for_status(&talking.id, "completed").await?["reason"],
        "callee_hung_up"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_call_has_no_video() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut caller = fixture.phone("1001").await?.with_video();
    caller.register().await?;
    let mut callee = fixture.phone("1002").await?.with_video();
    let talking = Talking::begin(&mut client, "voice", &mut caller, &app, &mut callee).await?;
    assert!(!talking.caller.offers_video() && !talking.callee.offers_video());
    talking
        .caller
        .media()
        .hears(talking.callee.media(), SOON)
        .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_by_app_or_by_phone_stops_the_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let mut listener = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    for by_app in [true, false] {
        let app = fixture.app("1002").await?;
        calls_1002(&mut client, "voice").await?;
        let leg = phone.next_call(SOON).await?;
        leg.answer().await?;
        let id = app.receives_call().await?;
        if by_app {
            client.send(hangs_up(&id)).await?;
            assert_eq!(
                next_of_type(&mut client, "call_response").await?["status"],
                "canceled"
            );
        } else {
            leg.hang_up().await?;
        }
        leg.ended(SOON).await?;
        assert_eq!(
            app.push("call_cancelled").await?["data"]["reason"],
            "caller_hung_up"
        );
        assert_eq!(
            statuses_of(&status_updates(&mut listener, &id).await?),
            ["ringing", "canceled"]
        );
    }
    Ok(())
}

fn hangs_up(id: &str) -> Value {
    json!({ "type": "call_response", "server_call_id": id, "extension": "1001", "action": "hangup", "timestamp": 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decline_ends_the_callers_leg() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    calls_1002(&mut client, "voice").await?;
    // The caller's own phone has not answered.
    let leg = phone.next_call(SOON).await?;
    let id = app.receives_call().await?;
    assert_eq!(app.respond("decline", &id).await?.0, 200);
    leg.ended(SOON).await?;
    assert_eq!(
        statuses_of(&status_updates(&mut client, &id).await?),
        ["ringing", "busy"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_without_a_registered_phone_rings_no_callee_for_long() -> Result<()> {
    let fixture = Fixture::open().await?;
    // Replaces the registration of an earlier test.
    let mut phone = fixture.registered_phone("1001").await?;
    phone.unregister().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    calls_1002(&mut client, "voice").await?;
    let id = app.receives_call().await?;
    // The backend waits 5 s for a phone that is registering.
    let state = app.wait_for_status_within(&id, "failed", 2 * SOON).await?;
    assert_eq!(state["reason"], "caller_unreachable");
    app.push("call_cancelled").await?;
    let error = next_of_type(&mut client, "error").await?;
    assert_eq!(
        (&error["code"], &error["callId"]),
        (&"caller_unreachable".into(), &id.into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_call_stops_the_callers_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    calls_1002(&mut client, "voice").await?;
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    let id = app.receives_call().await?;
    let ring = std::time::Duration::from_secs(10);
    leg.ended(ring + SOON).await?;
    assert_eq!(
        app.wait_for_status(&id, "timed_out").await?["reason"],
        "no_answer"
    );
    assert_eq!(
        app.push("call_cancelled").await?["data"]["reason"],
        "timeout"
    );
    Ok(())
}
