//! AWS Lambda: invokes functions of the deployment that have no route. Lambda's SDK crate would compile all other SDK crates again with
//! more features, for two requests.

use std::time::{Duration, UNIX_EPOCH};

use aws_credential_types::provider::ProvideCredentials;
use aws_sigv4::http_request::{SignableBody, SignableRequest, SigningSettings, sign};
use aws_sigv4::sign::v4::SigningParams;
use reqwest::{Client, Method, Request, StatusCode};
use ringback::platform::clock;
use serde_json::Value;

use crate::api::http_client;
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
    let full_name = format!("{}-{function}", deployment.name);
    let path = format!("/2015-03-31/functions/{full_name}/invocations");
    let (status, failed, body) = send(deployment, Method::POST, &path, payload.to_string()).await?;
    if status.is_success() && !failed {
        return Ok(body);
    }
    let message = message_in(&body);
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

/// How many functions without reserved concurrency can run at the same time.
pub(crate) async fn unreserved_concurrency(deployment: &Deployment) -> Result<u64> {
    let path = "/2016-08-19/account-settings/";
    let (status, _, body) = send(deployment, Method::GET, path, String::new()).await?;
    let left = body["AccountLimit"]["UnreservedConcurrentExecutions"].as_u64();
    left.filter(|_| status.is_success()).ok_or_else(|| {
        let message = message_in(&body);
        match status {
            StatusCode::FORBIDDEN => Failure::refused(format!(
                "AWS does not allow you to read the settings of Lambda: {message}"
            )),
            status => Failure::not_reachable(format!("Lambda answered {status}: {message}")),
        }
    })
}

fn message_in(body: &Value) -> String {
    let names = ["errorMessage", "message", "Message"].into_iter();
    let message = names.filter_map(|name| body[name].as_str()).next();
    sentence(message.unwrap_or("no reason"))
}

/// Lambda's answer: its status, whether the function failed, and the body.
async fn send(
    deployment: &Deployment,
    method: Method,
    path: &str,
    body: String,
) -> Result<(StatusCode, bool, Value)> {
    let http = http_client(TIMEOUT)?;
    let request = signed(deployment, &http, method, path, body).await?;
    let unreachable = |error: reqwest::Error| {
        Failure::not_reachable(format!("Lambda does not answer: {}.", error.without_url()))
    };
    let answer = http.execute(request).await.map_err(unreachable)?;
    let status = answer.status();
    let failed = answer.headers().contains_key("x-amz-function-error");
    let body = answer.bytes().await.map_err(unreachable)?;
    Ok((
        status,
        failed,
        serde_json::from_slice(&body).unwrap_or_default(),
    ))
}

async fn signed(
    deployment: &Deployment,
    http: &Client,
    method: Method,
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
    let signable = SignableRequest::new(method.as_str(), &url, std::iter::empty(), content);
    let signable = signable.map_err(|error| unsigned(&error))?;
    let signed = sign(signable, &params.into()).map_err(|error| unsigned(&error))?;
    let (instructions, _signature) = signed.into_parts();
    let mut request = http.request(method, &url).body(body);
    for (name, value) in instructions.headers() {
        request = request.header(name, value);
    }
    request.build().map_err(|error| unsigned(&error))
}
