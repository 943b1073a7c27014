//! Common parts of the adapters' tests: ordinary values, and AWS played by a server of the test.

use std::time::Duration;

use aws_sdk_secretsmanager::config::retry::RetryConfig;
use aws_sdk_secretsmanager::config::{
    BehaviorVersion, Credentials, Region, SharedCredentialsProvider,
};
use aws_types::SdkConfig;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use wiremock::matchers::header;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::platform::aws::AwsHttpClient;
use crate::platform::config::Environment;
use crate::platform::secrets::Secret;
use crate::store::allowance::Allowance;
use crate::store::devices::{Device, PushAddress, PushToken};
use crate::store::table::Table;
use crate::switchboard::StartLimits;
use ringback_core::call::PushPlatform;
use ringback_core::ids::DeviceId;
use ringback_core::timestamp::Timestamp;

/// Limits that most tests never reach.
pub(crate) fn start_limits() -> StartLimits {
    StartLimits {
        calls: Allowance::per_minute(60, 10),
        phone_calls: Allowance::per_minute(60, 10),
        concurrent: 10,
        longest_phone_call: Duration::from_secs(3_600),
    }
}

/// An address that needs no SNS endpoint.
pub(crate) fn address(platform: PushPlatform, token: &str) -> PushAddress {
    PushAddress::new(platform, PushToken::try_from(token).unwrap(), None)
}

/// A device with these push addresses.
pub(crate) fn device(name: &str, addresses: impl IntoIterator<Item = PushAddress>) -> Device {
    let device_id = DeviceId::try_from(name).unwrap();
    Device::new(
        device_id,
        addresses,
        Timestamp::from_millis(1_000_000_000_000),
    )
}

/// DynamoDB's table at `server`.
pub(crate) fn table(server: &MockServer) -> Table {
    Table::new(aws_sdk_dynamodb::Client::new(&aws(server)), "calls")
}

/// DynamoDB's answer when a condition does not hold.
pub(crate) fn condition_failed() -> ResponseTemplate {
    condition_failed_on(&Value::Null)
}

/// The same for a request that asks for the item on which the condition failed.
pub(crate) fn condition_failed_on(item: &Value) -> ResponseTemplate {
    let error = "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException";
    let message = "The conditional request failed";
    ResponseTemplate::new(400)
        .set_body_json(json!({ "__type": error, "message": message, "Item": item }))
}

/// AWS at `server`. The SDK does not retry, so that a test can count requests.
pub(crate) fn aws(server: &MockServer) -> SdkConfig {
    let credentials = Credentials::new("AKIDTEST", "test", None, None, "test");
    SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("ap-south-1"))
        .endpoint_url(server.uri())
        .http_client(AwsHttpClient::default())
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::disabled())
        .build()
}

/// The ARN of [`secret`].
pub(crate) const SECRET_ARN: &str = "arn:aws:secretsmanager:ap-south-1:123456789012:secret:app-x";

/// A secret, and Secrets Manager. Each fetch finds the next of these values; the last one stays.
pub(crate) async fn secret<T: DeserializeOwned, const N: usize>(
    values: [Value; N],
) -> (MockServer, Secret<T>) {
    let server = MockServer::start().await;
    for (number, value) in values.iter().enumerate() {
        let reply = json!({
            "ARN": SECRET_ARN,
            "VersionId": format!("version-{number}"),
            "SecretString": value.to_string(),
        });
        let is_last = number + 1 == N;
        Mock::given(header("x-amz-target", "secretsmanager.GetSecretValue"))
            .respond_with(ResponseTemplate::new(200).set_body_json(reply))
            .up_to_n_times(if is_last { u64::MAX } else { 1 })
            .mount(&server)
            .await;
    }
    let secret = secret_at(&server);
    (server, secret)
}

/// A secret in Secrets Manager at `server`.
pub(crate) fn secret_at<T: DeserializeOwned>(server: &MockServer) -> Secret<T> {
    let client = aws_sdk_secretsmanager::Client::new(&aws(server));
    let environment = Environment::of(|_| Some(SECRET_ARN.to_owned()));
    Secret::from_environment(&client, &environment, "APP_SECRET_ARN").unwrap()
}

/// All requests that `server` has received, in order.
pub(crate) async fn requests(server: &MockServer) -> Vec<Request> {
    server.received_requests().await.unwrap()
}

/// The operation of a request to AWS, for services that name it in a header (`DynamoDB_20120810.Query`).
pub(crate) fn operation(request: &Request) -> &str {
    let target = request.headers.get("x-amz-target");
    let target = target.and_then(|value| value.to_str().ok());
    target
        .and_then(|target| target.rsplit('.').next())
        .unwrap_or_default()
}

/// The URL of a server that does not listen any more.
pub(crate) fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}
