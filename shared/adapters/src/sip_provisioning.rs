//! Gives devices their SIP accounts, and makes each PBX hold exactly the accounts of the live devices.
//!
//! The table says which accounts are live. A PBX is made to match it account by account, as often as needed: after each
//! registration, and later for each job in the table ([`SipAccountJob`]). So a PBX that was unreachable, and a function that
//! crashed, leave nothing behind.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use futures::stream;
use serde_json::{Value, json};

use crate::asterisk::{Asterisk, AsteriskError, Pbx, SipServers};
use crate::platform::clock;
use crate::platform::config::{ConfigError, Environment};
use crate::store::StoreError;
use crate::store::devices::Device;
use crate::store::sip_accounts::{REALM, SipAccount, SipAccountJob, SipAccounts, SipPassword};
use ringback_core::ids::{DeviceId, Extension, PbxName, SipAccountName};
use ringback_core::timestamp::Timestamp;

/// How often an account is written to a PBX, if it changes meanwhile each time.
const TRIES: usize = 5;

/// How long a registration waits for the PBXs. A job does what is left over.
const INLINE_TIMEOUT: Duration = Duration::from_secs(4);

/// How many accounts are written to a PBX at the same time. Asterisk needs about 7 ms for a request.
const SYNCS_AT_ONCE: usize = 8;

/// Asterisk answers a change of its database before it has committed it, which it does about once a second (`main/db.c`).
const COMMITS_WITHIN: Duration = Duration::from_secs(3);

/// How many jobs are read at once.
const JOBS_AT_ONCE: i32 = 100;

/// How long a call waits for a PBX to say whether it has its accounts.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a PBX could not be made to match.
#[derive(Debug, thiserror::Error)]
pub enum SipProvisioningError {
    /// The PBX did not do it.
    #[error(transparent)]
    Asterisk(#[from] AsteriskError),
    /// The table did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The device registers again and again.
    #[error("the SIP account changes too often")]
    Unstable,
}

/// How accounts are made.
#[derive(Clone, Debug)]
pub struct SipAccountSettings {
    /// Where phones register.
    pub servers: SipServers,
    /// How long an account is valid.
    pub lifetime: Duration,
}

impl SipAccountSettings {
    /// `SIP_URIS`, and `SIP_ACCOUNT_SECONDS` (30 days).
    ///
    /// # Errors
    /// When one of them is invalid.
    pub fn from_environment(
        environment: &Environment,
        servers: SipServers,
    ) -> Result<Self, ConfigError> {
        const DAYS_30: u32 = 30 * 24 * 60 * 60;
        let seconds = environment.count("SIP_ACCOUNT_SECONDS", DAYS_30)?;
        Ok(Self {
            servers,
            lifetime: Duration::from_secs(seconds.into()),
        })
    }

    /// Whether devices can have accounts of their own.
    #[must_use]
    pub fn are_offered(&self) -> bool {
        !self.servers.as_slice().is_empty()
    }
}

/// An account that was made for a registration, and its password.
#[derive(Debug)]
pub struct NewSipAccount {
    account: SipAccount,
    password: SipPassword,
}

impl NewSipAccount {
    /// The account's name.
    #[must_use]
    pub const fn name(&self) -> &SipAccountName {
        &self.account.name
    }

    /// `sip` in the answer to the device.
    #[must_use]
    pub fn answer(&self, settings: &SipAccountSettings) -> Value {
        json!({
            "username": self.account.name,
            "password": self.password.expose(),
            "realm": REALM,
            "expires_at": self.account.valid_until,
            "servers": settings.servers.as_slice(),
        })
    }
}

/// Makes the PBXs match the table.
#[derive(Debug)]
pub struct SipProvisioning {
    accounts: SipAccounts,
    asterisk: Asterisk,
    settings: SipAccountSettings,
}

impl SipProvisioning {
    /// With these accounts, PBXs and settings.
    #[must_use]
    pub const fn new(
        accounts: SipAccounts,
        asterisk: Asterisk,
        settings: SipAccountSettings,
    ) -> Self {
        Self {
            accounts,
            asterisk,
            settings,
        }
    }

    /// The settings.
    #[must_use]
    pub const fn settings(&self) -> &SipAccountSettings {
        &self.settings
    }

    /// Makes an account for a device, or a new password for the account that it has, `before`. The account is live as soon as the device
    /// names it. The jobs are for [`SipProvisioning::finish`]. Returns `None` if another registration of the device is faster.
    ///
    /// # Errors
    /// When the table does not answer.
    pub async fn prepare(
        &self,
        extension: &Extension,
        device_id: &DeviceId,
        before: Option<&SipAccountName>,
        now: Timestamp,
    ) -> Result<Option<(NewSipAccount, Vec<SipAccountJob>)>, StoreError> {
        let current = match before {
            Some(name) => self.accounts.live(name, now).await?,
            None => None,
        };
        let name = current.map_or_else(|| SipAccountName::fresh(extension), |account| account.name);
        let valid_until = now + self.settings.lifetime;
        let (account, password) =
            SipAccount::new(name, extension.clone(), device_id.clone(), valid_until);
        let pbxs = self.pbx_names();
        let jobs = SipAccountJob::of_registration(&account.name, &pbxs, now);
        let saved = self.accounts.save(&account, &pbxs, &jobs).await?;
        Ok(saved.then_some((NewSipAccount { account, password }, jobs)))
    }

    /// Schedules that every PBX is made to match the accounts of these devices, which may be removed or lose their accounts now.
    /// Call it before the devices change, so that a crash between the two leaves no account behind.
    ///
    /// # Errors
    /// When the table does not answer.
    pub async fn schedule<'a>(
        &self,
        devices: impl IntoIterator<Item = &'a Device>,
        now: Timestamp,
    ) -> Result<Vec<SipAccountJob>, StoreError> {
        let pbxs = self.pbx_names();
        let names = devices
            .into_iter()
            .filter_map(|device| device.sip_account.as_ref());
        let jobs: Vec<SipAccountJob> = names
            .flat_map(|name| SipAccountJob::of_registration(name, &pbxs, now))
            .collect();
        if !jobs.is_empty() {
            self.accounts.schedule(&jobs).await?;
        }
        Ok(jobs)
    }

    /// Does the jobs after the devices have changed. They stay in the table, and are done again by [`SipProvisioning::catch_up`]: until
    /// Asterisk has committed a change to its database, a crash of the PBX undoes it.
    pub async fn finish(&self, jobs: &[SipAccountJob]) {
        let pbxs = self.asterisk.pbxs().iter().map(async |pbx| {
            for job in jobs.iter().filter(|job| job.pbx == *pbx.name()) {
                if !self.try_job(pbx, job).await {
                    return;
                }
            }
        });
        // The remaining jobs are in the table.
        let _all_done = tokio::time::timeout(INLINE_TIMEOUT, join_all(pbxs)).await;
    }

    /// Makes a PBX match the account of a job. Returns whether that succeeded.
    async fn try_job(&self, pbx: &Pbx, job: &SipAccountJob) -> bool {
        let done = self.sync(pbx, &job.account).await;
        if let Err(error) = &done {
            tracing::warn!(pbx = %pbx.name(), account = %job.account, %error, "SIP account not updated on the PBX; a later run repeats it");
        }
        done.is_ok()
    }

    /// Makes a PBX match an account. The account may change meanwhile, so it is read again afterwards: of several processes, the
    /// last one to write has seen the last change.
    ///
    /// # Errors
    /// When the table or the PBX does not answer.
    pub async fn sync(&self, pbx: &Pbx, name: &SipAccountName) -> Result<(), SipProvisioningError> {
        let mut account = self.accounts.live(name, clock::now()).await?;
        for _ in 0..TRIES {
            match &account {
                Some(live) => {
                    let media = self.settings.servers.media();
                    pbx.put_sip_account(live, media).await?;
                }
                None => pbx.delete_sip_account(name).await?,
            }
            let now_live = self.accounts.live(name, clock::now()).await?;
            if now_live == account {
                return Ok(());
            }
            account = now_live;
        }
        Err(SipProvisioningError::Unstable)
    }

    /// The PBXs.
    #[must_use]
    pub const fn asterisk(&self) -> &Asterisk {
        &self.asterisk
    }

    /// Makes every PBX match the table where it may differ: does the jobs that are due, and writes all accounts to a PBX that has
    /// lost its database. Each job is done twice, because a crash of the PBX may undo the first time. What does not succeed until `until` is left to the next run.
    pub async fn catch_up(&self, now: Timestamp, until: Timestamp) {
        let pbxs = self.asterisk.pbxs().iter().map(async |pbx| {
            if let Err(error) = self.catch_up_with(pbx, now).await {
                tracing::warn!(pbx = %pbx.name(), %error, "SIP accounts not updated on the PBX; the next run repeats it");
            }
        });
        let time = until.since(clock::now());
        if tokio::time::timeout(time, join_all(pbxs)).await.is_err() {
            tracing::warn!("more SIP accounts than one run can update; the next run continues");
        }
    }

    async fn catch_up_with(&self, pbx: &Pbx, now: Timestamp) -> Result<(), SipProvisioningError> {
        if !pbx.has_sip_accounts().await? {
            let names = self.accounts.all().await?;
            tracing::warn!(pbx = %pbx.name(), accounts = names.len(), "the PBX has no SIP accounts; writing all of them");
            let syncs = stream::iter(&names).map(|name| self.sync(pbx, name));
            let mut syncs = syncs.buffer_unordered(SYNCS_AT_ONCE);
            while let Some(synced) = syncs.next().await {
                synced?;
            }
            pbx.mark_sip_accounts().await?;
        }
        loop {
            let jobs = self.accounts.due(pbx.name(), now, JOBS_AT_ONCE).await?;
            if jobs.is_empty() {
                return Ok(());
            }
            let first = stream::iter(&jobs).map(|job| self.try_job(pbx, job));
            let first: Vec<bool> = first.buffered(SYNCS_AT_ONCE).collect().await;
            tokio::time::sleep(COMMITS_WITHIN).await;
            let synced = jobs.iter().zip(&first).filter(|(_, synced)| **synced);
            let again = stream::iter(synced).map(async |(job, _)| {
                if self.try_job(pbx, job).await {
                    self.accounts.done(job).await?;
                }
                Ok::<_, SipProvisioningError>(())
            });
            let mut again = again.buffer_unordered(SYNCS_AT_ONCE);
            while let Some(done) = again.next().await {
                done?;
            }
            if first.contains(&false) {
                return Ok(());
            }
        }
    }

    /// Before a call rings on these devices: writes their accounts to a PBX that has lost its database. Their phones register as soon
    /// as a push wakes them, which may be before the next [`SipProvisioning::catch_up`].
    pub async fn restore(&self, pbx: &Pbx, devices: &[Device]) {
        let names: Vec<_> = devices
            .iter()
            .filter_map(|device| device.sip_account.as_ref())
            .collect();
        if names.is_empty() {
            return;
        }
        let looked_up = tokio::time::timeout(LOOKUP_TIMEOUT, pbx.has_sip_accounts()).await;
        if !matches!(looked_up, Ok(Ok(false))) {
            return;
        }
        tracing::warn!(pbx = %pbx.name(), accounts = names.len(), "the PBX has no SIP accounts; writing those of the called devices");
        for synced in join_all(names.into_iter().map(|name| self.sync(pbx, name))).await {
            if let Err(error) = synced {
                tracing::warn!(pbx = %pbx.name(), %error, "SIP account not written to the PBX");
            }
        }
    }

    fn pbx_names(&self) -> Vec<PbxName> {
        let pbxs = self.asterisk.pbxs().iter();
        pbxs.map(|pbx| pbx.name().clone()).collect()
    }
}
