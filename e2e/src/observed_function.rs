//! The real binary of a function, run in its deployed environment, with proxies that record its requests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::Certificate;
use ringback_local::runtime_api::RunningFunction;
use ringback_local::settings::{STACK_NAME, Settings};
use ringback_local::stack::Stack;
use serde_json::Value;
use tokio::time::Instant;

use crate::fixture::Fixture;
use crate::recording_proxy::RecordingProxy;
use crate::timeline::Timeline;

/// The proxies delay each request by this time, so that independent requests overlap visibly.
const DELAY: Duration = Duration::from_millis(50);

/// A function's real binary and the recording proxies in front of DynamoDB, ARI and the push service.
pub struct ObservedFunction {
    function: RunningFunction,
    aws: RecordingProxy,
    ari: RecordingProxy,
    push: RecordingProxy,
    access_tokens: AccessTokens,
    log: PathBuf,
}

impl ObservedFunction {
    /// Starts the function with this log level.
    pub async fn start(fixture: &Fixture, name: &str, log_level: &str) -> Result<Self> {
        Self::start_with(fixture, name, &[("LOG_LEVEL", log_level)]).await
    }

    /// Starts the function with some environment variables changed.
    pub async fn start_with(
        fixture: &Fixture,
        name: &str,
        variables: &[(&str, &str)],
    ) -> Result<Self> {
        let settings = Settings::from_environment();
        let stack = &fixture.stack;
        let deployed = deployed(fixture, name).await?;
        let aws =
            RecordingProxy::in_front_of(&stack.aws.endpoint, fixture.http.clone(), DELAY).await?;
        let ari = RecordingProxy::in_front_of(&stack.ari.url, client_of_ari(stack)?, DELAY).await?;
        // The call is stored with the name of the PBX that reported it.
        let ari_url = format!("{}={}", stack.pbxs[0].name, ari.url());
        let sip_uris = format!("{}=sips:{}", stack.pbxs[0].name, stack.sip.tls);
        let fcm = stack.requests.fcm.trim_end_matches("/requests");
        let push = RecordingProxy::in_front_of(fcm, fixture.http.clone(), DELAY).await?;

        let mut environment: BTreeMap<String, String> =
            serde_json::from_value(deployed["Environment"]["Variables"].clone())?;
        let changed = [
            ("AWS_ENDPOINT_URL", aws.url()),
            ("AWS_REGION", &stack.aws.region),
            ("AWS_ACCESS_KEY_ID", "test"),
            ("AWS_SECRET_ACCESS_KEY", "test"),
            ("ARI_URL", &ari_url),
            ("SIP_URIS", &sip_uris),
            ("FCM_BASE_URL", push.url()),
        ];
        let changed = changed.iter().chain(variables).copied();
        environment.extend(changed.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let timeout = Duration::from_secs(deployed["Timeout"].as_u64().context("Timeout")?);
        let bootstrap = settings
            .repository()
            .join(format!("target/lambda/{name}/bootstrap"));
        std::fs::create_dir_all(settings.state("observed"))?;
        let log = settings.state("observed").join(format!("{name}.log"));
        Ok(Self {
            function: RunningFunction::start(name, &bootstrap, &environment, timeout, &log).await?,
            aws,
            ari,
            push,
            access_tokens: AccessTokens::of(fixture),
            log,
        })
    }

    /// Invokes the function. Returns the body of its answer (null if there is none) and its requests.
    pub async fn invoke(&mut self, event: &Value) -> Result<(Value, Timeline)> {
        let (answer, timeline) = self.invoke_full(event).await?;
        ensure!(answer["statusCode"] == 200, "{answer}");
        let body = answer["body"].as_str().map(serde_json::from_str);
        Ok((body.transpose()?.unwrap_or_default(), timeline))
    }

    /// Invokes the function. Returns its whole answer and its requests.
    pub async fn invoke_full(&mut self, event: &Value) -> Result<(Value, Timeline)> {
        let began = Instant::now();
        let tokens_before = self.access_tokens.asked_for().await?;
        let answer = self.answer_to(event).await?;
        let tokens = self.access_tokens.asked_for().await? - tokens_before;
        let of_this_run = |system: &RecordingProxy| {
            let mut requests = system.requests();
            requests.retain(|request| request.began >= began);
            requests
        };
        let timeline = Timeline {
            aws: of_this_run(&self.aws),
            ari: of_this_run(&self.ari),
            push: of_this_run(&self.push),
            access_tokens: tokens,
        };
        Ok((answer, timeline))
    }

    /// Invokes the function and returns its whole answer.
    pub async fn answer_to(&mut self, event: &Value) -> Result<Value> {
        self.function.invoke(event).await
    }

    /// The log so far.
    pub fn log(&self) -> Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| format!("read {}", self.log.display()))
    }
}

/// Counts the requests for access tokens. They go to the URI in the service account, so the FCM stand-in counts them.
struct AccessTokens {
    http: reqwest::Client,
    requests: String,
}

impl AccessTokens {
    fn of(fixture: &Fixture) -> Self {
        Self {
            http: fixture.http.clone(),
            requests: fixture.stack.requests.fcm.clone(),
        }
    }

    async fn asked_for(&self) -> Result<usize> {
        let requests: Vec<Value> = self.http.get(&self.requests).send().await?.json().await?;
        Ok(requests
            .iter()
            .filter(|request| request["path"] == "/token")
            .count())
    }
}

/// The function's configuration, as `aws lambda get-function-configuration` shows it.
async fn deployed(fixture: &Fixture, name: &str) -> Result<Value> {
    let url = format!(
        "{}/2015-03-31/functions/{STACK_NAME}-{name}/configuration",
        fixture.stack.aws.endpoint
    );
    let answer = fixture.http.get(url).send().await?.error_for_status()?;
    Ok(answer.json().await?)
}

fn client_of_ari(stack: &Stack) -> Result<reqwest::Client> {
    let authority = Certificate::from_pem(stack.ari.ca_pem.as_bytes())?;
    Ok(reqwest::Client::builder()
        .tls_certs_only([authority])
        .build()?)
}

/// Reads one of the event files.
pub fn example(name: &str) -> Result<Value> {
    let path = Settings::from_environment()
        .repository()
        .join(format!("events/{name}.json"));
    let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    Ok(serde_json::from_slice(&text)?)
}

/// The Passthru request of Exotel for a call to an extension's number.
pub fn passthru(fixture: &Fixture, caller: &str, sid: &str, extension: &str) -> Result<Value> {
    let url = &fixture.stack.exotel_webhook_url;
    let (_, secret) = url
        .split_once('?')
        .context("the webhook's URL has no secret")?;
    let mut query = form_urlencoded::Serializer::for_suffix(secret.to_owned(), 0);
    query
        .append_pair("CallSid", sid)
        .append_pair("CallFrom", caller)
        .append_pair("CallTo", fixture.number_of(extension))
        .append_pair("Direction", "incoming")
        .append_pair("CallType", "call-attempt");
    let mut event = example("exotel-webhook-passthru-get")?;
    event["queryStringParameters"].take();
    event["rawQueryString"] = query.finish().into();
    Ok(event)
}
