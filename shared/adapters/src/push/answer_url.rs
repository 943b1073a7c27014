//! The `answer_url` of a push: with it, an app that was killed says that its device rings, or declines, without a login.

use std::sync::Arc;

use ringback_core::call::{Call, PushPlatform};
use ringback_core::timestamp::Timestamp;
use secrecy::{ExposeSecret, SecretString};

use crate::auth::answer_grant::AnswerGrant;
use crate::auth::signing::Signing;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::secrets::SecretError;
use crate::store::devices::Device;

/// Makes the `answer_url` of each push.
#[derive(Debug)]
pub struct AnswerUrls {
    base: String,
    signing: Arc<Signing>,
}

impl AnswerUrls {
    /// URLs of the HTTP API at `HTTP_URL`, with tokens of this key.
    ///
    /// # Errors
    /// When the variable is missing, or no URL.
    pub fn from_environment(
        environment: &Environment,
        signing: Arc<Signing>,
    ) -> Result<Self, ConfigError> {
        let base = environment.url("HTTP_URL")?;
        Ok(Self { base, signing })
    }

    /// Fetches the key early.
    pub async fn get_ready(&self) {
        self.signing.get_ready().await;
    }

    /// The URL in a push to this device through this platform.
    ///
    /// # Errors
    /// When the key cannot be fetched.
    pub async fn of(
        &self,
        call: &Call,
        device: &Device,
        platform: PushPlatform,
        pushed_at: Timestamp,
    ) -> Result<SecretString, SecretError> {
        let grant = AnswerGrant {
            call_id: call.call_id,
            extension: call.extension.clone(),
            device: device.device_id.clone(),
            platform,
            pushed_at,
            rings_until: call.rings_until,
        };
        let token = self.signing.answer_token(&grant).await?;
        let token = token.expose_secret();
        Ok(format!("{}/api/answers/{token}", self.base).into())
    }
}
