use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringback_client::{
    Backoff, Credential, Endpoint, Error, Happened, HttpApi, Loss, Pace, Session,
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use wiremock::matchers::{header, method, path};
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::server::{Peer, SOON, Server};

const CALL: &str = "6f3c1a9e-0d5b-5c7e-9a51-2f1c7a6e4b10";

/// A session at work, and what it tells.
struct Watched {
    outgoing: mpsc::Sender<Value>,
    told: mpsc::UnboundedReceiver<Happened>,
    running: JoinHandle<Result<(), Error>>,
}

impl Watched {
    async fn start(server: &Server, pace: Pace, http: Option<HttpApi>) -> Result<(Self, Peer)> {
        let credential = Credential::InQuery("abc".into());
        let endpoint = Endpoint {
            url: server.url()?,
            credential,
            http,
        };
        let (outgoing, mut to_send) = mpsc::channel(8);
        let (teller, told) = mpsc::unbounded_channel();
        let tell = move |_, happened| {
            // A test that is over listens no more.
            let _ = teller.send(happened);
        };
        let running = tokio::spawn(async move {
            let mut session = Session::connect(endpoint, pace, tell).await?;
            let outcome = session.run(&mut to_send).await;
            session.close().await;
            outcome
        });
        let peer = server.accept().await?;
        let mut watched = Self {
            outgoing,
            told,
            running,
        };
        watched
            .tells(|happened| matches!(happened, Happened::Connected))
            .await?;
        Ok((watched, peer))
    }

    /// The next thing told is this.
    async fn tells(&mut self, what: impl Fn(&Happened) -> bool) -> Result<Happened> {
        let next = self.next().await?;
        if !what(&next) {
            bail!("told otherwise: {next:?}");
        }
        Ok(next)
    }

    /// This is told, whatever is told before it.
    async fn tells_in_time(&mut self, what: impl Fn(&Happened) -> bool) -> Result<Happened> {
        loop {
            let next = self.next().await?;
            if what(&next) {
                return Ok(next);
            }
        }
    }

    async fn next(&mut self) -> Result<Happened> {
        let next = timeout(SOON, self.told.recv())
            .await
            .context("nothing told")?;
        next.context("the session is over")
    }

    async fn ends(self) -> Result<Result<(), Error>> {
        drop(self.outgoing);
        Ok(timeout(SOON, self.running).await.context("it goes on")??)
    }
}

/// The ordinary pace, but connecting again at once.
fn quick() -> Pace {
    let backoff = Backoff {
        first: Duration::from_millis(10),
        longest: Duration::from_millis(100),
    };
    Pace {
        backoff,
        ..Pace::default()
    }
}

fn update(status: &str) -> Value {
    json!({"type": "call_status_update", "data": {"callSid": CALL, "status": status}})
}

#[tokio::test]
async fn a_lost_connection_is_found_again() -> Result<()> {
    let server = Server::start().await?;
    let (mut session, mut peer) = Watched::start(&server, quick(), None).await?;
    for _ in 0..3 {
        drop(peer);
        session
            .tells(|happened| matches!(happened, Happened::Lost(Loss::Gone(_))))
            .await?;
        session
            .tells(|happened| matches!(happened, Happened::Waiting(_)))
            .await?;
        peer = server.accept().await?;
        session
            .tells(|happened| matches!(happened, Happened::Connected))
            .await?;
    }
    session.outgoing.send(json!({"type": "ping"})).await?;
    assert_eq!(peer.hears().await?, json!({"type": "ping"}));
    Ok(())
}

#[tokio::test]
async fn calls_are_asked_about_when_the_connection_is_found_again() -> Result<()> {
    let http = MockServer::start().await;
    let answer = ResponseTemplate::new(200).set_body_json(json!({"status": "completed"}));
    Mock::given(method("GET"))
        .and(path(format!("/api/calls/{CALL}")))
        .and(header("authorization", "Bearer abc"))
        .respond_with(answer)
        .expect(1)
        .mount(&http)
        .await;
    let server = Server::start().await?;
    let api = HttpApi::new(&http.uri(), "abc".into())?;
    let (mut session, mut peer) = Watched::start(&server, quick(), Some(api)).await?;
    peer.says(&update("ringing")).await?;
    session
        .tells(|happened| matches!(happened, Happened::Received(_)))
        .await?;

    drop(peer);
    let peer = server.accept().await?;
    session
        .tells_in_time(|happened| matches!(happened, Happened::Connected))
        .await?;
    session
        .tells(|happened| matches!(happened, Happened::Stands { call_id, says } if call_id == CALL && says == "completed"))
        .await?;

    // Now it is known to be over, and is not asked about again.
    drop(peer);
    let _peer = server.accept().await?;
    session
        .tells_in_time(|happened| matches!(happened, Happened::Connected))
        .await?;
    session.outgoing.send(json!({"type": "ping"})).await?;
    session
        .tells(|happened| matches!(happened, Happened::Sent(_)))
        .await?;
    Ok(())
}

#[tokio::test]
async fn without_an_http_api_the_calls_in_doubt_are_named() -> Result<()> {
    let server = Server::start().await?;
    let (mut session, mut peer) = Watched::start(&server, quick(), None).await?;
    peer.says(&update("ringing")).await?;
    session
        .tells(|happened| matches!(happened, Happened::Received(_)))
        .await?;
    drop(peer);
    let _peer = server.accept().await?;
    session
        .tells_in_time(|happened| matches!(happened, Happened::Connected))
        .await?;
    session
        .tells(|happened| matches!(happened, Happened::Unknown(calls) if calls == &[CALL]))
        .await?;
    Ok(())
}

#[tokio::test]
async fn what_was_to_be_sent_without_a_connection_is_never_sent() -> Result<()> {
    let server = Server::start().await?;
    let (mut session, peer) = Watched::start(&server, quick(), None).await?;
    drop(peer);
    session
        .tells_in_time(|happened| matches!(happened, Happened::Waiting(_)))
        .await?;
    session
        .outgoing
        .send(json!({"type": "incoming_call"}))
        .await?;
    session
        .tells(|happened| matches!(happened, Happened::NotSent(_)))
        .await?;

    let mut peer = server.accept().await?;
    session
        .tells(|happened| matches!(happened, Happened::Connected))
        .await?;
    session.outgoing.send(json!({"type": "ping"})).await?;
    assert_eq!(peer.hears().await?, json!({"type": "ping"}));
    Ok(())
}

#[tokio::test]
async fn a_fresh_connection_takes_over_while_the_old_one_still_stands() -> Result<()> {
    let server = Server::start().await?;
    let pace = Pace {
        renew_after: Duration::from_secs(1),
        ..quick()
    };
    let (mut session, mut old) = Watched::start(&server, pace, None).await?;
    let mut fresh = server.accept().await?;
    old.says(&update("ringing")).await?;
    old.sees_it_closed().await?;
    // In this order or the other: the update was on its way while the fresh connection was made.
    let told = [session.next().await?, session.next().await?];
    assert!(
        told.iter()
            .any(|happened| matches!(happened, Happened::Renewed)),
        "{told:?}"
    );
    assert!(
        told.iter()
            .any(|happened| matches!(happened, Happened::Received(_))),
        "{told:?}"
    );

    session.outgoing.send(json!({"type": "ping"})).await?;
    assert_eq!(fresh.hears().await?, json!({"type": "ping"}));
    session
        .tells(|happened| matches!(happened, Happened::Sent(_)))
        .await?;
    Ok(())
}

#[tokio::test]
async fn the_old_connection_stays_when_there_is_no_fresh_one() -> Result<()> {
    let server = Server::start().await?;
    let pace = Pace {
        renew_after: Duration::from_millis(500),
        ..quick()
    };
    let (mut session, mut old) = Watched::start(&server, pace, None).await?;
    server.refuse(503, "try again").await?;
    session
        .tells(|happened| matches!(happened, Happened::NotConnected(_)))
        .await?;
    old.says(&update("ringing")).await?;
    session
        .tells_in_time(|happened| matches!(happened, Happened::Received(_)))
        .await?;
    Ok(())
}

#[tokio::test]
async fn a_connection_that_answers_no_ping_is_given_up() -> Result<()> {
    let server = Server::start().await?;
    let often = Duration::from_millis(200);
    let pace = Pace {
        ping_every: often,
        pong_within: often * 2,
        ..quick()
    };
    let (mut session, _deaf) = Watched::start(&server, pace, None).await?;
    session
        .tells_in_time(|happened| matches!(happened, Happened::Lost(Loss::Deaf)))
        .await?;

    let mut peer = server.accept().await?;
    session
        .tells_in_time(|happened| matches!(happened, Happened::Connected))
        .await?;
    for _ in 0..4 {
        assert_eq!(peer.hears().await?, json!({"type": "ping"}));
        peer.says(&json!({"type": "pong"})).await?;
        session
            .tells(|happened| matches!(happened, Happened::Sent(_)))
            .await?;
        session
            .tells(|happened| matches!(happened, Happened::Received(_)))
            .await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_refusal_that_would_come_again_ends_the_session_and_no_other_does() -> Result<()> {
    let server = Server::start().await?;
    let (mut session, peer) = Watched::start(&server, quick(), None).await?;
    drop(peer);
    for status in [503, 429] {
        server.refuse(status, "").await?;
        session
            .tells_in_time(|happened| matches!(happened, Happened::NotConnected(_)))
            .await?;
    }
    server.refuse(401, "the token has expired").await?;
    let outcome = session.ends().await?;
    assert!(
        matches!(outcome, Err(Error::Refused { status: 401, .. })),
        "{outcome:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_session_with_nothing_more_to_send_is_closed_properly() -> Result<()> {
    let server = Server::start().await?;
    let (session, peer) = Watched::start(&server, quick(), None).await?;
    let (outcome, closed) = tokio::join!(session.ends(), peer.sees_it_closed());
    closed?;
    outcome??;
    Ok(())
}

#[tokio::test]
async fn a_session_may_end_while_it_has_no_connection() -> Result<()> {
    let server = Server::start().await?;
    let (mut session, peer) = Watched::start(&server, quick(), None).await?;
    drop(peer);
    session
        .tells_in_time(|happened| matches!(happened, Happened::Waiting(_)))
        .await?;
    session.ends().await??;
    Ok(())
}

#[tokio::test]
async fn a_fresh_connection_that_takes_long_holds_up_no_message() -> Result<()> {
    let server = Server::start().await?;
    let pace = Pace {
        renew_after: Duration::from_millis(100),
        ..quick()
    };
    let (mut session, mut peer) = Watched::start(&server, pace, None).await?;
    let stuck = server.let_wait().await?;
    let asked = std::time::Instant::now();
    peer.says(&update("ringing")).await?;
    session
        .tells(|happened| matches!(happened, Happened::Received(_)))
        .await?;
    assert!(asked.elapsed() < SOON / 2);
    drop(stuck);
    Ok(())
}
