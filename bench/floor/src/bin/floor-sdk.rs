//! The least work with the AWS SDK: the same as the floor, with the SDK's client and Ringback's HTTP client.

#![expect(
    clippy::disallowed_methods,
    reason = "this program has no configuration of its own"
)]

use std::env;

use aws_credential_types::Credentials;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_sdk_dynamodb::types::AttributeValue;
use lambda_runtime::{Error, LambdaEvent, service_fn};
use ringback::platform::aws::AwsHttpClient;
use serde::Deserialize;
use serde_json::{Value, json};

/// How many requests the function sends.
#[derive(Deserialize)]
struct Event {
    requests: usize,
}

fn client() -> Result<Client, Error> {
    let credentials = Credentials::new(
        env::var("AWS_ACCESS_KEY_ID")?,
        env::var("AWS_SECRET_ACCESS_KEY")?,
        env::var("AWS_SESSION_TOKEN").ok(),
        None,
        "environment",
    );
    let config = aws_sdk_dynamodb::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(env::var("AWS_REGION")?))
        .credentials_provider(credentials)
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(AwsHttpClient::default())
        .endpoint_url(env::var("AWS_ENDPOINT_URL_DYNAMODB")?);
    Ok(Client::from_conf(config.build()))
}

async fn handle(client: &Client, table: &str, event: Event) -> Result<Value, Error> {
    for _ in 0..event.requests {
        client
            .get_item()
            .table_name(table)
            .key("pk", AttributeValue::S("CALL#floor".to_owned()))
            .key("sk", AttributeValue::S("CALL".to_owned()))
            .send()
            .await?;
    }
    Ok(json!({ "statusCode": 200 }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let (client, table) = (&client()?, &env::var("TABLE_NAME")?);
    let handle = |event: LambdaEvent<Event>| handle(client, table, event.payload);
    lambda_runtime::run(service_fn(handle)).await
}
