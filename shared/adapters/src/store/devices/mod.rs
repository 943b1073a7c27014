//! The devices of an extension, and the push address of each.
//!
//! Items: `pk` = `EXTENSION#{extension}`, `sk` = `DEVICE#{device_id}` is a device. `pk` = `ADDRESS#{its hash}`, `sk` = `OWNER`
//! says which device owns a push address. A phone can change hands without a removal of its old registration. Calls of the
//! previous owner must not ring there and must not show the caller.

#[cfg(test)]
mod many;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;

use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::types::ReturnValue;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::table::{
    ConditionalWrite, Item, ItemKey, StoreError, Table, conditional_write, millis, text,
};
use ringback_core::ids::{DeviceId, Extension, SipAccountName};
use ringback_core::timestamp::Timestamp;

/// An app's installation on one phone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The app's own name for it.
    pub device_id: DeviceId,
    /// Where pushes to it go.
    pub address: PushAddress,
    /// When it was last registered.
    pub registered_at: Timestamp,
    /// Its own SIP account. `None` if it uses the account of its extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sip_account: Option<SipAccountName>,
    /// The id of the last registration, set by [`Devices::register`]. A phone can send several within a millisecond.
    #[serde(default)]
    registration: Uuid,
}

impl Device {
    /// A device to register.
    #[must_use]
    pub const fn new(device_id: DeviceId, address: PushAddress, registered_at: Timestamp) -> Self {
        Self {
            device_id,
            address,
            registered_at,
            sip_account: None,
            registration: Uuid::nil(),
        }
    }

    /// The same device with a SIP account of its own.
    #[must_use]
    pub fn with_sip_account(self, sip_account: Option<SipAccountName>) -> Self {
        Self {
            sip_account,
            ..self
        }
    }
}

/// Where pushes to a device go. `Debug` shows the service only, because tokens are credentials.
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
        /// The push service of the endpoint's application.
        service: SnsService,
        /// The endpoint's ARN.
        endpoint: String,
    },
}

impl PushAddress {
    /// The service's name in logs and metrics.
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
    table: Table,
}

impl Devices {
    /// The devices in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// All devices of an extension. A device that this version of the code cannot read is left out, so that the others ring.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn of(&self, extension: &Extension) -> Result<Vec<Device>, StoreError> {
        self.found(extension, false).await
    }

    /// The same, with every write that was completed before.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn latest_of(&self, extension: &Extension) -> Result<Vec<Device>, StoreError> {
        self.found(extension, true).await
    }

    /// The SIP account of a device, if it has one of its own. Reads no other attribute, so it works for any version of the item.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn sip_account(
        &self,
        extension: &Extension,
        device: &DeviceId,
    ) -> Result<Option<SipAccountName>, StoreError> {
        let doing = "looking up a device's SIP account";
        let read = self
            .table
            .get(device_key(extension, device))
            .projection_expression("sip_account")
            .consistent_read(true)
            .send();
        let item = read.await.map_err(StoreError::unavailable(doing))?.item;
        let name = item
            .as_ref()
            .and_then(|item| item.get("sip_account")?.as_s().ok());
        Ok(name.and_then(|name| SipAccountName::try_from(name.as_str()).ok()))
    }

    async fn found(
        &self,
        extension: &Extension,
        consistent: bool,
    ) -> Result<Vec<Device>, StoreError> {
        let doing = "looking up an extension's devices";
        let answer = self
            .table
            .query()
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

    /// Registers a device, or updates its registration. It takes over its address from the device that had it. If the
    /// extension then has more than `most` devices, the oldest are removed. Returns the addresses that no device uses any more.
    ///
    /// The device is written first, and the next registration repeats every later step. So after a failure or a concurrent
    /// registration, there are soon at most `most` devices again, and no two with one address. When one device sends several
    /// registrations at once, the writes of the latest registration win, in any order of arrival.
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
            RegistrationWrite::Replaced(before) => before.and_then(readable),
            RegistrationWrite::Outdated => return Ok(Vec::new()),
        };
        let (previous_owner, mut removed) = futures::try_join!(
            self.take_over_address(extension, device),
            self.remove_oldest(extension, most),
        )?;
        if let Some((other, device_id)) = previous_owner {
            tracing::info!(extension = %other, %device_id, to = %extension, "push address moved to another device");
        }
        removed.extend(before.filter(|before| before.address != device.address));
        let released = removed
            .iter()
            .map(async |device| self.release_address(extension, device).await);
        let released = try_join_all(released).await?;
        let removed = removed.into_iter().zip(released);
        Ok(removed
            .filter(|(_, released)| *released)
            .map(|(device, _)| device.address)
            .collect())
    }

    /// Writes a device, unless a later registration has been written.
    async fn put(
        &self,
        extension: &Extension,
        device: &Device,
    ) -> Result<RegistrationWrite, StoreError> {
        let doing = "registering a device";
        let item = serde_dynamo::to_item(device).map_err(StoreError::unreadable(doing))?;
        let put = self
            .table
            .put(device_key(extension, &device.device_id), item)
            .condition_expression(IS_LATER)
            .expression_attribute_values(":registration", text(device.registration));
        write_registration(put, doing).await
    }

    /// Makes a device the owner of its address and removes the previous owner. Returns the owner that it has removed.
    async fn take_over_address(
        &self,
        extension: &Extension,
        device: &Device,
    ) -> Result<Option<(Extension, DeviceId)>, StoreError> {
        let doing = "taking over a push address";
        let owner = AddressOwner::of(extension, device);
        let item = serde_dynamo::to_item(&owner).map_err(StoreError::unreadable(doing))?;
        let put = self
            .table
            .put(device.address.owner_key(), item)
            .condition_expression(format!(
                "extension <> :extension OR device_id <> :device OR {IS_LATER}"
            ))
            .expression_attribute_values(":extension", text(extension.as_str()))
            .expression_attribute_values(":device", text(device.device_id.as_str()))
            .expression_attribute_values(":registration", text(device.registration));
        let RegistrationWrite::Replaced(previous) = write_registration(put, doing).await? else {
            return Ok(None);
        };
        let previous = previous.map(serde_dynamo::from_item::<_, AddressOwner>);
        let previous = previous
            .transpose()
            .map_err(StoreError::unreadable(doing))?;
        let Some(previous) = previous.filter(|previous| !previous.is_same_device(&owner)) else {
            return Ok(None);
        };
        let removed = self.remove_registration(&previous).await?;
        Ok(removed.then_some((previous.extension, previous.device_id)))
    }

    /// Removes the oldest devices until there are at most `most`. Returns those that it has removed. Concurrent registrations
    /// choose the same devices, because the order is total.
    async fn remove_oldest(
        &self,
        extension: &Extension,
        most: usize,
    ) -> Result<Vec<Device>, StoreError> {
        let mut devices = self.found(extension, true).await?;
        devices.sort_by_key(|device| (Reverse(device.registered_at), device.device_id.clone()));
        let oldest = devices.split_off(most.min(devices.len()));
        let removed = oldest.iter().map(async |device| {
            let owner = AddressOwner::of(extension, device);
            self.remove_registration(&owner).await
        });
        let removed = try_join_all(removed).await?;
        let devices = oldest.into_iter().zip(removed);
        Ok(devices
            .filter(|(_, removed)| *removed)
            .map(|(device, _)| device)
            .collect())
    }

    /// Removes a device with any address. A device that does not exist is no error. Returns the address if no device uses it
    /// any more.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn remove(
        &self,
        extension: &Extension,
        device: &DeviceId,
    ) -> Result<Option<PushAddress>, StoreError> {
        let doing = "removing a device";
        let delete = self.table.delete(device_key(extension, device));
        let answer = delete.return_values(ReturnValue::AllOld).send().await;
        let answer = answer.map_err(StoreError::unavailable(doing))?;
        let Some(device) = answer.attributes.and_then(readable) else {
            return Ok(None);
        };
        let released = self.release_address(extension, &device).await?;
        Ok(released.then_some(device.address))
    }

    /// Removes a device after the push service has rejected its address, unless it has registered a new address meanwhile.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn remove_unreachable(
        &self,
        extension: &Extension,
        device: &Device,
    ) -> Result<(), StoreError> {
        let doing = "removing an unreachable device";
        let address = serde_dynamo::to_attribute_value(&device.address)
            .map_err(StoreError::unreadable(doing))?;
        let delete = self
            .table
            .delete(device_key(extension, &device.device_id))
            .condition_expression("address = :unreachable")
            .expression_attribute_values(":unreachable", address);
        if is_deleted(delete, doing).await? {
            self.release_address(extension, device).await?;
        }
        Ok(())
    }

    /// Removes this registration of a device. Returns whether it existed and was still the device's last registration.
    async fn remove_registration(&self, owner: &AddressOwner) -> Result<bool, StoreError> {
        let delete = self
            .table
            .delete(device_key(&owner.extension, &owner.device_id))
            .condition_expression(format!("registered_at = :then AND {IS_SAME}"));
        is_deleted(owner.add_values(delete), "removing a device").await
    }

    /// Deletes the owner of a device's address. Returns whether the device was still the owner, or the address had none: devices
    /// registered by older versions have no owner item.
    async fn release_address(
        &self,
        extension: &Extension,
        device: &Device,
    ) -> Result<bool, StoreError> {
        let delete = self
            .table
            .delete(device.address.owner_key())
            .condition_expression(format!(
                "attribute_not_exists(pk) OR (extension = :extension AND device_id = :device AND registered_at = :then AND {IS_SAME})",
            ))
            .expression_attribute_values(":extension", text(extension.as_str()))
            .expression_attribute_values(":device", text(device.device_id.as_str()));
        let delete = AddressOwner::of(extension, device).add_values(delete);
        is_deleted(delete, "releasing a push address").await
    }
}

fn device_key(extension: &Extension, device: &DeviceId) -> ItemKey {
    ItemKey::new(format!("EXTENSION#{extension}"), format!("DEVICE#{device}"))
}

/// Condition: no later registration has written the item. Registration ids are UUIDv7 and sort by time.
const IS_LATER: &str = "attribute_not_exists(registration) OR registration < :registration";

/// Condition: the item belongs to this registration, or was written by a version without registration ids.
const IS_SAME: &str = "(registration = :registration OR attribute_not_exists(registration))";

/// The device that owns a push address.
#[derive(Debug, Serialize, Deserialize)]
struct AddressOwner {
    extension: Extension,
    device_id: DeviceId,
    /// When that device was registered.
    registered_at: Timestamp,
    /// The id of that registration.
    #[serde(default)]
    registration: Uuid,
}

impl AddressOwner {
    fn of(extension: &Extension, device: &Device) -> Self {
        Self {
            extension: extension.clone(),
            device_id: device.device_id.clone(),
            registered_at: device.registered_at,
            registration: device.registration,
        }
    }

    /// Adds the values that a condition with [`IS_SAME`] names.
    fn add_values(&self, delete: DeleteItemFluentBuilder) -> DeleteItemFluentBuilder {
        delete
            .expression_attribute_values(":then", millis(self.registered_at))
            .expression_attribute_values(":registration", text(self.registration))
    }

    fn is_same_device(&self, other: &Self) -> bool {
        self.extension == other.extension && self.device_id == other.device_id
    }
}

impl PushAddress {
    /// The key of the address's owner. It has a hash, because tokens are credentials and can be longer than a key.
    fn owner_key(&self) -> ItemKey {
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
        ItemKey::new(pk, "OWNER")
    }
}

/// The result of writing an item of a registration.
enum RegistrationWrite {
    /// The item is written. This is the item that it replaced.
    Replaced(Option<Item>),
    /// A later registration has written the item before.
    Outdated,
}

async fn write_registration(
    put: PutItemFluentBuilder,
    doing: &'static str,
) -> Result<RegistrationWrite, StoreError> {
    let sent = put.return_values(ReturnValue::AllOld).send().await;
    Ok(match conditional_write(sent, doing)? {
        ConditionalWrite::Written(answer) => RegistrationWrite::Replaced(answer.attributes),
        ConditionalWrite::ConditionFailed(_) => RegistrationWrite::Outdated,
    })
}

/// Whether the condition held, so that the item is deleted.
async fn is_deleted(
    delete: DeleteItemFluentBuilder,
    doing: &'static str,
) -> Result<bool, StoreError> {
    Ok(conditional_write(delete.send().await, doing)?.is_written())
}

fn readable(item: Item) -> Option<Device> {
    let key = item.get("sk").and_then(|value| value.as_s().ok()).cloned();
    serde_dynamo::from_item(item)
        .inspect_err(|error| tracing::error!(?key, %error, "device not readable; it will not ring"))
        .ok()
}
