//! The WebSocket server, which handles one connection at a time.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::{SinkExt, StreamExt};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::{WebSocketStream, accept_hdr_async};

/// A timeout that no step reaches, also on a loaded machine.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) struct Server {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

/// The server side of a connection. Dropping it breaks the connection without a close frame.
pub(crate) struct Peer {
    stream: WebSocketStream<Box<dyn Io>>,
    pub(crate) query: Option<String>,
    pub(crate) authorization: Option<String>,
}

pub(crate) trait Io: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Io for T {}

impl Server {
    pub(crate) async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self {
            listener,
            tls: None,
        })
    }

    pub(crate) async fn start_with_tls(tls: TlsAcceptor) -> Result<Self> {
        let tls = Some(tls);
        Ok(Self {
            tls,
            ..Self::start().await?
        })
    }

    pub(crate) fn url(&self) -> Result<String> {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        Ok(format!(
            "{scheme}://{}/exotel-stream",
            self.listener.local_addr()?
        ))
    }

    /// Accepts the next connection.
    pub(crate) async fn accept(&self) -> Result<Peer> {
        timeout(SOON, self.handshake())
            .await
            .context("no client connected")?
    }

    /// Answers the next handshake with an HTTP status code.
    pub(crate) async fn refuse(&self, status: u16, body: &str) -> Result<()> {
        let (mut stream, _) = timeout(SOON, self.listener.accept())
            .await
            .context("no client connected")??;
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} No\r\ncontent-length: {length}\r\n\r\n{body}");
        stream.write_all(answer.as_bytes()).await?;
        // Reads the whole request first. Otherwise the client gets a connection reset and not this answer.
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await?;
        Ok(())
    }

    /// Whether a client connects within 300 ms.
    pub(crate) async fn has_new_client(&self) -> bool {
        timeout(Duration::from_millis(300), self.listener.accept())
            .await
            .is_ok()
    }

    async fn handshake(&self) -> Result<Peer> {
        let (stream, _) = self.listener.accept().await?;
        let stream: Box<dyn Io> = match &self.tls {
            Some(tls) => Box::new(tls.accept(stream).await?),
            None => Box::new(stream),
        };
        let (mut query, mut authorization) = (None, None);
        #[allow(clippy::result_large_err, reason = "the signature is tungstenite's")]
        let read = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
            query = request.uri().query().map(str::to_owned);
            let header = request.headers().get("authorization");
            authorization = header.and_then(|value| Some(value.to_str().ok()?.to_owned()));
            Ok(response)
        };
        let stream = accept_hdr_async(stream, read).await?;
        Ok(Peer {
            stream,
            query,
            authorization,
        })
    }
}

impl Peer {
    /// The client's next message.
    pub(crate) async fn receive(&mut self) -> Result<Value> {
        match self.next().await? {
            Some(Message::Text(text)) => Ok(serde_json::from_str(&text)?),
            other => bail!("expected a message, got {other:?}"),
        }
    }

    pub(crate) async fn send(&mut self, message: &Value) -> Result<()> {
        self.send_text(&message.to_string()).await
    }

    pub(crate) async fn send_text(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.send(Message::text(text)).await?)
    }

    /// Checks that the client closes the connection with a close frame.
    pub(crate) async fn expect_close(mut self) -> Result<()> {
        match self.next().await? {
            Some(Message::Close(_)) => Ok(()),
            other => bail!("expected a close frame, got {other:?}"),
        }
    }

    async fn next(&mut self) -> Result<Option<Message>> {
        let next = timeout(SOON, self.stream.next())
            .await
            .context("the client sent nothing")?;
        Ok(next.transpose()?)
    }
}
