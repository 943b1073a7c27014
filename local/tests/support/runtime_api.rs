//! Lambda's side of a function's process: the Runtime API, which hands out events and takes answers.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;

/// The trace that every invocation is part of.
pub(crate) const TRACE: Trace = Trace {
    root: "1-65f2f7c0-0123456789abcdef01234567",
    parent: "53995c3f42cd8ad8",
};

/// A trace, sampled by X-Ray.
pub(crate) struct Trace {
    pub(crate) root: &'static str,
    pub(crate) parent: &'static str,
}

/// A function's binary, running as it does in Lambda.
pub(crate) struct RunningFunction {
    name: String,
    process: Child,
    api: JoinHandle<()>,
    invocations: mpsc::Sender<Invocation>,
    timeout: Duration,
    log: PathBuf,
}

struct Invocation {
    id: String,
    event: String,
    deadline: OffsetDateTime,
    answer: oneshot::Sender<Answer>,
}

enum Answer {
    Response(Bytes),
    Error(Bytes),
}

impl RunningFunction {
    /// Starts `bootstrap` with this environment and no other; what it logs goes to `log`.
    pub(crate) async fn start(
        name: &str,
        bootstrap: &Path,
        environment: &BTreeMap<String, String>,
        timeout: Duration,
        log: &Path,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (invocations, waiting) = mpsc::channel(1);
        let api = tokio::spawn(serve(listener, waiting));

        let file = File::create(log).with_context(|| format!("create {}", log.display()))?;
        let process = Command::new(bootstrap)
            .env_clear()
            .envs(environment)
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", format!("/aws/lambda/{name}"))
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "local")
            .env("_HANDLER", "bootstrap")
            .stdout(file.try_clone()?)
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "{} does not start: build it with `make build`",
                    bootstrap.display()
                )
            })?;
        Ok(Self {
            name: name.to_owned(),
            process,
            api,
            invocations,
            timeout,
            log: log.to_owned(),
        })
    }

    /// Hands the function one event and waits for its answer, as long as Lambda would.
    pub(crate) async fn invoke(&mut self, event: &Value) -> Result<Value> {
        let (answer, answered) = oneshot::channel();
        let invocation = Invocation {
            id: uuid::Uuid::new_v4().to_string(),
            event: event.to_string(),
            deadline: OffsetDateTime::now_utc() + self.timeout,
            answer,
        };
        self.invocations
            .send(invocation)
            .await
            .ok()
            .context("the Runtime API has stopped")?;
        let (name, log) = (&self.name, self.log.display());
        tokio::select! {
            answer = answered => match answer? {
                Answer::Response(body) => {
                    serde_json::from_slice(&body).with_context(|| format!("{name} answered {body:?}, which is no JSON"))
                }
                Answer::Error(body) => bail!("{name} failed: {body:?}; its log: {log}"),
            },
            status = self.process.wait() => bail!("{name} ended by itself: {}; its log: {log}", status?),
            () = tokio::time::sleep(self.timeout) => bail!("{name} took longer than {:?}; its log: {log}", self.timeout),
        }
    }
}

impl Drop for RunningFunction {
    fn drop(&mut self) {
        self.api.abort();
    }
}

struct Api {
    waiting: Mutex<mpsc::Receiver<Invocation>>,
    running: StdMutex<HashMap<String, oneshot::Sender<Answer>>>,
}

impl Api {
    fn settle(&self, id: &str, answer: Answer) -> StatusCode {
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        match running.map(|waiting| waiting.send(answer)) {
            Some(_) => StatusCode::ACCEPTED,
            None => StatusCode::BAD_REQUEST,
        }
    }
}

async fn serve(listener: TcpListener, waiting: mpsc::Receiver<Invocation>) {
    let api = Api {
        waiting: Mutex::new(waiting),
        running: StdMutex::default(),
    };
    let invocation = "/2018-06-01/runtime/invocation";
    let routes = axum::Router::new()
        .route(&format!("{invocation}/next"), get(next))
        .route(&format!("{invocation}/{{id}}/response"), post(response))
        .route(&format!("{invocation}/{{id}}/error"), post(error))
        .with_state(Arc::new(api));
    // It ends with the task that it runs in.
    let _ = axum::serve(listener, routes).await;
}

async fn next(State(api): State<Arc<Api>>) -> Response {
    let Some(invocation) = api.waiting.lock().await.recv().await else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let deadline = invocation.deadline.unix_timestamp_nanos() / 1_000_000;
    let headers = [
        ("lambda-runtime-aws-request-id", invocation.id.clone()),
        ("lambda-runtime-deadline-ms", deadline.to_string()),
        (
            "lambda-runtime-invoked-function-arn",
            "arn:aws:lambda:ap-south-1:000000000000:function:local".to_owned(),
        ),
        (
            "lambda-runtime-trace-id",
            format!("Root={};Parent={};Sampled=1", TRACE.root, TRACE.parent),
        ),
        ("content-type", "application/json".to_owned()),
    ];
    let headers: Option<HeaderMap> = headers
        .into_iter()
        .map(|(name, value)| Some((name.parse().ok()?, value.parse().ok()?)))
        .collect();
    api.running
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(invocation.id, invocation.answer);
    (headers.unwrap_or_default(), invocation.event).into_response()
}

async fn response(
    State(api): State<Arc<Api>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> StatusCode {
    api.settle(&id, Answer::Response(body))
}

async fn error(
    State(api): State<Arc<Api>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> StatusCode {
    api.settle(&id, Answer::Error(body))
}
