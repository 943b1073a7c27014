//! The phones of an extension, and how each is reached by push.
//!
//! Items: `pk` = `EXTENSION#{extension}`, `sk` = `DEVICE#{device_id}`: a device. And `pk` = `ADDRESS#{its hash}`,
//! `sk` = `OWNER`: whose device a push to this address reaches. A phone may change hands without its app's saying so;
//! the calls of whoever had it before must not ring there, nor show who calls.

#[cfg(test)]
mod many;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::calls::StoreError;
use ringback_core::ids::{DeviceId, Extension};
use ringback_core::timestamp::Timestamp;

/// An app's installation on one phone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// Its id, as the app names it.
    pub device_id: DeviceId,
    /// How a push reaches it.
    pub address: PushAddress,
    /// When it was last registered.
    pub registered_at: Timestamp,
    /// Which registration that was: a phone may send several within a millisecond. Given when it is registered.
    #[serde(default)]
    registration: Uuid,
}

impl Device {
    /// A device that is to be registered.
    #[must_use]
    pub const fn new(device_id: DeviceId, address: PushAddress, registered_at: Timestamp) -> Self {
        Self {
            device_id,
            address,
            registered_at,
            registration: Uuid::nil(),
        }
    }
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
impl PushAddress {
    /// The way by which a push reaches it, for logs and metrics.
    #[must_use]
    pub const fn service(&self) -> &'static str {
        match self {
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
        }
    }
}

impl std::fmt::Debug for PushAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.service())
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
        self.found(extension, false).await
    }

    async fn found(
        &self,
        extension: &Extension,
        consistent: bool,
    ) -> Result<Vec<Device>, StoreError> {
        let doing = "looking up an extension's devices";
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :device)")
            .expression_attribute_values(":pk", text(format!("EXTENSION#{extension}")))
            .expression_attribute_values(":device", text("DEVICE#"))
            .consistent_read(consistent)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let items = answer.items.unwrap_or_default().into_iter();
        Ok(items.filter_map(readable).collect())
    }

    /// Registers a device, or registers it anew. It takes its address over from whoever had it, and if the extension
    /// has more than `most` devices then, the oldest go. Gives the addresses that reach nobody any more.
    ///
    /// The device is written first, and each step after it is repeated by the next registration: so whatever fails, or
    /// meets another registration, there are soon no more than `most`, and no two with one address. Of several registrations of
    /// one device at once, which may come in any order, the last one's writes stand.
    ///
    /// # Errors
    /// When the table cannot be written or read.
    pub async fn register(
        &self,
        extension: &Extension,
        device: &Device,
        most: usize,
    ) -> Result<Vec<PushAddress>, StoreError> {
        let device = &Device {
            registration: Uuid::now_v7(),
            ..device.clone()
        };
        let before = match self.put(extension, device).await? {
            Put::After(before) => before.and_then(readable),
            Put::TooLate => return Ok(Vec::new()),
        };
        let (moved, mut gone) = futures::try_join!(
            self.take_address_over(extension, device),
            self.let_the_oldest_go(extension, most),
        )?;
        if let Some((other, device_id)) = moved {
            tracing::info!(extension = %other, %device_id, to = %extension, "a push address has a new owner");
        }
        gone.extend(before.filter(|before| before.address != device.address));
        let released = gone
            .iter()
            .map(async |device| self.release(extension, device).await);
        let released = try_join_all(released).await?;
        let gone = gone.into_iter().zip(released);
        Ok(gone
            .filter(|(_, released)| *released)
            .map(|(device, _)| device.address)
            .collect())
    }

    /// Writes a device, unless a later registration has.
    async fn put(&self, extension: &Extension, device: &Device) -> Result<Put, StoreError> {
        let doing = "registering a device";
        let item: Item = serde_dynamo::to_item(device).map_err(StoreError::unreadable(doing))?;
        let putting = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .item("pk", text(format!("EXTENSION#{extension}")))
            .item("sk", text(format!("DEVICE#{}", device.device_id)))
            .condition_expression(LATER)
            .expression_attribute_values(":registration", text(device.registration));
        put(putting, doing).await
    }

    /// Makes a device the owner of its address, and forgets the one that was. Gives the one that was forgotten.
    async fn take_address_over(
        &self,
        extension: &Extension,
        device: &Device,
    ) -> Result<Option<(Extension, DeviceId)>, StoreError> {
        let doing = "taking a push address over";
        let owner = Owner::of(extension, device);
        let item: Item = serde_dynamo::to_item(&owner).map_err(StoreError::unreadable(doing))?;
        let (pk, sk) = device.address.key();
        let putting = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(item))
            .item("pk", pk)
            .item("sk", sk)
            .condition_expression(format!(
                "extension <> :extension OR device_id <> :device OR {LATER}"
            ))
            .expression_attribute_values(":extension", text(extension.as_str()))
            .expression_attribute_values(":device", text(device.device_id.as_str()))
            .expression_attribute_values(":registration", text(device.registration));
        let Put::After(previous) = put(putting, doing).await? else {
            return Ok(None);
        };
        let previous = previous.map(serde_dynamo::from_item::<_, Owner>);
        let previous = previous
            .transpose()
            .map_err(StoreError::unreadable(doing))?;
        let Some(previous) = previous.filter(|previous| !previous.is_same_device(&owner)) else {
            return Ok(None);
        };
        let forgotten = self.forget_registration(&previous).await?;
        Ok(forgotten.then_some((previous.extension, previous.device_id)))
    }

    /// Forgets the oldest devices, until there are no more than `most`. Gives those that went. Two registrations at
    /// once find the same ones to be the oldest.
    async fn let_the_oldest_go(
        &self,
        extension: &Extension,
        most: usize,
    ) -> Result<Vec<Device>, StoreError> {
        let mut devices = self.found(extension, true).await?;
        devices.sort_by_key(|device| (Reverse(device.registered_at), device.device_id.clone()));
        let oldest = devices.split_off(most.min(devices.len()));
        let went = oldest.iter().map(async |device| {
            let owner = Owner::of(extension, device);
            self.forget_registration(&owner).await
        });
        let went = try_join_all(went).await?;
        let devices = oldest.into_iter().zip(went);
        Ok(devices
            .filter(|(_, went)| *went)
            .map(|(device, _)| device)
            .collect())
    }

    /// Forgets a device, whatever its address. Forgetting one that is not there is no error. Gives its address, if that
    /// reaches nobody any more.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn remove(
        &self,
        extension: &Extension,
        device: &DeviceId,
    ) -> Result<Option<PushAddress>, StoreError> {
        let doing = "removing a device";
        let answer = self
            .deletion(extension, device)
            .return_values(ReturnValue::AllOld)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let Some(device) = answer.attributes.and_then(readable) else {
            return Ok(None);
        };
        let released = self.release(extension, &device).await?;
        Ok(released.then_some(device.address))
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
        let deletion = self
            .deletion(extension, &device.device_id)
            .condition_expression("address = :dead")
            .expression_attribute_values(":dead", address);
        if deleted(deletion, doing).await? {
            self.release(extension, device).await?;
        }
        Ok(())
    }

    /// Forgets a device as it was registered then. Says whether it was there, and had not registered anew.
    async fn forget_registration(&self, then: &Owner) -> Result<bool, StoreError> {
        let deletion = self
            .deletion(&then.extension, &then.device_id)
            .condition_expression(format!("registered_at = :then AND {SAME}"));
        deleted(then.named_in(deletion), "forgetting a device").await
    }

    /// Gives a device's address up. Says whether it was still its own, or nobody's that is known, as it is where the
    /// device was registered before addresses had owners.
    async fn release(&self, extension: &Extension, device: &Device) -> Result<bool, StoreError> {
        let (pk, sk) = device.address.key();
        let deletion = self
            .client
            .delete_item()
            .table_name(&self.table)
            .key("pk", pk)
            .key("sk", sk)
            .condition_expression(format!(
                "attribute_not_exists(pk) OR (extension = :extension AND device_id = :device AND registered_at = :then AND {SAME})",
            ))
            .expression_attribute_values(":extension", text(extension.as_str()))
            .expression_attribute_values(":device", text(device.device_id.as_str()));
        let deletion = Owner::of(extension, device).named_in(deletion);
        deleted(deletion, "giving a push address up").await
    }

    fn deletion(&self, extension: &Extension, device: &DeviceId) -> DeleteItemFluentBuilder {
        self.client
            .delete_item()
            .table_name(&self.table)
            .key("pk", text(format!("EXTENSION#{extension}")))
            .key("sk", text(format!("DEVICE#{device}")))
    }
}

/// That no later registration has written an item: ids of registrations are in the order of time.
const LATER: &str = "attribute_not_exists(registration) OR registration < :registration";

/// That an item is of the same registration, or of a time when they had no names.
const SAME: &str = "(registration = :registration OR attribute_not_exists(registration))";

type Item = HashMap<String, AttributeValue>;

/// Whose device a push to an address reaches.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    extension: Extension,
    device_id: DeviceId,
    /// When the device was registered that has the address.
    registered_at: Timestamp,
    /// Which registration that was.
    #[serde(default)]
    registration: Uuid,
}

impl Owner {
    fn of(extension: &Extension, device: &Device) -> Self {
        Self {
            extension: extension.clone(),
            device_id: device.device_id.clone(),
            registered_at: device.registered_at,
            registration: device.registration,
        }
    }

    /// The values of a condition that this registration is still the one.
    fn named_in(&self, deletion: DeleteItemFluentBuilder) -> DeleteItemFluentBuilder {
        deletion
            .expression_attribute_values(":then", millis(self.registered_at))
            .expression_attribute_values(":registration", text(self.registration))
    }

    fn is_same_device(&self, other: &Self) -> bool {
        self.extension == other.extension && self.device_id == other.device_id
    }
}

impl PushAddress {
    /// The key of its owner. A hash, because tokens are credentials of a kind, and longer than a key may be.
    fn key(&self) -> (AttributeValue, AttributeValue) {
        let (service, address) = match self {
            Self::Fcm { token } => ("fcm", token),
            Self::Sns { endpoint, .. } => ("sns", endpoint),
        };
        let hash = Sha256::new()
            .chain_update(service)
            .chain_update([0])
            .chain_update(address)
            .finalize();
        let pk = format!("ADDRESS#{}", URL_SAFE_NO_PAD.encode(hash));
        (text(pk), text("OWNER"))
    }
}

/// What became of an item that was to be written.
enum Put {
    /// It was written, in the place of this one.
    After(Option<Item>),
    /// A later registration stands there.
    TooLate,
}

async fn put(putting: PutItemFluentBuilder, doing: &'static str) -> Result<Put, StoreError> {
    match putting.return_values(ReturnValue::AllOld).send().await {
        Ok(answer) => Ok(Put::After(answer.attributes)),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(PutItemError::is_conditional_check_failed_exception) =>
        {
            Ok(Put::TooLate)
        }
        Err(error) => Err(StoreError::unavailable(doing)(error)),
    }
}

/// Whether the condition held, and the item was deleted.
async fn deleted(
    deletion: DeleteItemFluentBuilder,
    doing: &'static str,
) -> Result<bool, StoreError> {
    match deletion.send().await {
        Ok(_) => Ok(true),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
        {
            Ok(false)
        }
        Err(error) => Err(StoreError::unavailable(doing)(error)),
    }
}

fn text(text: impl ToString) -> AttributeValue {
    AttributeValue::S(text.to_string())
}

fn millis(moment: Timestamp) -> AttributeValue {
    AttributeValue::N(moment.as_millis().to_string())
}

fn readable(item: Item) -> Option<Device> {
    let key = item.get("sk").and_then(|value| value.as_s().ok()).cloned();
    serde_dynamo::from_item(item)
        .inspect_err(
            |error| tracing::error!(?key, %error, "a device cannot be read, and does not ring"),
        )
        .ok()
}
