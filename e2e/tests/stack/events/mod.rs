//! Every event file, passed to the real binary of its function with the Lambda runtime API, in the environment that
//! `template.yaml` declares. The local stack must be running.
//!
//! The local AWS allows everything. So a proxy records each function's AWS requests, and the test compares them with
//! the function's role: a request that AWS would deny fails here.

mod iam;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ringback_e2e::cloudformation::{Function, Template, referred};
use ringback_e2e::recording_proxy::RecordingProxy;
use ringback_local::events::{
    EventFile, Expectation, FunctionResources, documented_secrets, expectations,
};
use ringback_local::runtime_api::RunningFunction;
use ringback_local::settings::Settings;
use ringback_local::stack::Stack;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn every_event_gets_a_valid_answer_with_the_permissions_of_its_function() -> Result<()> {
    let settings = Settings::from_environment();
    let files = EventFile::all(settings.repository())?;
    let story = expectations(settings.repository())?;

    let secrets = documented_secrets(settings.repository())?;
    let resources =
        FunctionResources::create(Stack::load(&settings.state_dir())?, &secrets).await?;
    let result = Functions::new(settings, &resources)?
        .run(&files, &story)
        .await;
    resources.delete().await?;
    result
}

/// The functions, each started when first needed and kept warm.
struct Functions {
    template: Template,
    settings: Settings,
    variables: BTreeMap<&'static str, String>,
    running: BTreeMap<String, (RunningFunction, RecordingProxy)>,
}

impl Functions {
    fn new(settings: Settings, resources: &FunctionResources) -> Result<Self> {
        let template = Template::load(settings.repository())?;
        std::fs::create_dir_all(settings.state("events"))?;
        Ok(Self {
            template,
            settings,
            variables: resources.variables(),
            running: BTreeMap::new(),
        })
    }

    async fn run(mut self, files: &[EventFile], story: &[Expectation]) -> Result<()> {
        for expected in story {
            let (name, statuses) = (expected.event.as_str(), expected.statuses.as_slice());
            let file = files
                .iter()
                .find(|file| file.name == name)
                .context(name.to_owned())?;
            let answer = self.invoke(file).await.context(name.to_owned())?;
            if name.starts_with("console-") {
                check_page(&answer, statuses)
            } else if file.route().is_some() {
                check_http(&answer, statuses)
            } else if let Some(route) = file.websocket_route() {
                check_websocket(&answer, statuses, route)
            } else if file.is_for_an_authorizer() {
                check_policy(&answer, &file.event)
            } else if file.event["Records"].is_array() {
                check_batch(&answer)
            } else {
                Ok(())
            }
            .with_context(|| format!("{name} got the answer {answer}"))?;
        }
        self.check_roles()
    }

    fn check_roles(&self) -> Result<()> {
        let functions = self.template.functions();
        for (name, (_, cloud)) in &self.running {
            let allowed = functions
                .get(name.as_str())
                .context("no such function")?
                .actions();
            let done: BTreeSet<String> = cloud.requests().iter().flat_map(iam::actions).collect();
            let denied: Vec<&String> = done
                .iter()
                .filter(|action| !allowed.contains(action.as_str()))
                .collect();
            ensure!(
                denied.is_empty(),
                "the role of {name} does not allow {denied:?}"
            );
            // The console serves only its own files.
            let asks_for_something = name != "console";
            ensure!(
                done.is_empty() != asks_for_something,
                "{name} sent {done:?}"
            );
        }
        Ok(())
    }

    async fn invoke(&mut self, file: &EventFile) -> Result<Value> {
        let functions = self.template.functions();
        let name = file
            .function(functions.keys().copied())
            .context("this event belongs to no function")?;
        if !self.running.contains_key(name) {
            let function = functions.get(name).context("no such function")?;
            let mut environment = self.environment(function)?;
            let endpoint = &self.variables["AWS_ENDPOINT_URL"];
            let cloud =
                RecordingProxy::in_front_of(endpoint, reqwest::Client::new(), Duration::ZERO)
                    .await?;
            for by_url in ["AWS_ENDPOINT_URL", "WS_MANAGEMENT_URL"] {
                if let Some(url) = environment.get_mut(by_url) {
                    *url = url.replace(endpoint.as_str(), cloud.url());
                }
            }
            let timeout = Duration::from_secs(function.timeout_seconds());
            let log = self.settings.state("events").join(format!("{name}.log"));
            let started =
                RunningFunction::start(name, &self.bootstrap(name), &environment, timeout, &log)
                    .await?;
            self.running.insert(name.to_owned(), (started, cloud));
        }
        let (function, _) = self
            .running
            .get_mut(name)
            .context("the function has just been started")?;
        function.invoke(&file.event).await
    }

    fn bootstrap(&self, function: &str) -> PathBuf {
        self.settings
            .repository()
            .join("target/lambda")
            .join(function)
            .join("bootstrap")
    }

    /// Exactly the variables that the template declares, so that a missing one is missing here too.
    fn environment(&self, function: &Function<'_>) -> Result<BTreeMap<String, String>> {
        let of_lambda = self
            .variables
            .iter()
            .filter(|(name, _)| name.starts_with("AWS_"));
        let mut environment: BTreeMap<String, String> = of_lambda
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        for (name, declared) in function.environment() {
            let value = self
                .variables
                .get(name)
                .cloned()
                .or_else(|| self.default_of(declared));
            environment.insert(
                name.to_owned(),
                value.with_context(|| format!("the resource of {name} is unknown"))?,
            );
        }
        Ok(environment)
    }

    fn default_of(&self, declared: &Value) -> Option<String> {
        if let Some(literal) = declared.as_str() {
            return Some(literal.to_owned());
        }
        let parameter = referred(declared)?;
        let (_, parameter) = self
            .template
            .parameters()
            .find(|(name, _)| *name == parameter)?;
        match &parameter["Default"] {
            Value::String(text) => Some(text.clone()),
            Value::Null => None,
            other => Some(other.to_string()),
        }
    }
}

/// A message on its own route gets one JSON object with a `type`. Other messages get no answer.
fn check_websocket(answer: &Value, statuses: &[u16], route: &str) -> Result<()> {
    let status = answer["statusCode"].as_u64();
    ensure!(
        statuses.iter().any(|one| Some(u64::from(*one)) == status),
        "{status:?} is not one of {statuses:?}"
    );
    if !route.starts_with("message/") {
        ensure!(answer["body"].is_null(), "this message gets no answer");
        return Ok(());
    }
    let message: Value =
        serde_json::from_str(answer["body"].as_str().context("the answer has no body")?)?;
    ensure!(
        message["type"].is_string(),
        "the answer has an unknown type: {message}"
    );
    Ok(())
}

/// The clients of the event files may connect. Each of their messages carries their identity as text.
fn check_policy(answer: &Value, event: &Value) -> Result<()> {
    let statement = &answer["policyDocument"]["Statement"][0];
    ensure!(statement["Effect"] == "Allow", "the client may not connect");
    ensure!(
        statement["Action"] == "execute-api:Invoke" && statement["Resource"] == event["methodArn"],
        "the policy allows something else"
    );
    let context = answer["context"]
        .as_object()
        .context("the policy has no context")?;
    let is_known = context.get("extension") == Some(&json!("1001"))
        || context.get("role") == Some(&json!("exotel"));
    ensure!(
        is_known && context.values().all(Value::is_string),
        "API Gateway does not forward {context:?}"
    );
    Ok(())
}

/// Answers are JSON. An error has a message and a code.
fn check_http(answer: &Value, statuses: &[u16]) -> Result<()> {
    let status = answer["statusCode"]
        .as_u64()
        .and_then(|status| u16::try_from(status).ok())
        .context("the answer has no statusCode")?;
    ensure!(
        statuses.contains(&status),
        "{status} is not one of {statuses:?}"
    );
    let kind = answer["headers"]["content-type"]
        .as_str()
        .unwrap_or_default();
    ensure!(
        kind.starts_with("application/json"),
        "the content type is {kind:?}"
    );
    let body: Value =
        serde_json::from_str(answer["body"].as_str().context("the answer has no body")?)?;
    ensure!(body.is_object(), "the body is not an object");
    if status >= 400 {
        ensure!(
            body["success"] == false && body["error"].is_string(),
            "the error has no text: {body}"
        );
        let code = body["code"].as_str().unwrap_or_default();
        let snake_case = !code.is_empty()
            && code
                .chars()
                .all(|one| one.is_ascii_lowercase() || one == '_');
        ensure!(snake_case, "the error has no code: {body}");
    }
    Ok(())
}

/// A file in the form that a browser expects, under the page's policy.
fn check_page(answer: &Value, statuses: &[u16]) -> Result<()> {
    let status = answer["statusCode"].as_u64();
    ensure!(statuses.iter().any(|one| Some(u64::from(*one)) == status));
    let header = |name: &str| answer["headers"][name].as_str().unwrap_or_default();
    let kind = header("content-type");
    ensure!(kind.starts_with("text/") && kind.ends_with("charset=utf-8"));
    ensure!(header("content-security-policy").contains("script-src 'self'"));
    ensure!(answer["isBase64Encoded"] == false);
    ensure!(
        !answer["body"]
            .as_str()
            .context("the answer has no body")?
            .is_empty()
    );
    Ok(())
}

fn check_batch(answer: &Value) -> Result<()> {
    if answer["batchItemFailures"] != json!([]) {
        bail!("a message failed");
    }
    Ok(())
}
