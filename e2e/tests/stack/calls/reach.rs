//! Calls that no push reaches at once: connected apps ring, and delayed pushes are sent again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use ringback::auth::Viewer;
use ringback::platform::clock;
use ringback::store::Table;
use ringback::store::connections::{Connection, Connections};
use ringback_client::Client;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use ringback_e2e::clients::{next_of_type, status_updates, statuses_of};
use ringback_e2e::fixture::{App, Conversation, Fixture, SOON};
use serde_json::json;
use tokio::time::sleep;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// How soon a caller hears busy if no device can be reached.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Waits until the client rings without a push, and returns the call id.
async fn rings(client: &mut Client) -> Result<String> {
    let data = next_of_type(client, "incoming_call").await?["data"].clone();
    assert_eq!(data["call_id"], data["server_call_id"]);
    assert_eq!(data["caller_number"], "+919876543210");
    let expires_at: u64 = data["expires_at"].as_str().context("no text")?.parse()?;
    assert!(expires_at > clock::now().as_millis());
    Ok(data["call_id"].as_str().context("no call id")?.to_owned())
}

async fn pushes(app: &App<'_>) -> Result<usize> {
    app.count_pushes("incoming_call").await
}

/// The app accepts over its connection.
pub(super) async fn accepts(client: &mut Client, app: &App<'_>, id: &str) -> Result<()> {
    let accept = json!({
        "type": "call_response", "server_call_id": id, "extension": app.extension, "action": "accept_ready",
        "timestamp": 1, "device_id": app.device,
    });
    client.send(accept).await?;
    let answer = next_of_type(client, "call_response").await?;
    ensure!(answer["success"] == true, "{answer}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_without_a_push_address_rings_on_its_connected_app() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let (mut client, mut other) = (fixture.client("1001").await?, fixture.client("1001").await?);
    let mut phone = fixture.registered_phone("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = rings(&mut client).await?;
    accepts(&mut client, &app, &id).await?;
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    talk.both_hear().await?;
    let id = talk.end(&app).await?;
    let updates = status_updates(&mut other, &id).await?;
    assert_eq!(
        statuses_of(&updates),
        ["ringing", "in-progress", "completed"]
    );
    // A client with a push address elsewhere rings with these.
    assert!(updates[0]["expiresAt"].is_string() && updates[0]["from"].is_string());
    assert_eq!(app.call(&id).await?["status"], "completed");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connected_app_rings_while_fcm_fails() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let unavailable = json!({ "tokens": { (app.push_token.as_str()): "UNAVAILABLE" } });
    fixture.fcm_behaves(&unavailable).await?;
    let mut client = fixture.client("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = rings(&mut client).await?;
    accepts(&mut client, &app, &id).await?;
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    talk.end(&app).await?;
    fixture.fcm_behaves(&json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_that_fcm_delays_is_sent_again_to_its_device_only() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (first, second) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let busy = json!({ "send": [{ "status": 503, "retry_after": 3 }] });
    fixture.fcm_behaves(&busy).await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let caller = fixture.dial("1001").await?;
    let id = first.receives_call().await?;
    let began = clock::now();
    // The stand-in also lists the push that it did not accept.
    while pushes(&first).await? + pushes(&second).await? < 3 {
        let waited = clock::now().since(began);
        ensure!(waited < Duration::from_secs(6), "no other push");
        sleep(POLL_INTERVAL).await;
    }
    let waited = clock::now().since(began);
    assert!(waited > Duration::from_millis(2_500), "{waited:?}");
    let (status, answer) = first.respond("accept_ready", &id).await?;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let talk = Conversation::join(&first, &mut phone, caller, id).await?;
    talk.end(&first).await?;
    assert_eq!(pushes(&first).await? + pushes(&second).await?, 3);
    fixture.fcm_behaves(&json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_hears_ringing_until_the_deadline_while_fcm_fails() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let exceeded = json!({ "tokens": { (app.push_token.as_str()): "QUOTA_EXCEEDED" } });
    fixture.fcm_behaves(&exceeded).await?;
    let caller = fixture.dial("1001").await?;
    let id = app.receives_call().await?;
    let call = app.call(&id).await?;
    let ring = call["expires_at"].as_u64().unwrap() - call["created_at"].as_u64().unwrap();
    let ring = Duration::from_millis(ring);
    let (code, event) = caller.rejected(ring + SOON).await?;
    let heard_after = event.at.since(caller.placed());
    assert_eq!(code, 486);
    assert!(
        heard_after >= ring && heard_after < ring + AT_ONCE,
        "{heard_after:?}"
    );
    app.wait_for_status(&id, "timed_out").await?;
    // Without `Retry-After`, Google asks for a minute.
    assert_eq!(app.count_pushes("incoming_call").await?, 1);
    fixture.fcm_behaves(&json!({})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_gone_keeps_no_caller_waiting() -> Result<()> {
    let fixture = Fixture::open().await?;
    let dead = fixture.app("1001").await?;
    let unregistered = json!({ "tokens": { (dead.push_token.as_str()): "UNREGISTERED" } });
    fixture.fcm_behaves(&unregistered).await?;
    let connections = Connections::new(
        Table::new(
            aws_sdk_dynamodb::Client::new(&fixture.aws),
            fixture.stack.aws.table.as_str(),
        ),
        aws_sdk_apigatewaymanagement::Client::new(&fixture.aws),
        fixture.stack.aws.region.clone(),
    );
    let gone = Connection {
        id: format!("gone-{}", uuid::Uuid::new_v4().simple()),
        viewer: Viewer::App(Extension::try_from("1001")?),
    };
    let a_minute_ago = Timestamp::from_millis(clock::now().as_millis() - 60_000);
    connections.open(&gone, a_minute_ago).await?;
    let extension = Extension::try_from("1001")?;
    let caller = fixture.dial("1001").await?;
    let (code, event) = caller.rejected(SOON).await?;
    assert_eq!(code, 486);
    assert!(event.at.since(caller.placed()) < AT_ONCE);
    let (left, _) = connections.in_all_regions(&extension, clock::now()).await?;
    assert!(!left.contains(&gone));
    fixture.fcm_behaves(&json!({})).await
}
