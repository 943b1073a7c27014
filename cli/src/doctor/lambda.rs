//! The two requests to AWS Lambda. Its SDK crate would compile all other SDK crates again with more features.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::{Client, Method, Request, StatusCode};
use ringback::doctor::Examination;
use ringback::platform::clock;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::deployment::{Deployment, no_login, sentence};
use crate::failure::{Failure, Result};

/// The function has 60 s.
const TIMEOUT: Duration = Duration::from_secs(65);

/// The answer of `GetAccountSettings`, as far as it is used.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AccountSettings {
    account_limit: AccountLimit,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct AccountLimit {
    unreserved_concurrent_executions: u32,
}

/// Lambda, as the user may use it.
#[derive(Debug)]
pub(super) struct Lambda<'a> {
    deployment: &'a Deployment,
    http: Client,
}

impl<'a> Lambda<'a> {
    pub(super) fn new(deployment: &'a Deployment) -> Result<Self> {
        let http = Client::builder().timeout(TIMEOUT).build();
        let http = http.map_err(|error| {
            Failure::not_reachable(format!("There is no HTTPS client: {error}."))
        })?;
        Ok(Self { deployment, http })
    }

    /// Invokes the function `doctor` of the deployment.
    pub(super) async fn examine(&self) -> Result<Examination> {
        let name = format!("{}-doctor", self.deployment.name);
        let path = format!("/2015-03-31/functions/{name}/invocations");
        self.send(Method::POST, &path, b"{}").await
    }

    /// How many functions without reserved concurrency can run at the same time.
    pub(super) async fn unreserved_concurrency(&self) -> Result<u32> {
        let path = "/2016-08-19/account-settings/";
        let settings: AccountSettings = self.send(Method::GET, path, b"").await?;
        Ok(settings.account_limit.unreserved_concurrent_executions)
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: &'static [u8],
    ) -> Result<T> {
        let request = self.signed(method, path, body).await?;
        let unreachable = |error: reqwest::Error| {
            Failure::not_reachable(format!("Lambda does not answer: {}.", error.without_url()))
        };
        let answer = self.http.execute(request).await.map_err(unreachable)?;
        let status = answer.status();
        let failed = answer.headers().contains_key("x-amz-function-error");
        let body = answer.bytes().await.map_err(unreachable)?;
        if status.is_success() && !failed {
            return serde_json::from_slice(&body).map_err(|_| {
                Failure::not_reachable(
                    "The function doctor is of another version: run `sam deploy`.",
                )
            });
        }
        let body: Value = serde_json::from_slice(&body).unwrap_or_default();
        let message = ["errorMessage", "message", "Message"]
            .into_iter()
            .find_map(|name| body[name].as_str());
        let message = sentence(message.unwrap_or("no reason"));
        Err(match status {
            _ if failed => Failure::not_reachable(format!(
                "The function doctor failed: {message} Its log is /aws/lambda/{}-doctor.",
                self.deployment.name
            )),
            StatusCode::NOT_FOUND => Failure::not_reachable(format!(
                "The deployment has no function doctor, so it is older than this command: run `sam deploy`. {message}"
            )),
            StatusCode::FORBIDDEN => {
                Failure::refused(format!("AWS does not allow you to use Lambda: {message}"))
            }
            status => Failure::not_reachable(format!("Lambda answered {status}: {message}")),
        })
    }

    async fn signed(&self, method: Method, path: &str, body: &'static [u8]) -> Result<Request> {
        let aws = &self.deployment.aws;
        let region = self.deployment.region();
        let url = match aws.endpoint_url() {
            Some(endpoint) => format!("{endpoint}{path}"),
            None if region.starts_with("cn-") => {
                format!("https://lambda.{region}.amazonaws.com.cn{path}")
            }
            None => format!("https://lambda.{region}.amazonaws.com{path}"),
        };
        let provider = aws.credentials_provider().ok_or_else(no_login)?;
        let credentials = provider.provide_credentials().await;
        let identity = credentials.map_err(|_| no_login())?.into();
        let unsigned = |error: &dyn std::fmt::Display| {
            Failure::not_reachable(format!("The request to Lambda cannot be signed: {error}."))
        };
        let params = SigningParams::builder()
            .identity(&identity)
            .region(region)
            .name("lambda")
            .time(UNIX_EPOCH + Duration::from_millis(clock::now().as_millis()))
            .settings(SigningSettings::default())
            .build()
            .map_err(|error| unsigned(&error))?;
        let content = SignableBody::Bytes(body);
        let signable = SignableRequest::new(method.as_str(), &url, std::iter::empty(), content);
        let signable = signable.map_err(|error| unsigned(&error))?;
        let signed = sign(signable, &params.into()).map_err(|error| unsigned(&error))?;
        let (instructions, _signature) = signed.into_parts();
        let mut request = self.http.request(method, &url).body(body);
        for (name, value) in instructions.headers() {
            request = request.header(name, value);
        }
        request.build().map_err(|error| unsigned(&error))
    }
}
