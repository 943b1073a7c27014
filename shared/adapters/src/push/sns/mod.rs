//! SNS mobile push: FCM, APNs alerts and APNs VoIP through platform applications.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-send-custom-platform-specific-payloads-mobile-devices.html>

#[cfg(test)]
mod tests;

use aws_sdk_sns::Client;
use aws_sdk_sns::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::create_platform_endpoint::CreatePlatformEndpointError;
use aws_sdk_sns::operation::publish::PublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde_json::{Map, Value, json};

use super::push_message::{PushError, PushKind, PushMessage, RetryAfter};
use crate::platform::config::Environment;
use crate::platform::lazy_client::LazyClient;
use crate::store::devices::SnsService;
use ringback_core::call::CancelReason;

/// SNS, with the platform applications of this deployment.
#[derive(Clone, Debug)]
pub struct Sns {
    client: LazyClient<Client>,
    fcm_application: Option<String>,
    apns_application: Option<String>,
    apns_voip_application: Option<String>,
}

/// Why no endpoint could be created for a device, or deleted.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// This deployment has no platform application for the device's platform.
    #[error("no platform application for {0:?} is configured")]
    NoApplication(SnsService),
    /// SNS says that the token is not one of this platform.
    #[error("SNS refused the token")]
    BadToken,
    /// SNS did not answer, or refused for another reason. A retry may help.
    #[error("SNS did not carry out the request")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Sns {
    /// Reads `SNS_FCM_APPLICATION_ARN`, `SNS_APNS_APPLICATION_ARN` and `SNS_APNS_VOIP_APPLICATION_ARN`. Each is optional.
    #[must_use]
    pub fn from_environment(
        client: impl Into<LazyClient<Client>>,
        environment: &Environment,
    ) -> Self {
        Self {
            client: client.into(),
            fcm_application: environment.optional("SNS_FCM_APPLICATION_ARN"),
            apns_application: environment.optional("SNS_APNS_APPLICATION_ARN"),
            apns_voip_application: environment.optional("SNS_APNS_VOIP_APPLICATION_ARN"),
        }
    }

    /// Whether this deployment reaches Android phones through SNS instead of FCM.
    #[must_use]
    pub const fn serves_fcm(&self) -> bool {
        self.fcm_application.is_some()
    }

    /// Sends a message to one endpoint. Success means that SNS accepted it, not that it was delivered.
    ///
    /// # Errors
    /// [`PushError::AddressExpired`] when the endpoint is disabled or deleted. SNS disables an endpoint when its token is no
    /// longer valid. [`PushError::Delayed`] when a later push may succeed.
    pub async fn publish(
        &self,
        service: SnsService,
        endpoint: &str,
        message: &PushMessage,
    ) -> Result<(), PushError> {
        let mut request = self
            .client
            .publish()
            .target_arn(endpoint)
            .message_structure("json")
            .message(payload(service, endpoint, message));
        for (name, value) in message_attributes(service, endpoint, message) {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build();
            request = request.message_attributes(
                name,
                value.map_err(|error| PushError::NotAccepted(error.to_string()))?,
            );
        }
        let Err(error) = request.send().await else {
            return Ok(());
        };
        let (retry, description) = match error {
            SdkError::ServiceError(refused) => match refused.err() {
                PublishError::EndpointDisabledException(_) | PublishError::NotFoundException(_) => {
                    return Err(PushError::AddressExpired);
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
        Err(match retry {
            Some(retry) => PushError::Delayed { retry, description },
            None => PushError::NotAccepted(description),
        })
    }

    /// The endpoint for a device token. Creates it if necessary, and enables it again if SNS had disabled it.
    ///
    /// # Errors
    /// See [`EndpointError`].
    pub async fn endpoint_for(
        &self,
        service: SnsService,
        token: &str,
    ) -> Result<String, EndpointError> {
        let application = match service {
            SnsService::Fcm => &self.fcm_application,
            SnsService::Apns => &self.apns_application,
            SnsService::ApnsVoip => &self.apns_voip_application,
        };
        let application = application
            .as_ref()
            .ok_or(EndpointError::NoApplication(service))?;
        let created = self
            .client
            .create_platform_endpoint()
            .platform_application_arn(application)
            .token(token)
            .send()
            .await;
        let endpoint = match created {
            Ok(created) => created.endpoint_arn.unwrap_or_default(),
            Err(error) => existing_endpoint(error)?,
        };
        self.client
            .set_endpoint_attributes()
            .endpoint_arn(&endpoint)
            .attributes("Enabled", "true")
            .attributes("Token", token)
            .send()
            .await
            .map_err(|error| EndpointError::Unavailable(error.into()))?;
        Ok(endpoint)
    }

    /// Deletes an endpoint. An endpoint that does not exist is no error.
    ///
    /// # Errors
    /// When SNS does not answer, or refuses.
    pub async fn delete_endpoint(&self, endpoint: &str) -> Result<(), EndpointError> {
        let deletion = self.client.delete_endpoint().endpoint_arn(endpoint);
        let deleted = deletion.send().await;
        deleted.map_err(|error| EndpointError::Unavailable(error.into()))?;
        Ok(())
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
fn platform(service: SnsService, endpoint: &str) -> &str {
    let from_arn = endpoint.split('/').nth(1);
    from_arn.unwrap_or(match service {
        SnsService::Fcm => "GCM",
        SnsService::Apns => "APNS",
        SnsService::ApnsVoip => "APNS_VOIP",
    })
}

fn payload(service: SnsService, endpoint: &str, message: &PushMessage) -> String {
    let native = match service {
        SnsService::Fcm => json!({
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
        SnsService::Apns => with_data(json!({ "aps": alert(message) }), message),
        SnsService::ApnsVoip => with_data(json!({ "aps": {} }), message),
    };
    // SNS requires a `default` message, even if no platform uses it. The value for each platform is JSON in a string.
    let mut wrapped = Map::from_iter([("default".to_owned(), Value::from("call"))]);
    wrapped.insert(
        platform(service, endpoint).to_owned(),
        native.to_string().into(),
    );
    Value::from(wrapped).to_string()
}

fn with_data(mut payload: Value, message: &PushMessage) -> Value {
    for (key, value) in &message.data {
        payload[key] = value.clone();
    }
    payload
}

fn alert(message: &PushMessage) -> Value {
    let caller = &message.data["caller_name"];
    match message.kind {
        PushKind::IncomingCall => json!({
            "alert": { "title": "Incoming call", "body": caller },
            "sound": "default",
            "interruption-level": "time-sensitive",
        }),
        PushKind::CallCancelled(reason) => {
            let title = match reason {
                CancelReason::CallerHungUp | CancelReason::Timeout => "Missed call",
                CancelReason::AnsweredElsewhere => "Answered elsewhere",
                CancelReason::DeclinedElsewhere => "Declined elsewhere",
            };
            json!({ "alert": { "title": title, "body": caller }, "content-available": 1 })
        }
    }
}

fn message_attributes(
    service: SnsService,
    endpoint: &str,
    message: &PushMessage,
) -> Vec<(String, String)> {
    let ttl = message.ttl_seconds().to_string();
    let (push_type, platform) = match service {
        SnsService::Fcm => return vec![("AWS.SNS.MOBILE.FCM.TTL".to_owned(), ttl)],
        SnsService::Apns => ("alert", platform(service, endpoint)),
        SnsService::ApnsVoip => ("voip", platform(service, endpoint)),
    };
    vec![
        (
            "AWS.SNS.MOBILE.APNS.PUSH_TYPE".to_owned(),
            push_type.to_owned(),
        ),
        ("AWS.SNS.MOBILE.APNS.PRIORITY".to_owned(), "10".to_owned()),
        (
            "AWS.SNS.MOBILE.APNS.COLLAPSE_ID".to_owned(),
            message.collapse_key.clone(),
        ),
        (format!("AWS.SNS.MOBILE.{platform}.TTL"), ttl),
    ]
}
