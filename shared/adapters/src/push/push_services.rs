//! The push services: FCM, and SNS for Apple's and optionally for FCM.

use ringback_core::call::PushPlatform;
use ringback_core::timestamp::Timestamp;

use super::fcm::Fcm;
use super::push_message::{PushError, PushMessage};
use super::sns::{self, Sns};
use crate::store::devices::PushAddress;
use crate::telemetry::metrics;

/// Sends a push to one address.
#[derive(Debug)]
pub struct PushServices {
    fcm: Fcm,
    sns: Sns,
}

impl PushServices {
    /// These services.
    #[must_use]
    pub const fn new(fcm: Fcm, sns: Sns) -> Self {
        Self { fcm, sns }
    }

    /// Fetches access to FCM, unless SNS serves all devices.
    pub(super) async fn get_ready(&self) {
        if !self.sns.serves_fcm() {
            self.fcm.get_ready().await;
        }
    }

    /// Sends a message. Returns what the push service answered, and its name.
    pub async fn send(
        &self,
        address: &PushAddress,
        message: &PushMessage,
        until: Timestamp,
    ) -> (Result<(), PushError>, &'static str) {
        let (result, via) = match address.platform {
            PushPlatform::Fcm if !self.sns.serves_fcm() => {
                let token = address.token.as_str();
                (self.fcm.send(token, message, until).await, "fcm")
            }
            platform => (
                self.sns.send(address, message).await,
                sns::service(platform),
            ),
        };
        metrics::pushed(via, metric_value(&result));
        (result, via)
    }
}

/// The value of the dimension `result` in the metric `push_results`.
const fn metric_value(result: &Result<(), PushError>) -> &'static str {
    match result {
        Ok(()) => "sent",
        Err(PushError::AddressExpired) => "expired",
        Err(_) => "failed",
    }
}
