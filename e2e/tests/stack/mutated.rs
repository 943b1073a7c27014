//! Mutated requests, passed to the functions' real binaries with the Lambda runtime API: none of them makes a function
//! fail, crash or reveal a secret. The local stack must be running.
//!
//! The event files are the starting points. `REQUESTS=10000` sends that many to each entry point, `SEED=2` selects
//! other mutations.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ringback::api::entry_points::mutation::Mutations;
use ringback_local::events::{EventFile, FunctionResources, documented_secrets};
use ringback_local::runtime_api::RunningFunction;
use ringback_local::settings::{STACK_NAME, Settings};
use ringback_local::stack::Stack;
use serde_json::{Value, json};

/// The number of requests to each entry point unless `REQUESTS` is set. All of them take some seconds.
const REQUESTS: usize = 50;

/// Longer than the timeout of any function in the template.
const TIMEOUT: Duration = Duration::from_secs(60);

/// An entry point: its name, its function, and the event files that are mutated.
type EntryPoint = (&'static str, &'static str, &'static [&'static str]);

/// In this order no phone is registered when calls come in, so no function waits for one.
const ENTRY_POINTS: [EntryPoint; 16] = [
    (
        "GET /exotel/webhook",
        "exotel-webhook",
        &["exotel-webhook-passthru-get"],
    ),
    (
        "GET /exotel/voicebot",
        "exotel-webhook",
        &["exotel-webhook-voicebot"],
    ),
    (
        "POST /exotel/webhook",
        "exotel-webhook",
        &[
            "exotel-webhook-passthru-post-json",
            "exotel-webhook-status-callback-form",
            "exotel-webhook-status-callback-multipart",
            "exotel-webhook-status-callback-json",
        ],
    ),
    (
        "POST /asterisk/incoming",
        "asterisk-incoming",
        &["asterisk-incoming-incoming"],
    ),
    (
        "POST /asterisk/bridged",
        "asterisk-incoming",
        &["asterisk-incoming-bridged"],
    ),
    (
        "POST /asterisk/ended",
        "asterisk-incoming",
        &["asterisk-incoming-ended"],
    ),
    (
        "POST /api/call-response",
        "call-response",
        &[
            "call-response-accept",
            "call-response-accept-ready",
            "call-response-decline",
            "call-response-hangup",
        ],
    ),
    ("GET /api/calls/{id}", "call-status", &["call-status"]),
    ("GET /health", "health", &["health"]),
    (
        "$connect, authorizer",
        "ws-authorizer",
        &[
            "ws-authorizer-header",
            "ws-authorizer-token",
            "ws-authorizer-secret",
            "ws-authorizer-basic",
        ],
    ),
    ("$connect", "ws-connect", &["ws-connect"]),
    (
        "$default, apps",
        "ws-message",
        &[
            "ws-message-ping",
            "ws-message-call-response",
            "ws-message-incoming-call-app",
            "ws-message-incoming-call-number",
        ],
    ),
    (
        "$default, Exotel",
        "ws-message",
        &[
            "ws-message-exotel-connected",
            "ws-message-exotel-start",
            "ws-message-exotel-media",
            "ws-message-exotel-dtmf",
            "ws-message-exotel-mark",
            "ws-message-exotel-stop",
        ],
    ),
    ("PUT /api/devices/{device_id}", "devices", &["devices-put"]),
    (
        "DELETE /api/devices/{device_id}",
        "devices",
        &["devices-delete"],
    ),
    ("PUT /api/admin/{kind}/{key}", "admin", &["admin-put"]),
];

/// Creates and ends the call of the event files, so that mutated requests refer to it and do not wait.
const PROLOGUE: [(&str, &str); 2] = [
    ("exotel-webhook", "exotel-webhook-passthru-get"),
    ("exotel-webhook", "exotel-webhook-status-callback-form"),
];

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_a_function_fail_crash_or_reveal_a_secret() -> Result<()> {
    let settings = Settings::from_environment();
    let secrets = documented_secrets(settings.repository())?;
    let resources =
        FunctionResources::create(Stack::load(&settings.state_dir())?, &secrets).await?;
    let tried = Functions::new(settings, &resources, secrets)?
        .try_all()
        .await;
    resources.delete().await?;
    tried
}

/// The functions, each started once. None may exit.
struct Functions {
    settings: Settings,
    stack: Stack,
    files: Vec<EventFile>,
    variables: BTreeMap<&'static str, String>,
    secrets: BTreeMap<String, String>,
    running: BTreeMap<&'static str, RunningFunction>,
}

impl Functions {
    fn new(
        settings: Settings,
        resources: &FunctionResources,
        secrets: BTreeMap<String, String>,
    ) -> Result<Self> {
        std::fs::create_dir_all(settings.state("mutated"))?;
        Ok(Self {
            stack: Stack::load(&settings.state_dir())?,
            files: EventFile::all(settings.repository())?,
            variables: resources.variables(),
            running: BTreeMap::new(),
            settings,
            secrets,
        })
    }

    async fn try_all(mut self) -> Result<()> {
        let number = |name, otherwise| {
            let set = self.settings.variable(name).map(str::parse);
            set.unwrap_or(Ok(otherwise)).context(name)
        };
        let (requests, seed) = (number("REQUESTS", REQUESTS)?, number("SEED", 1)?);
        for (function, event) in PROLOGUE {
            let event = self.event(event)?;
            let answer = self.function(function).await?.invoke(&event).await?;
            ensure!(answer["statusCode"] == 200, "{answer}");
        }
        println!("{requests} changed requests to each entry point, SEED={seed}");
        let mut failures = Vec::new();
        for entry_point in &ENTRY_POINTS {
            failures.extend(self.try_one(entry_point, requests, seed).await?);
        }
        let logs = ENTRY_POINTS.map(|(_, function, _)| self.log(function));
        for log in logs {
            failures.extend(self.leaks_in(&std::fs::read_to_string(&log)?));
        }
        ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }

    async fn try_one(
        &mut self,
        (name, function, events): &EntryPoint,
        requests: usize,
        seed: usize,
    ) -> Result<Vec<String>> {
        let events: Vec<Value> = events
            .iter()
            .map(|event| self.event(event))
            .collect::<Result<_>>()?;
        let function = self.function(function).await?;
        let began = Instant::now();
        let mut answers = BTreeMap::<String, usize>::new();
        let mut failures = Vec::new();
        for event in Changed::of(&events, seed).take(requests) {
            let answer = function.invoke(&event).await;
            let kind = answer.as_ref().map_or_else(ToString::to_string, kind);
            if is_failure(&kind) {
                failures.push(format!("{name}: {kind} to {event}"));
            }
            *answers.entry(kind).or_default() += 1;
        }
        let took = began.elapsed().as_secs_f32();
        println!("{name}: {requests} in {took:.1} s: {answers:?}");
        Ok(failures)
    }

    async fn function(&mut self, name: &'static str) -> Result<&mut RunningFunction> {
        if !self.running.contains_key(name) {
            let bootstrap = format!("target/lambda/{name}/bootstrap");
            let bootstrap = self.settings.repository().join(bootstrap);
            let (environment, log) = (self.environment(name).await?, self.log(name));
            let started =
                RunningFunction::start(name, &bootstrap, &environment, TIMEOUT, &log).await?;
            self.running.insert(name, started);
        }
        self.running.get_mut(name).context("just started")
    }

    /// The deployed function's variables, pointed at the test's own resources.
    async fn environment(&self, name: &str) -> Result<BTreeMap<String, String>> {
        let url = format!(
            "{}/2015-03-31/functions/{STACK_NAME}-{name}/configuration",
            self.stack.aws.endpoint
        );
        let deployed: Value = reqwest::get(url).await?.error_for_status()?.json().await?;
        let mut environment: BTreeMap<String, String> =
            serde_json::from_value(deployed["Environment"]["Variables"].clone())?;
        for (name, value) in &self.variables {
            if name.starts_with("AWS_") || environment.contains_key(*name) {
                environment.insert((*name).to_owned(), value.clone());
            }
        }
        // The tokens of the event files have no issuer and no audience, and `ARI_URL` names no PBX of the deployment.
        let unused = ["TOKEN_ISSUER", "TOKEN_AUDIENCE", "SIP_URIS"];
        environment.retain(|name, _| !unused.contains(&name.as_str()));
        Ok(environment)
    }

    fn event(&self, name: &str) -> Result<Value> {
        let file = self.files.iter().find(|file| file.name == name);
        Ok(file.context("no such event")?.event.clone())
    }

    fn log(&self, function: &str) -> std::path::PathBuf {
        self.settings
            .state("mutated")
            .join(format!("{function}.log"))
    }

    /// Each log line that contains a secret or is not JSON: text from outside could have forged it.
    fn leaks_in(&self, log: &str) -> Vec<String> {
        let private: Vec<&str> = self
            .secrets
            .values()
            .map(String::as_str)
            .chain([self.stack.ari.password.as_str(), "eyJhbGciOi"])
            .collect();
        let tells = |line: &&str| {
            private.iter().any(|private| line.contains(private))
                || serde_json::from_str::<Value>(line).is_err()
        };
        log.lines()
            .filter(tells)
            .map(|line| format!("logged: {line}"))
            .collect()
    }
}

/// The kind of an answer: its status and its code.
fn kind(answer: &Value) -> String {
    if let Some(effect) = answer["policyDocument"]["Statement"][0]["Effect"].as_str() {
        return effect.to_owned();
    }
    let body = answer["body"].as_str().unwrap_or_default();
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let code = body["code"].as_str().unwrap_or_default();
    format!("{} {code}", answer["statusCode"])
        .trim_end()
        .to_owned()
}

/// A WebSocket answer has a code and no status. The secrets of the event files have no Exotel account, which is not
/// the request's fault.
fn is_failure(kind: &str) -> bool {
    let is_refused = |status: &str| {
        status
            .parse()
            .is_ok_and(|status: u16| (200..500).contains(&status))
    };
    let expected =
        kind == "Allow" || kind == "Deny" || kind.split(' ').next().is_some_and(is_refused);
    !expected || kind.ends_with("try_again") || kind.ends_with("asterisk_failed")
}

/// An endless sequence of mutations of these requests.
struct Changed<'a> {
    events: &'a [Value],
    bodies: Vec<Vec<u8>>,
    number: usize,
    seed: u64,
}

impl<'a> Changed<'a> {
    fn of(events: &'a [Value], seed: usize) -> Self {
        Self {
            bodies: events.iter().filter_map(body).collect(),
            events,
            number: 0,
            seed: seed as u64,
        }
    }

    /// One mutation of `text`.
    fn text(&self, text: &str) -> String {
        let bytes = self.bytes(&[text.as_bytes().to_vec()]);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let number = self.seed * 1_000_003 + self.number as u64;
        Mutations::of(seeds, number).nth(2).unwrap_or_default()
    }

    /// As a client can write it in HTTP: in one line without spaces.
    fn word(&self, text: &str) -> String {
        let changed = self.text(text);
        changed
            .chars()
            .filter(|letter| !letter.is_control() && *letter != ' ')
            .collect()
    }

    fn change_header(&self, event: &mut Value, name: &str) {
        let headers = event["headers"].as_object_mut().into_iter().flatten();
        for (_, value) in headers.filter(|(header, _)| header.eq_ignore_ascii_case(name)) {
            *value = self.word(value.as_str().unwrap_or_default()).into();
        }
    }

    fn change_body(&self, event: &mut Value) {
        if event["body"].is_null() {
            return self.change_query(event);
        }
        // The body of any request to this entry point.
        let bytes = self.bytes(&self.bodies);
        event["body"] = match event["isBase64Encoded"] {
            Value::Bool(true) => STANDARD.encode(bytes),
            _ => String::from_utf8_lossy(&bytes).into_owned(),
        }
        .into();
    }

    /// Mutates the query after the secret. Without a valid secret, the query is not read.
    fn change_query(&self, event: &mut Value) {
        if let Some(query) = event["rawQueryString"].as_str() {
            let (secret, rest) = query.split_once('&').unwrap_or((query, ""));
            event["rawQueryString"] = format!("{secret}&{}", self.word(rest)).into();
        }
        let decoded = event["queryStringParameters"].as_object_mut();
        for (name, value) in decoded.into_iter().flatten() {
            if name == "token" || name == "secret" {
                *value = self.text(value.as_str().unwrap_or_default()).into();
            }
        }
    }

    fn change_path(&self, event: &mut Value) {
        let parameters = event["pathParameters"].as_object_mut();
        for (_, value) in parameters.into_iter().flatten() {
            *value = self.text(value.as_str().unwrap_or_default()).into();
        }
    }
}

impl Iterator for Changed<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        self.number += 1;
        let mut event = self.events.get(self.number % self.events.len())?.clone();
        match self.number % 10 {
            0 => self.change_header(&mut event, "content-type"),
            1 => self.change_header(&mut event, "authorization"),
            2 => self.change_header(&mut event, "host"),
            3 => self.change_header(&mut event, "x-forwarded-proto"),
            4 => self.change_query(&mut event),
            5 => self.change_path(&mut event),
            _ => {
                self.change_path(&mut event);
                self.change_body(&mut event);
            }
        }
        Some(event)
    }
}

fn body(event: &Value) -> Option<Vec<u8>> {
    let text = event["body"].as_str()?;
    match event["isBase64Encoded"] {
        Value::Bool(true) => STANDARD.decode(text).ok(),
        _ => Some(text.as_bytes().to_vec()),
    }
}

#[test]
fn failures_and_rejections_are_told_apart() {
    for kind in ["200", "400 bad_field", "Deny", "Allow", "404 no_such_call"] {
        assert!(!is_failure(kind), "{kind}");
    }
    let answer = json!({ "statusCode": 503, "body": r#"{"code":"try_again"}"# });
    for kind in [
        kind(&answer).as_str(),
        "200 try_again",
        "502",
        "null",
        "devices failed: …",
    ] {
        assert!(is_failure(kind), "{kind}");
    }
}
