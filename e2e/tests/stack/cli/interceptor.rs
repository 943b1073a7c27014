//! An HTTP API in front of the real one, in which another admin is a little faster than the command.

use std::sync::Arc;

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use reqwest::Client;
use ringback_local::stack::Stack;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// Starts it and returns its address. Before it passes a `PUT` on, it leads the same number to the extension 1009.
pub(super) async fn start(stack: &Stack) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let app = Router::new()
        .fallback(pass_on)
        .with_state(Arc::new(stack.clone()));
    tokio::spawn(async move { axum::serve(listener, app).await });
    Ok(address)
}

async fn pass_on(
    State(stack): State<Arc<Stack>>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, axum::Json<Value>), StatusCode> {
    let url = format!("{}{uri}", stack.http_url);
    let no_answer = |_: reqwest::Error| StatusCode::BAD_GATEWAY;
    if method == Method::PUT {
        let faster = Client::new().put(&url).bearer_auth(&stack.admin.token);
        let faster = faster.json(&json!({ "extension": "1009" })).send().await;
        faster
            .and_then(reqwest::Response::error_for_status)
            .map_err(no_answer)?;
    }
    headers.remove("host");
    let request = Client::new().request(method, url).headers(headers);
    let answer = request.body(body).send().await.map_err(no_answer)?;
    let status = answer.status();
    Ok((status, axum::Json(answer.json().await.map_err(no_answer)?)))
}
