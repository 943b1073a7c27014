//! An app calls another app: the callee's app receives a push, and both phones are bridged in Asterisk.

use anyhow::Result;
use ringback_client::Client;
use ringback_sip::{IncomingCall, Phone};
use serde_json::{Value, json};

use ringback_e2e::clients::{answer_of, story, words};
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
        let id = app.woken().await?;
        let data = answer_of(client, "call_initiated").await?["data"].clone();
        assert_eq!(
            (&data["callId"], &data["callType"]),
            (&id.as_str().into(), &call_type.into())
        );
        callee.register().await?;
        let (status, answer) = app.says("accept_ready", &id).await?;
        assert_eq!(status, 200, "{answer}");
        let callee = callee.next_call(SOON).await?;
        callee.answer().await?;
        app.sees(&id, "in_progress").await?;
        Ok(Self { id, caller, callee })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_apps_talk_and_everybody_hears_of_it() -> Result<()> {
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
        let told = story(client, &talking.id).await?;
        assert_eq!(words(&told), ["ringing", "in-progress", "completed"]);
        assert_eq!(
            (&told[0]["from"], &told[0]["to"]),
            (&"1001".into(), &"1002".into())
        );
        assert_eq!(told[2]["reason"], "caller_hung_up");
    }
    let caller_sees = fixture.unregistered_app("1001").call(&talking.id).await?;
    assert_eq!(caller_sees["status"], "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_phones_with_cameras_see_each_other() -> Result<()> {
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
        app.sees(&talking.id, "completed").await?["reason"],
        "callee_hung_up"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_shown_in_a_voice_call() -> Result<()> {
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
async fn a_caller_who_gives_up_stops_the_ringing_by_app_or_by_phone() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let mut listener = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    for by_app in [true, false] {
        let app = fixture.app("1002").await?;
        calls_1002(&mut client, "voice").await?;
        let leg = phone.next_call(SOON).await?;
        leg.answer().await?;
        let id = app.woken().await?;
        if by_app {
            client.send(hangs_up(&id)).await?;
            assert_eq!(
                answer_of(&mut client, "call_response").await?["status"],
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
            words(&story(&mut listener, &id).await?),
            ["ringing", "canceled"]
        );
    }
    Ok(())
}

fn hangs_up(id: &str) -> Value {
    json!({ "type": "call_response", "server_call_id": id, "extension": "1001", "action": "hangup", "timestamp": 1 })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_who_declines_takes_the_callers_phone_down() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    calls_1002(&mut client, "voice").await?;
    // The caller's own phone has not answered.
    let leg = phone.next_call(SOON).await?;
    let id = app.woken().await?;
    assert_eq!(app.says("decline", &id).await?.0, 200);
    leg.ended(SOON).await?;
    assert_eq!(words(&story(&mut client, &id).await?), ["ringing", "busy"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_own_phone_is_not_there_rings_nobody_for_long() -> Result<()> {
    let fixture = Fixture::open().await?;
    // Replaces the registration of an earlier test.
    let mut phone = fixture.registered_phone("1001").await?;
    phone.unregister().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    calls_1002(&mut client, "voice").await?;
    let id = app.woken().await?;
    // The backend waits 5 s for a phone that is registering.
    let stands = app.sees_within(&id, "failed", 2 * SOON).await?;
    assert_eq!(stands["reason"], "caller_unreachable");
    app.push("call_cancelled").await?;
    let error = answer_of(&mut client, "error").await?;
    assert_eq!(
        (&error["code"], &error["callId"]),
        (&"caller_unreachable".into(), &id.into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_answers_and_the_caller_hears_no_more_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut client = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    calls_1002(&mut client, "voice").await?;
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    let id = app.woken().await?;
    let ring = std::time::Duration::from_secs(10);
    leg.ended(ring + SOON).await?;
    assert_eq!(app.sees(&id, "timed_out").await?["reason"], "no_answer");
    assert_eq!(
        app.push("call_cancelled").await?["data"]["reason"],
        "timeout"
    );
    Ok(())
}
