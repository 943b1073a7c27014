//! What the token in a push's `answer_url` allows: one device may say that it rings for one call, or decline it, without a login. An
//! app that was killed has a few seconds in its push handler, and no time to get a bearer token.
//!
//! [`Signing`](super::signing::Signing) makes a token of it, and checks it without any other request.

use std::time::Duration;

use uuid::Uuid;

use ringback_core::call::{CallParty, PushPlatform, RingReceipt};
use ringback_core::ids::{CallId, DeviceId, Extension};
use ringback_core::timestamp::Timestamp;

/// The longest content of a grant, in bytes: its fixed part, the longest extension and the longest device id.
pub const LONGEST_GRANT: usize = FIXED_LENGTH + 64 + 128;

const FIXED_LENGTH: usize = 16 + 8 + 8 + 1 + 1;

/// How long after its ring a call may still be answered, to learn what became of it.
const VALID_AFTER_RING: Duration = Duration::from_secs(5 * 60);

/// The device that a push was sent to, and its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerGrant {
    /// The call.
    pub call_id: CallId,
    /// The extension that is called.
    pub extension: Extension,
    /// The device.
    pub device: DeviceId,
    /// The platform of the push.
    pub platform: PushPlatform,
    /// When the push was sent.
    pub pushed_at: Timestamp,
    /// Until when the device rings.
    pub rings_until: Timestamp,
}

impl AnswerGrant {
    /// The end of its validity.
    #[must_use]
    pub fn valid_until(&self) -> Timestamp {
        self.rings_until + VALID_AFTER_RING
    }

    /// The app, as in a `call-response` that names its device.
    #[must_use]
    pub fn party(&self) -> CallParty {
        CallParty {
            extension: self.extension.clone(),
            device: Some(self.device.clone()),
        }
    }

    /// The device rings: the report arrived at `now`.
    #[must_use]
    pub const fn receipt(&self, now: Timestamp) -> RingReceipt {
        RingReceipt {
            at: now,
            pushed_at: self.pushed_at,
            platform: self.platform,
        }
    }

    /// A compact form: iOS and Android limit a push to 4 KB.
    ///
    /// ```text
    /// call id (16) │ pushed_at (8) │ rings_until (8) │ platform (1) │ length (1) │ extension │ device id
    /// ```
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        let extension = self.extension.as_str().as_bytes();
        let mut bytes = [self.call_id.body(), self.call_id.check()].concat();
        bytes.extend(self.pushed_at.as_millis().to_be_bytes());
        bytes.extend(self.rings_until.as_millis().to_be_bytes());
        bytes.push(platform_byte(self.platform));
        bytes.extend(u8::try_from(extension.len()));
        bytes.extend(extension);
        bytes.extend(self.device.as_str().as_bytes());
        bytes
    }

    /// Reads [`Self::to_bytes`].
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (call_id, rest) = bytes.split_first_chunk()?;
        let (pushed_at, rest) = rest.split_first_chunk()?;
        let (rings_until, rest) = rest.split_first_chunk()?;
        let ([platform, length], rest) = rest.split_first_chunk()?;
        let (extension, device) = rest.split_at_checked(usize::from(*length))?;
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let call_id = Uuid::from_bytes(*call_id).to_string();
        Some(Self {
            call_id: CallId::try_from(call_id.as_str()).ok()?,
            extension: Extension::try_from(text(extension)?).ok()?,
            device: DeviceId::try_from(text(device)?).ok()?,
            platform: platform_of(*platform)?,
            pushed_at: Timestamp::from_millis(u64::from_be_bytes(*pushed_at)),
            rings_until: Timestamp::from_millis(u64::from_be_bytes(*rings_until)),
        })
    }
}

/// Reads any bytes. A grant that can be read is written with the same bytes.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_grant(bytes: &[u8]) {
    if let Some(grant) = AnswerGrant::from_bytes(bytes) {
        assert_eq!(grant.to_bytes(), bytes, "{grant:?}");
    }
}

const fn platform_byte(platform: PushPlatform) -> u8 {
    match platform {
        PushPlatform::Fcm => 1,
        PushPlatform::Apns => 2,
        PushPlatform::ApnsVoip => 3,
    }
}

const fn platform_of(byte: u8) -> Option<PushPlatform> {
    match byte {
        1 => Some(PushPlatform::Fcm),
        2 => Some(PushPlatform::Apns),
        3 => Some(PushPlatform::ApnsVoip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_grant() -> impl Strategy<Value = AnswerGrant> {
        let platform = prop_oneof![
            Just(PushPlatform::Fcm),
            Just(PushPlatform::Apns),
            Just(PushPlatform::ApnsVoip)
        ];
        let times = (any::<u64>(), any::<u64>());
        let names = ("[A-Za-z0-9_-]{1,64}", "[A-Za-z0-9.:_-]{1,128}");
        (any::<u128>(), names, platform, times).prop_map(
            |(id, (extension, device), platform, (pushed_at, rings_until))| AnswerGrant {
                call_id: CallId::try_from(format!("{id:032x}").as_str()).unwrap(),
                extension: Extension::try_from(extension.as_str()).unwrap(),
                device: DeviceId::try_from(device.as_str()).unwrap(),
                platform,
                pushed_at: Timestamp::from_millis(pushed_at),
                rings_until: Timestamp::from_millis(rings_until),
            },
        )
    }

    proptest! {
        #[test]
        fn every_grant_is_read_as_it_was_written(grant in any_grant()) {
            let bytes = grant.to_bytes();
            prop_assert!(bytes.len() <= LONGEST_GRANT);
            let read = AnswerGrant::from_bytes(&bytes).unwrap();
            prop_assert_eq!(read.call_id.to_string(), grant.call_id.to_string());
            prop_assert_eq!(read, grant);
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _read_or_not = AnswerGrant::from_bytes(&bytes);
        }
    }
}
