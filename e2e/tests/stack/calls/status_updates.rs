//! What connected clients receive, and what they can send.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use ringback_client::Client;
use serde_json::json;
use tokio::time::Instant;

use ringback_e2e::clients::{next_of_type, status_updates, statuses_of};
use ringback_e2e::fixture::{CALLER, Conversation, Fixture, SOON};

/// Longer than any message takes to arrive.
const A_WHILE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn every_client_receives_call_updates_and_only_the_called_extension_the_number() -> Result<()>
{
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let mut participant = fixture.client("1001").await?;
    let mut others = [fixture.client("1002").await?, fixture.client("1002").await?];
    let talk = Conversation::start(&app, &mut phone).await?;
    talk.caller.hang_up().await?;
    let updates = status_updates(&mut participant, &talk.id).await?;
    assert_eq!(
        statuses_of(&updates),
        ["ringing", "in-progress", "completed"]
    );
    assert!(
        updates
            .iter()
            .all(|data| data["from"] == CALLER && data["to"] == "1001"),
        "{updates:?}"
    );
    for client in &mut others {
        let updates = status_updates(client, &talk.id).await?;
        assert_eq!(
            statuses_of(&updates),
            ["ringing", "in-progress", "completed"]
        );
        assert!(
            updates.iter().all(|data| data["from"] == "***********10"),
            "{updates:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_died_without_closing_does_not_delay_others() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let dead = fixture.client("1002").await?;
    let mut alive = fixture.client("1002").await?;
    drop(dead);
    let (caller, id) = app.is_called().await?;
    caller.cancel().await?;
    assert_eq!(
        statuses_of(&status_updates(&mut alive, &id).await?),
        ["ringing", "canceled"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_without_a_token_is_rejected() -> Result<()> {
    let fixture = Fixture::open().await?;
    for token in ["", "nonsense"] {
        assert!(
            Client::connect(&fixture.stack.ws_url, token).await.is_err(),
            "{token:?} was accepted"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ping_is_answered_and_invalid_messages_keep_the_connection() -> Result<()> {
    let fixture = Fixture::open().await?;
    for (text, code) in [
        ("{", "bad_message"),
        ("[1]", "bad_message"),
        (r#"{"type":"dance"}"#, "unknown_type"),
        (r#"{"type":"$connect"}"#, "unknown_type"),
        (r#"{"type":"$default"}"#, "unknown_type"),
        (r#"{"event":"media"}"#, "not_your_frame"),
    ] {
        let mut client = fixture.client("1001").await?;
        client.send_text(text).await?;
        let answer = next_of_type(&mut client, "error").await?;
        assert_eq!(answer["code"], code, "{text}");
        client.send(json!({ "type": "ping" })).await?;
        let pong = next_of_type(&mut client, "pong").await?;
        assert_eq!(pong, json!({ "type": "pong" }));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_messages_get_one_error_a_second_and_delay_no_ping() -> Result<()> {
    const FLOOD: usize = 100;
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let began = Instant::now();
    for _ in 0..FLOOD {
        client.send_text(r#"{"type":"dance"}"#).await?;
    }
    client.send(json!({ "type": "ping" })).await?;
    let (mut errors, mut ponged) = (0, false);
    // The last error may arrive before or after the pong.
    while let Ok(message) = client.next(if ponged { A_WHILE } else { SOON }).await {
        errors += usize::from(message["code"] == "unknown_type");
        ponged |= message["type"] == "pong";
    }
    assert!(ponged, "no pong");
    // In the local cloud, one process handles all messages of a connection in order.
    let seconds = usize::try_from(began.elapsed().as_secs())?;
    assert!(
        (1..=1 + seconds).contains(&errors),
        "{errors} errors in {seconds} s"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_declined_over_the_websocket() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut client = fixture.client("1001").await?;
    let mut outsider = fixture.client("1002").await?;
    let (caller, id) = app.is_called().await?;
    let says = |extension: &str| json!({ "type": "call_response", "server_call_id": id, "extension": extension, "action": "decline", "timestamp": 1 });
    for (extension, code) in [("1001", "not_your_extension"), ("1002", "not_your_call")] {
        outsider.send(says(extension)).await?;
        assert_eq!(next_of_type(&mut outsider, "error").await?["code"], code);
    }
    client.send(says("1001")).await?;
    assert_eq!(
        next_of_type(&mut client, "call_response").await?["status"],
        "declined"
    );
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    assert_eq!(app.respond("accept", &id).await?.0, StatusCode::CONFLICT);
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}
