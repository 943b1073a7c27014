//! SNS mobile push: FCM, APNs alerts and APNs VoIP through platform applications.
//!
//! <https://docs.aws.amazon.com/sns/latest/dg/sns-send-custom-platform-specific-payloads-mobile-devices.html>

#[cfg(test)]
mod tests;

use aws_sdk_sns::Client;
use aws_sdk_sns::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sns::operation::create_platform_endpoint::CreatePlatformEndpointError;
use aws_sdk_sns::operation::publish::PublishError;
use aws_sdk_sns::types::MessageAttributeValue;
use serde_json::{Map, Value, json};

use super::message::{Kind, Message, PushError};
use crate::platform::config::Environment;
use crate::platform::lazy_client::LazyClient;
use crate::store::devices::SnsService;
use ringback_core::call::CancelReason;

/// SNS, and the platform applications that this deployment has.
#[derive(Clone, Debug)]
pub struct Sns {
    client: LazyClient<Client>,
    fcm_application: Option<String>,
    apns_application: Option<String>,
    apns_voip_application: Option<String>,
}

/// Why a device could not be given an endpoint.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// This deployment has no platform application for the device's platform.
    #[error("no platform application for {0:?} is configured")]
    NoApplication(SnsService),
    /// SNS says that the token is none of this platform's.
    #[error("SNS refused the token")]
    BadToken,
    /// SNS did not answer. Trying again may help.
    #[error("SNS could not be reached")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Sns {
    /// SNS, with the applications in `SNS_FCM_APPLICATION_ARN`, `SNS_APNS_APPLICATION_ARN` and
    /// `SNS_APNS_VOIP_APPLICATION_ARN`, each of which may be missing.
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

    /// Whether Android phones are reached through SNS here, not by FCM directly.
    #[must_use]
    pub const fn serves_fcm(&self) -> bool {
        self.fcm_application.is_some()
    }

    /// Sends a message to one endpoint. That SNS takes it does not mean that it is delivered.
    ///
    /// # Errors
    /// [`PushError::Dead`] when the endpoint is disabled or gone, which is how SNS says that its token is dead.
    pub async fn publish(
        &self,
        service: SnsService,
        endpoint: &str,
        message: &Message,
    ) -> Result<(), PushError> {
        let mut request = self
            .client
            .publish()
            .target_arn(endpoint)
            .message_structure("json")
            .message(payload(service, endpoint, message));
        for (name, value) in attributes(service, endpoint, message) {
            let value = MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build();
            request = request.message_attributes(
                name,
                value.map_err(|error| PushError::NotTaken(error.to_string()))?,
            );
        }
        match request.send().await {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(refused)) => Err(match refused.err() {
                PublishError::EndpointDisabledException(_) | PublishError::NotFoundException(_) => {
                    PushError::Dead
                }
                other => {
                    PushError::NotTaken(aws_sdk_sns::error::DisplayErrorContext(other).to_string())
                }
            }),
            Err(error) => Err(PushError::NotTaken(
                aws_sdk_sns::error::DisplayErrorContext(error).to_string(),
            )),
        }
    }

    /// The endpoint for a device token, made if there is none yet, and enabled again if its token had died.
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

    /// Deletes the endpoint of a device that is gone. Deleting one that is not there is no error.
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

/// Of the parameters that SNS may refuse, the token alone is the app's; the others are this deployment's. A token that
/// has an endpoint with other attributes is refused as well, with the endpoint's ARN in the text alone.
///
/// <https://docs.aws.amazon.com/sns/latest/dg/mobile-platform-endpoint.html>
fn existing_endpoint(
    error: SdkError<CreatePlatformEndpointError>,
) -> Result<String, EndpointError> {
    let refused = error.as_service_error();
    let invalid = refused.filter(|refused| refused.is_invalid_parameter_exception());
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

/// The platform's name as it stands in the endpoint's ARN (`…:endpoint/APNS_VOIP_SANDBOX/…`): the message's key must
/// be just that, so that development builds are reached as well.
fn platform(service: SnsService, endpoint: &str) -> &str {
    let from_arn = endpoint.split('/').nth(1);
    from_arn.unwrap_or(match service {
        SnsService::Fcm => "GCM",
        SnsService::Apns => "APNS",
        SnsService::ApnsVoip => "APNS_VOIP",
    })
}

fn payload(service: SnsService, endpoint: &str, message: &Message) -> String {
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
    // `default` is demanded even where nothing falls back on it; each platform's value is JSON in a string.
    let mut wrapped = Map::from_iter([("default".to_owned(), Value::from("call"))]);
    wrapped.insert(
        platform(service, endpoint).to_owned(),
        native.to_string().into(),
    );
    Value::from(wrapped).to_string()
}

fn with_data(mut payload: Value, message: &Message) -> Value {
    for (key, value) in &message.data {
        payload[key] = value.clone();
    }
    payload
}

fn alert(message: &Message) -> Value {
    let caller = &message.data["caller_name"];
    match message.kind {
        Kind::IncomingCall => json!({
            "alert": { "title": "Incoming call", "body": caller },
            "sound": "default",
            "interruption-level": "time-sensitive",
        }),
        Kind::CallCancelled(reason) => {
            let title = match reason {
                CancelReason::CallerHungUp | CancelReason::Timeout => "Missed call",
                CancelReason::AnsweredElsewhere => "Answered elsewhere",
            };
            json!({ "alert": { "title": title, "body": caller }, "content-available": 1 })
        }
    }
}

fn attributes(service: SnsService, endpoint: &str, message: &Message) -> Vec<(String, String)> {
    let ttl = message.ttl_seconds().to_string();
    let (push_type, topic_of_ttl) = match service {
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
        (format!("AWS.SNS.MOBILE.{topic_of_ttl}.TTL"), ttl),
    ]
}
