//! One stand-in: a listener, with TLS as the real system has, or without.

use std::convert::Infallible;
use std::sync::Arc;

use anyhow::{Context, Result};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use ringback_local::credentials::Certificate;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use super::{ReceivedRequest, State, System};

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub(super) struct Server {
    /// Its base URL, without a slash at the end.
    pub(super) url: String,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts TLS connections with this certificate.
pub(super) fn tls(certificate: &Certificate) -> Result<TlsAcceptor> {
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
    let certificate = CertificateDer::from_pem_slice(certificate.certificate_pem.as_bytes())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Server {
    /// Without `tls`, it speaks plain HTTP.
    pub(super) async fn start(
        system: System,
        tls: Option<TlsAcceptor>,
        state: Arc<State>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("a port for a stand-in")?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr()?.port());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accept(system, stream, tls.clone(), Arc::clone(&state)));
            }
        });
        Ok(Self { url, accepting })
    }
}

async fn accept(system: System, stream: TcpStream, tls: Option<TlsAcceptor>, state: Arc<State>) {
    // With Nagle's algorithm, an answer may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return serve(system, stream, state).await;
    };
    // A handshake fails when the function's process ends meanwhile.
    if let Ok(stream) = tls.accept(stream).await {
        serve(system, stream, state).await;
    }
}

async fn serve(
    system: System,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    state: Arc<State>,
) {
    state.connected(system);
    let service = service_fn(|request| {
        let state = Arc::clone(&state);
        async move { Ok::<_, Infallible>(answer(system, request, &state).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

async fn answer(
    system: System,
    request: Request<Incoming>,
    state: &State,
) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    };
    let target = head.headers.get("x-amz-target");
    let request = ReceivedRequest {
        system,
        operation: target
            .and_then(|target| target.to_str().ok()?.rsplit_once('.'))
            .map(|(_, operation)| operation.to_owned()),
        method: head.method,
        path: head.uri.path().to_owned(),
        body,
    };
    let (status, body) = state.answer(&request).await;
    let kind = match system {
        System::DynamoDb => "application/x-amz-json-1.0",
        _ => "application/json",
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(
        "content-type",
        hyper::header::HeaderValue::from_static(kind),
    );
    response
}
