//! Calls that are not answered, and what their callers hear.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aws_sdk_dynamodb::types::AttributeValue;
use reqwest::StatusCode;
use serde_json::json;

use ringback::platform::clock;
use ringback::store::Table;
use ringback::store::calls::{CallStore, DynamoCallStore};
use ringback_core::call::CallStatus;
use ringback_core::ids::CallId;
use ringback_core::testing::a_call;
use ringback_core::timestamp::Timestamp;
use ringback_e2e::fixture::{Fixture, SOON, call_sid};

/// The longest ring timeout of a test stack; see `RING_TIMEOUT_SECONDS` in the Makefile.
const LONGEST_RING: Duration = Duration::from_secs(35);

#[tokio::test(flavor = "multi_thread")]
async fn a_declined_caller_hears_busy() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    let (status, answer) = app.respond_without_device("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    let (status, answer) = app.respond_without_device("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(
        app.respond_without_device("accept_ready", &id).await?.0,
        StatusCode::CONFLICT
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decline_on_one_device_silences_the_others() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (one, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let (caller, id) = one.is_called().await?;
    other.receives_call().await?;
    let (status, answer) = one.respond("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    assert_eq!(
        other.push("call_cancelled").await?["data"]["reason"],
        "declined_elsewhere"
    );
    assert_eq!(one.count_pushes("call_cancelled").await?, 0);
    Ok(())
}

/// As with `DeclineEnds` = `device`.
#[tokio::test(flavor = "multi_thread")]
async fn a_decline_may_end_the_ring_of_its_device_only() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (one, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let (caller, id) = one.is_called().await?;
    other.receives_call().await?;
    // Until the ringing devices are recorded, a decline counts for all of them.
    one.wait_for_status(&id, "waiting_for_mobile").await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    let key = CallId::try_from(id.as_str())?.key();
    aws_sdk_dynamodb::Client::new(&fixture.aws)
        .update_item()
        .table_name(&fixture.stack.aws.table)
        .key("pk", AttributeValue::S(format!("CALL#{key}")))
        .key("sk", AttributeValue::S("CALL".to_owned()))
        .update_expression("SET settings.decline_ends = :device")
        .condition_expression("attribute_exists(settings)")
        .expression_attribute_values(":device", AttributeValue::S("device".to_owned()))
        .send()
        .await?;
    let (status, answer) = one.respond("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"waiting_for_mobile".into())
    );
    let (status, answer) = other.respond("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"declined".into())
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    Ok(())
}

/// An app declines when its own ring timer ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_decline_at_the_end_of_the_ring_is_no_decision() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    let expires_at = app.call(&id).await?["expires_at"].as_u64().unwrap();
    let late = Timestamp::from_millis(expires_at).before(Duration::from_millis(1_500));
    tokio::time::sleep(late.since(clock::now())).await;
    let (status, answer) = app.respond("decline", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"waiting_for_mobile".into())
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    app.wait_for_status(&id, "timed_out").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_caller_hears_busy_within_2_s_of_the_deadline() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
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
    let (status, answer) = app.respond("accept_ready", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::CONFLICT, &"timed_out".into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_stops_the_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    caller.cancel().await?;
    assert_eq!(
        app.push("call_cancelled").await?["data"]["reason"],
        "caller_hung_up"
    );
    let (status, answer) = app.respond("accept_ready", &id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::CONFLICT, &"canceled".into())
    );
    assert_eq!(app.respond("hangup", &id).await?.0, StatusCode::OK);
    assert_eq!(app.call(&id).await?["reason"], "caller_hung_up");
    assert_eq!(app.count_pushes("call_cancelled").await?, 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_to_an_extension_without_devices_hears_busy_at_once() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = fixture.dial("1001").await?;
    let (code, event) = caller.rejected(SOON).await?;
    assert_eq!(code, 486);
    assert!(event.at.since(caller.placed()) < Duration::from_secs(2));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_hears_busy_at_once_if_every_push_fails() -> Result<()> {
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
async fn a_device_that_fcm_calls_unregistered_is_deleted_and_the_others_ring() -> Result<()> {
    let fixture = Fixture::open().await?;
    let dead = fixture.app("1001").await?;
    fixture
        .fcm_behaves(&json!({ "tokens": { dead.push_token.as_str(): "UNREGISTERED" } }))
        .await?;
    for _ in 0..2 {
        let alive = fixture.app("1001").await?;
        let (caller, id) = alive.is_called().await?;
        alive.wait_for_status(&id, "waiting_for_mobile").await?;
        caller.cancel().await?;
        alive.wait_for_status(&id, "canceled").await?;
    }
    assert_eq!(
        fixture.pushes_to(&dead.push_token).await?.len(),
        1,
        "FCM is asked once, then the device is deleted"
    );
    fixture.fcm_behaves(&json!({})).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_apns_credential_costs_one_push_and_no_access_token() -> Result<()> {
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
        let id = right.receives_call().await?;
        assert_eq!(right.respond("decline", &id).await?.0, StatusCode::OK);
        let rings = fixture.pushes_to(&wrong.push_token).await?;
        let rings = rings
            .iter()
            .filter(|push| push["data"]["type"] == "incoming_call");
        assert_eq!(rings.count(), calls);
        let now = fixture.access_token_requests().await?;
        assert_eq!(*asked_for_access.get_or_insert(now), now);
    }
    fixture.fcm_behaves(&json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_without_a_route_is_rejected() -> Result<()> {
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
async fn a_phone_that_rejects_makes_the_caller_hear_busy() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut phone = fixture.registered_phone("1001").await?;
    // Softphones send 480 for "do not disturb", and 603 for a decline.
    for code in [486, 480, 603] {
        let app = fixture.app("1001").await?;
        let (caller, id) = app.is_called().await?;
        assert_eq!(app.respond("accept", &id).await?.0, StatusCode::OK);
        phone.next_call(SOON).await?.reject(code).await?;
        let rejected_at = Instant::now();
        assert_eq!(caller.rejected(SOON).await?.0, 486, "{code}");
        let busy_after = rejected_at.elapsed();
        assert!(
            busy_after < Duration::from_secs(2),
            "{code}: {busy_after:?}"
        );
        app.wait_for_status(&id, "declined").await?;
        let again = phone.next_call(Duration::from_millis(500)).await;
        assert!(again.is_err(), "{code}: the phone is dialed again");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_ends_a_call_whose_function_failed_before_it_set_a_timer() -> Result<()> {
    let fixture = Fixture::open().await?;
    let table = fixture.stack.aws.table.as_str();
    let table = Table::new(aws_sdk_dynamodb::Client::new(&fixture.aws), table);
    let store = DynamoCallStore::new(table);
    let now = clock::now();
    let mut call = a_call(now);
    call.rings_until = now + Duration::from_secs(2);
    call.settings.connect = Duration::from_secs(2);
    (call.pbx, call.caller_leg) = (None, None);
    // All that the function has done before it failed.
    store.create(&call, None).await?;
    let ended = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            let stored = store.find(call.call_id).await?;
            let stored = stored.context("the call is not in the table")?;
            if stored.status.is_final() {
                return anyhow::Ok(stored.status);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    assert_eq!(ended.await??, CallStatus::TimedOut);
    Ok(())
}
