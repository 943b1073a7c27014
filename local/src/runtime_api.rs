//! The Lambda Runtime API, from which a function's process gets its events.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use axum::body::Bytes;
use axum::extract::{Path as UrlPath, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// The trace that every invocation belongs to.
pub const TRACE: Trace = Trace {
    root: "1-65f2f7c0-0123456789abcdef01234567",
    parent: "53995c3f42cd8ad8",
};

/// A trace that X-Ray samples.
#[derive(Debug)]
pub struct Trace {
    /// The trace id.
    pub root: &'static str,
    /// The id of the parent segment.
    pub parent: &'static str,
}

/// A running function, started as Lambda starts it.
#[derive(Debug)]
pub struct RunningFunction {
    name: String,
    process: Child,
    started: Instant,
    api: JoinHandle<()>,
    invocations: mpsc::Sender<Invocation>,
    invoked: u64,
    polls: watch::Receiver<Polls>,
    timeout: Duration,
    log: PathBuf,
}

/// How often a function has requested an event, and the time of the last request.
#[derive(Clone, Copy, Debug, Default)]
struct Polls {
    count: u64,
    last: Option<Instant>,
}

/// The answer of a function, with its times.
#[derive(Debug)]
pub struct TimedAnswer {
    /// The answer.
    pub answer: Value,
    /// When the function got the event.
    pub began: Instant,
    /// When the answer arrived.
    pub at: Instant,
}

#[derive(Debug)]
struct Invocation {
    id: String,
    event: String,
    deadline: OffsetDateTime,
    answer: oneshot::Sender<FunctionAnswer>,
}

#[derive(Debug)]
struct FunctionAnswer {
    began: Instant,
    at: Instant,
    outcome: FunctionOutcome,
}

#[derive(Debug)]
enum FunctionOutcome {
    Response(Bytes),
    Error(Bytes),
}

impl RunningFunction {
    /// Starts `bootstrap` with only these environment variables, and its output in `log`.
    ///
    /// # Errors
    /// When the binary is missing or does not start.
    pub async fn start(
        name: &str,
        bootstrap: &Path,
        environment: &BTreeMap<String, String>,
        timeout: Duration,
        log: &Path,
    ) -> Result<Self> {
        let command = Command::new(bootstrap);
        let started = Self::start_command(name, command, environment, timeout, log).await;
        started.with_context(|| format!("could not start {}", bootstrap.display()))
    }

    /// The same for a command with arguments, such as another language's runtime.
    ///
    /// # Errors
    /// When the command does not start.
    pub async fn start_command(
        name: &str,
        mut command: Command,
        environment: &BTreeMap<String, String>,
        timeout: Duration,
        log: &Path,
    ) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (invocations, waiting) = mpsc::channel(1);
        let (polled, polls) = watch::channel(Polls::default());
        let api = tokio::spawn(serve(listener, waiting, polled));

        let file =
            File::create(log).with_context(|| format!("could not create {}", log.display()))?;
        command
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
            .kill_on_drop(true);
        let started = Instant::now();
        let process = command.spawn()?;
        Ok(Self {
            name: name.to_owned(),
            process,
            started,
            api,
            invocations,
            invoked: 0,
            polls,
            timeout,
            log: log.to_owned(),
        })
    }

    /// Invokes the function with an event, and waits for the answer until the function's timeout.
    ///
    /// # Errors
    /// When the function fails, ends, or exceeds the timeout.
    pub async fn invoke(&mut self, event: &Value) -> Result<Value> {
        Ok(self.invoke_timed(event).await?.answer)
    }

    /// The same, with times.
    ///
    /// # Errors
    /// When the function fails, ends, or exceeds the timeout.
    pub async fn invoke_timed(&mut self, event: &Value) -> Result<TimedAnswer> {
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
            .context("the Runtime API server has stopped")?;
        self.invoked += 1;
        let (name, log) = (&self.name, self.log.display());
        tokio::select! {
            answer = answered => {
                let FunctionAnswer { began, at, outcome } = answer?;
                match outcome {
                    FunctionOutcome::Response(body) => {
                        let answer = serde_json::from_slice(&body)
                            .with_context(|| format!("{name} answered {body:?}, which is not JSON"))?;
                        Ok(TimedAnswer { answer, began, at })
                    }
                    FunctionOutcome::Error(body) => bail!("{name} failed: {body:?}; its log: {log}"),
                }
            }
            status = self.process.wait() => bail!("{name} ended unexpectedly: {}; its log: {log}", status?),
            () = tokio::time::sleep(self.timeout) => bail!("{name} took longer than {:?}; its log: {log}", self.timeout),
        }
    }

    /// When the process was started.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.id()
    }

    /// Ends the process with SIGTERM, and waits for its end.
    ///
    /// # Errors
    /// When the process cannot be signaled.
    pub async fn terminate(mut self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
            self.process.wait().await?;
        }
        Ok(())
    }

    /// Waits until the function requests the next event, which means that it has finished all earlier ones. Returns the
    /// time of that request.
    ///
    /// # Errors
    /// When the function ends, or exceeds the timeout.
    pub async fn wait_until_idle(&mut self) -> Result<Instant> {
        let invoked = self.invoked;
        let (name, log) = (&self.name, self.log.display());
        tokio::select! {
            polls = self.polls.wait_for(|polls| polls.count > invoked) => {
                polls?.last.context("no time of the last request")
            }
            status = self.process.wait() => bail!("{name} ended unexpectedly: {}; its log: {log}", status?),
            () = tokio::time::sleep(self.timeout) => bail!("{name} did not request an event within {:?}; its log: {log}", self.timeout),
        }
    }
}

impl Drop for RunningFunction {
    fn drop(&mut self) {
        self.api.abort();
    }
}

struct RuntimeApi {
    waiting: Mutex<mpsc::Receiver<Invocation>>,
    polled: watch::Sender<Polls>,
    running: StdMutex<HashMap<String, PendingInvocation>>,
}

struct PendingInvocation {
    began: Instant,
    answer: oneshot::Sender<FunctionAnswer>,
}

impl RuntimeApi {
    fn complete(&self, id: &str, outcome: FunctionOutcome) -> StatusCode {
        let at = Instant::now();
        let running = self
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(id);
        let Some(PendingInvocation { began, answer }) = running else {
            return StatusCode::BAD_REQUEST;
        };
        // The receiver is gone if the invocation has timed out.
        let _ = answer.send(FunctionAnswer { began, at, outcome });
        StatusCode::ACCEPTED
    }
}

async fn serve(
    listener: TcpListener,
    waiting: mpsc::Receiver<Invocation>,
    polled: watch::Sender<Polls>,
) {
    let api = RuntimeApi {
        waiting: Mutex::new(waiting),
        polled,
        running: StdMutex::default(),
    };
    let invocation = "/2018-06-01/runtime/invocation";
    let routes = axum::Router::new()
        .route(&format!("{invocation}/next"), get(next))
        .route(&format!("{invocation}/{{id}}/response"), post(response))
        .route(&format!("{invocation}/{{id}}/error"), post(error))
        .with_state(Arc::new(api));
    // Runs until the task is aborted.
    let _ = axum::serve(listener, routes).await;
}

async fn next(State(api): State<Arc<RuntimeApi>>) -> Response {
    let polled_at = Instant::now();
    api.polled.send_modify(|polls| {
        polls.count += 1;
        polls.last = Some(polled_at);
    });
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
        .insert(
            invocation.id,
            PendingInvocation {
                began: Instant::now(),
                answer: invocation.answer,
            },
        );
    (headers.unwrap_or_default(), invocation.event).into_response()
}

async fn response(
    State(api): State<Arc<RuntimeApi>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> StatusCode {
    api.complete(&id, FunctionOutcome::Response(body))
}

async fn error(
    State(api): State<Arc<RuntimeApi>>,
    UrlPath(id): UrlPath<String>,
    body: Bytes,
) -> StatusCode {
    api.complete(&id, FunctionOutcome::Error(body))
}
