//! What a function is made of: configuration and the adapters, each built once, when the process starts.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use aws_sdk_dynamodb::config::Region;
use aws_types::SdkConfig;
use serde::de::DeserializeOwned;

use crate::api::status_update::StatusAudience;
use crate::asterisk::{Asterisk, PbxList, SipServers};
use crate::auth::Tokens;
use crate::auth::signing::Signing;
use crate::auth::webhook_auth::{AllowedSources, WebhookAuth};
use crate::effect_runner::EffectRunner;
use crate::exotel::Exotel;
use crate::platform::aws::sdk_config;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::lazy_client::LazyClient;
use crate::platform::secrets::{HookSecret, Secret, WebhookSecret};
use crate::push::answer_url::AnswerUrls;
use crate::push::fcm::Fcm;
use crate::push::sns::{Sns, SnsApplications};
use crate::push::{PushSender, PushServices};
use crate::replay_queue::ReplayQueue;
pub use crate::runtime::run;
use crate::runtime::start_logging;
use crate::sip_provisioning::{SipAccountSettings, SipProvisioning};
use crate::store::allowance::Allowances;
use crate::store::call_lists::CallLists;
use crate::store::calls::DynamoCallStore;
use crate::store::connections::Connections;
use crate::store::devices::Devices;
use crate::store::directories::Directories;
use crate::store::live_calls::LiveCalls;
use crate::store::missed_calls::MissedCalls;
use crate::store::number_routes::NumberRoutes;
use crate::store::post_budget::PostBudget;
use crate::store::ring_reports::RingReports;
use crate::store::sip_accounts::SipAccounts;
use crate::store::streams::AudioStreams;
use crate::store::table::Table;
use crate::switchboard::Switchboard;
use crate::telemetry::requests::RequestObserver;
use crate::telemetry::{metrics, xray};
use crate::timers::CallTimers;

/// The switchboard of a deployed function: calls in DynamoDB, effects on the real outside systems.
pub type LiveSwitchboard = Switchboard<DynamoCallStore, EffectRunner>;

/// A client of one of the SDK's crates, with a [`RequestObserver`]. `$endpoint` is the variable with another URL for this service
/// (<https://docs.aws.amazon.com/sdkref/latest/guide/feature-ss-endpoints.html>).
macro_rules! client {
    ($sdk:ident, $aws:expr, $endpoint:literal) => {{
        let mut config = $sdk::config::Builder::from(&$aws).interceptor(RequestObserver);
        if let Some(url) = Environment::of_process().optional($endpoint) {
            config = config.endpoint_url(url);
        }
        $sdk::Client::from_conf(config.build())
    }};
}

/// The same client, made at its first use.
macro_rules! lazy_client {
    ($sdk:ident, $aws:expr, $endpoint:literal) => {{
        let aws = $aws.clone();
        LazyClient::made_by(move || client!($sdk, aws, $endpoint))
    }};
}

/// Builds the parts of a function from the process's environment.
#[derive(Debug)]
pub struct Start {
    /// The process's environment.
    pub environment: Environment,
    aws: SdkConfig,
    dynamodb: OnceLock<aws_sdk_dynamodb::Client>,
    secrets: OnceLock<aws_sdk_secretsmanager::Client>,
    signing: OnceLock<Arc<Signing>>,
}

impl Start {
    /// Starts logs (JSON, at `LOG_LEVEL`), metrics and traces, and loads the SDK's configuration. Each part reads its own variables
    /// when a function asks for it, so a function needs only the variables of the parts that it uses.
    ///
    /// # Errors
    /// When a variable of Lambda is missing.
    pub fn function() -> Result<Self, ConfigError> {
        let environment = Environment::of_process();
        start_logging(&environment);
        metrics::start(&environment);
        xray::start(&environment);
        Ok(Self {
            aws: sdk_config(&environment)?,
            environment,
            dynamodb: OnceLock::new(),
            secrets: OnceLock::new(),
            signing: OnceLock::new(),
        })
    }

    /// The switchboard for inbound calls.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn switchboard(&self) -> Result<LiveSwitchboard, ConfigError> {
        self.switchboard_with(self.effect_runner()?)
    }

    /// The switchboard of a function that also places outbound calls or looks them up at Exotel.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn switchboard_with_exotel(&self) -> Result<LiveSwitchboard, ConfigError> {
        let secret = self.secret("EXOTEL_SECRET_ARN")?;
        let mut exotel = Exotel::from_environment(&self.environment, secret, self.country())?;
        if self.environment.optional("EXOTEL_WEBHOOK_URL").is_some() {
            exotel = exotel.reporting_to_webhook(&self.environment, self.signing()?)?;
        }
        self.switchboard_with(self.effect_runner()?.with_exotel(exotel))
    }

    fn switchboard_with(&self, effects: EffectRunner) -> Result<LiveSwitchboard, ConfigError> {
        let settings = self.environment.call_settings()?;
        Ok(Switchboard::new(self.calls()?, effects, settings))
    }

    fn effect_runner(&self) -> Result<EffectRunner, ConfigError> {
        let environment = &self.environment;
        let answer_urls = AnswerUrls::from_environment(environment, self.signing()?)?;
        let hours = u64::from(environment.count("MISSED_CALL_HOURS", 24)?);
        let pushes = PushSender::new(
            self.devices()?,
            self.push_services()?,
            answer_urls,
            self.missed_calls()?,
            Duration::from_secs(hours * 60 * 60),
        );
        Ok(EffectRunner::new(
            self.sip_provisioning()?,
            pushes,
            self.timeouts()?,
            self.connections()?,
        ))
    }

    /// The push services.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn push_services(&self) -> Result<PushServices, ConfigError> {
        let fcm = Fcm::from_environment(&self.environment, self.secret("FCM_SECRET_ARN")?)?;
        Ok(PushServices::new(fcm, self.sns()?))
    }

    /// The calls in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn calls(&self) -> Result<DynamoCallStore, ConfigError> {
        let table = self.table()?;
        let calls = DynamoCallStore::new(table);
        Ok(match self.other_region() {
            Some(_) => calls.replicated_in(self.region().to_owned()),
            None => calls,
        })
    }

    /// The lists of recent calls in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn call_lists(&self) -> Result<CallLists, ConfigError> {
        Ok(CallLists::new(self.table()?))
    }

    /// The calls in progress in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn live_calls(&self) -> Result<LiveCalls, ConfigError> {
        Ok(LiveCalls::new(self.table()?))
    }

    /// The queue of clients that wait for the calls in progress: `REPLAY_QUEUE_URL`.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn replay_queue(&self) -> Result<ReplayQueue, ConfigError> {
        let url = self.environment.required("REPLAY_QUEUE_URL")?;
        Ok(ReplayQueue::new(
            lazy_client!(aws_sdk_sqs, self.aws, "AWS_ENDPOINT_URL_SQS"),
            url,
        ))
    }

    /// The missed calls in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn missed_calls(&self) -> Result<MissedCalls, ConfigError> {
        Ok(MissedCalls::new(self.table()?))
    }

    /// The other region of a deployment in two regions: `OTHER_REGION`. Each takes over when the other one fails.
    #[must_use]
    pub fn other_region(&self) -> Option<String> {
        self.environment.optional("OTHER_REGION")
    }

    /// The timers of this region.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn timeouts(&self) -> Result<CallTimers, ConfigError> {
        CallTimers::from_environment(
            lazy_client!(aws_sdk_sqs, self.aws, "AWS_ENDPOINT_URL_SQS"),
            lazy_client!(aws_sdk_scheduler, self.aws, "AWS_ENDPOINT_URL_SCHEDULER"),
            &self.environment,
        )
    }

    /// The devices in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn devices(&self) -> Result<Devices, ConfigError> {
        Ok(Devices::new(self.table()?))
    }

    /// The extensions' rate limits in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn allowances(&self) -> Result<Allowances, ConfigError> {
        Ok(Allowances::new(self.table()?))
    }

    /// The clients connected to the WebSocket API. `WS_MANAGEMENT_URL` is the URL of its `@connections` API.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn connections(&self) -> Result<Connections, ConfigError> {
        let url = self.environment.url("WS_MANAGEMENT_URL")?;
        let aws = self.aws.clone();
        let api = LazyClient::made_by(move || {
            let config = aws_sdk_apigatewaymanagement::config::Builder::from(&aws)
                .interceptor(RequestObserver)
                .endpoint_url(url.clone())
                .build();
            aws_sdk_apigatewaymanagement::Client::from_conf(config)
        });
        let region = self.region().to_owned();
        Ok(Connections::new(self.table()?, api, region))
    }

    /// How many messages a second go to clients that do not take part in a call: `POSTS_PER_SECOND` (2,000).
    ///
    /// # Errors
    /// When it is not a number above 0, or a variable is missing.
    pub fn post_budget(&self) -> Result<PostBudget, ConfigError> {
        let per_second = self.environment.count("POSTS_PER_SECOND", 2_000)?;
        let region = self.region().to_owned();
        Ok(PostBudget::new(self.table()?, region, per_second))
    }

    /// The devices that report that they ring, in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn ring_reports(&self) -> Result<RingReports, ConfigError> {
        Ok(RingReports::new(self.table()?))
    }

    /// The audio streams in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn streams(&self) -> Result<AudioStreams, ConfigError> {
        Ok(AudioStreams::new(self.table()?))
    }

    /// The clients that get the status updates of a call: `STATUS_AUDIENCE`, which is `everyone` (the default) or `participants`.
    ///
    /// # Errors
    /// When it has another value.
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

    /// The directories of numbers and extensions in the table, for admins.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn directories(&self) -> Result<Directories, ConfigError> {
        Ok(Directories::new(self.table()?))
    }

    /// The number routes in the table.
    ///
    /// # Errors
    /// When a variable is missing.
    pub fn routes(&self) -> Result<NumberRoutes, ConfigError> {
        Ok(NumberRoutes::new(self.table()?))
    }

    /// SNS mobile push, in the region of the platform applications.
    ///
    /// # Errors
    /// When they are of several regions.
    pub fn sns(&self) -> Result<Sns, ConfigError> {
        let applications = SnsApplications::from_environment(&self.environment)?;
        let region = applications.region().map(|it| Region::new(it.to_owned()));
        let mut aws = self.aws.to_builder();
        aws.set_region(region.or_else(|| self.aws.region().cloned()));
        let aws = aws.build();
        Ok(Sns::new(
            lazy_client!(aws_sdk_sns, aws, "AWS_ENDPOINT_URL_SNS"),
            applications,
        ))
    }

    /// The PBXs, with the credentials of their ARI.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn asterisk(&self) -> Result<Asterisk, ConfigError> {
        Ok(Asterisk::new(
            self.pbxs()?,
            self.secret("ASTERISK_SECRET_ARN")?,
        ))
    }

    /// Gives devices their SIP accounts.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn sip_provisioning(&self) -> Result<SipProvisioning, ConfigError> {
        let servers = SipServers::from_environment(&self.environment, &self.pbxs()?)?;
        Ok(SipProvisioning::new(
            SipAccounts::new(self.table()?),
            self.asterisk()?,
            SipAccountSettings::from_environment(&self.environment, servers)?,
        ))
    }

    /// The PBXs' names and URLs: `ARI_URL`.
    ///
    /// # Errors
    /// When it is missing or invalid.
    pub fn pbxs(&self) -> Result<PbxList, ConfigError> {
        PbxList::from_environment(&self.environment)
    }

    /// Authenticates Exotel: by its secret, and by the addresses of `EXOTEL_SOURCE_CIDRS`.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn exotel_webhook_auth(&self) -> Result<WebhookAuth<WebhookSecret>, ConfigError> {
        let sources = AllowedSources::from_environment(&self.environment, "EXOTEL_SOURCE_CIDRS")?;
        Ok(WebhookAuth::new(
            sources,
            self.secret("WEBHOOK_SECRET_ARN")?,
        ))
    }

    /// Authenticates the PBX: by the secret of its hooks, and by the addresses of `PBX_SOURCE_CIDRS`.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn pbx_hook_auth(&self) -> Result<WebhookAuth<HookSecret>, ConfigError> {
        let sources = AllowedSources::from_environment(&self.environment, "PBX_SOURCE_CIDRS")?;
        Ok(WebhookAuth::new(sources, self.secret("HOOK_SECRET_ARN")?))
    }

    /// Checks the tokens of apps and operators.
    ///
    /// # Errors
    /// When a variable is missing or invalid.
    pub fn tokens(&self) -> Result<Tokens, ConfigError> {
        Tokens::from_environment(&self.environment, self.secret("APP_SECRET_ARN")?)
    }

    /// Signs call ids and callback URLs. All parts of a function share it, so that it fetches the key once.
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

    /// The secret with the name or ARN in this variable.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn secret<T: DeserializeOwned>(
        &self,
        variable: &'static str,
    ) -> Result<Secret<T>, ConfigError> {
        let client = self.secrets.get_or_init(|| {
            client!(
                aws_sdk_secretsmanager,
                self.aws,
                "AWS_ENDPOINT_URL_SECRETS_MANAGER"
            )
        });
        Secret::from_environment(client, &self.environment, variable)
    }

    /// The country of numbers without a country code: `DEFAULT_COUNTRY` (ISO 3166; default `IN`).
    #[must_use]
    pub fn country(&self) -> String {
        self.environment
            .optional("DEFAULT_COUNTRY")
            .unwrap_or_else(|| "IN".to_owned())
    }

    /// The table: `TABLE_NAME`.
    ///
    /// # Errors
    /// When the variable is missing.
    pub fn table(&self) -> Result<Table, ConfigError> {
        let client = self
            .dynamodb
            .get_or_init(|| client!(aws_sdk_dynamodb, self.aws, "AWS_ENDPOINT_URL_DYNAMODB"));
        let name = self.environment.required("TABLE_NAME")?;
        Ok(Table::new(client.clone(), name))
    }

    /// A client of SQS.
    #[must_use]
    pub fn sqs(&self) -> aws_sdk_sqs::Client {
        client!(aws_sdk_sqs, self.aws, "AWS_ENDPOINT_URL_SQS")
    }

    /// The region that this function runs in.
    #[must_use]
    pub fn region(&self) -> &str {
        self.aws.region().map_or("unknown", AsRef::as_ref)
    }
}
