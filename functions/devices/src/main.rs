//! `PUT` and `DELETE /api/devices/{device_id}`: an app registers its device with its push addresses and gets a SIP account, or removes
//! it. `PUT /api/extensions/{extension}/do-not-disturb`: its person wants no calls until a given time.

use futures::future::try_join_all;
use ringback::api::do_not_disturb;
use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode, Request};
use ringback::api::registration::Registration;
use ringback::auth::{Bearer, Tokens};
use ringback::platform::config::ConfigError;
use ringback::platform::invocation::InvocationContext;
use ringback::push::sns::Sns;
use ringback::sip_provisioning::{NewSipAccount, SipProvisioning};
use ringback::start::Start;
use ringback::store::allowance::{Allowance, AllowanceError, Allowances, Purpose};
use ringback::store::devices::{Device, Devices, PushAddress, PushToken, SipAccountUpdate};
use ringback::store::sip_accounts::SipAccountJob;
use ringback_core::call::PushPlatform;
use ringback_core::ids::{DeviceId, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::json;

struct DeviceRegistry {
    devices: Devices,
    allowances: Allowances,
    allowance: Allowance,
    max_devices: usize,
    sns: Sns,
    tokens: Tokens,
    sip: SipProvisioning,
}

/// What a registration does to SIP accounts.
struct SipAccountChange {
    /// The device's new account or new password, if it asks for one.
    account: Option<NewSipAccount>,
    /// What the device's item says about its account afterwards.
    update: SipAccountUpdate,
    /// What the PBXs have to learn.
    jobs: Vec<SipAccountJob>,
}

impl DeviceRegistry {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let now = invocation.now;
        let header = request.header("authorization");
        let bearer = self.tokens.bearer(header, now).await?;
        if let Ok(extension) = request.path_parameter("extension") {
            let extension = Extension::try_from(extension)?;
            return self
                .do_not_disturb(&request, &bearer, &extension, now)
                .await;
        }
        let device_id = DeviceId::try_from(request.path_parameter("device_id")?)?;
        if request.method() == "DELETE" {
            return self.remove(&bearer, &device_id, now).await;
        }
        self.register(&request, &bearer, device_id, now).await
    }

    async fn do_not_disturb(
        &self,
        request: &Request,
        bearer: &Bearer,
        extension: &Extension,
        now: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let until = do_not_disturb::parse(request.body()?, now)?;
        let party = bearer.acting_for(extension);
        let extension = &party.ok_or(ApiErrorCode::NotYourExtension)?.extension;
        self.devices.set_do_not_disturb(extension, until).await?;
        tracing::info!(%extension, until = until.map(Timestamp::as_millis), "do-not-disturb set");
        Ok(ApiAnswer::ok(
            json!({ "extension": extension, "until": until }),
        ))
    }

    async fn remove(
        &self,
        bearer: &Bearer,
        device_id: &DeviceId,
        now: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let party = bearer.party().ok_or(ApiErrorCode::NoExtension)?;
        let devices = self.devices_with_accounts(&party.extension).await?;
        let this = devices.iter().filter(|it| it.device_id == *device_id);
        let jobs = self.sip.schedule(this, now).await?;
        let removed = self.devices.remove(&party.extension, device_id).await?;
        self.sip.finish(&jobs).await;
        self.delete_endpoints(removed).await;
        Ok(ApiAnswer::ok(json!({ "device_id": device_id })))
    }

    async fn register(
        &self,
        request: &Request,
        bearer: &Bearer,
        device_id: DeviceId,
        now: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        let registration = Registration::parse(request.body()?)?;
        let party = bearer.acting_for(&registration.extension);
        let party = party.ok_or(ApiErrorCode::NotYourExtension)?;
        self.take_allowance(&party.extension, now).await?;
        let addresses = registration
            .addresses
            .into_iter()
            .map(async |(platform, token)| self.address(platform, token).await);
        let addresses = try_join_all(addresses).await?;
        let change = self
            .sip_account(&party.extension, &device_id, registration.sip, now)
            .await?;
        let device = Device::new(device_id, addresses, now);
        let registered =
            self.devices
                .register(&party.extension, &device, &change.update, self.max_devices);
        let removed = registered.await?;
        tracing::info!(extension = %party.extension, device_id = %device.device_id, platforms = ?platforms(&device), sip_account = ?change.update, "device registered");
        self.sip.finish(&change.jobs).await;
        self.delete_endpoints(removed).await;
        let mut answer = json!({ "device_id": device.device_id, "extension": party.extension });
        if let Some(account) = &change.account {
            answer["sip"] = account.answer(self.sip.settings());
        }
        Ok(ApiAnswer::ok(answer))
    }

    /// Makes the account that the device asks for. Schedules the removal of the accounts that this registration may end: the
    /// device's own, if it wants none, and those of the devices that it may evict.
    async fn sip_account(
        &self,
        extension: &Extension,
        device_id: &DeviceId,
        sip: Option<bool>,
        now: Timestamp,
    ) -> Result<SipAccountChange, ApiError> {
        if sip == Some(true) && !self.sip.settings().are_offered() {
            return Err(ApiErrorCode::SipNotConfigured.into());
        }
        let (before, others): (Vec<_>, Vec<_>) = self
            .devices_with_accounts(extension)
            .await?
            .into_iter()
            .partition(|device| device.device_id == *device_id);
        let is_full = others.len() >= self.max_devices;
        let may_end = others.iter().filter(|_| is_full);
        let may_end = may_end.chain(before.iter().filter(|_| sip == Some(false)));
        let mut jobs = self.sip.schedule(may_end, now).await?;
        let (account, update) = match sip {
            None => (None, SipAccountUpdate::Keep),
            Some(false) => (None, SipAccountUpdate::Remove),
            Some(true) => {
                let before = before.first().and_then(|device| device.sip_account.clone());
                let prepared = self.sip.prepare(extension, device_id, before.as_ref(), now);
                let (account, its_jobs) = prepared.await?.ok_or(ApiErrorCode::TryAgain)?;
                jobs.extend(its_jobs);
                let name = account.name().clone();
                (Some(account), SipAccountUpdate::Set { name, before })
            }
        };
        Ok(SipAccountChange {
            account,
            update,
            jobs,
        })
    }

    /// The extension's devices, if they can have SIP accounts.
    async fn devices_with_accounts(&self, extension: &Extension) -> Result<Vec<Device>, ApiError> {
        if self.sip.settings().are_offered() {
            Ok(self.devices.latest_of(extension).await?)
        } else {
            Ok(Vec::new())
        }
    }

    /// Limits registrations, because one costs more requests to AWS than any other request of an app.
    async fn take_allowance(&self, extension: &Extension, now: Timestamp) -> Result<(), ApiError> {
        let purpose = Purpose::Registrations;
        let taken = self
            .allowances
            .take(extension, purpose, self.allowance, None, now);
        taken.await.map(|_| ()).map_err(|refused| match refused {
            AllowanceError::TooSoon(wait) => {
                ApiError::too_many(ApiErrorCode::TooManyRegistrations, "registrations", wait)
            }
            AllowanceError::Store(error) => error.into(),
        })
    }

    /// Deletes the SNS endpoints of removed addresses. No push goes to them any more, so a failure is only logged.
    async fn delete_endpoints(&self, addresses: Vec<PushAddress>) {
        for address in addresses {
            if let Err(error) = self.sns.delete_endpoint(&address).await {
                tracing::warn!(
                    endpoint = address.endpoint,
                    ?error,
                    "SNS endpoint not deleted"
                );
            }
        }
    }

    /// How a push reaches the device. Apple's services are reached through SNS. FCM is called directly, because it reports
    /// an unregistered token at once, unless the deployment has an SNS application for FCM.
    async fn address(
        &self,
        platform: PushPlatform,
        token: PushToken,
    ) -> Result<PushAddress, ApiError> {
        let endpoint = match platform {
            PushPlatform::Fcm if !self.sns.serves_fcm() => None,
            _ => Some(self.sns.endpoint_for(platform, &token).await?),
        };
        Ok(PushAddress::new(platform, token, endpoint))
    }
}

fn platforms(device: &Device) -> Vec<PushPlatform> {
    device.addresses().map(|address| address.platform).collect()
}

/// `MAX_DEVICES_PER_EXTENSION` (5): every call sends a push to each of them.
fn max_devices(start: &Start) -> Result<usize, ConfigError> {
    let max = start.environment.count("MAX_DEVICES_PER_EXTENSION", 5)?;
    Ok(usize::try_from(max).unwrap_or(usize::MAX))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = DeviceRegistry {
        devices: start.devices()?,
        allowances: start.allowances()?,
        allowance: Allowance::of_registrations(&start.environment)?,
        max_devices: max_devices(&start)?,
        sns: start.sns()?,
        tokens: start.tokens()?,
        sip: start.sip_provisioning()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
