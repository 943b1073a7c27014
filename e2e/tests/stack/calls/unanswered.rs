//! Calls that are not answered, and what their callers hear.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use serde_json::json;

use ringback_e2e::fixture::{Fixture, SOON, call_sid};

/// The longest ring timeout of a test stack; see `RING_TIMEOUT_SECONDS` in the Makefile.
const LONGEST_RING: Duration = Duration::from_secs(35);

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_is_declined_hears_busy() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = app.woken().await?;
    let (status, answer) = app.says_anonymously("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    let (status, answer) = app.says_anonymously("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(
        app.says_anonymously("accept_ready", &id).await?.0,
        StatusCode::CONFLICT
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_device_that_declines_leaves_the_others_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (one, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let caller = fixture.dial("1001").await?;
    let id = one.woken().await?;
    other.woken().await?;
    // Until the ringing devices are recorded, a decline counts for all of them.
    one.sees(&id, "waiting_for_mobile").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (status, answer) = one.says("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"waiting_for_mobile".into())
    );
    let (status, answer) = other.says("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whom_nobody_answers_hears_busy_within_2_s_of_the_deadline() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = app.woken().await?;
    let call = app.call(&id).await?;
    let (code, event) = caller.rejected(LONGEST_RING).await?;
    assert_eq!(code, 486);
    let ring = call["expires_at"].as_u64().unwrap() - call["created_at"].as_u64().unwrap();
    let heard_after = event.at.since(caller.placed());
    let (ring, grace) = (Duration::from_millis(ring), Duration::from_secs(2));
    assert!(
        heard_after >= ring && heard_after < ring + grace,
        "busy after {heard_after:?} of {ring:?}"
    );
    assert_eq!(
        app.push("call_cancelled").await?["data"]["reason"],
        "timeout"
    );
    let (status, answer) = app.says("accept_ready", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::CONFLICT, &"timed_out".into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_gives_up_silences_the_phones() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = app.woken().await?;
    caller.cancel().await?;
    assert_eq!(
        app.push("call_cancelled").await?["data"]["reason"],
        "caller_hung_up"
    );
    let (status, answer) = app.says("accept_ready", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::CONFLICT, &"canceled".into())
    );
    assert_eq!(app.says("hangup", &id).await?.0, StatusCode::OK);
    assert_eq!(app.call(&id).await?["reason"], "caller_hung_up");
    assert_eq!(app.count_pushes("call_cancelled").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_device_the_caller_hears_busy_at_once() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = fixture.dial("1001").await?;
    let (code, event) = caller.rejected(SOON).await?;
    assert_eq!(code, 486);
    assert!(event.at.since(caller.placed()) < Duration::from_secs(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn when_every_push_fails_the_caller_hears_busy_at_once() -> Result<()> {
    let fixture = Fixture::open().await?;
    let _app = fixture.app("1001").await?;
    fixture
        .fcm_behaves(&json!({ "send": [{ "status": 403, "times": 1 }] }))
        .await?;
    let caller = fixture.dial("1001").await?;
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    fixture.fcm_behaves(&json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_fcm_calls_dead_is_forgotten_and_the_others_ring() -> Result<()> {
    let fixture = Fixture::open().await?;
    let dead = fixture.app("1001").await?;
    fixture
        .fcm_behaves(&json!({ "tokens": { dead.push_token.as_str(): "UNREGISTERED" } }))
        .await?;
    for _ in 0..2 {
        let alive = fixture.app("1001").await?;
        let caller = fixture.dial("1001").await?;
        let id = alive.woken().await?;
        alive.sees(&id, "waiting_for_mobile").await?;
        caller.cancel().await?;
        alive.sees(&id, "canceled").await?;
    }
    assert_eq!(
        fixture.pushes_to(&dead.push_token).await?.len(),
        1,
        "it was tried once and then forgotten"
    );
    fixture.fcm_behaves(&json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_apns_credential_of_the_project_costs_one_push_and_no_access_token() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (wrong, right) = (fixture.app("1001").await?, fixture.app("1001").await?);
    fixture
        .fcm_behaves(&json!({ "tokens": { wrong.push_token.as_str(): "THIRD_PARTY_AUTH_ERROR" } }))
        .await?;
    // By now, the processes have their access tokens.
    let mut asked_for_access = None;
    for calls in 1..=3 {
        let (status, answer) = fixture
            .passthru(&call_sid(), "09876543210", fixture.number_of("1001"))
            .await?;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let id = right.woken().await?;
        assert_eq!(right.says("decline", &id).await?.0, StatusCode::OK);
        let rings = fixture.pushes_to(&wrong.push_token).await?;
        let rings = rings
            .iter()
            .filter(|push| push["data"]["type"] == "incoming_call");
        assert_eq!(rings.count(), calls);
        let now = fixture.access_tokens_asked_for().await?;
        assert_eq!(*asked_for_access.get_or_insert(now), now);
    }
    fixture.fcm_behaves(&json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_leads_nowhere_is_refused() -> Result<()> {
    let fixture = Fixture::open().await?;
    let nowhere = "08047490000";
    let (status, answer) = fixture
        .passthru(&call_sid(), "09876543210", nowhere)
        .await?;
    assert_eq!(
        (status, &answer["code"]),
        (StatusCode::FOUND, &"number_not_routed".into())
    );
    let caller = fixture.dial_number(nowhere).await?;
    assert_eq!(caller.rejected(SOON).await?.0, 404);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_says_no_is_busy_to_the_caller() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = app.woken().await?;
    assert_eq!(app.says("accept", &id).await?.0, StatusCode::OK);
    phone.next_call(SOON).await?.reject(486).await?;
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    app.sees(&id, "declined").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schedule_ends_the_call_when_the_queue_has_lost_its_message() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    // Only Exotel has reported this caller, so only a timer can end the call.
    let (status, _) = fixture
        .passthru(&call_sid(), "09876543210", fixture.number_of("1001"))
        .await?;
    assert_eq!(status, StatusCode::OK);
    let id = app.woken().await?;
    let queues = aws_sdk_sqs::Client::new(&fixture.aws);
    let listed = queues
        .list_queues()
        .queue_name_prefix("ringback-local")
        .send()
        .await?;
    for queue in listed.queue_urls() {
        queues.purge_queue().queue_url(queue).send().await?;
    }
    // `timed_out` alone could be computed from the clock. The cancellation proves that a function ended the call.
    let ended = tokio::time::timeout(Duration::from_secs(90), async {
        loop {
            if let Ok(push) = app.push("call_cancelled").await {
                return push;
            }
        }
    });
    assert_eq!(ended.await?["data"]["reason"], "timeout");
    assert_eq!(app.call(&id).await?["reason"], "no_answer");
    Ok(())
}
