//! `PUT` and `DELETE /api/devices/{device_id}`: an app registers its device with its push addresses, or removes it.

use futures::future::try_join_all;
use lambda_http::Request;
use lambda_http::http::Method;
use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode};
use ringback::api::registration::Registration;
use ringback::auth::{Bearer, Tokens};
use ringback::platform::config::ConfigError;
use ringback::platform::invocation::InvocationContext;
use ringback::push::sns::Sns;
use ringback::start::Start;
use ringback::store::allowance::{Allowance, AllowanceError, Allowances, Purpose};
use ringback::store::devices::{Device, Devices, PushAddress, PushToken};
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
}

impl DeviceRegistry {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let now = invocation.now;
        let header = http::header(&request, "authorization");
        let bearer = self.tokens.bearer(header, now).await?;
        let device_id = DeviceId::try_from(http::path_parameter(&request, "device_id")?)?;
        if request.method() == Method::DELETE {
            return self.remove(&bearer, &device_id).await;
        }
        self.register(&request, &bearer, device_id, now).await
    }

    async fn remove(&self, bearer: &Bearer, device_id: &DeviceId) -> Result<ApiAnswer, ApiError> {
        let party = bearer.party().ok_or(ApiErrorCode::NoExtension)?;
        let removed = self.devices.remove(&party.extension, device_id).await?;
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
        let registration = Registration::parse(http::body(request)?)?;
        let party = bearer.acting_for(&registration.extension);
        let party = party.ok_or(ApiErrorCode::NotYourExtension)?;
        self.take_allowance(&party.extension, now).await?;
        let addresses = registration
            .addresses
            .into_iter()
            .map(async |(platform, token)| self.address(platform, token).await);
        let device = Device::new(device_id, try_join_all(addresses).await?, now);
        let registered = self
            .devices
            .register(&party.extension, &device, self.max_devices);
        let removed = registered.await?;
        tracing::info!(extension = %party.extension, device_id = %device.device_id, platforms = ?platforms(&device), "device registered");
        self.delete_endpoints(removed).await;
        Ok(ApiAnswer::ok(
            json!({ "device_id": device.device_id, "extension": party.extension }),
        ))
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
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await;
    let this = DeviceRegistry {
        devices: start.devices()?,
        allowances: start.allowances()?,
        allowance: Allowance::of_registrations(&start.environment)?,
        max_devices: max_devices(&start)?,
        sns: start.sns()?,
        tokens: start.tokens()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
