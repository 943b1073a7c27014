//! One WebSocket connection. It never reconnects.

use std::time::Duration;

use futures::{SinkExt, StreamExt};
use rustls::crypto::aws_lc_rs;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::handshake::client::Request;
use tokio_tungstenite::tungstenite::http::header::{AUTHORIZATION, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async_with_config};

/// The timeout for connecting: TCP, TLS, and the authorizer, which may start cold.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The timeout for the server's answer to a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection to `/exotel-stream`.
#[derive(Debug)]
pub struct Client {
    stream: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// How a client authenticates.
#[derive(Debug, Clone)]
pub enum Credential {
    /// The URL already contains the secret, as Exotel's does, or the client sends none.
    InUrl,
    /// A bearer token in the query (`?token=`), for clients that cannot set headers.
    InQuery(SecretString),
    /// A bearer token in the `Authorization` header.
    InHeader(SecretString),
}

/// Why there is no connection or no message. The text of a tungstenite error already contains its causes, so it is part
/// of the message and not a `source`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL or the token is malformed.
    #[error("invalid URL or token: {0}")]
    InvalidAddress(Box<WsError>),
    /// The server answered the handshake with an HTTP error.
    #[error("the server refused the connection with {status}: {body}")]
    Refused {
        /// The HTTP status code.
        status: u16,
        /// The body of the answer.
        body: String,
    },
    /// The handshake failed.
    #[error("could not connect: {0}")]
    Unreachable(Box<WsError>),
    /// The handshake did not finish in time.
    #[error("not connected within {0:?}")]
    ConnectTimeout(Duration),
    /// No message arrived in time. The connection stays open.
    #[error("no message within {0:?}")]
    MessageTimeout(Duration),
    /// A message is not JSON. The connection stays open.
    #[error("a message is not JSON: {0}")]
    NotJson(String),
    /// The server closed the connection.
    #[error("the server closed the connection ({code:?} {reason})")]
    Closed {
        /// The WebSocket close code, if the server sent one.
        code: Option<u16>,
        /// The reason that the server gave.
        reason: String,
    },
    /// The connection ended without a close frame.
    #[error("the connection broke: {0}")]
    Broken(Box<WsError>),
}

impl Client {
    /// Connects with a bearer token in the query.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the connection.
    pub async fn connect(url: &str, token: &str) -> Result<Self, Error> {
        Self::connect_as(url, &Credential::InQuery(token.into())).await
    }

    /// Connects with the given credential.
    ///
    /// # Errors
    /// When the server cannot be reached or refuses the connection.
    pub async fn connect_as(url: &str, credential: &Credential) -> Result<Self, Error> {
        // rustls does not choose a provider when two are linked. An error means that one is installed already.
        let _ = aws_lc_rs::default_provider().install_default();
        // Messages are small and time-critical, so do not wait to fill a packet (Nagle).
        let without_nagle = true;
        let request = request(url, credential)?;
        let connecting = connect_async_with_config(request, None, without_nagle);
        let (stream, _) = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| Error::ConnectTimeout(CONNECT_TIMEOUT))?
            .map_err(Error::from_handshake)?;
        Ok(Self { stream })
    }

    /// Sends a message.
    ///
    /// # Errors
    /// When the connection is closed or broken.
    pub async fn send(&mut self, message: Value) -> Result<(), Error> {
        self.send_text(message.to_string()).await
    }

    /// Sends any text, also malformed JSON.
    ///
    /// # Errors
    /// When the connection is closed or broken.
    pub async fn send_text(&mut self, text: impl Into<Utf8Bytes>) -> Result<(), Error> {
        let message = Message::Text(text.into());
        self.stream.send(message).await.map_err(Error::from_stream)
    }

    /// Receives the next message, and waits no longer than `within`.
    ///
    /// # Errors
    /// When no message arrives in time, the message is not JSON, or the connection is closed or broken.
    pub async fn next(&mut self, within: Duration) -> Result<Value, Error> {
        tokio::time::timeout(within, self.receive())
            .await
            .map_err(|_| Error::MessageTimeout(within))?
    }

    /// Receives the next message, without a timeout. Cancel-safe: dropping the future loses no message.
    ///
    /// # Errors
    /// When the message is not JSON, or the connection is closed or broken.
    pub async fn receive(&mut self) -> Result<Value, Error> {
        loop {
            match self.stream.next().await {
                Some(Ok(Message::Text(text))) => return json(text.as_bytes()),
                Some(Ok(Message::Binary(bytes))) => return json(&bytes),
                Some(Ok(Message::Close(frame))) => {
                    // Sends the queued answer to the close frame. It may fail when the server is already gone.
                    let _ = self.stream.flush().await;
                    return Err(Error::closed(frame));
                }
                // tungstenite answers pings itself.
                Some(Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_))) => {}
                Some(Err(error)) => return Err(Error::from_stream(error)),
                None => return Err(Error::closed(None)),
            }
        }
    }

    /// Closes the connection with a close frame, and returns the messages that arrive until it is closed.
    pub async fn close(mut self) -> Vec<Value> {
        let mut remaining = Vec::new();
        let closing = async {
            self.stream.close(None).await.map_err(Error::from_stream)?;
            loop {
                match self.receive().await {
                    Ok(message) => remaining.push(message),
                    Err(Error::NotJson(_)) => {}
                    Err(gone) => return Err::<(), _>(gone),
                }
            }
        };
        // A timeout and an error both mean that the connection is gone, which is what the caller wants.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, closing).await;
        remaining
    }
}

impl Error {
    fn from_handshake(error: WsError) -> Self {
        match error {
            WsError::Http(response) => {
                let body = response.body().as_deref().unwrap_or_default();
                Self::Refused {
                    status: response.status().as_u16(),
                    body: String::from_utf8_lossy(body).into_owned(),
                }
            }
            WsError::Url(_) | WsError::HttpFormat(_) => Self::InvalidAddress(Box::new(error)),
            other => Self::Unreachable(Box::new(other)),
        }
    }

    fn from_stream(error: WsError) -> Self {
        match error {
            WsError::ConnectionClosed | WsError::AlreadyClosed => Self::closed(None),
            other => Self::Broken(Box::new(other)),
        }
    }

    fn closed(frame: Option<CloseFrame>) -> Self {
        Self::Closed {
            code: frame.as_ref().map(|frame| frame.code.into()),
            reason: frame.map_or_else(String::new, |frame| frame.reason.to_string()),
        }
    }
}

fn request(url: &str, credential: &Credential) -> Result<Request, Error> {
    match credential {
        Credential::InUrl => url.into_client_request(),
        Credential::InQuery(token) => with_token(url, token).into_client_request(),
        Credential::InHeader(token) => url.into_client_request().and_then(|mut request| {
            let mut bearer = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
            bearer.set_sensitive(true);
            request.headers_mut().insert(AUTHORIZATION, bearer);
            Ok(request)
        }),
    }
    .map_err(|error| Error::InvalidAddress(Box::new(error)))
}

fn with_token(url: &str, token: &SecretString) -> String {
    let separator = if url.contains('?') { '&' } else { '?' };
    let token: String = form_urlencoded::byte_serialize(token.expose_secret().as_bytes()).collect();
    format!("{url}{separator}token={token}")
}

fn json(bytes: &[u8]) -> Result<Value, Error> {
    serde_json::from_slice(bytes)
        .map_err(|_| Error::NotJson(String::from_utf8_lossy(bytes).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "wss://abc.execute-api.ap-south-1.amazonaws.com/exotel-stream";

    #[test]
    fn a_token_is_appended_to_the_query_and_escaped() {
        let with = |url: &str| {
            let request = request(url, &Credential::InQuery("a+b/c".into()))?;
            Ok::<_, Error>(request.uri().query().map(str::to_owned))
        };
        assert_eq!(with(URL).unwrap().as_deref(), Some("token=a%2Bb%2Fc"));
        let both = with(&format!("{URL}?secret=x")).unwrap();
        assert_eq!(both.as_deref(), Some("secret=x&token=a%2Bb%2Fc"));
    }

    #[test]
    fn a_token_in_the_header_is_not_in_the_url() {
        let request = request(URL, &Credential::InHeader("abc".into())).unwrap();
        assert_eq!(request.headers()[AUTHORIZATION], "Bearer abc");
        assert_eq!(request.uri().query(), None);
    }

    #[test]
    fn a_token_with_a_line_break_is_an_error() {
        let request = request(URL, &Credential::InHeader("two\nlines".into()));
        assert!(matches!(request, Err(Error::InvalidAddress(_))));
    }
}
