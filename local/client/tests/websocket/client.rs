use std::time::Duration;

use anyhow::Result;
use ringback_client::{Client, Credential, Error};
use serde_json::json;

use crate::server::{Peer, SOON, Server};

const SHORT_WAIT: Duration = Duration::from_millis(50);

async fn connected() -> Result<(Server, Client, Peer)> {
    let server = Server::start().await?;
    let url = server.url()?;
    let (client, peer) = tokio::join!(Client::connect(&url, "abc"), server.accept());
    Ok((server, client?, peer?))
}

#[tokio::test]
async fn a_client_sends_receives_and_closes() -> Result<()> {
    let (_server, mut client, mut peer) = connected().await?;
    client.send(json!({"type": "ping"})).await?;
    assert_eq!(peer.receive().await?, json!({"type": "ping"}));
    peer.send(&json!({"type": "pong"})).await?;
    assert_eq!(client.next(SOON).await?, json!({"type": "pong"}));
    let (remaining, closed) = tokio::join!(client.close(), peer.expect_close());
    closed?;
    assert_eq!(remaining, Vec::<serde_json::Value>::new());
    Ok(())
}

#[tokio::test]
async fn messages_that_arrive_during_the_close_are_not_lost() -> Result<()> {
    let (_server, client, mut peer) = connected().await?;
    peer.send(&json!({"n": 1})).await?;
    peer.send(&json!({"n": 2})).await?;
    let (remaining, closed) = tokio::join!(client.close(), peer.expect_close());
    closed?;
    assert_eq!(remaining, [json!({"n": 1}), json!({"n": 2})]);
    Ok(())
}

#[tokio::test]
async fn a_timeout_or_malformed_json_does_not_close_the_connection() -> Result<()> {
    let (_server, mut client, mut peer) = connected().await?;
    assert!(matches!(
        client.next(SHORT_WAIT).await,
        Err(Error::MessageTimeout(_))
    ));
    peer.send_text("hello").await?;
    assert!(matches!(client.next(SOON).await, Err(Error::NotJson(text)) if text == "hello"));
    peer.send(&json!({"type": "pong"})).await?;
    assert_eq!(client.next(SOON).await?, json!({"type": "pong"}));
    Ok(())
}

#[tokio::test]
async fn a_client_does_not_reconnect() -> Result<()> {
    let (server, mut client, peer) = connected().await?;
    drop(peer);
    let gone = client.next(SOON).await;
    assert!(
        matches!(gone, Err(Error::Closed { .. } | Error::Broken(_))),
        "{gone:?}"
    );
    assert!(!server.has_new_client().await);
    Ok(())
}

#[tokio::test]
async fn the_token_is_sent_in_the_query_or_the_header() -> Result<()> {
    let (_server, _client, peer) = connected().await?;
    assert_eq!(peer.query.as_deref(), Some("token=abc"));
    assert_eq!(peer.authorization, None);

    let server = Server::start().await?;
    let (url, in_header) = (server.url()?, Credential::InHeader("abc".into()));
    let (client, peer) = tokio::join!(Client::connect_as(&url, &in_header), server.accept());
    let (_client, peer) = (client?, peer?);
    assert_eq!(peer.query, None);
    assert_eq!(peer.authorization.as_deref(), Some("Bearer abc"));
    Ok(())
}

#[tokio::test]
async fn a_refused_connection_gives_status_and_body() -> Result<()> {
    let server = Server::start().await?;
    let url = server.url()?;
    let (client, refused) = tokio::join!(Client::connect(&url, "abc"), server.refuse(401, "who?"));
    refused?;
    let Err(Error::Refused { status, body }) = client else {
        panic!("{client:?}");
    };
    assert_eq!((status, body.as_str()), (401, "who?"));
    Ok(())
}
