//! Writes what a deployment needs and CloudFormation does not know: the values of the secrets, the number routes, and
//! the phone numbers of the extensions' owners.

use anyhow::{Context, Result};
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_dynamodb::config::Credentials as AwsCredentials;
use aws_sdk_dynamodb::types::AttributeValue;
use ringback::platform::aws::AwsHttpClient;
use serde_json::Value;

use super::deploy::Outputs;
use super::region::Region;
use crate::credentials::Credentials;
use crate::settings::{EXTRA_PHONES, MOBILE_NUMBERS, NUMBERS, extra_phone};

/// The client configuration for a region's local AWS.
pub async fn aws_config(region: Region) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(region.endpoint())
        .http_client(AwsHttpClient::default())
        .region(aws_config::Region::new(region.name))
        .credentials_provider(AwsCredentials::new(
            "local",
            "local",
            None,
            None,
            "ringback-local",
        ))
        .load()
        .await
}

/// The values of the secrets, by the outputs with their ARNs.
#[must_use]
pub fn secret_values(credentials: &Credentials) -> [(&'static str, Value); 7] {
    [
        ("AppSecretArn", credentials.app_secret()),
        ("WebhookSecretArn", credentials.webhook_secret()),
        ("HookSecretArn", credentials.hook_secret()),
        ("ExotelSecretArn", credentials.exotel_secret()),
        ("AsteriskSecretArn", credentials.asterisk_secret()),
        ("SigningSecretArn", credentials.signing_secret()),
        ("FcmSecretArn", credentials.fcm_secret()),
    ]
}

/// Writes the secrets of a region.
pub async fn secrets(region: Region, outputs: &Outputs, values: &[(&str, Value)]) -> Result<()> {
    let config = aws_config(region).await;
    for (output, value) in values {
        write_secret(&config, outputs.require(output)?, value).await?;
    }
    Ok(())
}

/// Writes the number routes and the owners' phone numbers into the table, also those of the extra phones if the stack
/// has them. Replication copies them to the second region.
pub async fn numbers(region: Region, outputs: &Outputs, with_extra_phones: bool) -> Result<()> {
    let config = aws_config(region).await;
    let table = outputs.require("TableName")?;
    let to_owned = |(a, b): (&str, &str)| (a.to_owned(), b.to_owned());
    let mut numbers: Vec<_> = NUMBERS.into_iter().map(to_owned).collect();
    let mut mobiles: Vec<_> = MOBILE_NUMBERS.into_iter().map(to_owned).collect();
    if with_extra_phones {
        for [extension, number, mobile] in (0..EXTRA_PHONES).map(extra_phone) {
            numbers.push((number, extension.clone()));
            mobiles.push((extension, mobile));
        }
    }
    for (number, extension) in &numbers {
        let number = international(number);
        let attributes = [("pk", "NUMBERS"), ("sk", &number), ("extension", extension)];
        write_item(&config, table, attributes).await?;
    }
    for (extension, number) in &mobiles {
        let attributes = [("pk", "EXTENSIONS"), ("sk", extension), ("number", number)];
        write_item(&config, table, attributes).await?;
    }
    Ok(())
}

async fn write_secret(config: &SdkConfig, arn: &str, value: &Value) -> Result<()> {
    aws_sdk_secretsmanager::Client::new(config)
        .put_secret_value()
        .secret_id(arn)
        .secret_string(value.to_string())
        .send()
        .await
        .with_context(|| format!("could not write the secret {arn}"))?;
    Ok(())
}

async fn write_item(config: &SdkConfig, table: &str, attributes: [(&str, &str); 3]) -> Result<()> {
    let text = |(name, value): (&str, &str)| (name.to_owned(), AttributeValue::S(value.to_owned()));
    aws_sdk_dynamodb::Client::new(config)
        .put_item()
        .table_name(table)
        .set_item(Some(attributes.into_iter().map(text).collect()))
        .send()
        .await
        .with_context(|| format!("could not write the item {}", attributes[1].1))?;
    Ok(())
}

/// Converts an Indian number from national form to E.164, the form in the table.
fn international(number: &str) -> String {
    format!("+91{}", number.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_national_number_is_stored_in_international_form() {
        assert_eq!(international("08047491899"), "+918047491899");
    }
}
