use std::time::Duration;

use anyhow::Result;
use ringback_client::{Client, Credential, Error};
use serde_json::json;

use crate::server::{Peer, SOON, Server};

const A_MOMENT: Duration = Duration::from_millis(50);

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
    assert_eq!(peer.hears().await?, json!({"type": "ping"}));
    peer.says(&json!({"type": "pong"})).await?;
    assert_eq!(client.next(SOON).await?, json!({"type": "pong"}));
    let (late, closed) = tokio::join!(client.close(), peer.sees_it_closed());
    closed?;
    assert_eq!(late, Vec::<serde_json::Value>::new());
    Ok(())
}

#[tokio::test]
async fn what_is_on_its_way_when_the_client_closes_is_not_lost() -> Result<()> {
    let (_server, client, mut peer) = connected().await?;
    peer.says(&json!({"n": 1})).await?;
    peer.says(&json!({"n": 2})).await?;
    let (late, closed) = tokio::join!(client.close(), peer.sees_it_closed());
    closed?;
    assert_eq!(late, [json!({"n": 1}), json!({"n": 2})]);
    Ok(())
}

#[tokio::test]
async fn silence_and_nonsense_leave_the_connection_as_it_is() -> Result<()> {
    let (_server, mut client, mut peer) = connected().await?;
    assert!(matches!(client.next(A_MOMENT).await, Err(Error::Silent(_))));
    peer.says_text("hello").await?;
    assert!(matches!(client.next(SOON).await, Err(Error::NotJson(text)) if text == "hello"));
    peer.says(&json!({"type": "pong"})).await?;
    assert_eq!(client.next(SOON).await?, json!({"type": "pong"}));
    Ok(())
}

#[tokio::test]
async fn a_client_does_not_connect_again() -> Result<()> {
    let (server, mut client, peer) = connected().await?;
    drop(peer);
    let gone = client.next(SOON).await;
    assert!(
        matches!(gone, Err(Error::Closed { .. } | Error::Broken(_))),
        "{gone:?}"
    );
    assert!(!server.is_called().await);
    Ok(())
}

#[tokio::test]
async fn the_token_arrives_where_it_was_put() -> Result<()> {
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
async fn a_refusal_says_why() -> Result<()> {
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
