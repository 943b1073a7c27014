//! Where pushes to a device go.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::table::ItemKey;
use ringback_core::call::PushPlatform;
use ringback_core::ids::BadName;

/// The longest token, in bytes. Tokens of all push services are shorter.
const LONGEST_TOKEN: usize = 4096;

/// An app's address at one push service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushAddress {
    /// The push service.
    pub platform: PushPlatform,
    /// The device's token at this service.
    pub token: PushToken,
    /// The ARN of the SNS endpoint that the registering region has created from the token. Other regions have their own endpoints.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The registration that has brought the address, set by [`Devices::register`](super::Devices::register).
    pub(super) registration: Uuid,
}

impl PushAddress {
    /// An address to register.
    #[must_use]
    pub const fn new(platform: PushPlatform, token: PushToken, endpoint: Option<String>) -> Self {
        Self {
            platform,
            token,
            endpoint,
            registration: Uuid::nil(),
        }
    }

    /// The key of the address's owner. It has a hash, because tokens are credentials and can be longer than a key.
    pub(super) fn owner_key(&self) -> ItemKey {
        let hash = Sha256::new()
            .chain_update(self.platform.as_str())
            .chain_update([0])
            .chain_update(self.token.as_str())
            .finalize();
        let pk = format!("ADDRESS#{}", URL_SAFE_NO_PAD.encode(hash));
        ItemKey::new(pk, "OWNER")
    }
}

/// A push service's token. It is opaque and a credential, so `Debug` hides it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PushToken(String);

impl PushToken {
    /// The token as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<&str> for PushToken {
    type Error = BadName;

    fn try_from(text: &str) -> Result<Self, BadName> {
        let is_token = (1..=LONGEST_TOKEN).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        is_token.then(|| Self(text.to_owned())).ok_or(BadName {
            what: "token",
            rule: "must be 1 to 4096 printable ASCII characters",
        })
    }
}

impl fmt::Debug for PushToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PushToken(…)")
    }
}
