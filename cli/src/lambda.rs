//! Invokes a function of the deployment that has no route. Lambda's SDK crate would compile all other SDK crates again with more
//! features, for one request.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::{Client, Method, Request, StatusCode};
use ringback::platform::clock;
use serde_json::Value;

use crate::deployment::{Deployment, no_login, sentence};
use crate::failure::{Failure, Result};

/// A function has at most 60 s.
const TIMEOUT: Duration = Duration::from_secs(65);

/// Invokes the function with this name, without the name of the stack in front.
pub(crate) async fn invoke(
    deployment: &Deployment,
    function: &str,
    payload: &Value,
) -> Result<Value> {
    let http = Client::builder().timeout(TIMEOUT).build();
    let http = http
        .map_err(|error| Failure::not_reachable(format!("There is no HTTPS client: {error}.")))?;
    let full_name = format!("{}-{function}", deployment.name);
    let path = format!("/2015-03-31/functions/{full_name}/invocations");
    let request = signed(deployment, &http, &path, payload.to_string()).await?;
    let unreachable = |error: reqwest::Error| {
        Failure::not_reachable(format!("Lambda does not answer: {}.", error.without_url()))
    };
    let answer = http.execute(request).await.map_err(unreachable)?;
    let status = answer.status();
    let failed = answer.headers().contains_key("x-amz-function-error");
    let body = answer.bytes().await.map_err(unreachable)?;
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() && !failed {
        return Ok(body);
    }
    let message = ["errorMessage", "message", "Message"]
        .into_iter()
        .find_map(|name| body[name].as_str());
    let message = sentence(message.unwrap_or("no reason"));
    Err(match status {
        _ if failed => Failure::not_reachable(format!(
            "The function {full_name} failed: {message} Its log is /aws/lambda/{full_name}."
        )),
        StatusCode::NOT_FOUND => Failure::not_reachable(format!(
            "There is no function {full_name}, so the deployment is older than this command: run `sam deploy`."
        )),
        StatusCode::FORBIDDEN => Failure::refused(format!(
            "AWS does not allow you to invoke {full_name}: {message}"
        )),
        status => Failure::not_reachable(format!("Lambda answered {status}: {message}")),
    })
}

async fn signed(
    deployment: &Deployment,
    http: &Client,
    path: &str,
    body: String,
) -> Result<Request> {
    let aws = &deployment.aws;
    let region = deployment.region();
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
    let content = SignableBody::Bytes(body.as_bytes());
    let signable = SignableRequest::new("POST", &url, std::iter::empty(), content);
    let signable = signable.map_err(|error| unsigned(&error))?;
    let signed = sign(signable, &params.into()).map_err(|error| unsigned(&error))?;
    let (instructions, _signature) = signed.into_parts();
    let mut request = http.request(Method::POST, &url).body(body);
    for (name, value) in instructions.headers() {
        request = request.header(name, value);
    }
    request.build().map_err(|error| unsigned(&error))
}
