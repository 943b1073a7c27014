//! The phones of an extension, and how each is reached by push.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `DEVICE#{device_id}`.

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};

use crate::calls::StoreError;
use crate::clock::Timestamp;
use crate::names::{DeviceId, Extension};

/// An app's installation on one phone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id, as the app names it.
    pub device_id: DeviceId,
    /// How a push reaches it.
    pub address: PushAddress,
    /// When it was last registered.
    pub registered_at: Timestamp,
}

/// How a push reaches a device.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "via", rename_all = "snake_case")]
pub enum PushAddress {
    /// FCM's HTTP v1 API.
    Fcm {
        /// The registration token that the FCM SDK gave the app.
        token: String,
    },
    /// An endpoint of an SNS platform application.
    Sns {
        /// What the endpoint's application speaks.
        service: SnsService,
        /// The endpoint's ARN.
        endpoint: String,
    },
}

/// Tokens are credentials of a kind: only the route shows.
impl std::fmt::Debug for PushAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Fcm { .. } => "fcm",
            Self::Sns {
                service: SnsService::Fcm,
                ..
            } => "sns/fcm",
            Self::Sns {
                service: SnsService::Apns,
                ..
            } => "sns/apns",
            Self::Sns {
                service: SnsService::ApnsVoip,
                ..
            } => "sns/apns_voip",
        })
    }
}

/// The services behind SNS platform applications.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnsService {
    /// Firebase Cloud Messaging.
    Fcm,
    /// Apple's alerts.
    Apns,
    /// Apple's VoIP pushes, which start a terminated app.
    ApnsVoip,
}

/// The devices in the table.
#[derive(Clone, Debug)]
pub struct Devices {
    client: Client,
    table: String,
}

impl Devices {
    /// The devices in this table.
    #[must_use]
    pub const fn new(client: Client, table: String) -> Self {
        Self { client, table }
    }

    /// All devices of an extension. One that cannot be read, written by another version of this software perhaps,
    /// is left out, so that the others ring.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn of(&self, extension: &Extension) -> Result<Vec<Device>, StoreError> {
        let doing = "looking up an extension's devices";
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :device)")
            .expression_attribute_values(":pk", AttributeValue::S(format!("EXTENSION#{extension}")))
            .expression_attribute_values(":device", AttributeValue::S("DEVICE#".to_owned()))
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let items = answer.items.unwrap_or_default().into_iter();
        Ok(items.filter_map(readable).collect())
    }

    /// Registers a device, or registers it anew.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn register(&self, extension: &Extension, device: &Device) -> Result<(), StoreError> {
        let doing = "registering a device";
        let item: HashMap<String, AttributeValue> =
            serde_dynamo::to_item(device).map_err(StoreError::unreadable(doing))?;
        self.client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .item("pk", AttributeValue::S(format!("EXTENSION#{extension}")))
            .item(
                "sk",
                AttributeValue::S(format!("DEVICE#{}", device.device_id)),
            )
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    /// Forgets a device, whatever its address. Forgetting one that is not there is no error.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn remove(&self, extension: &Extension, device: &DeviceId) -> Result<(), StoreError> {
        let doing = "removing a device";
        self.deletion(extension, device)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    /// Forgets a device whose address a push service calls dead, unless it has registered a new one meanwhile.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn forget_dead(
        &self,
        extension: &Extension,
        device: &Device,
    ) -> Result<(), StoreError> {
        let doing = "forgetting a dead device";
        let address = serde_dynamo::to_attribute_value(&device.address)
            .map_err(StoreError::unreadable(doing))?;
        let answer = self
            .deletion(extension, &device.device_id)
            .condition_expression("address = :dead")
            .expression_attribute_values(":dead", address)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(refused))
                if matches!(
                    refused.err(),
                    DeleteItemError::ConditionalCheckFailedException(_)
                ) =>
            {
                Ok(())
            }
            Err(error) => Err(StoreError::unavailable(doing)(error)),
        }
    }

    fn deletion(
        &self,
        extension: &Extension,
        device: &DeviceId,
    ) -> aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder {
        self.client
            .delete_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(format!("EXTENSION#{extension}")))
            .key("sk", AttributeValue::S(format!("DEVICE#{device}")))
    }
}

fn readable(item: HashMap<String, AttributeValue>) -> Option<Device> {
    let key = item.get("sk").and_then(|value| value.as_s().ok()).cloned();
    serde_dynamo::from_item(item)
        .inspect_err(
            |error| tracing::error!(?key, %error, "a device cannot be read, and does not ring"),
        )
        .ok()
}
