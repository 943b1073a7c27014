//! A proxy in front of another system. It records each request, when it started and when it ended.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use reqwest::Client;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// A proxy between one function and one system.
pub struct RecordingProxy {
    url: String,
    watch: Arc<Watch>,
    server: JoinHandle<()>,
}

/// A request that the proxy forwarded.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method.
    pub method: Method,
    /// The path and query.
    pub uri: Uri,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
    /// When the proxy received it.
    pub began: Instant,
    /// When the response was complete. `None` while it is not.
    pub ended: Option<Instant>,
}

struct Watch {
    system: String,
    client: Client,
    delay: Duration,
    requests: Mutex<Vec<Request>>,
}

impl RecordingProxy {
    /// Starts a proxy in front of the system at this URL. It forwards with `client` and delays each request by
    /// `delay`.
    pub async fn in_front_of(system: &str, client: Client, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let watch = Arc::new(Watch {
            system: system.trim_end_matches('/').to_owned(),
            client,
            delay,
            requests: Mutex::default(),
        });
        let routes = axum::Router::new()
            .fallback(pass_on)
            .with_state(Arc::clone(&watch));
        let server = tokio::spawn(async move {
            // The server runs until its task is aborted.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { url, watch, server })
    }

    /// The URL that replaces the system's own.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// All requests so far, in the order in which they started.
    pub fn requests(&self) -> Vec<Request> {
        self.watch.requests().clone()
    }
}

impl Drop for RecordingProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Watch {
    fn requests(&self) -> std::sync::MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, request: Request) -> usize {
        let mut requests = self.requests();
        requests.push(request);
        requests.len() - 1
    }

    fn end(&self, index: usize) {
        if let Some(request) = self.requests().get_mut(index) {
            request.ended = Some(Instant::now());
        }
    }
}

async fn pass_on(
    State(watch): State<Arc<Watch>>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Response {
    let index = watch.begin(Request {
        method: method.clone(),
        uri: uri.clone(),
        headers: headers.clone(),
        body: body.clone(),
        began: Instant::now(),
        ended: None,
    });
    tokio::time::sleep(watch.delay).await;

    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    let request = watch
        .client
        .request(method, format!("{}{uri}", watch.system))
        .headers(headers)
        .body(body);
    let answer = answer(request).await;
    watch.end(index);
    match answer {
        Ok(answer) => answer.into_response(),
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

async fn answer(
    request: reqwest::RequestBuilder,
) -> reqwest::Result<(StatusCode, HeaderMap, Bytes)> {
    let answer = request.send().await?;
    let mut headers = answer.headers().clone();
    let of_the_connection: [HeaderName; 2] = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    for name in of_the_connection {
        headers.remove(name);
    }
    Ok((answer.status(), headers, answer.bytes().await?))
}
