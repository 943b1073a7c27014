//! The devices of an extension, and the push addresses of each.
//!
//! Items: `pk` = `EXTENSION#{extension}`, `sk` = `DEVICE#{device_id}` is a device, with at most one address of each push service.
//! `pk` = `ADDRESS#{its hash}`, `sk` = `OWNER` says which device owns a push address. A phone can change hands without a removal of
//! its old registration. Calls of the previous owner must not ring there and must not show the caller. [`callee`] has the other items.

mod address;
mod callee;
#[cfg(test)]
mod many;
#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::HashMap;

use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::{ReturnValue, ReturnValuesOnConditionCheckFailure};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::address::{PushAddress, PushToken};
pub use self::callee::Callee;
use crate::store::table::{
    ConditionalWrite, Item, ItemKey, StoreError, Table, conditional_write, extension_partition,
    text,
};
use ringback_core::call::PushPlatform;
use ringback_core::ids::{DeviceId, Extension, SipAccountName};
use ringback_core::timestamp::Timestamp;

/// An app's installation on one phone. Without an address, no push goes to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The app's own name for it.
    pub device_id: DeviceId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apns_voip: Option<PushAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fcm: Option<PushAddress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    apns: Option<PushAddress>,
    /// When it was last registered.
    pub registered_at: Timestamp,
    /// Its own SIP account. `None` if it uses the account of its extension.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sip_account: Option<SipAccountName>,
    /// The id of the last registration, set by [`Devices::register`].
    registration: Uuid,
}

impl Device {
    /// A device to register, with these addresses. The last one of each push service counts.
    pub fn new(
        device_id: DeviceId,
        addresses: impl IntoIterator<Item = PushAddress>,
        registered_at: Timestamp,
    ) -> Self {
        let mut device = Self {
            device_id,
            apns_voip: None,
            fcm: None,
            apns: None,
            registered_at,
            sip_account: None,
            registration: Uuid::nil(),
        };
        for address in addresses {
            let slot = device.slot(address.platform);
            *slot = Some(address);
        }
        device
    }

    /// Its addresses, in the order in which a ring tries them.
    pub fn addresses(&self) -> impl Iterator<Item = &PushAddress> {
        [&self.apns_voip, &self.fcm, &self.apns]
            .into_iter()
            .flatten()
    }

    /// Whether a push can reach it.
    #[must_use]
    pub fn has_address(&self) -> bool {
        self.addresses().next().is_some()
    }

    fn address(&self, platform: PushPlatform) -> Option<&PushAddress> {
        self.addresses()
            .find(|address| address.platform == platform)
    }

    const fn slot(&mut self, platform: PushPlatform) -> &mut Option<PushAddress> {
        match platform {
            PushPlatform::ApnsVoip => &mut self.apns_voip,
            PushPlatform::Fcm => &mut self.fcm,
            PushPlatform::Apns => &mut self.apns,
        }
    }

    fn registered_as(mut self, registration: Uuid) -> Self {
        self.registration = registration;
        for platform in PushPlatform::ALL {
            if let Some(address) = self.slot(platform) {
                address.registration = registration;
            }
        }
        self
    }
}

/// What a registration does to the SIP account of its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SipAccountUpdate {
    /// The device keeps the account that it has, if any.
    Keep,
    /// The device gets an account.
    Set {
        /// The account.
        name: SipAccountName,
        /// The account that the device had when this one was made. If it has a third one now, another registration was faster.
        before: Option<SipAccountName>,
    },
    /// The device uses the account of its extension.
    Remove,
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

    /// The SIP account of a device. `None` if it uses the account of its extension. Reads no other attribute, so an item of another
    /// version is no error.
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
            .expression_attribute_values(":pk", text(extension_partition(extension)))
            .expression_attribute_values(":device", text("DEVICE#"))
            .consistent_read(consistent)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let items = answer.items.unwrap_or_default().into_iter();
        Ok(items.filter_map(readable).collect())
    }

    /// Registers a device, or updates its registration. Its addresses replace those of the same push services, and it takes them over
    /// from the devices that had them. If the extension then has more than `most` devices, the oldest are removed. Returns the
    /// addresses that no device uses any more.
    ///
    /// The device is written first, and the next registration repeats every later step. So after a failure or a concurrent
    /// registration, there are soon at most `most` devices again, and no two with one address. When one device sends several
    /// registrations at once, the latest one with an address of a push service wins, in any order of arrival.
    ///
    /// # Errors
    /// When the table cannot be written or read, or when another registration gives the device another SIP account at the same time.
    pub async fn register(
        &self,
        extension: &Extension,
        device: &Device,
        sip_account: &SipAccountUpdate,
        most: usize,
    ) -> Result<Vec<PushAddress>, StoreError> {
        // UUIDv7, which sort by time: a phone can send several registrations within a millisecond.
        let device = device.clone().registered_as(Uuid::now_v7());
        let (device, before) = self.write(extension, device, sip_account).await?;
        let take_over = device
            .addresses()
            .map(async |address| self.take_over(extension, &device, address).await);
        let (_, removed) =
            futures::try_join!(try_join_all(take_over), self.remove_oldest(extension, most))?;
        let replaced = before.iter().flat_map(Device::addresses).filter(|before| {
            let now = device.address(before.platform);
            now.is_some_and(|now| now.token != before.token)
        });
        let replaced = replaced.map(|address| (&device.device_id, address));
        let removed = removed.iter().flat_map(owned_addresses);
        self.release(extension, replaced.chain(removed)).await
    }

    /// Writes a device without those of its addresses that a later registration has replaced. Returns what it has written, and the
    /// device before that.
    async fn write(
        &self,
        extension: &Extension,
        mut device: Device,
        sip_account: &SipAccountUpdate,
    ) -> Result<(Device, Option<Device>), StoreError> {
        let doing = "registering a device";
        loop {
            let update = self.update(extension, &device, sip_account)?;
            let stored = match conditional_write(update.send().await, doing)? {
                ConditionalWrite::Written(answer) => {
                    return Ok((device, answer.attributes.and_then(readable)));
                }
                ConditionalWrite::ConditionFailed(stored) => stored.unwrap_or_default(),
            };
            let stored: Device =
                serde_dynamo::from_item(stored).map_err(StoreError::unreadable(doing))?;
            let replaced: Vec<_> = stored
                .addresses()
                .filter(|stored| device.address(stored.platform).is_some())
                .filter(|stored| stored.registration >= device.registration)
                .map(|stored| stored.platform)
                .collect();
            if replaced.is_empty() {
                let reason = "another registration has given the device another SIP account";
                return Err(StoreError::unavailable(doing)(reason));
            }
            for platform in replaced {
                *device.slot(platform) = None;
            }
        }
    }

    /// The update that writes a device, unless a later registration has written one of its addresses, or its SIP account is another
    /// one by now.
    fn update(
        &self,
        extension: &Extension,
        device: &Device,
        sip_account: &SipAccountUpdate,
    ) -> Result<UpdateItemFluentBuilder, StoreError> {
        let mut item: Item =
            serde_dynamo::to_item(device).map_err(StoreError::unreadable("writing a device"))?;
        let mut conditions: Vec<String> = device
            .addresses()
            .map(|address| is_later(&format!("{}.", address.platform.as_str())))
            .collect();
        if let SipAccountUpdate::Set { name, .. } = sip_account {
            item.insert("sip_account".to_owned(), text(name));
        }
        let set: Vec<String> = item
            .keys()
            .map(|name| format!("{name} = :{name}"))
            .collect();
        let mut expression = format!("SET {}", set.join(", "));
        if *sip_account == SipAccountUpdate::Remove {
            expression.push_str(" REMOVE sip_account");
        }
        let mut values: HashMap<_, _> = item
            .into_iter()
            .map(|(name, value)| (format!(":{name}"), value))
            .collect();
        if let SipAccountUpdate::Set { name, before } = sip_account {
            let before = before.as_ref().unwrap_or(name);
            values.insert(":before".to_owned(), text(before));
            conditions.push(
                "(attribute_not_exists(sip_account) OR sip_account IN (:sip_account, :before))"
                    .to_owned(),
            );
        }
        let update = self.table.update(device_key(extension, &device.device_id));
        Ok(update
            .update_expression(expression)
            .set_condition_expression((!conditions.is_empty()).then(|| conditions.join(" AND ")))
            .set_expression_attribute_values(Some(values))
            .return_values(ReturnValue::AllOld)
            .return_values_on_condition_check_failure(ReturnValuesOnConditionCheckFailure::AllOld))
    }

    /// Makes a device the owner of its address, and removes the address from the device that had it.
    async fn take_over(
        &self,
        extension: &Extension,
        device: &Device,
        address: &PushAddress,
    ) -> Result<(), StoreError> {
        let doing = "taking over a push address";
        let owner = AddressOwner::of(extension, &device.device_id, address);
        let item = serde_dynamo::to_item(&owner).map_err(StoreError::unreadable(doing))?;
        let put = self
            .table
            .put(address.owner_key(), item)
            .condition_expression(format!(
                "extension <> :extension OR device_id <> :device OR {}",
                is_later("")
            ))
            .expression_attribute_values(":extension", text(extension))
            .expression_attribute_values(":device", text(&device.device_id))
            .expression_attribute_values(":registration", text(address.registration))
            .return_values(ReturnValue::AllOld);
        let ConditionalWrite::Written(answer) = conditional_write(put.send().await, doing)? else {
            return Ok(());
        };
        let Some(previous) = answer.attributes else {
            return Ok(());
        };
        let previous: AddressOwner =
            serde_dynamo::from_item(previous).map_err(StoreError::unreadable(doing))?;
        if !previous.is_same_device(&owner)
            && self.remove_address(&previous, address.platform).await?
        {
            tracing::info!(extension = %previous.extension, device_id = %previous.device_id, to = %extension, "push address moved to another device");
        }
        Ok(())
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
        let removed = oldest.into_iter().map(async |device| {
            let delete = self
                .table
                .delete(device_key(extension, &device.device_id))
                .condition_expression(IS_SAME)
                .expression_attribute_values(":registration", text(device.registration));
            let removed = is_deleted(delete, "removing a device").await?;
            Ok(removed.then_some(device))
        });
        Ok(try_join_all(removed).await?.into_iter().flatten().collect())
    }

    /// Removes a device with all its addresses. A device that does not exist is no error. Returns the addresses that no device uses
    /// any more.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn remove(
        &self,
        extension: &Extension,
        device: &DeviceId,
    ) -> Result<Vec<PushAddress>, StoreError> {
        let doing = "removing a device";
        let delete = self.table.delete(device_key(extension, device));
        let answer = delete.return_values(ReturnValue::AllOld).send().await;
        let answer = answer.map_err(StoreError::unavailable(doing))?;
        let removed = answer.attributes.and_then(readable);
        self.release(extension, removed.iter().flat_map(owned_addresses))
            .await
    }

    /// Removes an address of a device after the push service has rejected it, unless the device has registered again meanwhile. The
    /// device stays.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn remove_unreachable(
        &self,
        extension: &Extension,
        device: &DeviceId,
        address: &PushAddress,
    ) -> Result<(), StoreError> {
        let owner = AddressOwner::of(extension, device, address);
        if self.remove_address(&owner, address.platform).await? {
            self.release(extension, [(device, address)]).await?;
        }
        Ok(())
    }

    /// Removes one address from its device. Returns whether the device still had it from the same registration.
    async fn remove_address(
        &self,
        owner: &AddressOwner,
        platform: PushPlatform,
    ) -> Result<bool, StoreError> {
        let platform = platform.as_str();
        let update = self
            .table
            .update(device_key(&owner.extension, &owner.device_id))
            .update_expression(format!("REMOVE {platform}"))
            .condition_expression(format!("{platform}.{IS_SAME}"))
            .expression_attribute_values(":registration", text(owner.registration));
        let doing = "removing a push address";
        Ok(conditional_write(update.send().await, doing)?.is_written())
    }

    /// Deletes the owners of these addresses. Returns the addresses that their device still owned.
    async fn release<'a>(
        &self,
        extension: &Extension,
        addresses: impl IntoIterator<Item = (&'a DeviceId, &'a PushAddress)>,
    ) -> Result<Vec<PushAddress>, StoreError> {
        let released = addresses.into_iter().map(async |(device_id, address)| {
            let delete = self
                .table
                .delete(address.owner_key())
                .condition_expression(format!(
                    "extension = :extension AND device_id = :device AND {IS_SAME}"
                ))
                .expression_attribute_values(":extension", text(extension))
                .expression_attribute_values(":device", text(device_id))
                .expression_attribute_values(":registration", text(address.registration));
            let released = is_deleted(delete, "releasing a push address").await?;
            Ok(released.then(|| address.clone()))
        });
        let released = try_join_all(released).await?;
        Ok(released.into_iter().flatten().collect())
    }
}

fn owned_addresses(device: &Device) -> impl Iterator<Item = (&DeviceId, &PushAddress)> {
    device
        .addresses()
        .map(|address| (&device.device_id, address))
}

fn device_key(extension: &Extension, device: &DeviceId) -> ItemKey {
    ItemKey::of_extension(extension, format!("DEVICE#{device}"))
}

/// Condition: no later registration has written the item, or the attribute that `of` names, such as `fcm.`.
fn is_later(of: &str) -> String {
    format!("(attribute_not_exists({of}registration) OR {of}registration < :registration)")
}

/// Condition: the item, or an attribute of it, belongs to this registration.
const IS_SAME: &str = "registration = :registration";

/// The device that owns a push address.
#[derive(Debug, Serialize, Deserialize)]
struct AddressOwner {
    extension: Extension,
    device_id: DeviceId,
    /// The registration that has brought the address.
    registration: Uuid,
}

impl AddressOwner {
    fn of(extension: &Extension, device_id: &DeviceId, address: &PushAddress) -> Self {
        Self {
            extension: extension.clone(),
            device_id: device_id.clone(),
            registration: address.registration,
        }
    }

    fn is_same_device(&self, other: &Self) -> bool {
        self.extension == other.extension && self.device_id == other.device_id
    }
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
