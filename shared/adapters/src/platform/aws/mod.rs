//! The configuration of all clients of the AWS SDK.
//!
//! Lambda passes credentials and region as variables. So the functions do not contain `aws-config`, which searches files, profiles and
//! metadata services for them.

mod http_client;

use std::time::Duration;

use aws_credential_types::Credentials;
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_sdk_dynamodb::config::retry::RetryConfig;
use aws_sdk_dynamodb::config::timeout::TimeoutConfig;
use aws_sdk_dynamodb::config::{BehaviorVersion, Region, StalledStreamProtectionConfig};
use aws_types::SdkConfig;

use crate::platform::config::{ConfigError, Environment};
pub use http_client::AwsHttpClient;

/// The configuration, from the variables that Lambda sets.
///
/// # Errors
/// When one is missing.
pub(crate) fn sdk_config(environment: &Environment) -> Result<SdkConfig, ConfigError> {
    let credentials = Credentials::new(
        environment.required("AWS_ACCESS_KEY_ID")?,
        environment.required("AWS_SECRET_ACCESS_KEY")?,
        environment.optional("AWS_SESSION_TOKEN"),
        None,
        "environment",
    );
    let mut config = SdkConfig::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(environment.required("AWS_REGION")?))
        .credentials_provider(SharedCredentialsProvider::new(credentials))
        .retry_config(RetryConfig::standard())
        .timeout_config(timeouts())
        // All answers are short, and the timeouts limit them.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .http_client(AwsHttpClient::default());
    config.set_endpoint_url(environment.optional("AWS_ENDPOINT_URL"));
    Ok(config.build())
}

/// AWS answers within a few milliseconds. A slower request is sent again, because a caller is waiting.
fn timeouts() -> TimeoutConfig {
    TimeoutConfig::builder()
        .operation_attempt_timeout(Duration::from_secs(2))
        .operation_timeout(Duration::from_secs(5))
        .build()
}
