//! SNS mobile push: FCM, APNs alerts and APNs VoIP through platform applications.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-send-custom-platform-specific-payloads-mobile-devices.html>

#[cfg(test)]
mod tests;

use std::collections::HashMap;

use aws_sdk_sns::Client;
use aws_sdk_sns::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::create_platform_endpoint::CreatePlatformEndpointError;
use aws_sdk_sns::operation::publish::PublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde_json::{Map, Value, json};

use super::push_message::{PushError, PushKind, PushMessage, RetryAfter};
use crate::platform::config::{ConfigError, Environment};
use crate::platform::lazy_client::LazyClient;
use crate::store::devices::{PushAddress, PushToken};
use crate::telemetry::metrics;
use ringback_core::call::PushPlatform;

/// SNS, with the platform applications of this deployment.
#[derive(Clone, Debug)]
pub struct Sns {
    client: LazyClient<Client>,
    applications: SnsApplications,
}

/// The ARNs of the deployment's platform applications, all of one region. It is another region than that of the deployment where SNS
/// has no mobile push.
///
/// <https://docs.aws.amazon.com/sns/latest/dg/sns-mobile-push-supported-regions.html>
#[derive(Clone, Debug, Default)]
pub struct SnsApplications {
    fcm: Option<String>,
    apns: Option<String>,
    apns_voip: Option<String>,
}

/// What SNS says about a platform application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApplicationState {
    /// Whether it sends pushes.
    pub is_enabled: bool,
    /// When Apple's certificate ends, in ISO 8601. `None` without one: FCM, and APNs with a key.
    pub certificate_ends: Option<String>,
}

/// Why no endpoint could be created for a device, or deleted.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// This deployment has no platform application for the device's platform.
    #[error("no platform application for {0:?} is configured")]
    NoApplication(PushPlatform),
    /// SNS says that the token is not one of this platform.
    #[error("SNS refused the token")]
    BadToken,
    /// SNS did not answer, or refused for another reason. A retry may help.
    #[error("SNS did not carry out the request")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why SNS did not accept a message.
enum PublishFailure {
    /// The endpoint does not exist.
    NoEndpoint,
    /// The endpoint is disabled.
    Disabled,
    /// Another reason.
    Other(PushError),
}

impl SnsApplications {
    /// Reads `SNS_FCM_APPLICATION_ARN`, `SNS_APNS_APPLICATION_ARN` and `SNS_APNS_VOIP_APPLICATION_ARN`. Each is optional.
    ///
    /// # Errors
    /// When they are of several regions.
    pub fn from_environment(environment: &Environment) -> Result<Self, ConfigError> {
        let this = Self {
            fcm: environment.optional("SNS_FCM_APPLICATION_ARN"),
            apns: environment.optional("SNS_APNS_APPLICATION_ARN"),
            apns_voip: environment.optional("SNS_APNS_VOIP_APPLICATION_ARN"),
        };
        if this.regions().any(|other| Some(other) != this.region()) {
            return Err(ConfigError::Invalid {
                name: "SNS_APNS_VOIP_APPLICATION_ARN",
                rule: "an application in the region of the other SNS applications",
            });
        }
        Ok(this)
    }

    /// The region of the applications, if there are any.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.regions().next()
    }

    fn regions(&self) -> impl Iterator<Item = &str> {
        let arns = [&self.fcm, &self.apns, &self.apns_voip];
        let arns = arns.into_iter().flatten();
        arns.filter_map(|arn| arn.split(':').nth(3))
    }

    fn of(&self, platform: PushPlatform) -> Result<&str, EndpointError> {
        let application = match platform {
            PushPlatform::Fcm => &self.fcm,
            PushPlatform::Apns => &self.apns,
            PushPlatform::ApnsVoip => &self.apns_voip,
        };
        let application = application.as_deref();
        application.ok_or(EndpointError::NoApplication(platform))
    }

    /// The endpoint that is known from the device's registration, if it belongs to these applications. Those of another region, or of
    /// an earlier application, do not.
    fn endpoint<'a>(&self, address: &'a PushAddress) -> Option<&'a str> {
        let application = self.of(address.platform).ok()?;
        let (region_and_account, name) = application.split_once(":app/")?;
        let endpoint = address.endpoint.as_deref()?;
        let path = endpoint.strip_prefix(region_and_account)?;
        path.contains(&format!("/{name}/")).then_some(endpoint)
    }
}

impl ApplicationState {
    fn of(attributes: &HashMap<String, String>) -> Self {
        Self {
            is_enabled: attributes
                .get("Enabled")
                .is_none_or(|value| value != "false"),
            certificate_ends: attributes.get("AppleCertificateExpirationDate").cloned(),
        }
    }
}

impl Sns {
    /// SNS in the region of these applications.
    #[must_use]
    pub fn new(client: impl Into<LazyClient<Client>>, applications: SnsApplications) -> Self {
        Self {
            client: client.into(),
            applications,
        }
    }

    /// The ARNs of the platform applications with what SNS says about each. `None`: it does not exist.
    ///
    /// # Errors
    /// When SNS does not answer, or refuses.
    pub async fn application_states(
        &self,
    ) -> Result<Vec<(String, Option<ApplicationState>)>, EndpointError> {
        let SnsApplications {
            fcm,
            apns,
            apns_voip,
        } = &self.applications;
        let mut states = Vec::new();
        for arn in [fcm, apns, apns_voip].into_iter().flatten() {
            let request = self.client.get_platform_application_attributes();
            let answer = request.platform_application_arn(arn).send().await;
            let state = match answer {
                Ok(answer) => Some(ApplicationState::of(&answer.attributes.unwrap_or_default())),
                Err(error) if error.code() == Some("NotFound") => None,
                Err(error) => return Err(EndpointError::Unavailable(error.into())),
            };
            states.push((arn.clone(), state));
        }
        Ok(states)
    }

    /// Whether this deployment reaches Android phones through SNS instead of FCM.
    #[must_use]
    pub const fn serves_fcm(&self) -> bool {
        self.applications.fcm.is_some()
    }

    /// Sends a message to a device. Success means that SNS accepted it, not that it was delivered.
    ///
    /// Creates the endpoint if this region has none. Enables a disabled one and tries once more: SNS disables an endpoint when its
    /// token is no longer valid, but also when the application's certificate or topic is wrong.
    ///
    /// # Errors
    /// [`PushError::AddressExpired`] when SNS refuses to create an endpoint for the token. [`PushError::Delayed`] when a later push may
    /// succeed.
    pub async fn send(
        &self,
        address: &PushAddress,
        message: &PushMessage,
    ) -> Result<(), PushError> {
        let PushAddress {
            platform, token, ..
        } = address;
        let mut endpoint = match self.applications.endpoint(address) {
            Some(endpoint) => endpoint.to_owned(),
            None => self.create_endpoint(*platform, token).await?,
        };
        match self.publish(*platform, &endpoint, message).await {
            Ok(()) => return Ok(()),
            Err(PublishFailure::NoEndpoint) => {
                endpoint = self.create_endpoint(*platform, token).await?;
            }
            Err(PublishFailure::Disabled) => {
                metrics::pushed(service(*platform), "disabled");
                tracing::warn!(%endpoint, "SNS had disabled the endpoint; enabling it and sending the push again");
                self.enable_endpoint(&endpoint, token).await?;
            }
            Err(PublishFailure::Other(error)) => return Err(error),
        }
        Ok(self.publish(*platform, &endpoint, message).await?)
    }

    async fn publish(
        &self,
        platform: PushPlatform,
        endpoint: &str,
        message: &PushMessage,
    ) -> Result<(), PublishFailure> {
        let mut request = self
            .client
            .publish()
            .target_arn(endpoint)
            .message_structure("json")
            .message(payload(platform, endpoint, message));
        for (name, value) in message_attributes(platform, endpoint, message) {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build();
            request = request.message_attributes(
                name,
                value.map_err(|error| {
                    PublishFailure::Other(PushError::NotAccepted(error.to_string()))
                })?,
            );
        }
        request.send().await.map(|_| ()).map_err(Into::into)
    }

    /// The enabled endpoint for a device token, which is created if necessary.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub async fn endpoint_for(
        &self,
        platform: PushPlatform,
        token: &PushToken,
    ) -> Result<String, EndpointError> {
        let endpoint = self.create_endpoint(platform, token).await?;
        self.enable_endpoint(&endpoint, token).await?;
        Ok(endpoint)
    }

    /// The endpoint for a device token, which is created if necessary. It may be disabled if it exists already.
    async fn create_endpoint(
        &self,
        platform: PushPlatform,
        token: &PushToken,
    ) -> Result<String, EndpointError> {
        let created = self
            .client
            .create_platform_endpoint()
            .platform_application_arn(self.applications.of(platform)?)
            .token(token.as_str())
            .send()
            .await;
        match created {
            Ok(created) => Ok(created.endpoint_arn.unwrap_or_default()),
            Err(error) => existing_endpoint(error),
        }
    }

    async fn enable_endpoint(
        &self,
        endpoint: &str,
        token: &PushToken,
    ) -> Result<(), EndpointError> {
        let enabled = self
            .client
            .set_endpoint_attributes()
            .endpoint_arn(endpoint)
            .attributes("Enabled", "true")
            .attributes("Token", token.as_str())
            .send()
            .await;
        enabled.map_err(|error| EndpointError::Unavailable(error.into()))?;
        Ok(())
    }

    /// Deletes the endpoint of an address that no device uses any more, if it is one of these applications. An endpoint that does not
    /// exist is no error.
    ///
    /// # Errors
    /// When SNS does not answer, or refuses.
    pub async fn delete_endpoint(&self, address: &PushAddress) -> Result<(), EndpointError> {
        let Some(endpoint) = self.applications.endpoint(address) else {
            return Ok(());
        };
        let deletion = self.client.delete_endpoint().endpoint_arn(endpoint);
        let deleted = deletion.send().await;
        deleted.map_err(|error| EndpointError::Unavailable(error.into()))?;
        Ok(())
    }
}

/// The service's name in logs and metrics.
#[must_use]
pub const fn service(platform: PushPlatform) -> &'static str {
    match platform {
        PushPlatform::Fcm => "sns/fcm",
        PushPlatform::Apns => "sns/apns",
        PushPlatform::ApnsVoip => "sns/apns_voip",
    }
}

impl From<SdkError<PublishError>> for PublishFailure {
    fn from(error: SdkError<PublishError>) -> Self {
        let (retry, description) = match error {
            SdkError::ServiceError(refused) => match refused.err() {
                PublishError::EndpointDisabledException(_) => return Self::Disabled,
                PublishError::NotFoundException(_) => return Self::NoEndpoint,
                // For a deleted endpoint, SNS is reported to answer this instead of `NotFound`: getmoto/moto issue 2333.
                other
                    if other
                        .message()
                        .is_some_and(|it| it.contains("No endpoint found")) =>
                {
                    return Self::NoEndpoint;
                }
                // Without the raw response that `refused` contains.
                other => {
                    let is_busy = refused.raw().status().is_server_error()
                        || refused.raw().status().as_u16() == 429
                        || other.code() == Some("Throttled");
                    let description = DisplayErrorContext(other).to_string();
                    (is_busy.then_some(RetryAfter::SERVER_ERROR), description)
                }
            },
            error => {
                let description = DisplayErrorContext(error).to_string();
                (Some(RetryAfter::NO_CONNECTION), description)
            }
        };
        Self::Other(match retry {
            Some(retry) => PushError::Delayed { retry, description },
            None => PushError::NotAccepted(description),
        })
    }
}

impl From<PublishFailure> for PushError {
    fn from(failure: PublishFailure) -> Self {
        let description = match failure {
            PublishFailure::NoEndpoint => "SNS does not find the new endpoint",
            PublishFailure::Disabled => "SNS has disabled the endpoint again",
            PublishFailure::Other(error) => return error,
        };
        Self::NotAccepted(description.to_owned())
    }
}

impl From<EndpointError> for PushError {
    fn from(error: EndpointError) -> Self {
        match error {
            EndpointError::BadToken => Self::AddressExpired,
            EndpointError::NoApplication(_) => Self::NotAccepted(error.to_string()),
            EndpointError::Unavailable(_) => Self::Delayed {
                retry: RetryAfter::SERVER_ERROR,
                description: DisplayErrorContext(error).to_string(),
            },
        }
    }
}

/// The endpoint that exists already, from the error of its creation.
///
/// If the token already has an endpoint with other attributes, SNS refuses to create one, and reports the existing
/// endpoint's ARN only in the text of the error. Of the other parameters that SNS may refuse, only the token comes from the app.
///
/// <https://docs.aws.amazon.com/sns/latest/dg/mobile-platform-endpoint.html>
fn existing_endpoint(
    error: SdkError<CreatePlatformEndpointError>,
) -> Result<String, EndpointError> {
    let service_error = error.as_service_error();
    let invalid = service_error.filter(|error| error.is_invalid_parameter_exception());
    let reason = invalid.and_then(ProvideErrorMetadata::message);
    let reason = reason.unwrap_or_default();
    if let Some((before, _)) = reason.split_once(" already exists with the same ")
        && let Some(endpoint) = before.rsplit(' ').next()
        && endpoint.starts_with("arn:")
    {
        return Ok(endpoint.to_owned());
    }
    if reason.contains("Invalid parameter: Token") {
        return Err(EndpointError::BadToken);
    }
    Err(EndpointError::Unavailable(error.into()))
}

/// The platform's name in the endpoint's ARN (`…:endpoint/APNS_VOIP_SANDBOX/…`). The message must use this name as its key.
/// It differs for development builds, which use the sandbox of APNs.
fn message_key(endpoint: &str) -> &str {
    endpoint.split('/').nth(1).unwrap_or_default()
}

fn payload(platform: PushPlatform, endpoint: &str, message: &PushMessage) -> String {
    let native = match platform {
        PushPlatform::Fcm => json!({
            "fcmV1Message": {
                "message": {
                    "data": message.data,
                    "android": {
                        "priority": "high",
                        "ttl": format!("{}s", message.ttl_seconds()),
                        "collapse_key": message.collapse_key,
                    },
                },
            },
        }),
        PushPlatform::Apns => with_data(json!({ "aps": aps(message) }), message),
        PushPlatform::ApnsVoip => with_data(json!({ "aps": {} }), message),
    };
    // SNS requires a `default` message, even if no platform uses it. The value for each platform is JSON in a string.
    let mut wrapped = Map::from_iter([("default".to_owned(), Value::from("call"))]);
    wrapped.insert(message_key(endpoint).to_owned(), native.to_string().into());
    Value::from(wrapped).to_string()
}

fn with_data(mut payload: Value, message: &PushMessage) -> Value {
    for (key, value) in &message.data {
        payload[key] = value.clone();
    }
    payload
}

/// Only a ring and a missed-call notice are alerts. Another end of the call is a background push, which no person sees.
fn aps(message: &PushMessage) -> Value {
    match message.kind {
        PushKind::IncomingCall => json!({
            "alert": { "title": "Incoming call", "body": message.data["caller_name"] },
            "sound": "default",
            "interruption-level": "time-sensitive",
        }),
        PushKind::CallCancelled(_) | PushKind::MissedCalls { .. } => message
            .missed_calls_alert()
            .unwrap_or_else(|| json!({ "content-available": 1 })),
    }
}

fn message_attributes(
    platform: PushPlatform,
    endpoint: &str,
    message: &PushMessage,
) -> Vec<(String, String)> {
    let ttl = message.ttl_seconds().to_string();
    let (push_type, priority) = match (platform, message.kind) {
        (PushPlatform::Fcm, _) => return vec![("AWS.SNS.MOBILE.FCM.TTL".to_owned(), ttl)],
        (PushPlatform::ApnsVoip, _) => ("voip", "10"),
        // Apple rejects a background push with another priority.
        (PushPlatform::Apns, PushKind::CallCancelled(_)) => ("background", "5"),
        (PushPlatform::Apns, PushKind::IncomingCall | PushKind::MissedCalls { .. }) => {
            ("alert", "10")
        }
    };
    let key = message_key(endpoint);
    vec![
        (
            "AWS.SNS.MOBILE.APNS.PUSH_TYPE".to_owned(),
            push_type.to_owned(),
        ),
        (
            "AWS.SNS.MOBILE.APNS.PRIORITY".to_owned(),
            priority.to_owned(),
        ),
        (
            "AWS.SNS.MOBILE.APNS.COLLAPSE_ID".to_owned(),
            message.collapse_key.clone(),
        ),
        (format!("AWS.SNS.MOBILE.{key}.TTL"), ttl),
    ]
}
