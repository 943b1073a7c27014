//! A client without an account: raw SIP over every transport of a PBX, and raw HTTP to its proxy, from any local
//! address.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{SinkExt, StreamExt};
use ringback_local::stack::Pbx;
use rsipstack::sip::headers::auth::Algorithm;
use rsipstack::sip::services::DigestGenerator;
use rsipstack::sip::{Method, Uri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UdpSocket};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use uuid::Uuid;

/// The maximum time for an answer on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Stands for a missing answer.
const NO_ANSWER: &str = "no answer";

/// The transports of SIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
    Tls,
    Wss,
}

impl Transport {
    pub(crate) const ALL: [Self; 4] = [Self::Udp, Self::Tcp, Self::Tls, Self::Wss];

    const fn in_via(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::Wss => "WSS",
        }
    }
}

pub(crate) trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

enum Line {
    Packets(UdpSocket),
    Bytes(Box<dyn Bytes>),
    WebSocket(Box<WebSocketStream<Box<dyn Bytes>>>),
}

/// A client that is connected to a PBX.
pub(crate) struct UnauthenticatedClient {
    transport: Transport,
    line: Line,
    /// Received bytes that were not read yet.
    pending: String,
}

impl UnauthenticatedClient {
    /// Connects from an address of this machine.
    pub(crate) async fn connect(pbx: &Pbx, transport: Transport, from: IpAddr) -> Result<Self> {
        let line = match transport {
            Transport::Udp => {
                let socket = UdpSocket::bind((from, 0)).await?;
                socket.connect(&pbx.sip.address).await?;
                Line::Packets(socket)
            }
            Transport::Tcp => Line::Bytes(Box::new(tcp(from, &pbx.sip.address).await?)),
            Transport::Tls => Line::Bytes(tls(pbx, from, &pbx.sip.tls).await?),
            Transport::Wss => {
                let address = wss_address(pbx)?;
                let mut request = pbx.sip.wss.as_str().into_client_request()?;
                let headers = request.headers_mut();
                headers.insert("Sec-WebSocket-Protocol", "sip".parse()?);
                let bytes = tls(pbx, from, &address).await?;
                let (socket, _) = tokio_tungstenite::client_async(request, bytes).await?;
                Line::WebSocket(Box::new(socket))
            }
        };
        Ok(Self {
            transport,
            line,
            pending: String::new(),
        })
    }

    /// Sends a request and returns the final response.
    pub(crate) async fn ask(&mut self, request: &Request) -> Result<String> {
        self.send(request).await?;
        loop {
            let response = self.next().await?;
            if !response.starts_with("SIP/2.0 1") {
                return Ok(response);
            }
        }
    }

    /// Sends a request, and repeats it with a digest of this password when challenged.
    pub(crate) async fn ask_as(
        &mut self,
        user: &str,
        password: &str,
        request: &Request,
    ) -> Result<String> {
        let challenge = self.ask(request).await?;
        let mut again = request.clone();
        again.sequence += 1;
        again.headers += &authorization(&challenge, user, password, request)?;
        self.ask(&again).await
    }

    /// Sends a request and does not wait.
    pub(crate) async fn send(&mut self, request: &Request) -> Result<()> {
        let text = request.text(self.transport);
        match &mut self.line {
            Line::Packets(socket) => {
                socket.send(text.as_bytes()).await?;
            }
            Line::Bytes(bytes) => bytes.write_all(text.as_bytes()).await?,
            Line::WebSocket(socket) => socket.send(Message::text(text)).await?,
        }
        Ok(())
    }

    /// The next message without its body. The PBX sends no bodies here, and one read may return two messages.
    pub(crate) async fn next(&mut self) -> Result<String> {
        loop {
            // A keep-alive is an empty line.
            if let Some((message, rest)) = self.pending.trim_start().split_once("\r\n\r\n") {
                let message = message.to_owned();
                self.pending = rest.to_owned();
                return Ok(message);
            }
            let news = timeout(TIMEOUT, self.read()).await.context(NO_ANSWER)??;
            ensure!(!news.is_empty(), "the PBX has closed the connection");
            self.pending += &news;
        }
    }

    /// Waits until the PBX has closed the connection.
    pub(crate) async fn ended(&mut self) {
        // Asterisk's keep-alives come as empty lines.
        while self.read().await.is_ok_and(|news| !news.is_empty()) {}
    }

    async fn read(&mut self) -> Result<String> {
        let mut buffer = vec![0; 65_535];
        let length = match &mut self.line {
            Line::Packets(socket) => socket.recv(&mut buffer).await?,
            Line::Bytes(bytes) => bytes.read(&mut buffer).await?,
            Line::WebSocket(socket) => loop {
                match socket.next().await.context("the WebSocket has closed")?? {
                    Message::Text(text) => return Ok(text.as_str().to_owned()),
                    Message::Close(_) => return Ok(String::new()),
                    _ => {}
                }
            },
        };
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }
}

/// A request outside a dialog.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: &'static str,
    /// The value of the From header without its tag.
    from: String,
    to: String,
    pub(crate) call_id: String,
    sequence: u32,
    pub(crate) headers: String,
}

impl Request {
    /// From a user to a number or user of the PBX.
    pub(crate) fn new(method: &'static str, from: &str, to: &str) -> Self {
        Self {
            method,
            from: format!("<sip:{from}@client.invalid>"),
            to: format!("sip:{to}@127.0.0.1"),
            call_id: Uuid::new_v4().to_string(),
            sequence: 1,
            headers: String::new(),
        }
    }

    pub(crate) fn with(mut self, header: &str) -> Self {
        self.headers += header;
        self.headers += "\r\n";
        self
    }

    fn text(&self, transport: Transport) -> String {
        let Self {
            method, from, to, ..
        } = self;
        let (description, its_type) = match *method {
            "INVITE" => (
                "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                 m=audio 40000 RTP/AVP 0 8\r\n",
                "Content-Type: application/sdp\r\n",
            ),
            _ => ("", ""),
        };
        format!(
            "{method} {to} SIP/2.0\r\n\
             Via: SIP/2.0/{} 127.0.0.1:5999;rport;branch=z9hG4bK{}\r\n\
             Max-Forwards: 70\r\nFrom: {from};tag={}\r\nTo: <{to}>\r\nCall-ID: {}\r\n\
             CSeq: {} {method}\r\nContact: <sip:client@127.0.0.1:5999>\r\n{}{its_type}\
             Content-Length: {}\r\n\r\n{description}",
            transport.in_via(),
            Uuid::new_v4().simple(),
            Uuid::new_v4().simple(),
            self.call_id,
            self.sequence,
            self.headers,
            description.len(),
        )
    }
}

/// The header that answers a challenge (RFC 2617, without qop, which the PBX accepts as well).
fn authorization(challenge: &str, user: &str, password: &str, request: &Request) -> Result<String> {
    let field = |name: &str| {
        let (_, after) = challenge.split_once(&format!("{name}=\""))?;
        Some(after.split_once('"')?.0)
    };
    let realm = field("realm").with_context(|| format!("not a challenge: {challenge}"))?;
    let nonce = field("nonce").context("the challenge has no nonce")?;
    let uri = Uri::try_from(request.to.as_str()).context("a URI")?;
    let method = Method::try_from(request.method).context("the method is not valid")?;
    let response = DigestGenerator {
        username: user,
        password,
        nonce,
        uri: &uri,
        realm,
        method: &method,
        qop: None,
        algorithm: Algorithm::Md5,
    };
    let opaque = field("opaque").map(|opaque| format!(", opaque=\"{opaque}\""));
    Ok(format!(
        "Authorization: Digest username=\"{user}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{}\", \
         response=\"{}\", algorithm=MD5{}\r\n",
        request.to,
        response.compute(),
        opaque.unwrap_or_default(),
    ))
}

/// The WebSocket address of a PBX's proxy.
pub(crate) fn wss_address(pbx: &Pbx) -> Result<String> {
    let address = pbx.sip.wss.strip_prefix("wss://");
    let (address, _) = address.and_then(|it| it.split_once('/')).context("wss")?;
    Ok(address.to_owned())
}

/// The ARI address of a PBX's proxy.
pub(crate) fn ari_address(pbx: &Pbx) -> Result<String> {
    let address = pbx.ari.url.strip_prefix("https://");
    let (address, _) = address.and_then(|it| it.split_once('/')).context("ARI")?;
    Ok(address.to_owned())
}

/// A connection from an address of this machine.
pub(crate) async fn tcp(from: IpAddr, to: &str) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((from, 0)))?;
    Ok(socket.connect(to.parse()?).await?)
}

/// A connection with a completed TLS handshake.
pub(crate) async fn tls(pbx: &Pbx, from: IpAddr, to: &str) -> Result<Box<dyn Bytes>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(pbx.ari.ca_pem.as_bytes())?)?;
    let config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("localhost")?;
    let connection = tcp(from, to).await?;
    let handshake = TlsConnector::from(Arc::new(config)).connect(name, connection);
    Ok(Box::new(timeout(TIMEOUT, handshake).await??))
}

/// The response of an HTTP server to this raw request.
pub(crate) async fn http(pbx: &Pbx, to: &str, request: &str) -> Result<String> {
    let mut connection = tls(pbx, IpAddr::from([127, 0, 0, 1]), to).await?;
    connection.write_all(request.as_bytes()).await?;
    let mut buffer = vec![0; 65_535];
    let length = timeout(TIMEOUT, connection.read(&mut buffer)).await??;
    ensure!(length > 0, "the connection was closed without an answer");
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
