//! The SIP accounts of devices, and what each PBX still has to learn about them.
//!
//! Items: `pk` = `SIP-ACCOUNTS`, `sk` = the account's name is an account. It is live while it is valid and its device names it
//! ([`Device::sip_account`](crate::store::devices::Device)), so the write of the device is what creates or removes it.
//!
//! `pk` = `PBX#{name}`, `sk` = `{due}#{account}` is a job: from this moment on, the PBX may differ from the account. Jobs are
//! written before the device changes. If the process crashes, the job makes the PBX match the table later.

use std::fmt;
use std::time::Duration;

use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
use futures::future::try_join_all;
use md5::{Digest, Md5};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::table::{
    Item, ItemKey, StoreError, Table, TransactionOutcome, expiry, text, transaction_outcome,
};
use ringback_core::ids::{DeviceId, Extension, PbxName, SipAccountName};
use ringback_core::timestamp::Timestamp;

/// The realm of all accounts. The digest of a password contains it, so it is the same on all PBXs.
pub const REALM: &str = "ringback";

/// The partition of all accounts.
const ACCOUNTS: &str = "SIP-ACCOUNTS";

/// A job of a registration is due after this time. It is longer than the timeout of the function that registers devices, so the
/// function has done the job itself by then, or has crashed.
const REGISTRATION_LASTS: Duration = Duration::from_secs(60);

/// The end of an account is due at the next multiple of this time. So the jobs of an app that registers at each start share items.
const EXPIRY_STEP: Duration = Duration::from_secs(10 * 60);

/// An account stays in the table for this long after its end, so that clocks may differ.
const ACCOUNT_KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// A job of a PBX that never answers, for example because it was removed, is deleted after this time.
const JOB_KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The maximum number of writes in a transaction.
const TRANSACTION_WRITES: usize = 100;

/// The SIP account of one device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SipAccount {
    /// The SIP user name.
    pub name: SipAccountName,
    /// The extension of its device.
    pub extension: Extension,
    /// Its device.
    pub device_id: DeviceId,
    /// What a PBX needs to check the password.
    pub password_digest: PasswordDigest,
    /// When it ends, unless the device registers again.
    pub valid_until: Timestamp,
    /// The registration that made this password (UUIDv7, so a later one is greater).
    pub registration: Uuid,
}

/// A password of an account, which only the device knows. `Debug` hides it.
pub struct SipPassword(String);

/// A password's digest, as PJSIP's `password_digest` takes it: `MD5:` and HA1 of RFC 7616. It is as good as the password, so `Debug`
/// hides it. MD5, because many SIP phones support no other algorithm.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PasswordDigest(String);

/// A job: make `pbx` match `account`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipAccountJob {
    /// The PBX.
    pub pbx: PbxName,
    /// The account.
    pub account: SipAccountName,
    /// When the job is due.
    due: Timestamp,
}

impl SipAccount {
    /// An account with a new password, or a new password of an account.
    #[must_use]
    pub fn new(
        name: SipAccountName,
        extension: Extension,
        device_id: DeviceId,
        valid_until: Timestamp,
    ) -> (Self, SipPassword) {
        // 244 random bits.
        let password = format!("{}{}", Uuid::new_v4().simple(), Uuid::new_v4().simple());
        let ha1 = Md5::digest(format!("{name}:{REALM}:{password}"));
        let hex: String = ha1.iter().map(|byte| format!("{byte:02x}")).collect();
        let account = Self {
            name,
            extension,
            device_id,
            password_digest: PasswordDigest(format!("MD5:{hex}")),
            valid_until,
            registration: Uuid::now_v7(),
        };
        (account, SipPassword(password))
    }
}

impl SipPassword {
    /// The password, for the answer to the device.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for SipPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SipPassword(…)")
    }
}

impl PasswordDigest {
    /// The digest, for a PBX.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PasswordDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordDigest(…)")
    }
}

impl SipAccountJob {
    /// Jobs for all these PBXs, in case the registration that changes the account at `now` crashes.
    #[must_use]
    pub fn of_registration(
        account: &SipAccountName,
        pbxs: &[PbxName],
        now: Timestamp,
    ) -> Vec<Self> {
        Self::on_each(account, pbxs, now + REGISTRATION_LASTS)
    }

    fn of_expiry(account: &SipAccount, pbxs: &[PbxName]) -> Vec<Self> {
        let step = u64::try_from(EXPIRY_STEP.as_millis()).unwrap_or(u64::MAX);
        let due = account.valid_until.as_millis().div_ceil(step) * step;
        Self::on_each(&account.name, pbxs, Timestamp::from_millis(due))
    }

    fn on_each(account: &SipAccountName, pbxs: &[PbxName], due: Timestamp) -> Vec<Self> {
        let job = |pbx: &PbxName| Self {
            pbx: pbx.clone(),
            account: account.clone(),
            due,
        };
        pbxs.iter().map(job).collect()
    }

    fn key(&self) -> ItemKey {
        let due = self.due.as_millis();
        ItemKey::new(partition(&self.pbx), format!("{due:013}#{}", self.account))
    }

    fn read(pbx: &PbxName, item: &Item) -> Option<Self> {
        let sk = item.get("sk")?.as_s().ok()?;
        let (due, account) = sk.split_once('#')?;
        Some(Self {
            pbx: pbx.clone(),
            account: SipAccountName::try_from(account).ok()?,
            due: Timestamp::from_millis(due.parse().ok()?),
        })
    }
}

/// The accounts in the table.
#[derive(Clone, Debug)]
pub struct SipAccounts {
    table: Table,
}

impl SipAccounts {
    /// The accounts in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Writes an account with the jobs of its end and these other jobs, all at once. Returns `false` if a later registration has
    /// written the account.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn save(
        &self,
        account: &SipAccount,
        pbxs: &[PbxName],
        jobs: &[SipAccountJob],
    ) -> Result<bool, StoreError> {
        let doing = "saving a SIP account";
        let item: Item = serde_dynamo::to_item(account).map_err(StoreError::unreadable(doing))?;
        let mut item = item;
        item.extend(account_key(&account.name).into_item());
        item.insert(
            "expires_at".to_owned(),
            expiry(account.valid_until + ACCOUNT_KEPT_FOR),
        );
        let put = Put::builder()
            .table_name(self.table.name())
            .set_item(Some(item))
            .condition_expression(
                "attribute_not_exists(pk) OR (registration < :registration AND device_id = :device AND extension = :extension)",
            )
            .expression_attribute_values(":registration", text(account.registration))
            .expression_attribute_values(":device", text(account.device_id.as_str()))
            .expression_attribute_values(":extension", text(account.extension.as_str()))
            .build()
            .map_err(StoreError::unavailable(doing))?;
        let mut writes = vec![TransactWriteItem::builder().put(put).build()];
        for job in jobs.iter().chain(&SipAccountJob::of_expiry(account, pbxs)) {
            writes.push(self.put_job(job, doing)?);
        }
        self.write(writes, doing).await
    }

    /// Writes jobs.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn schedule(&self, jobs: &[SipAccountJob]) -> Result<(), StoreError> {
        let doing = "scheduling jobs of SIP accounts";
        let chunks = jobs.chunks(TRANSACTION_WRITES).map(async |jobs| {
            let puts = jobs.iter().map(|job| self.put_job(job, doing));
            if self.write(puts.collect::<Result<_, _>>()?, doing).await? {
                Ok(())
            } else {
                Err(StoreError::unavailable(doing)(
                    "another transaction writes the same jobs",
                ))
            }
        });
        try_join_all(chunks).await.map(|_| ())
    }

    /// The account, if it is live at `now`.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn live(
        &self,
        name: &SipAccountName,
        now: Timestamp,
    ) -> Result<Option<SipAccount>, StoreError> {
        let doing = "reading a SIP account";
        let Some(item) = self.item(account_key(name), doing).await? else {
            return Ok(None);
        };
        let account: SipAccount =
            serde_dynamo::from_item(item).map_err(StoreError::unreadable(doing))?;
        if account.valid_until <= now {
            return Ok(None);
        }
        let device =
            ItemKey::of_extension(&account.extension, format!("DEVICE#{}", account.device_id));
        let device = self.item(device, doing).await?.unwrap_or_default();
        let named = device.get("sip_account").and_then(|it| it.as_s().ok());
        Ok(Some(account).filter(|account| named.is_some_and(|it| it == account.name.as_str())))
    }

    /// The names of all accounts, live or not.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn all(&self) -> Result<Vec<SipAccountName>, StoreError> {
        let doing = "listing all SIP accounts";
        let query = self
            .table
            .query()
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(ACCOUNTS))
            .projection_expression("sk")
            .consistent_read(true)
            .into_paginator()
            .items()
            .send();
        let items: Vec<Item> = query
            .collect::<Result<_, _>>()
            .await
            .map_err(StoreError::unavailable(doing))?;
        let names = items.iter().filter_map(|item| item.get("sk")?.as_s().ok());
        Ok(names
            .filter_map(|name| SipAccountName::try_from(name.as_str()).ok())
            .collect())
    }

    /// The jobs of a PBX that are due at `now`, the oldest first, `most` at most.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn due(
        &self,
        pbx: &PbxName,
        now: Timestamp,
        most: i32,
    ) -> Result<Vec<SipAccountJob>, StoreError> {
        let doing = "reading the jobs of a PBX";
        let read = self
            .table
            .query()
            .key_condition_expression("pk = :pk AND sk < :next")
            .expression_attribute_values(":pk", text(partition(pbx)))
            .expression_attribute_values(":next", text(format!("{:013}", now.as_millis() + 1)))
            .consistent_read(true)
            .limit(most)
            .send();
        let answer = read.await.map_err(StoreError::unavailable(doing))?;
        let items = answer.items.unwrap_or_default();
        Ok(items
            .iter()
            .filter_map(|item| SipAccountJob::read(pbx, item))
            .collect())
    }

    /// Deletes a job that is done.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn done(&self, job: &SipAccountJob) -> Result<(), StoreError> {
        let doing = "deleting a job of a PBX";
        let delete = self.table.delete(job.key()).send();
        delete.await.map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    fn put_job(
        &self,
        job: &SipAccountJob,
        doing: &'static str,
    ) -> Result<TransactWriteItem, StoreError> {
        let put = Put::builder()
            .table_name(self.table.name())
            .set_item(Some(job.key().into_item()))
            .item("expires_at", expiry(job.due + JOB_KEPT_FOR))
            .build()
            .map_err(StoreError::unavailable(doing))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }

    /// Returns whether all conditions held. A transaction on the same items at the same time counts as an unavailable table.
    async fn write(
        &self,
        writes: Vec<TransactWriteItem>,
        doing: &'static str,
    ) -> Result<bool, StoreError> {
        let request = self.table.client().transact_write_items();
        let sent = request.set_transact_items(Some(writes)).send().await;
        Ok(transaction_outcome(sent, doing)? == TransactionOutcome::Written)
    }

    async fn item(&self, key: ItemKey, doing: &'static str) -> Result<Option<Item>, StoreError> {
        let read = self.table.get(key).consistent_read(true).send();
        Ok(read.await.map_err(StoreError::unavailable(doing))?.item)
    }
}

fn account_key(name: &SipAccountName) -> ItemKey {
    ItemKey::new(ACCOUNTS, name.as_str())
}

fn partition(pbx: &PbxName) -> String {
    format!("PBX#{pbx}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> (SipAccount, SipPassword) {
        let extension = Extension::try_from("1001").unwrap();
        let name = SipAccountName::fresh(&extension);
        let device = DeviceId::try_from("pixel").unwrap();
        SipAccount::new(
            name,
            extension,
            device,
            Timestamp::from_millis(1_000_000_000_001),
        )
    }

    #[test]
    fn only_the_device_gets_the_password_and_no_log_gets_the_digest() {
        let (account, password) = account();
        let ha1 = Md5::digest(format!("{}:ringback:{}", account.name, password.expose()));
        let hex = ha1.iter().map(|byte| format!("{byte:02x}"));
        let digest = format!("MD5:{}", hex.collect::<String>());
        assert_eq!(account.password_digest.expose(), digest);
        let shown = format!("{account:?} {password:?}");
        assert!(!shown.contains(password.expose()) && !shown.contains(&digest));
    }

    #[test]
    fn each_account_and_each_registration_has_secrets_of_its_own() {
        let (one, two) = (account(), account());
        assert_ne!(one.0.name, two.0.name);
        assert_ne!(one.1.expose(), two.1.expose());
        assert!(one.0.registration < two.0.registration);
    }

    #[test]
    fn a_job_is_read_as_written_and_the_end_of_an_account_is_due_after_it() {
        let (account, _) = account();
        let pbxs = ["a", "b"].map(|name| PbxName::try_from(name).unwrap());
        let jobs = SipAccountJob::of_expiry(&account, &pbxs);
        assert_eq!(jobs.len(), 2);
        for (job, pbx) in jobs.iter().zip(&pbxs) {
            let item = job.key().into_item();
            assert_eq!(item["pk"], text(format!("PBX#{pbx}")));
            assert_eq!(SipAccountJob::read(pbx, &item).as_ref(), Some(job));
            let late = job.due.since(account.valid_until);
            assert!(job.due >= account.valid_until && late < EXPIRY_STEP);
        }
    }
}
