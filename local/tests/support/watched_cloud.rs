//! The local AWS, which allows everything, behind a listener that notes what is done: so that what a function does
//! can be held against what its role allows.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// One function's way to the local AWS.
pub(crate) struct WatchedCloud {
    url: String,
    watch: Arc<Watch>,
    server: JoinHandle<()>,
}

struct Watch {
    endpoint: String,
    client: reqwest::Client,
    actions: Mutex<BTreeSet<String>>,
}

impl WatchedCloud {
    /// Listens in front of the local AWS at `endpoint`.
    pub(crate) async fn in_front_of(endpoint: &str) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let endpoint = endpoint.to_owned();
        let watch = Arc::new(Watch {
            endpoint,
            client: reqwest::Client::new(),
            actions: Mutex::default(),
        });
        let routes = axum::Router::new()
            .fallback(pass_on)
            .with_state(Arc::clone(&watch));
        let server = tokio::spawn(async move {
            // It ends with the task that it runs in.
            let _ = axum::serve(listener, routes).await;
        });
        Ok(Self { url, watch, server })
    }

    /// What the function takes for AWS.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// What has been done, as IAM names it: `dynamodb:PutItem`.
    pub(crate) fn actions(&self) -> BTreeSet<String> {
        self.watch
            .actions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for WatchedCloud {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn pass_on(
    State(watch): State<Arc<Watch>>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Response {
    let actions = actions(&method, uri.path(), &headers, &body);
    watch
        .actions
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(actions);

    headers.remove(header::HOST);
    headers.remove(header::CONTENT_LENGTH);
    let request = watch
        .client
        .request(method, format!("{}{uri}", watch.endpoint))
        .headers(headers)
        .body(body);
    match answer(request).await {
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

/// The actions that IAM would ask for. One that this does not know stands for itself, and no role allows it.
fn actions(method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Vec<String> {
    let target = headers
        .get("x-amz-target")
        .and_then(|target| target.to_str().ok());
    match target.and_then(|target| target.split_once('.')) {
        Some(("DynamoDB_20120810", "TransactWriteItems")) => in_transaction(body),
        Some(("DynamoDB_20120810", operation)) => vec![format!("dynamodb:{operation}")],
        Some(("AmazonSQS", operation)) => vec![format!("sqs:{operation}")],
        Some(("secretsmanager", operation)) => vec![format!("secretsmanager:{operation}")],
        Some((service, operation)) => vec![format!("{service}.{operation}")],
        None if path.starts_with("/schedules/") => on_schedule(method),
        None => {
            let mut fields = form_urlencoded::parse(body);
            let action = fields
                .find(|(name, _)| name == "Action")
                .map(|(_, action)| format!("sns:{action}"));
            vec![action.unwrap_or_else(|| format!("{method} {path}"))]
        }
    }
}

fn in_transaction(body: &[u8]) -> Vec<String> {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let items = body["TransactItems"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_object);
    items
        .flat_map(serde_json::Map::keys)
        .map(|write| match write.as_str() {
            "ConditionCheck" => "dynamodb:ConditionCheckItem".to_owned(),
            write => format!("dynamodb:{write}Item"),
        })
        .collect()
}

/// Making a schedule hands the Scheduler a role.
fn on_schedule(method: &Method) -> Vec<String> {
    let actions: &[&str] = match *method {
        Method::POST => &["scheduler:CreateSchedule", "iam:PassRole"],
        Method::PUT => &["scheduler:UpdateSchedule", "iam:PassRole"],
        Method::DELETE => &["scheduler:DeleteSchedule"],
        _ => &["scheduler:GetSchedule"],
    };
    actions.iter().map(|action| (*action).to_owned()).collect()
}
