//! How a function starts: logs, configuration, and the clients that it needs, each built once.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::api::status_update::StatusAudience;
use crate::asterisk::{Asterisk, Pbxs};
use crate::auth::Tokens;
use crate::auth::signing::Signing;
use crate::auth::webhook_auth::{Gate, Sources};
use crate::effect_runner::EffectRunner;
use crate::exotel::Exotel;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::https::Https;
use crate::platform::lazy_client::LazyClient;
use crate::platform::secrets::{HookSecret, Secret, WebhookSecret};
use crate::push::Pushes;
use crate::push::fcm::Fcm;
use crate::push::sns::Sns;
use crate::store::allowance::Allowances;
use crate::store::calls::DynamoCallStore;
use crate::store::connections::Connections;
use crate::store::devices::Devices;
use crate::store::number_routes::Routes;
use crate::store::posts::Posts;
use crate::store::streams::Streams;
use crate::switchboard::Switchboard;
use crate::telemetry::metrics;
use crate::telemetry::requests::Sent;
use crate::telemetry::subject;
use crate::telemetry::xray;
use crate::timers::Timeouts;
use ringback_core::timestamp::Timestamp;

/// What libraries say at `info` is of no use at 3 a.m.
const QUIET: [&str; 6] = [
    "aws",
    "aws_config",
    "aws_smithy_runtime",
    "hyper",
    "lambda_http",
    "lambda_runtime",
];

/// The switchboard that functions run: calls in DynamoDB, effects in the world.
pub type LiveSwitchboard = Switchboard<DynamoCallStore, EffectRunner>;

/// A client of one of the SDK's crates. What it sends is seen.
macro_rules! client {
    ($sdk:ident, $aws:expr) => {
        $sdk::Client::from_conf($sdk::config::Builder::from(&$aws).interceptor(Sent).build())
    };
}

/// The same, once it is needed.
macro_rules! later {
    ($sdk:ident, $aws:expr) => {{
        let aws = $aws.clone();
        LazyClient::made_by(move || client!($sdk, aws))
    }};
}

/// What every function starts from.
#[derive(Debug)]
pub struct Start {
    /// The process's environment.
    pub environment: Environment,
    aws: SdkConfig,
    dynamodb: OnceLock<aws_sdk_dynamodb::Client>,
    secrets: OnceLock<aws_sdk_secretsmanager::Client>,
    signing: OnceLock<Arc<Signing>>,
    table: String,
}

impl Start {
    /// Starts logging (JSON, at `LOG_LEVEL`), and reads what nearly all functions need.
    ///
    /// # Errors
    /// When a variable is missing.
    pub async fn function() -> Result<Self, ConfigError> {
        let start = Self::without_table().await;
        Ok(Self {
            table: start.environment.required("TABLE_NAME")?,
            ..start
        })
    }

    /// The same for a function that keeps nothing, and is told of no table.
    pub async fn without_table() -> Self {
        let environment = Environment::of_process();
        let lines = tracing_subscriber::fmt::layer()
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false);
        let level = environment.optional("LOG_LEVEL");
        let _already_set = tracing_subscriber::registry()
            .with(lines)
            .with(logged(level.as_deref()))
            .try_init();
        metrics::begin(&environment);
        xray::begin(&environment);
        let aws = aws_config::defaults(BehaviorVersion::latest())
            .timeout_config(timeouts())
            .http_client(Https::default())
            .load()
            .await;
        Self {
            environment,
            aws,
            dynamodb: OnceLock::new(),
            secrets: OnceLock::new(),
            signing: OnceLock::new(),
            table: String::new(),
        }
    }

    /// The switchboard, with all that carrying out inbound calls needs.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn switchboard(&self) -> Result<LiveSwitchboard, ConfigError> {
        self.switchboard_over(self.outside()?)
    }

    /// The switchboard of a function that places outbound calls or looks them up.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn switchboard_with_exotel(&self) -> Result<LiveSwitchboard, ConfigError> {
        let secret = self.secret("EXOTEL_SECRET_ARN")?;
        let mut exotel = Exotel::from_environment(&self.environment, secret, self.country())?;
        if self.environment.optional("EXOTEL_WEBHOOK_URL").is_some() {
            exotel = exotel.reporting_to_webhook(&self.environment, self.signing()?)?;
        }
        self.switchboard_over(self.outside()?.with_exotel(exotel))
    }

    fn switchboard_over(&self, outside: EffectRunner) -> Result<LiveSwitchboard, ConfigError> {
        let limits = self.environment.call_limits()?;
        Ok(Switchboard::new(self.calls(), outside, limits))
    }

    fn outside(&self) -> Result<EffectRunner, ConfigError> {
        let environment = &self.environment;
        let fcm = Fcm::from_environment(environment, self.secret("FCM_SECRET_ARN")?)?;
        let pushes = Pushes::new(self.devices(), fcm, self.sns());
        Ok(EffectRunner::new(
            self.asterisk()?,
            pushes,
            self.timeouts()?,
        ))
    }

    /// The calls.
    #[must_use]
    pub fn calls(&self) -> DynamoCallStore {
        let calls = DynamoCallStore::new(self.dynamodb(), self.table.clone());
        match self.other_region() {
            Some(_) => calls.replicated_in(self.region().to_owned()),
            None => calls,
        }
    }

    /// The region that takes over when this one is lost, and the other way round: `OTHER_REGION`.
    #[must_use]
    pub fn other_region(&self) -> Option<String> {
        self.environment.optional("OTHER_REGION")
    }

    /// What sets this region's timers.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn timeouts(&self) -> Result<Timeouts, ConfigError> {
        Timeouts::from_environment(
            later!(aws_sdk_sqs, self.aws),
            later!(aws_sdk_scheduler, self.aws),
            &self.environment,
        )
    }

    /// The devices.
    #[must_use]
    pub fn devices(&self) -> Devices {
        Devices::new(self.dynamodb(), self.table.clone())
    }

    /// How much the extensions have used of what they may do.
    #[must_use]
    pub fn allowances(&self) -> Allowances {
        Allowances::new(self.dynamodb(), self.table.clone())
    }

    /// The clients connected to the WebSocket API whose `@connections` stand at `WS_MANAGEMENT_URL`.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn connections(&self) -> Result<Connections, ConfigError> {
        let url = self.environment.url("WS_MANAGEMENT_URL")?;
        let config = aws_sdk_apigatewaymanagement::config::Builder::from(&self.aws)
            .interceptor(Sent)
            .endpoint_url(url)
            .build();
        let api = aws_sdk_apigatewaymanagement::Client::from_conf(config);
        let region = self.region().to_owned();
        Ok(Connections::new(
            self.dynamodb(),
            self.table.clone(),
            api,
            region,
        ))
    }

    /// How many messages a second go to clients without a part in a call: `POSTS_PER_SECOND` (2,000).
    ///
    /// # Errors
    /// When it is no number above 0.
    pub fn posts(&self) -> Result<Posts, ConfigError> {
        let per_second = self.environment.count("POSTS_PER_SECOND", 2_000)?;
        let (table, region) = (self.table.clone(), self.region().to_owned());
        Ok(Posts::new(self.dynamodb(), table, region, per_second))
    }

    /// The streams of calls' audio.
    #[must_use]
    pub fn streams(&self) -> Streams {
        Streams::new(self.dynamodb(), self.table.clone())
    }

    /// Who hears of a call: `STATUS_AUDIENCE`, `everyone` (S2) unless it says `participants`.
    ///
    /// # Errors
    /// When it says something else.
    pub fn status_audience(&self) -> Result<StatusAudience, ConfigError> {
        match self.environment.optional("STATUS_AUDIENCE").as_deref() {
            None | Some("everyone") => Ok(StatusAudience::Everyone),
            Some("participants") => Ok(StatusAudience::Participants),
            Some(_) => Err(ConfigError::Invalid {
                name: "STATUS_AUDIENCE",
                rule: "everyone or participants",
            }),
        }
    }

    /// The numbers' routes.
    #[must_use]
    pub fn routes(&self) -> Routes {
        Routes::new(self.dynamodb(), self.table.clone())
    }

    /// SNS mobile push.
    #[must_use]
    pub fn sns(&self) -> Sns {
        Sns::from_environment(later!(aws_sdk_sns, self.aws), &self.environment)
    }

    /// Asterisk, one or several.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn asterisk(&self) -> Result<Asterisk, ConfigError> {
        Ok(Asterisk::at(
            self.pbxs()?,
            self.secret("ASTERISK_SECRET_ARN")?,
        ))
    }

    /// Where the PBXs are, and what they are called: `ARI_URL`.
    ///
    /// # Errors
    /// When it is missing or makes no sense.
    pub fn pbxs(&self) -> Result<Pbxs, ConfigError> {
        Pbxs::from_environment(&self.environment)
    }

    /// The gate for Exotel: its secret, and the addresses of `EXOTEL_SOURCE_CIDRS`.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn exotels_gate(&self) -> Result<Gate<WebhookSecret>, ConfigError> {
        let sources = Sources::from_environment(&self.environment, "EXOTEL_SOURCE_CIDRS")?;
        Ok(Gate::new(sources, self.secret("WEBHOOK_SECRET_ARN")?))
    }

    /// The gate for the PBX: its hooks' secret, and the addresses of `PBX_SOURCE_CIDRS`.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn pbxs_gate(&self) -> Result<Gate<HookSecret>, ConfigError> {
        let sources = Sources::from_environment(&self.environment, "PBX_SOURCE_CIDRS")?;
        Ok(Gate::new(sources, self.secret("HOOK_SECRET_ARN")?))
    }

    /// What apps' and operators' tokens are checked against.
    ///
    /// # Errors
    /// When a variable is missing or makes no sense.
    pub fn tokens(&self) -> Result<Tokens, ConfigError> {
        Tokens::from_environment(&self.environment, self.secret("APP_SECRET_ARN")?)
    }

    /// What this deployment signs itself. All parts of a function share the key.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn signing(&self) -> Result<Arc<Signing>, ConfigError> {
        if let Some(signing) = self.signing.get() {
            return Ok(Arc::clone(signing));
        }
        let signing = Arc::new(Signing::new(self.secret("SIGNING_SECRET_ARN")?));
        Ok(Arc::clone(self.signing.get_or_init(|| signing)))
    }

    /// The secret whose name or ARN stands in this variable.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn secret<T: DeserializeOwned>(
        &self,
        variable: &'static str,
    ) -> Result<Secret<T>, ConfigError> {
        let client = self
            .secrets
            .get_or_init(|| client!(aws_sdk_secretsmanager, self.aws));
        Secret::from_environment(client, &self.environment, variable)
    }

    /// The country whose numbers are written without a country code: `DEFAULT_COUNTRY`, ISO 3166.
    #[must_use]
    pub fn country(&self) -> String {
        self.environment
            .optional("DEFAULT_COUNTRY")
            .unwrap_or_else(|| "IN".to_owned())
    }

    /// DynamoDB.
    #[must_use]
    pub fn dynamodb(&self) -> aws_sdk_dynamodb::Client {
        let client = self
            .dynamodb
            .get_or_init(|| client!(aws_sdk_dynamodb, self.aws));
        client.clone()
    }

    /// The table's name.
    #[must_use]
    pub fn table(&self) -> &str {
        &self.table
    }

    /// SQS.
    #[must_use]
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        client!(aws_sdk_sqs, self.aws)
    }

    /// The region that this function runs in.
    #[must_use]
    pub fn region(&self) -> &str {
        self.aws.region().map_or("unknown", AsRef::as_ref)
    }
}

/// What is logged at this level; `info`, if it is none. By target alone: `EnvFilter`, which knows spans too, brings a whole engine
/// for regular expressions.
fn logged(level: Option<&str>) -> Targets {
    let level = level.and_then(|level| level.parse().ok());
    Targets::new()
        .with_default(level.unwrap_or(LevelFilter::INFO))
        .with_targets(QUIET.map(|target| (target, LevelFilter::WARN)))
}

/// Serves one function's invocations until the process is stopped.
///
/// # Errors
/// When Lambda's runtime API fails.
pub async fn run<Payload, Handling, Failure>(
    handler: impl Fn(LambdaEvent<Payload>) -> Handling,
) -> Result<(), lambda_runtime::Error>
where
    Payload: DeserializeOwned,
    Handling: Future<Output = Result<Value, Failure>>,
    Failure: Into<Diagnostic> + fmt::Debug,
{
    let handle = |event: LambdaEvent<Payload>| {
        let trace = event.context.xray_trace_id.clone();
        // A handler's future is large, and whatever holds it would move it about.
        let handling = Box::pin(handler(event));
        async move {
            let answer = subject::noted(xray::traced(trace.as_deref(), handling)).await;
            metrics::flush();
            answer
        }
    };
    lambda_runtime::run(service_fn(handle)).await
}

/// Until when an invocation may work whose time ends at `deadline` (milliseconds since the Unix epoch, as Lambda tells
/// it): a second before, so that there is time left to answer.
#[must_use]
pub const fn works_until(deadline: u64) -> Timestamp {
    Timestamp::from_millis(deadline.saturating_sub(1_000))
}

/// How long after [`works_until`] an invocation gives up what goes on all the same, so that whatever keeps to that moment
/// can say itself how far it came.
pub const GIVES_UP_AFTER: Duration = Duration::from_millis(500);

/// AWS answers in a few milliseconds; what takes longer is tried again, and a caller is waiting.
fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(Duration::from_secs(1))
        .operation_attempt_timeout(Duration::from_secs(2))
        .operation_timeout(Duration::from_secs(5))
        .build()
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_quiet_and_a_level_that_is_none_is_info() {
        for level in [None, Some("info"), Some("loud")] {
            let logged = logged(level);
            assert!(logged.would_enable("ringback::calls", &Level::INFO));
            assert!(!logged.would_enable("ringback::calls", &Level::DEBUG));
        }
        let logged = logged(Some("trace"));
        assert!(logged.would_enable("ringback::calls", &Level::TRACE));
        assert!(!logged.would_enable("aws_sdk_sqs::config", &Level::INFO));
    }
}
