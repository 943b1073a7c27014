//! The fault proxy in front of one system. Forwards each request, or applies the faults of the matching rules.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::{Body, Bytes};
use axum::http::request::Parts;
use axum::http::{Request, Response, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::function_process::{FunctionProcess, FunctionProcesses};
use super::operation::operation;
use super::registry::{FaultRegistry, ObservedRequest};
use super::rule::{Fault, KillPoint, LinkState, System};
use crate::credentials::Certificate;

/// The delay before the port is bound again, if it is still in use.
const REBIND_DELAY: Duration = Duration::from_millis(20);

/// The proxy of one system.
pub(super) struct FaultProxy {
    pub(super) system: System,
    pub(super) upstream: String,
    pub(super) client: reqwest::Client,
    pub(super) tls: Option<Tls>,
    pub(super) registry: Arc<FaultRegistry>,
    pub(super) functions: Arc<FunctionProcesses>,
}

/// The certificates that the proxy can present.
pub(super) struct Tls {
    valid: TlsAcceptor,
    expired: TlsAcceptor,
}

impl Tls {
    pub(super) fn new(certificate: &Certificate) -> Result<Self> {
        let key = &certificate.key_pem;
        Ok(Self {
            valid: acceptor(&certificate.certificate_pem, key)?,
            expired: acceptor(&certificate.expired_pem, key)?,
        })
    }
}

fn acceptor(certificate: &str, key: &str) -> Result<TlsAcceptor> {
    let certificate = CertificateDer::from_pem_slice(certificate.as_bytes())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Accepts connections according to the link state, and closes all of them when it changes.
pub(super) async fn run(
    proxy: Arc<FaultProxy>,
    listener: TcpListener,
    mut link_state: watch::Receiver<LinkState>,
) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let state = *link_state.borrow_and_update();
        if state == LinkState::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = Some(rebind(address).await);
        }
        connections.abort_all();
        loop {
            tokio::select! {
                changed = link_state.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some((stream, peer)) = accept(listener.as_ref()) => {
                    connections.spawn(Arc::clone(&proxy).accept_connection(stream, peer, state));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn rebind(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(REBIND_DELAY).await,
        }
    }
}

async fn accept(listener: Option<&TcpListener>) -> Option<(TcpStream, SocketAddr)> {
    match listener {
        // Ignores a connection that was reset before it was accepted.
        Some(listener) => listener.accept().await.ok(),
        None => std::future::pending().await,
    }
}

impl FaultProxy {
    async fn accept_connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        state: LinkState,
    ) {
        // An error means only that Nagle's algorithm stays on, which is slower but works.
        let _ = stream.set_nodelay(true);
        let Ok(local) = stream.local_addr() else {
            return;
        };
        let tls = self.tls.as_ref();
        match (state, tls) {
            (LinkState::Silent, _) => std::future::pending().await,
            (LinkState::Expired, Some(tls)) => {
                // The handshake fails, because the client rejects an expired certificate.
                let _ = tls.expired.accept(stream).await;
            }
            (_, Some(tls)) => {
                if let Ok(stream) = tls.valid.clone().accept(stream).await {
                    self.serve(stream, (peer, local)).await;
                }
            }
            (_, None) => self.serve(stream, (peer, local)).await,
        }
    }

    /// Handles the HTTP requests of a connection from `peer` to our `local` address.
    async fn serve<S>(self: Arc<Self>, stream: S, (peer, local): (SocketAddr, SocketAddr))
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let function = self.functions.at(peer, local);
        let service = service_fn(|request| {
            let (proxy, function) = (Arc::clone(&self), function.clone());
            // hyper closes the connection without an answer when the service returns an error.
            async move { proxy.handle(request, function.as_ref()).await }
        });
        // An error means that a fault or the client broke the connection, so there is nothing to report.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn handle(
        &self,
        request: Request<Incoming>,
        function: Option<&FunctionProcess>,
    ) -> Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let body_text = String::from_utf8_lossy(&body);
        let (method, uri, headers) = (&parts.method, &parts.uri, &parts.headers);
        let operation = operation(self.system, method, uri, headers, &body_text);
        let faults = self.registry.faults_of(&ObservedRequest {
            system: self.system,
            function: function.map_or("", |function| &function.name),
            operation: &operation,
            text: &format!("{uri} {body_text}"),
        });
        let forward = || self.forward(&parts, &body);
        for fault in &faults {
            match fault {
                Fault::Answer {
                    status,
                    headers,
                    body,
                } => return configured_answer(*status, headers, body),
                Fault::Silence => std::future::pending::<()>().await,
                Fault::Delay { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
                Fault::Twice => {
                    forward().await?;
                }
                Fault::Kill(KillPoint::Before) => {
                    kill(function)?;
                    bail!("killed the function before {operation}");
                }
                Fault::Kill(KillPoint::After) => {
                    forward().await?;
                    kill(function)?;
                    bail!("killed the function after {operation}");
                }
                Fault::LoseAnswer => {
                    forward().await?;
                    bail!("dropped the answer");
                }
            }
        }
        forward().await
    }

    async fn forward(&self, parts: &Parts, body: &Bytes) -> Result<Response<Body>> {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        // The upstream URL of ARI contains `/ari` already.
        let path = match self.system {
            System::Pbx => path.trim_start_matches("/ari"),
            System::Aws | System::Fcm | System::Exotel => path,
        };
        let mut headers = parts.headers.clone();
        // reqwest sets these for its own connection.
        for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
            headers.remove(name);
        }
        let request = self
            .client
            .request(parts.method.clone(), format!("{}{path}", self.upstream))
            .headers(headers)
            .body(body.clone());
        let answer = request.send().await.context("the system did not answer")?;
        let status = answer.status();
        let mut headers = answer.headers().clone();
        // These describe the upstream connection. hyper sets its own.
        for name in [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ] {
            headers.remove(name);
        }
        let mut response = Response::new(Body::from(answer.bytes().await?));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

fn configured_answer(
    status: u16,
    headers: &BTreeMap<String, String>,
    body: &str,
) -> Result<Response<Body>> {
    let mut answer = Response::builder().status(status);
    for (name, value) in headers {
        answer = answer.header(name, value);
    }
    Ok(answer.body(Body::from(body.to_owned()))?)
}

fn kill(function: Option<&FunctionProcess>) -> Result<()> {
    function
        .map(FunctionProcess::kill)
        .context("the function process of the connection is unknown")
}
