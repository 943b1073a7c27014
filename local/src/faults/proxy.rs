//! The fault proxy in front of one system. Forwards each request, or applies the faults of the matching rules.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use axum::body::{Body, Bytes};
use axum::http::{HeaderName, Request, Response, StatusCode, header};
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
use super::registry::{ObservedRequest, FaultRegistry};
use super::operation::operation;
use super::rule::{Fault, LinkState, KillPoint, System};
use crate::credentials::Certificate;

/// The delay before the port is bound again, if it is still in use.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

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
    pub(super) fn of(certificate: &Certificate) -> Result<Self> {
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
pub(super) async fn run(proxy: Arc<FaultProxy>, listener: TcpListener, mut told: watch::Receiver<LinkState>) {
    let Ok(address) = listener.local_addr() else {
        return;
    };
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    loop {
        let line = *told.borrow_and_update();
        if line == LinkState::Refused {
            listener = None;
        } else if listener.is_none() {
            listener = Some(listen_again(address).await);
        }
        connections.abort_all();
        loop {
            tokio::select! {
                changed = told.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Some((stream, peer)) = accept(listener.as_ref()) => {
                    connections.spawn(Arc::clone(&proxy).attend(stream, peer, line));
                }
                Some(_) = connections.join_next() => {}
            }
        }
    }
}

async fn listen_again(address: SocketAddr) -> TcpListener {
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => return listener,
            Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
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
    async fn attend(self: Arc<Self>, stream: TcpStream, peer: SocketAddr, line: LinkState) {
        // An error means only that Nagle's algorithm stays on, which is slower but works.
        let _ = stream.set_nodelay(true);
        let Ok(us) = stream.local_addr() else {
            return;
        };
        let tls = self.tls.as_ref();
        match (line, tls) {
            (LinkState::Silent, _) => std::future::pending().await,
            (LinkState::Expired, Some(tls)) => {
                // The handshake fails, because the client rejects an expired certificate.
                let _ = tls.expired.accept(stream).await;
            }
            (_, Some(tls)) => {
                if let Ok(stream) = tls.valid.clone().accept(stream).await {
                    self.serve(stream, (peer, us)).await;
                }
            }
            (_, None) => self.serve(stream, (peer, us)).await,
        }
    }

    async fn serve<S>(self: Arc<Self>, stream: S, (peer, us): (SocketAddr, SocketAddr))
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let function = self.functions.at(peer, us);
        let service = service_fn(|request| {
            let (proxy, function) = (Arc::clone(&self), function.clone());
            // hyper closes the connection without an answer when the service returns an error.
            async move {
                proxy.pass(request, function)
                    .await
                    .map_err(|error| ProxyError(error.to_string()))
            }
        });
        // An error means that a fault or the client broke the connection, so there is nothing to report.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn pass(
        &self,
        request: Request<Incoming>,
        function: Option<FunctionProcess>,
    ) -> Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let said = String::from_utf8_lossy(&body);
        let operation = operation(
            self.system,
            &parts.method,
            &parts.uri,
            &parts.headers,
            &said,
        );
        let text = format!("{} {said}", parts.uri);
        let faults = self.registry.faults_of(&ObservedRequest {
            system: self.system,
            function: function.as_ref().map_or("", |function| &function.name),
            operation: &operation,
            text: &text,
        });
        let outgoing = || self.outgoing(&parts, &body);
        for fault in &faults {
            match fault {
                Fault::Answer {
                    status,
                    headers,
                    body,
                } => {
                    let mut answer = Response::builder().status(*status);
                    for (name, value) in headers {
                        answer = answer.header(name, value);
                    }
                    return Ok(answer.body(Body::from(body.clone()))?);
                }
                Fault::Silence => std::future::pending::<()>().await,
                Fault::Delay { ms } => tokio::time::sleep(Duration::from_millis(*ms)).await,
                Fault::Twice => {
                    self.answer(outgoing()).await?;
                }
                Fault::Kill(KillPoint::Before) => {
                    end(function.as_ref())?;
                    bail!("the function was ended before {operation}");
                }
                Fault::Kill(KillPoint::After) => {
                    self.answer(outgoing()).await?;
                    end(function.as_ref())?;
                    bail!("the function was ended after {operation}");
                }
                Fault::LoseAnswer => {
                    self.answer(outgoing()).await?;
                    bail!("the answer was lost");
                }
            }
        }
        self.answer(outgoing()).await
    }

    fn outgoing(
        &self,
        parts: &axum::http::request::Parts,
        body: &Bytes,
    ) -> reqwest::RequestBuilder {
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        // The upstream URL of ARI contains `/ari` already.
        let path = match self.system {
            System::Pbx => path.trim_start_matches("/ari"),
            System::Aws | System::Fcm | System::Exotel => path,
        };
        let mut headers = parts.headers.clone();
        for name in [header::HOST, header::CONTENT_LENGTH, header::CONNECTION] {
            headers.remove(name);
        }
        self.client
            .request(parts.method.clone(), format!("{}{path}", self.upstream))
            .headers(headers)
            .body(body.clone())
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> Result<Response<Body>> {
        let answer = request.send().await.context("nobody is there")?;
        let status: StatusCode = answer.status();
        let mut headers = answer.headers().clone();
        let of_the_connection: [HeaderName; 3] = [
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
        ];
        for name in of_the_connection {
            headers.remove(name);
        }
        let mut response = Response::new(Body::from(answer.bytes().await?));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(response)
    }
}

fn end(function: Option<&FunctionProcess>) -> Result<()> {
    function
        .map(FunctionProcess::end)
        .ok_or_else(|| anyhow!("nobody knows which function asks"))
}

#[derive(Debug)]
struct ProxyError(String);

impl std::fmt::Display for ProxyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ProxyError {}
