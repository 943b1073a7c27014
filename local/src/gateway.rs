//! The single address of the stack, on port 5050: forwards HTTP to the HTTP API and `/exotel-stream` to the WebSocket
//! API, both unchanged. Below `/local/` it serves the demo of the console, which exists only here.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::serve::ListenerExt;
use axum::{Json, Router};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;

use crate::cloud::region::Region;
use crate::demo;
#[cfg(test)]
use crate::settings::LOOPBACK;

/// The path of the WebSocket API, which is also the name of its stage.
pub const WEBSOCKET_PATH: &str = "/exotel-stream";
/// Headers of a single connection, which a proxy must not forward (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The deployed APIs that the gateway forwards to.
#[derive(Debug, Clone)]
pub struct Upstream {
    address: SocketAddr,
    http_api: String,
    websocket_api: Option<String>,
    /// The directory of `stack.json`, for the demo.
    state_dir: PathBuf,
}

impl Upstream {
    /// The APIs with these ids in a region's local AWS.
    #[must_use]
    pub fn in_local_aws(
        region: Region,
        http_api: &str,
        websocket_api: Option<&str>,
        state_dir: PathBuf,
    ) -> Self {
        Self {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, region.cloud_port)),
            http_api: http_api.to_owned(),
            websocket_api: websocket_api.map(str::to_owned),
            state_dir,
        }
    }

    /// The path of an API in the local AWS. It also routes by host name, but then it answers some paths itself, such as
    /// `/health`.
    fn path(api: &str, stage_and_path: &str) -> String {
        format!("/_aws/execute-api/{api}{stage_and_path}")
    }

    fn host(&self) -> Result<HeaderValue> {
        Ok(HeaderValue::from_str(&self.address.to_string())?)
    }
}

/// A running gateway. Dropping it closes all connections.
#[derive(Debug)]
pub struct Gateway {
    /// Its own runtime, so that dropping it stops every task that the gateway started.
    runtime: Option<Runtime>,
}

impl Gateway {
    /// Listens on the IPv4 loopback address, and on the IPv6 one if the machine has it.
    pub async fn start(upstream: Upstream, port: u16) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("gateway")
            .enable_all()
            .build()?;
        let servers = runtime.handle().clone();
        // From here on, an early return drops `Gateway`, which shuts the runtime down. Dropping a runtime itself panics
        // in async code.
        let gateway = Self {
            runtime: Some(runtime),
        };
        let listening = servers.spawn(async move {
            let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
                .await
                .with_context(|| format!("could not listen on port {port}"))?;
            let router = router(upstream);
            // `localhost` may resolve to IPv6. Without IPv6, the gateway listens on IPv4 only.
            if let Ok(v6) = TcpListener::bind((Ipv6Addr::LOCALHOST, port)).await {
                tokio::spawn(serve(v6, router.clone()));
            }
            tokio::spawn(serve(v4, router));
            anyhow::Ok(())
        });
        listening.await??;
        Ok(gateway)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve(listener: TcpListener, router: Router) {
    // Without this, a small WebSocket message waits up to 40 ms for the receipt of the previous one (Nagle).
    let listener = listener.tap_io(|stream| {
        // An error means only that it stays slow.
        let _ = stream.set_nodelay(true);
    });
    // Ends with the stack.
    let _ = axum::serve(listener, router).await;
}

#[derive(Clone)]
struct Proxy {
    upstream: Upstream,
    client: Client<HttpConnector, Body>,
}

fn router(upstream: Upstream) -> Router {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new())
        .pool_idle_timeout(Duration::from_secs(30))
        .build(connector);
    let demo = demo::router(upstream.state_dir.clone());
    Router::new()
        .fallback(forward)
        .with_state(Proxy { upstream, client })
        .merge(demo)
}

async fn forward(State(proxy): State<Proxy>, request: Request) -> Response {
    if request.uri().path() != WEBSOCKET_PATH {
        return proxy.forward_http(request).await;
    }
    let Some(api) = proxy.upstream.websocket_api.clone() else {
        return error_response(
            StatusCode::NOT_FOUND,
            "this deployment has no WebSocket API",
            "no_websocket_api",
        );
    };
    if !is_websocket(request.headers()) {
        return error_response(
            StatusCode::UPGRADE_REQUIRED,
            "this path accepts only WebSocket connections",
            "websocket_only",
        );
    }
    tunnel(&proxy.upstream, &api, request)
        .await
        .unwrap_or_else(|error| bad_gateway(&error))
}

impl Proxy {
    async fn forward_http(&self, request: Request) -> Response {
        match self.try_forward_http(request).await {
            Ok(response) => response,
            Err(error) => bad_gateway(&error),
        }
    }

    async fn try_forward_http(&self, mut request: Request) -> Result<Response> {
        let Upstream {
            address, http_api, ..
        } = &self.upstream;
        let path = request.uri().path_and_query();
        let path = Upstream::path(
            &format!("{http_api}/$default"),
            path.map_or("/", |path| path.as_str()),
        );
        *request.uri_mut() = format!("http://{address}{path}").parse()?;
        remove_hop_by_hop(request.headers_mut());
        request
            .headers_mut()
            .insert(header::HOST, self.upstream.host()?);
        let mut response = self.client.request(request).await?;
        remove_hop_by_hop(response.headers_mut());
        Ok(response.map(Body::new))
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

fn is_websocket(headers: &HeaderMap) -> bool {
    headers
        .get(header::UPGRADE)
        .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"))
}

/// Forwards the handshake. After both sides have switched protocols, copies all bytes in both directions.
async fn tunnel(upstream: &Upstream, api: &str, mut request: Request) -> Result<Response> {
    let downstream = hyper::upgrade::on(&mut request);
    let stream = TcpStream::connect(upstream.address).await?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection.with_upgrades());
    request.headers_mut().insert(header::HOST, upstream.host()?);
    let query = request
        .uri()
        .query()
        .map_or_else(String::new, |query| format!("?{query}"));
    let path = Upstream::path(api, &format!("{WEBSOCKET_PATH}{query}"));
    *request.uri_mut() = path.parse()?;
    let mut response = sender.send_request(request).await?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let upstream = hyper::upgrade::on(&mut response);
        tokio::spawn(async move {
            if let (Ok(downstream), Ok(upstream)) = tokio::join!(downstream, upstream) {
                // Either side may close at any time.
                let _ = tokio::io::copy_bidirectional(
                    &mut TokioIo::new(downstream),
                    &mut TokioIo::new(upstream),
                )
                .await;
            }
        });
    }
    Ok(response.map(Body::new))
}

fn bad_gateway(error: &anyhow::Error) -> Response {
    eprintln!("gateway: the local AWS did not answer: {error:#}");
    error_response(
        StatusCode::BAD_GATEWAY,
        "the local AWS did not answer; see target/local/cloud.log",
        "cloud_unreachable",
    )
}

fn error_response(status: StatusCode, error: &str, code: &str) -> Response {
    (
        status,
        Json(json!({"success": false, "error": error, "code": code})),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::serve_anywhere;
    use serde_json::Value;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    /// Answers with what it received.
    async fn echo(request: Request) -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        let seen = json!({
            "method": parts.method.as_str(), "path": parts.uri.to_string(), "host": parts.headers["host"].to_str().unwrap(),
            "secret": parts.headers.get("x-ringback-secret").map(|value| value.to_str().unwrap()),
            "body": String::from_utf8_lossy(&body),
        });
        (StatusCode::CONFLICT, [("x-answer", "kept")], Json(seen)).into_response()
    }

    async fn gateway_to(upstream: SocketAddr, websocket: bool) -> SocketAddr {
        let upstream = Upstream {
            address: upstream,
            http_api: "api1".to_owned(),
            websocket_api: websocket.then(|| "ws1".to_owned()),
            state_dir: PathBuf::new(),
        };
        serve_anywhere(router(upstream)).await.unwrap().0
    }

    #[tokio::test]
    async fn requests_and_answers_are_forwarded_unchanged() {
        let (upstream, _) = serve_anywhere(Router::new().fallback(echo)).await.unwrap();
        let gateway = gateway_to(upstream, false).await;
        let url = format!("http://{gateway}/exotel/webhook?secret=a%26b&CallFrom=%2B91+98");
        let request = reqwest::Client::new()
            .put(url)
            .header("x-ringback-secret", "s")
            .body("{\"a\": 1}");
        let answer = request.send().await.unwrap();
        assert_eq!(
            (
                answer.status().as_u16(),
                answer.headers()["x-answer"].to_str().unwrap()
            ),
            (409, "kept")
        );
        let seen: Value = answer.json().await.unwrap();
        let expected = json!({
            "method": "PUT", "path": "/_aws/execute-api/api1/$default/exotel/webhook?secret=a%26b&CallFrom=%2B91+98",
            "host": upstream.to_string(), "secret": "s", "body": "{\"a\": 1}",
        });
        assert_eq!(seen, expected);
    }

    #[tokio::test]
    async fn a_deployment_without_a_websocket_api_answers_404() {
        let (upstream, _) = serve_anywhere(Router::new().fallback(echo)).await.unwrap();
        let gateway = gateway_to(upstream, false).await;
        let answer = reqwest::get(format!("http://{gateway}/exotel-stream?token=t"))
            .await
            .unwrap();
        assert_eq!(answer.status(), 404);
        assert_eq!(
            answer.json::<Value>().await.unwrap()["code"],
            "no_websocket_api"
        );
    }

    #[tokio::test]
    async fn a_stopped_local_aws_gives_502() {
        let gone = TcpListener::bind((LOOPBACK, 0))
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let gateway = gateway_to(gone, false).await;
        let answer = reqwest::get(format!("http://{gateway}/health"))
            .await
            .unwrap();
        assert_eq!(answer.status(), 502);
    }

    #[tokio::test]
    async fn a_websocket_is_tunnelled() {
        let listener = TcpListener::bind((LOOPBACK, 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let cloud = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = read_head(&mut stream).await;
            let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n";
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(b"pong").await.unwrap();
            (head, bytes)
        });
        let gateway = gateway_to(upstream, true).await;

        let mut app = TcpStream::connect(gateway).await.unwrap();
        let handshake = "GET /exotel-stream?token=t HTTP/1.1\r\nhost: localhost:5050\r\nconnection: upgrade\r\n\
                         upgrade: websocket\r\nsec-websocket-key: a2V5\r\nsec-websocket-version: 13\r\n\
                         authorization: Bearer t\r\n\r\n";
        app.write_all(handshake.as_bytes()).await.unwrap();
        assert!(read_head(&mut app).await.starts_with("HTTP/1.1 101"));
        app.write_all(b"ping").await.unwrap();
        let mut bytes = [0; 4];
        app.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"pong");

        let (head, bytes) = cloud.await.unwrap();
        assert_eq!(&bytes, b"ping");
        let expected = "GET /_aws/execute-api/ws1/exotel-stream?token=t HTTP/1.1";
        assert!(head.starts_with(expected), "{head}");
        assert!(head.contains("authorization: Bearer t\r\n"), "{head}");
    }

    async fn read_head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.unwrap());
        }
        String::from_utf8(head).unwrap()
    }
}
