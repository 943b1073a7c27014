//! `PUT` and `DELETE /api/devices/{device_id}`: an app registers how a push reaches it.

use lambda_http::Request;
use lambda_http::http::Method;
use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode};
use ringback::api::registration::{PushPlatform, Registration};
use ringback::auth::Tokens;
use ringback::platform::config::ConfigError;
use ringback::platform::invocation::InvocationContext;
use ringback::push::sns::Sns;
use ringback::start::Start;
use ringback::store::allowance::{Allowance, AllowanceError, Allowances, Purpose};
use ringback::store::devices::{Device, Devices, PushAddress, SnsService};
use ringback_core::ids::{DeviceId, Extension};
use ringback_core::timestamp::Timestamp;
use serde_json::json;

struct DeviceRegistry {
    devices: Devices,
    allowances: Allowances,
    allowance: Allowance,
    most_devices: usize,
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
            let party = bearer.party().ok_or(ApiErrorCode::NoExtension)?;
            let address = self.devices.remove(&party.extension, &device_id).await?;
            self.delete_endpoints(address).await;
            return Ok(ApiAnswer::ok(json!({ "device_id": device_id })));
        }
        let registration = Registration::parse(http::body(&request)?)?;
        let party = bearer.acting_for(&registration.extension);
        let party = party.ok_or(ApiErrorCode::NotYourExtension)?;
        self.take_allowance(&party.extension, now).await?;
        let address = self
            .address(registration.platform, registration.token.into())
            .await?;
        let device = Device::new(device_id, address, now);
        let registered = self
            .devices
            .register(&party.extension, &device, self.most_devices);
        let gone = registered.await?;
        tracing::info!(extension = %party.extension, device_id = %device.device_id, via = ?device.address, "registered");
        self.delete_endpoints(gone).await;
        Ok(ApiAnswer::ok(
            json!({ "device_id": device.device_id, "extension": party.extension }),
        ))
    }

    /// A registration costs more requests than any other that apps make, to AWS's services too.
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

    /// Nobody pushes to them any more: one that is left over does no harm, and fails no request.
    async fn delete_endpoints(&self, addresses: impl IntoIterator<Item = PushAddress>) {
        for address in addresses {
            let PushAddress::Sns { endpoint, .. } = address else {
                continue;
            };
            if let Err(error) = self.sns.delete_endpoint(&endpoint).await {
                tracing::warn!(%endpoint, ?error, "an endpoint is left over at SNS");
            }
        }
    }

    /// Android goes to FCM directly, which tells at once when a token is dead, unless the deployment has an SNS
    /// application for it. Apple's services are reached through SNS.
    async fn address(
        &self,
        platform: PushPlatform,
        token: String,
    ) -> Result<PushAddress, ApiError> {
        let service = match platform {
            PushPlatform::Fcm if !self.sns.serves_fcm() => return Ok(PushAddress::Fcm { token }),
            PushPlatform::Fcm => SnsService::Fcm,
            PushPlatform::Apns => SnsService::Apns,
            PushPlatform::ApnsVoip => SnsService::ApnsVoip,
        };
        let endpoint = self.sns.endpoint_for(service, &token).await?;
        Ok(PushAddress::Sns { service, endpoint })
    }
}

/// `MAX_DEVICES_PER_EXTENSION`: each of them is pushed to when a call comes in.
fn most_devices(start: &Start) -> Result<usize, ConfigError> {
    let most = start.environment.count("MAX_DEVICES_PER_EXTENSION", 5)?;
    Ok(usize::try_from(most).unwrap_or(usize::MAX))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await;
    let this = DeviceRegistry {
        devices: start.devices()?,
        allowances: start.allowances()?,
        allowance: Allowance::of_registrations(&start.environment)?,
        most_devices: most_devices(&start)?,
        sns: start.sns(),
        tokens: start.tokens()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
