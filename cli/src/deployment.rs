//! Finds the deployment: a CloudFormation stack on AWS, or the one in the local AWS of a checkout's running local stack.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use aws_config::meta::region::RegionProviderChain;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_cloudformation::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_cloudformation::types::Stack;
use clap::Args;
use ringback::platform::aws::AwsHttpClient;
use serde::Deserialize;
use serde_json::Value;

use crate::failure::{Failure, Result};

/// The description of the running local stack, below the root of the repository.
const LOCAL_STACK: &str = "target/local/stack.json";

/// The name of the stack in the local AWS.
const LOCAL_NAME: &str = "ringback-local";

/// Which deployment a command is for.
#[derive(Args, Debug)]
#[command(next_help_heading = "Deployment")]
pub(crate) struct Target {
    /// The name of the stack, as `sam deploy` has it [default: ringback, with --local ringback-local]
    #[arg(long, global = true, value_name = "NAME", env = "RINGBACK_STACK")]
    stack: Option<String>,
    /// The AWS region of the stack; the default is that of the profile or of AWS_REGION, with --local the first one
    #[arg(long, global = true)]
    region: Option<String>,
    /// The profile of the AWS configuration; the default is AWS_PROFILE
    #[arg(long, global = true)]
    profile: Option<String>,
    /// Use the local stack of this checkout, which `make up` starts
    #[arg(long, global = true, conflicts_with = "profile")]
    local: bool,
}

/// A deployment.
#[derive(Debug)]
pub(crate) struct Deployment {
    /// The name of its stack.
    pub(crate) name: String,
    /// The configuration of AWS clients.
    pub(crate) aws: SdkConfig,
    /// The HTTP API, without a slash at its end.
    pub(crate) http_url: String,
    /// The WebSocket API.
    pub(crate) ws_url: String,
    /// The state of the stack, such as `UPDATE_COMPLETE`.
    pub(crate) status: String,
    outputs: BTreeMap<String, String>,
    parameters: BTreeMap<String, String>,
}

/// A region of a deployment.
struct Place {
    aws: SdkConfig,
    /// The local stack in it.
    local: Option<LocalStack>,
}

/// The part of `stack.json` that is needed here.
#[derive(Clone, Debug, Deserialize)]
struct LocalStack {
    http_url: String,
    ws_url: String,
    aws: LocalAws,
    /// The second region, of a stack with two.
    fallback: Option<Box<LocalStack>>,
}

#[derive(Clone, Debug, Deserialize)]
struct LocalAws {
    endpoint: String,
    region: String,
}

impl Target {
    /// The name of the stack. The one of the local stack differs, so that no command mistakes one for the other.
    fn stack(&self) -> &str {
        let default = if self.local { LOCAL_NAME } else { "ringback" };
        self.stack.as_deref().unwrap_or(default)
    }

    /// The arguments with which another command is for the same deployment.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let local = self.local.then(|| "--local".to_owned());
        let named = [
            ("--stack", &self.stack),
            ("--region", &self.region),
            ("--profile", &self.profile),
        ];
        let named = named.into_iter().filter_map(|(name, value)| {
            let value = value.as_ref()?;
            Some(format!("{name} {value}"))
        });
        local.into_iter().chain(named).collect()
    }

    /// Finds the deployment.
    pub(crate) async fn find(&self) -> Result<Deployment> {
        let place = self.place(None).await?;
        let found = self.find_at(&place).await?;
        found.ok_or_else(|| self.no_such_stack(&place.aws))
    }

    /// Finds the deployment in another region, if there is one.
    pub(crate) async fn find_in(&self, region: &str) -> Result<Option<Deployment>> {
        self.find_at(&self.place(Some(region)).await?).await
    }

    /// The configuration of AWS clients for another region.
    pub(crate) async fn aws_in(&self, region: &str) -> Result<SdkConfig> {
        Ok(self.place(Some(region)).await?.aws)
    }

    async fn find_at(&self, place: &Place) -> Result<Option<Deployment>> {
        let Some(stack) = self.describe(&place.aws).await? else {
            return Ok(None);
        };
        let deployment = Deployment::of(stack, self.stack(), place.aws.clone())?;
        let Some(local) = &place.local else {
            return Ok(Some(deployment));
        };
        Ok(Some(deployment.at(&local.http_url, &local.ws_url)))
    }

    /// A region, by default that of the deployment.
    async fn place(&self, region: Option<&str>) -> Result<Place> {
        let region = region.or(self.region.as_deref());
        if !self.local {
            let aws = self.aws_config(region).await?;
            return Ok(Place { aws, local: None });
        }
        let first = running_stack(Path::new("."))?;
        let regions = std::iter::successors(Some(first), |one| one.fallback.as_deref().cloned());
        let mut regions = regions.filter(|one| region.is_none_or(|name| one.aws.region == name));
        let local = regions.next().ok_or_else(|| {
            Failure::wrong_use(format!(
                "The local stack has no region {}: `make regions` starts one in ap-south-1 and ap-southeast-1.",
                region.unwrap_or_default()
            ))
        })?;
        let aws = local.aws_config().await;
        Ok(Place {
            aws,
            local: Some(local),
        })
    }

    /// Configures AWS clients from the arguments, the environment and the profile, as AWS's own tools do.
    async fn aws_config(&self, region: Option<&str>) -> Result<SdkConfig> {
        let mut loader =
            aws_config::defaults(BehaviorVersion::latest()).http_client(AwsHttpClient::default());
        if let Some(profile) = &self.profile {
            loader = loader.profile_name(profile);
        }
        if let Some(region) = region {
            let region = Region::new(region.to_owned());
            loader = loader.region(RegionProviderChain::first_try(region));
        }
        let config = loader.load().await;
        match config.region() {
            Some(_) => Ok(config),
            None => Err(Failure::wrong_use(
                "No AWS region is set: add one, such as --region ap-south-1, or set AWS_REGION.",
            )),
        }
    }

    async fn describe(&self, aws: &SdkConfig) -> Result<Option<Stack>> {
        let client = aws_sdk_cloudformation::Client::new(aws);
        let described = client.describe_stacks().stack_name(self.stack()).send();
        match described.await {
            Ok(described) => Ok(described.stacks.unwrap_or_default().pop()),
            Err(error) if error.code() == Some("ValidationError") => Ok(None),
            Err(error) => Err(aws_failure("CloudFormation", &error)),
        }
    }

    fn no_such_stack(&self, aws: &SdkConfig) -> Failure {
        let region = aws.region().map_or("this region", Region::as_ref);
        Failure::not_reachable(format!(
            "There is no stack {} in {region}: deploy it with `sam deploy`, or name yours with --stack and --region.",
            self.stack()
        ))
    }
}

impl Deployment {
    pub(crate) fn of(stack: Stack, name: &str, aws: SdkConfig) -> Result<Self> {
        let outputs = stack.outputs.unwrap_or_default().into_iter();
        let outputs: BTreeMap<String, String> = outputs
            .filter_map(|output| Some((output.output_key?, output.output_value?)))
            .collect();
        let parameters = stack.parameters.unwrap_or_default().into_iter();
        let parameters = parameters
            .filter_map(|one| Some((one.parameter_key?, one.parameter_value.unwrap_or_default())))
            .collect();
        let status = stack.stack_status.map(|status| status.as_str().to_owned());
        let mut deployment = Self {
            name: name.to_owned(),
            aws,
            status: status.unwrap_or_default(),
            http_url: String::new(),
            ws_url: String::new(),
            outputs,
            parameters,
        };
        let http_url = deployment.output("HttpUrl")?.trim_end_matches('/');
        deployment.http_url = http_url.to_owned();
        deployment.ws_url = deployment.output("WebSocketUrl")?.to_owned();
        Ok(deployment)
    }

    /// The same with other addresses: the APIs of the local AWS have none of their own.
    fn at(mut self, http_url: &str, ws_url: &str) -> Self {
        self.http_url = http_url.to_owned();
        self.ws_url = ws_url.to_owned();
        let hooks = ("RegionalHttpUrl".to_owned(), http_url.to_owned());
        self.outputs.extend([hooks]);
        self
    }

    /// An output of the stack.
    pub(crate) fn output(&self, name: &str) -> Result<&str> {
        let value = self.outputs.get(name).map(String::as_str);
        value.ok_or_else(|| {
            Failure::not_reachable(format!(
                "The stack {} has no output {name}: it is not Ringback's, or its deployment is not complete.",
                self.name
            ))
        })
    }

    /// A parameter of the stack, unless it is empty.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        let value = self.parameters.get(name).map(String::as_str);
        value.filter(|value| !value.is_empty())
    }

    /// All parameters of the stack, also the empty ones.
    pub(crate) fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        let parameters = self.parameters.iter();
        parameters.map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The algorithm of the tokens, if an identity provider signs them and no secret of the deployment does.
    pub(crate) fn providers_algorithm(&self) -> Option<&str> {
        let algorithm = self.parameter("TokenAlgorithm");
        algorithm.filter(|name| matches!(*name, "RS256" | "ES256"))
    }

    /// The region.
    pub(crate) fn region(&self) -> &str {
        self.aws.region().map_or("", Region::as_ref)
    }

    /// Reads the secret with the ARN in this output. `None`: it has no value yet. The inner error: it is not JSON.
    pub(crate) async fn secret(
        &self,
        output: &str,
    ) -> Result<Option<std::result::Result<Value, serde_json::Error>>> {
        let client = aws_sdk_secretsmanager::Client::new(&self.aws);
        let arn = self.output(output)?;
        let text = match client.get_secret_value().secret_id(arn).send().await {
            Ok(found) => found.secret_string.unwrap_or_default(),
            Err(error) if error.code() == Some("ResourceNotFoundException") => String::new(),
            Err(error) => return Err(aws_failure("Secrets Manager", &error)),
        };
        Ok((!text.is_empty()).then(|| serde_json::from_str(&text)))
    }

    /// How many values a secret has had, of those that have a label: the current one and the previous one.
    pub(crate) async fn secret_versions(&self, output: &str) -> Result<usize> {
        let client = aws_sdk_secretsmanager::Client::new(&self.aws);
        let described = client.describe_secret().secret_id(self.output(output)?);
        let described = described.send().await;
        let described = described.map_err(|error| aws_failure("Secrets Manager", &error))?;
        Ok(described.version_ids_to_stages.map_or(0, |all| all.len()))
    }

    /// Replaces the value of a secret.
    pub(crate) async fn put_secret(&self, output: &str, value: &Value) -> Result<()> {
        let client = aws_sdk_secretsmanager::Client::new(&self.aws);
        let arn = self.output(output)?;
        let put = client.put_secret_value().secret_id(arn);
        let put = put.secret_string(value.to_string()).send().await;
        put.map(drop)
            .map_err(|error| aws_failure("Secrets Manager", &error))
    }
}

impl LocalStack {
    async fn aws_config(&self) -> SdkConfig {
        let credentials =
            aws_sdk_secretsmanager::config::Credentials::new("local", "local", None, None, "local");
        aws_config::defaults(BehaviorVersion::latest())
            .endpoint_url(&self.aws.endpoint)
            .http_client(AwsHttpClient::default())
            .region(Region::new(self.aws.region.clone()))
            .credentials_provider(credentials)
            .load()
            .await
    }
}

/// The local stack that runs in the checkout around this folder.
fn running_stack(folder: &Path) -> Result<LocalStack> {
    let folder = std::path::absolute(folder).unwrap_or_default();
    let paths = folder.ancestors().map(|folder| folder.join(LOCAL_STACK));
    let path: Option<PathBuf> = paths.into_iter().find(|path| path.exists());
    let path = path.ok_or_else(|| {
        Failure::not_reachable(format!(
            "No local stack runs here: neither this folder nor one above has {LOCAL_STACK}. Start it with `make up`, or in a release with `local/tools/prerequisites.sh release ringback-local up`."
        ))
    })?;
    let text = std::fs::read_to_string(&path).ok();
    let stack = text.and_then(|text| serde_json::from_str(&text).ok());
    stack.ok_or_else(|| {
        Failure::not_reachable(format!(
            "{} cannot be read: stop the local stack with `make down` (in a release, `ringback-local down`), and start it again.",
            path.display()
        ))
    })
}

/// Why AWS did not do what it should.
pub(crate) fn aws_failure<E>(service: &str, error: &SdkError<E>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let causes = DisplayErrorContext(error).to_string();
    // The SDK has no error type for a missing login.
    let is_without_login = causes.contains("credentials") || causes.contains("token");
    match (error.code(), error.message()) {
        (Some("AccessDenied" | "AccessDeniedException"), message) => Failure::refused(format!(
            "AWS does not allow you to use {service}: {}",
            sentence(message.unwrap_or("access denied"))
        )),
        (Some("ExpiredToken" | "ExpiredTokenException" | "InvalidClientTokenId"), _) => no_login(),
        (Some(code), message) => Failure::not_reachable(format!(
            "{service} answered {code}: {}",
            sentence(message.unwrap_or("no reason"))
        )),
        (None, _) if is_without_login && !matches!(error, SdkError::ServiceError(_)) => no_login(),
        (None, _) => Failure::not_reachable(format!(
            "{service} does not answer: {}",
            sentence(&innermost(error))
        )),
    }
}

pub(crate) fn no_login() -> Failure {
    Failure::not_reachable(
        "You are not logged in at AWS, or no longer: run `aws sso login` or `aws configure`, or name a profile with --profile.",
    )
}

/// The innermost cause says what happened, and the others only where.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The text with a full stop at its end.
pub(crate) fn sentence(text: &str) -> String {
    let text = text.trim();
    match text.ends_with(['.', '!', '?']) {
        true => text.to_owned(),
        false => format!("{text}."),
    }
}
