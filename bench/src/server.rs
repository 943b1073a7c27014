//! A listener on loopback, with TLS or without.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;

use anyhow::{Context, Result};
use http_body_util::{BodyExt as _, Full};
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

/// What a listener answers.
pub(crate) trait Answers: Send + Sync + 'static {
    /// A client has opened a connection.
    fn connected(&self) {}

    /// Answers a request.
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Response<Full<Bytes>>> + Send;
}

/// A running listener. Dropping it stops it.
#[derive(Debug)]
pub(crate) struct Server {
    /// Its base URL, without a slash at the end.
    pub(crate) url: String,
    accepting: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Accepts TLS connections with this certificate.
pub(crate) fn tls(certificate: &Certificate) -> Result<TlsAcceptor> {
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes())?;
    let certificate = CertificateDer::from_pem_slice(certificate.certificate_pem.as_bytes())?;
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

impl Server {
    /// Without `tls`, it speaks plain HTTP.
    pub(crate) async fn start(
        tls: Option<TlsAcceptor>,
        answers: Arc<impl Answers>,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await;
        let listener = listener.context("a free port")?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let url = format!("{scheme}://localhost:{}", listener.local_addr()?.port());
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(accept(stream, tls.clone(), Arc::clone(&answers)));
            }
        });
        Ok(Self { url, accepting })
    }
}

async fn accept(stream: TcpStream, tls: Option<TlsAcceptor>, answers: Arc<impl Answers>) {
    // With Nagle's algorithm, an answer may wait for the client's acknowledgement.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return serve(stream, answers).await;
    };
    // A handshake fails when the function's process ends meanwhile.
    if let Ok(stream) = tls.accept(stream).await {
        serve(stream, answers).await;
    }
}

async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    answers: Arc<impl Answers>,
) {
    answers.connected();
    let service = service_fn(|request| {
        let answers = Arc::clone(&answers);
        async move { Ok::<_, Infallible>(answers.answer(request).await) }
    });
    let _ = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

/// A request's whole body. Empty if the client ends the connection meanwhile.
pub(crate) async fn whole(body: Incoming) -> Bytes {
    match body.collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => Bytes::new(),
    }
}
