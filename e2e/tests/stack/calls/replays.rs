//! Clients that connect while a call is in progress: they receive it, and can answer it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aws_sdk_sqs::Client as Queues;
use futures::TryStreamExt;
use ringback::auth::Viewer;
use ringback::platform::clock;
use ringback::replay_queue::ReplayRequest;
use ringback::store::Table;
use ringback::store::connections::{Connection, Connections};
use ringback_client::Client;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{CALLER, Conversation, Fixture};
use ringback_e2e::observed_function::{ObservedFunction, example};
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};

use super::reach::accepts;

/// Longer than any message takes to arrive.
const A_WHILE: Duration = Duration::from_secs(2);

/// Waits for the next message about this call.
async fn update_of(client: &mut Client, call: &str) -> Result<Value> {
    loop {
        let message = next_of_type(client, "call_status_update").await?;
        if message["data"]["callId"] == call {
            return Ok(message);
        }
    }
}

/// Waits for the next message about this call, which must be a replay with this status.
async fn replay_of(client: &mut Client, call: &str, status: &str) -> Result<Value> {
    let mut message = update_of(client, call).await?;
    ensure!(message["replay"] == true, "no replay: {message}");
    ensure!(message["data"]["status"] == status, "{message}");
    ensure!(message["data"]["from"] == CALLER, "{message}");
    Ok(message["data"].take())
}

/// Checks that the client receives nothing about this call for a while.
async fn hears_nothing_of(client: &mut Client, call: &str) -> Result<()> {
    let until = tokio::time::Instant::now() + A_WHILE;
    while let Ok(message) = tokio::time::timeout_at(until, client.receive()).await {
        let message = message?;
        ensure!(message["data"]["callId"] != call, "{message}");
    }
    Ok(())
}

fn connections(fixture: &Fixture) -> Connections {
    let dynamodb = aws_sdk_dynamodb::Client::new(&fixture.aws);
    Connections::new(
        Table::new(dynamodb, fixture.stack.aws.table.as_str()),
        aws_sdk_apigatewaymanagement::Client::new(&fixture.aws),
        fixture.stack.aws.region.clone(),
    )
}

async fn clients_of_1001(fixture: &Fixture) -> Result<Vec<Connection>> {
    let extension = Extension::try_from("1001")?;
    let clients = connections(fixture).of(&extension).try_collect().await?;
    Ok(clients)
}

/// Requests the calls in progress again for all clients of 1001, as SQS may deliver a request twice.
async fn request_again(fixture: &Fixture) -> Result<()> {
    let queues = Queues::new(&fixture.aws);
    let name = format!("{STACK_NAME}-ws-replay");
    let found = queues.get_queue_url().queue_name(name).send().await?;
    for connection in clients_of_1001(fixture).await? {
        let stored_at = clock::now();
        let request = serde_json::to_string(&ReplayRequest {
            connection,
            stored_at,
        })?;
        let message = queues.send_message().set_queue_url(found.queue_url.clone());
        message.message_body(request).send().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_connects_while_its_call_rings_receives_the_call_and_answers() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (asleep, app) = (fixture.app("1001").await?, fixture.unregistered_app("1001"));
    let mut phone = fixture.registered_phone("1001").await?;
    let mut watching = fixture.client("1002").await?;
    let (caller, id) = asleep.is_called().await?;
    // `broadcast` sends this change to no client that connects later.
    let before = update_of(&mut watching, &id).await?;
    assert_eq!(before["replay"], Value::Null);

    let mut client = fixture.client("1001").await?;
    let mut outsider = fixture.client("1002").await?;
    let operator = &fixture.stack.operator.token;
    let mut operator = Client::connect(&fixture.stack.ws_url, operator).await?;
    let ringing = replay_of(&mut client, &id, "ringing").await?;
    assert_eq!(ringing["to"], "1001");
    assert!(ringing["expiresAt"].is_string(), "{ringing}");
    let shown = replay_of(&mut operator, &id, "ringing").await?;
    assert_eq!(shown, ringing);
    request_again(&fixture).await?;
    assert_eq!(replay_of(&mut client, &id, "ringing").await?, ringing);
    hears_nothing_of(&mut outsider, &id).await?;

    accepts(&mut client, &app, &id).await?;
    let talk = Conversation::join(&app, &mut phone, caller, id.clone()).await?;
    talk.both_hear().await?;
    for client in [&mut client, &mut operator] {
        let talking = update_of(client, &id).await?;
        assert_eq!(
            (&talking["data"]["status"], &talking["replay"]),
            (&"in-progress".into(), &Value::Null)
        );
    }
    let mut late = fixture.client("1001").await?;
    replay_of(&mut late, &id, "in-progress").await?;
    talk.end(&app).await?;
    let over = update_of(&mut late, &id).await?;
    assert_eq!(over["data"]["status"], "completed");
    asleep.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_over_is_not_replayed() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut watching = fixture.client("1002").await?;
    let (caller, id) = app.is_called().await?;
    caller.cancel().await?;
    while update_of(&mut watching, &id).await?["data"]["status"] != "canceled" {}
    let mut client = fixture.client("1001").await?;
    hears_nothing_of(&mut client, &id).await?;
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_gone_is_deleted_and_one_that_may_be_connecting_is_kept() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut watching = fixture.client("1001").await?;
    let (caller, id) = app.is_called().await?;
    update_of(&mut watching, &id).await?;
    let mut function = ObservedFunction::start(&fixture, "ws-replay", "info").await?;
    let now = clock::now();
    let a_minute_ago = Timestamp::from_millis(now.as_millis() - 60_000);
    for (opened_at, is_kept) in [(a_minute_ago, false), (now, true)] {
        // API Gateway does not know this client.
        let connection = Connection {
            id: format!("gone-{}", uuid::Uuid::new_v4().simple()),
            viewer: Viewer::App(Extension::try_from("1001")?),
        };
        connections(&fixture).open(&connection, opened_at).await?;
        let mut event = example("ws-replay")?;
        let request = ReplayRequest {
            connection: connection.clone(),
            stored_at: clock::now(),
        };
        event["Records"][0]["body"] = serde_json::to_string(&request)?.into();
        let answer = function.answer_to(&event).await?;
        assert_eq!(answer, json!({ "batchItemFailures": [] }));
        let stored = clients_of_1001(&fixture).await?;
        assert_eq!(stored.contains(&connection), is_kept);
        connections(&fixture).close(&connection).await?;
    }
    let log = function.log()?;
    assert_eq!(log.matches("client still connecting").count(), 4, "{log}");
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    app.unregister().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_connects_although_the_queue_refuses_its_request() -> Result<()> {
    let fixture = Fixture::open().await?;
    let no_queue = [("REPLAY_QUEUE_URL", "http://127.0.0.1:1/no-such-queue")];
    let mut connect = ObservedFunction::start_with(&fixture, "ws-connect", &no_queue).await?;
    let mut disconnect = ObservedFunction::start(&fixture, "ws-disconnect", "info").await?;
    let answer = connect.answer_to(&example("ws-connect")?).await?;
    let left = clients_of_1001(&fixture).await?;
    disconnect.answer_to(&example("ws-disconnect")?).await?;
    assert_eq!(answer["statusCode"], 200, "{answer}");
    let connection = example("ws-connect")?["requestContext"]["connectionId"].clone();
    let id = connection.as_str().context("an id")?;
    assert!(left.iter().any(|client| client.id == id), "{left:?}");
    Ok(())
}
