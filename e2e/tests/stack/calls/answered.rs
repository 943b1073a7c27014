//! Calls that are answered.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use ringback_sip::Caller;
use tokio::time::{Instant, sleep};

use ringback_e2e::fixture::{CALLER, Conversation, Fixture, SOON, call_sid};

#[tokio::test(flavor = "multi_thread")]
async fn a_running_app_accepts_and_both_hear_each_other() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = app.is_called().await?;
    assert_eq!(app.call(&id).await?["status"], "waiting_for_mobile");
    let (status, answer) = app.respond_without_device("accept", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"mobile_ready".into()),
        "{answer}"
    );
    let callee = phone.next_call(SOON).await?;
    assert_eq!(callee.caller().number, CALLER);
    callee.answer().await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    Conversation {
        id: id.clone(),
        caller: caller.clone(),
        callee,
    }
    .both_hear()
    .await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_app_is_woken_registers_and_is_bridged() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    talk.both_hear().await?;
    talk.callee.hang_up().await?;
    talk.caller.ended(SOON).await?;
    let call = app.wait_for_status(&talk.id, "completed").await?;
    assert_eq!(call["reason"], "callee_hung_up");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_push_has_all_documented_fields() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let name = "आशा \"A\", 📞";
    let caller = fixture
        .dial_as(
            "1001",
            Caller::number(CALLER).named(name),
            Some(&call_sid()),
        )
        .await?;
    let id = app.receives_call().await?;
    let push = app.push("incoming_call").await?;
    let data = &push["data"];
    assert_eq!(
        (&data["call_id"], &data["caller_number"]),
        (&id.as_str().into(), &CALLER.into())
    );
    assert_eq!(
        (&data["caller_name"], &data["call_type"]),
        (&name.into(), &"voice".into())
    );
    assert!(
        data.as_object()
            .unwrap()
            .values()
            .all(serde_json::Value::is_string),
        "{data}"
    );
    let call = app.call(&id).await?;
    assert_eq!(data["expires_at"], call["expires_at"].to_string());
    assert_eq!(push["android"]["collapse_key"], id);
    let ring = (call["expires_at"].as_u64().unwrap() - call["created_at"].as_u64().unwrap()) / 1000;
    let ttl: u64 = push["android"]["ttl"]
        .as_str()
        .unwrap()
        .trim_end_matches('s')
        .parse()?;
    assert!(
        ttl <= ring && ttl + 2 >= ring,
        "{ttl} s of a ring of {ring} s"
    );
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_before_the_phone_registers_waits_for_it() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    phone.register().await?;
    phone.unregister().await?;
    let (caller, id) = app.is_called().await?;
    let accept = app.respond("accept", &id);
    let wake = async {
        sleep(Duration::from_millis(2_500)).await;
        phone.register().await?;
        anyhow::Ok(phone.next_call(SOON).await?)
    };
    let (accepted, callee) = tokio::join!(accept, wake);
    assert_eq!(accepted?.0, StatusCode::OK);
    let callee = callee?;
    callee.answer().await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_accept_twice_within_10_ms_makes_one_leg() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = app.is_called().await?;
    let second = async {
        sleep(Duration::from_millis(5)).await;
        app.respond_without_device("accept_ready", &id).await
    };
    let (first, second) = tokio::join!(app.respond_without_device("accept_ready", &id), second);
    assert_eq!((first?.0, second?.0), (StatusCode::OK, StatusCode::OK));
    let callee = phone.next_call(SOON).await?;
    callee.answer().await?;
    caller.answered(SOON).await?;
    assert!(
        phone.next_call(Duration::from_secs(1)).await.is_err(),
        "a second leg was created"
    );
    assert_eq!(app.count_pushes("call_cancelled").await?, 0);
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_concurrent_accepts_have_one_winner_and_the_other_device_stops_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (one, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = one.is_called().await?;
    assert_eq!(other.receives_call().await?, id);
    let (first, second) = tokio::join!(
        one.respond("accept_ready", &id),
        other.respond("accept_ready", &id)
    );
    let (first, second) = (first?, second?);
    let (loser, lost) = if first.0 == StatusCode::OK {
        (&other, second)
    } else {
        (&one, first)
    };
    assert_eq!(
        (lost.0, &lost.1["code"]),
        (StatusCode::CONFLICT, &"call_gone_another_way".into()),
        "{lost:?}"
    );
    assert_eq!(lost.1["status"], "mobile_ready");
    assert_eq!(
        loser.push("call_cancelled").await?["data"]["reason"],
        "answered_elsewhere"
    );
    // The losing device hangs up, which must not end the winner's call.
    assert_eq!(loser.respond("hangup", &id).await?.0, StatusCode::OK);
    let (status, answer) = loser.respond_without_device("hangup", &id).await?;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::CONFLICT, &"device_unknown".into())
    );
    let callee = phone.next_call(SOON).await?;
    callee.answer().await?;
    caller.answered(SOON).await?;
    one.wait_for_status(&id, "in_progress").await?;
    assert!(
        phone.next_call(Duration::from_secs(1)).await.is_err(),
        "a second leg was created"
    );
    let cancels =
        one.count_pushes("call_cancelled").await? + other.count_pushes("call_cancelled").await?;
    assert_eq!(cancels, 1);
    caller.hang_up().await?;
    one.wait_for_status(&id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_before_the_caller_arrives_is_bridged_on_arrival() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let sid = call_sid();
    let (status, _) = fixture
        .passthru(&sid, "09876543210", fixture.number_of("1001"))
        .await?;
    assert_eq!(status, StatusCode::OK);
    let id = app.receives_call().await?;
    let (status, answer) = app.respond("accept_ready", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"mobile_ready".into())
    );
    let caller = fixture
        .dial_as("1001", Caller::number(CALLER), Some(&sid))
        .await?;
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    talk.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_calls_from_one_number_to_two_extensions_wait_at_once() -> Result<()> {
    let fixture = Fixture::open().await?;
    for caller in [Caller::number(CALLER), Caller::withheld()] {
        let apps = [fixture.app("1001").await?, fixture.app("1002").await?];
        let mut phones = [
            fixture.registered_phone("1001").await?,
            fixture.registered_phone("1002").await?,
        ];
        let legs = [
            fixture.dial_as("1001", caller.clone(), None).await?,
            fixture.dial_as("1002", caller.clone(), None).await?,
        ];
        let ids = [
            apps[0].receives_call().await?,
            apps[1].receives_call().await?,
        ];
        assert_ne!(ids[0], ids[1]);
        let mut callees = Vec::new();
        for place in [1, 0] {
            assert_eq!(
                apps[place].respond("accept_ready", &ids[place]).await?.0,
                StatusCode::OK
            );
            let callee = phones[place].next_call(SOON).await?;
            callee.answer().await?;
            legs[place].answered(SOON).await?;
            legs[place].media().hears(callee.media(), SOON).await?;
            callees.push(callee);
        }
        for (place, leg) in legs.iter().enumerate() {
            leg.hang_up().await?;
            apps[place]
                .wait_for_status(&ids[place], "completed")
                .await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_answers_after_the_ring_is_still_bridged() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = app.is_called().await?;
    let ring_left = app.call(&id).await?["expires_at"].as_u64().unwrap() - now_millis();
    // The app accepts just before the ring ends, and the phone answers after it.
    sleep(Duration::from_millis(ring_left.saturating_sub(1_000))).await;
    assert_eq!(app.respond("accept_ready", &id).await?.0, StatusCode::OK);
    let callee = phone.next_call(SOON).await?;
    let deadline_passed = Instant::now() + Duration::from_millis(2_500);
    tokio::time::sleep_until(deadline_passed).await;
    callee.answer().await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    caller.hang_up().await?;
    app.wait_for_status(&id, "completed").await?;
    Ok(())
}

fn now_millis() -> u64 {
    let since = std::time::UNIX_EPOCH.elapsed().unwrap();
    u64::try_from(since.as_millis()).unwrap()
}
