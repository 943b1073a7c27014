//! Names and ids from outside: checked once when they arrive, and trusted afterwards.
//!
//! None of these types can hold a character with a meaning in an ARI URL, a dialplan, a DynamoDB expression or a log line, so no code
//! needs to escape them.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::timestamp::Timestamp;

/// Why a value was rejected. The text goes to the client that sent the value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {rule}")]
pub struct BadName {
    /// Which value, as messages name it: `extension`, `channel_id`.
    pub what: &'static str,
    /// What the value must be.
    pub rule: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal, $rule:literal, $longest:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = BadName;

            fn try_from(text: String) -> Result<Self, BadName> {
                let allowed: fn(char) -> bool = $allowed;
                if text.is_empty() || text.len() > $longest || !text.chars().all(allowed) {
                    return Err(BadName { what: $what, rule: $rule });
                }
                Ok(Self(text))
            }
        }

        impl TryFrom<&str> for $type {
            type Error = BadName;

            fn try_from(text: &str) -> Result<Self, BadName> {
                Self::try_from(text.to_owned())
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
    };
}

name!(
    /// A phone's SIP extension: the name of its PJSIP endpoint, and the extension in an app's token.
    ///
    /// At most 64 characters, because Asterisk limits the name of a channel (`PJSIP/{endpoint}-00000001`) to 79.
    Extension, "extension", "must be 1 to 64 letters, digits, '_' or '-'", 64,
    |c| c.is_ascii_alphanumeric() || c == '_' || c == '-'
);

name!(
    /// The SIP account of one device: its SIP user name, and the name of its PJSIP objects.
    SipAccountName, "sip_account", "must be 1 to 64 letters, digits, '_' or '-'", 64,
    |c| c.is_ascii_alphanumeric() || c == '_' || c == '-'
);

impl SipAccountName {
    /// The account in `phones.conf` that the devices of `extension` share. It has the extension's name.
    #[must_use]
    pub fn of_extension(extension: &Extension) -> Self {
        Self(extension.as_str().to_owned())
    }

    /// A new name for a device of `extension`, which no other account has or had: it ends with 12 random hexadecimal digits. It begins
    /// with at most 32 characters of the extension, which leaves room for the name of the endpoint for WebRTC.
    #[must_use]
    pub fn fresh(extension: &Extension) -> Self {
        let random = Uuid::new_v4().simple().to_string();
        Self(format!("{extension:.32}-{}", &random[..12]))
    }
}

name!(
    /// An app's installation on one device, as the app names it.
    DeviceId, "device_id", "must be 1 to 128 letters, digits, '.', ':', '_' or '-'", 128,
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-')
);

name!(
    /// An Asterisk channel's unique id, such as `1732175943.12` or, with a system name, `pbx1-1732175943.12`.
    ChannelId, "channel_id", "must be 1 to 128 letters, digits, '.', ':', '@', '_' or '-'", 128,
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '@' | '_' | '-')
);

impl ChannelId {
    const PHONE_PREFIX: &str = "ringback-";
    const APP_CALLER_PREFIX: &str = "ringback-caller-";

    /// The channel id of a call's phone leg. It is made from the call's id and the number of the attempt, so that Asterisk itself
    /// (409, "already exists") keeps an attempt from having two legs.
    #[must_use]
    pub fn of_phone(call: CallId, attempt: u32) -> Self {
        Self(format!("{}{call}-{attempt}", Self::PHONE_PREFIX))
    }

    /// The channel id of the leg to the calling app's phone, in a call between apps.
    #[must_use]
    pub fn of_app_caller(call: CallId) -> Self {
        Self(format!("{}{call}", Self::APP_CALLER_PREFIX))
    }

    /// The channel id of the caller in a PBX's test call.
    #[must_use]
    pub fn of_smoke_caller(sid: &CallSid) -> Self {
        Self(format!("ringback-smoke-{sid}"))
    }

    /// When the channel was made, to the second. Asterisk's unique ids are `1795149002.12`, or `pbx1-1795149002.12` with a system
    /// name.
    fn made_at(&self) -> Option<Timestamp> {
        let (seconds, _) = self.seconds_and_number()?;
        Some(Timestamp::from_millis(seconds * 1000))
    }

    /// Whether this channel was made before `other`. Of two PBXs, the clocks decide. `false` if one of the ids does not say it.
    #[must_use]
    pub fn is_older_than(&self, other: &Self) -> bool {
        let both = self.seconds_and_number().zip(other.seconds_and_number());
        both.is_some_and(|(own, other)| own < other)
    }

    fn seconds_and_number(&self) -> Option<(u64, u64)> {
        let id = self.0.rsplit('-').next()?;
        let (seconds, number) = id.split_once('.')?;
        let is_number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
        if seconds.len() != 10 || !is_number(seconds) || !is_number(number) {
            return None;
        }
        Some((seconds.parse().ok()?, number.parse().ok()?))
    }

    /// The call and the attempt, if this is a phone leg.
    #[must_use]
    pub fn phone_of(&self) -> Option<(CallId, u32)> {
        let named = self.0.strip_prefix(Self::PHONE_PREFIX)?;
        // Until this version, a call had one leg without a number.
        if let Ok(call) = CallId::try_from(named) {
            return Some((call, 1));
        }
        let (call, attempt) = named.rsplit_once('-')?;
        Some((CallId::try_from(call).ok()?, attempt.parse().ok()?))
    }

    /// The call, if this is the leg to its calling app's phone.
    #[must_use]
    pub fn app_caller_of(&self) -> Option<CallId> {
        CallId::try_from(self.0.strip_prefix(Self::APP_CALLER_PREFIX)?).ok()
    }
}

name!(
    /// The name of a PBX in `ARI_URL`.
    PbxName, "pbx", "must be 1 to 16 lower-case letters, digits or '-'", 16,
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);

/// A leg on a PBX. A channel id is unique on one PBX only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leg {
    /// The PBX.
    pub pbx: PbxName,
    /// Its channel there.
    pub channel: ChannelId,
}

impl fmt::Display for Leg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pbx, self.channel)
    }
}

name!(
    /// Exotel's id of a call, `CallSid`. The trunk's INVITE carries it too (`X-Exotel-CallSid`).
    CallSid, "CallSid", "must be 1 to 64 letters, digits, '_' or '-'", 64,
    |c| c.is_ascii_alphanumeric() || c == '_' || c == '-'
);

name!(
    /// An app's own name for a call that it starts, so that the same request twice starts one call.
    Reference, "clientReference", "must be 1 to 64 letters, digits, '.', ':', '_' or '-'", 64,
    |c| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-')
);

/// A call's id: a UUID of version 8 (RFC 9562), because CallKit on iOS accepts nothing else:
///
/// ```text
/// 0190f5c3-8a4e-8c1b-9d2e-4f5a 6b7c8d9e
/// └─ the body: 90 bits ──────┘ └ the check field: 32 bits
/// ```
///
/// The body identifies the call. The check field is a part of an HMAC of the body, or zero in an id
/// that only looks a call up. Two ids are equal if their bodies are equal, so a call keeps its id while the key is replaced.
///
/// 32 bits are enough for the check field: a correct guess costs one request to the table, which has no such call. The body
/// keeps 42 random bits beside the time in milliseconds. At 1,000 calls a second, two ids collide once in about 280 years.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CallId(Uuid);

/// The UUID namespace for ids made from an Exotel CallSid (RFC 9562, version 5).
const CALL_SID_NAMESPACE: Uuid = Uuid::from_u128(0x9d3c_6a1e_52f4_4c0b_8e77_1f0a_6b2d_94c5);

/// The namespace for ids made from an app's reference.
const REFERENCE_NAMESPACE: Uuid = Uuid::from_u128(0x2b71_e0d4_9c36_4f58_a1c9_5d37_8e02_fb46);

/// The namespace for ids made from an Asterisk channel.
const LEG_NAMESPACE: Uuid = Uuid::from_u128(0x61f0_8b52_d7ae_4d19_b3c4_0e95_78a2_6df1);

impl CallId {
    /// The length of the check field, in bytes.
    pub const CHECK_LENGTH: usize = 4;

    /// The length of the body, in bytes.
    const BODY_LENGTH: usize = 16 - Self::CHECK_LENGTH;

    /// The id of one ring of Exotel's call `sid` at `extension`: always the same, so that all reports of this ring are about the same
    /// call. Exotel may call several extensions at once, and each of them again. The first ring is number 1.
    #[must_use]
    pub fn of_ring(sid: &CallSid, extension: &Extension, ring: u32) -> Self {
        // Neither a CallSid nor an extension holds a slash.
        let name = format!("{sid}/{extension}/{ring}");
        Self::with_body_of(Uuid::new_v5(&CALL_SID_NAMESPACE, name.as_bytes()))
    }

    /// The id of the call that an app starts with this reference: the same request again names the same call.
    #[must_use]
    pub fn of_reference(app: &Extension, reference: &Reference) -> Self {
        // No extension holds a slash.
        let name = format!("{app}/{reference}");
        Self::with_body_of(Uuid::new_v5(&REFERENCE_NAMESPACE, name.as_bytes()))
    }

    /// The id of a call that Exotel has not named: made from the extension that is called and the caller's leg, so that a repeated
    /// report, to either region, is about the same call. Ordered by time like [`CallId::fresh`], because Asterisk's unique ids
    /// contain the second in which a channel was made. `None` if the channel has another kind of id.
    #[must_use]
    pub fn of_leg(leg: &Leg, callee: &Extension) -> Option<Self> {
        let made_at = leg.channel.made_at()?;
        // No extension holds a slash.
        let name = format!("{callee}/{leg}");
        let hash = Uuid::new_v5(&LEG_NAMESPACE, name.as_bytes());
        let mut random = [0; 10];
        random.copy_from_slice(hash.as_bytes().get(..10)?);
        // Asterisk's ids have no milliseconds. Hash bits in their place make a collision a thousand times rarer.
        let (_, part) = hash.as_u64_pair();
        let millis = made_at.as_millis() + part % 1000;
        let id = uuid::Builder::from_unix_timestamp_millis(millis, &random);
        Some(Self::with_body_of(id.into_uuid()))
    }

    /// A new id for a call that no outside system names, ordered by time.
    #[must_use]
    pub fn fresh() -> Self {
        Self::with_body_of(Uuid::now_v7())
    }

    fn with_body_of(id: Uuid) -> Self {
        let mut bytes = id.into_bytes();
        bytes[Self::BODY_LENGTH..].fill(0);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    /// The same id with this check field.
    #[must_use]
    pub fn with_check(self, check: [u8; Self::CHECK_LENGTH]) -> Self {
        let mut bytes = self.0.into_bytes();
        bytes[Self::BODY_LENGTH..].copy_from_slice(&check);
        Self(Uuid::from_bytes(bytes))
    }

    /// Whether Ringback made this id.
    pub fn is_ours(&self) -> bool {
        let is_rfc = self.0.get_variant() == uuid::Variant::RFC4122;
        is_rfc && self.0.get_version_num() == 8
    }

    /// The part that identifies the call. Of an id that Ringback did not make, all of it.
    pub fn body(&self) -> &[u8] {
        match self.is_ours() {
            true => &self.0.as_bytes()[..Self::BODY_LENGTH],
            false => self.0.as_bytes(),
        }
    }

    /// The part after the body.
    pub fn check(&self) -> &[u8] {
        &self.0.as_bytes()[self.body().len()..]
    }

    /// The text of the body, without the check field. Items are stored under it.
    #[must_use]
    pub fn key(&self) -> String {
        let mut text = self.0.to_string();
        text.truncate(text.len() - 2 * self.check().len());
        text
    }
}

impl PartialEq for CallId {
    fn eq(&self, other: &Self) -> bool {
        self.body() == other.body()
    }
}

impl Eq for CallId {}

impl Hash for CallId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.body().hash(state);
    }
}

impl PartialOrd for CallId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for CallId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.body().cmp(other.body())
    }
}

impl TryFrom<&str> for CallId {
    type Error = BadName;

    fn try_from(text: &str) -> Result<Self, BadName> {
        let refused = BadName {
            what: "server_call_id",
            rule: "must be a UUID",
        };
        Uuid::try_parse(text).map(Self).map_err(|_| refused)
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_leg_has_its_own_id_however_often_it_is_reported() {
        let on = |pbx: &str, leg: &str, callee: &str| {
            let leg = Leg {
                pbx: PbxName::try_from(pbx).unwrap(),
                channel: ChannelId::try_from(leg).unwrap(),
            };
            CallId::of_leg(&leg, &Extension::try_from(callee).unwrap())
        };
        let id = |leg: &str, callee: &str| on("pbx1", leg, callee);
        let call = id("1795149002.12", "1001").unwrap();
        assert_eq!(id("1795149002.12", "1001"), Some(call));
        let others = [
            id("1795149002.13", "1001"),
            id("1795149002.12", "1002"),
            id("pbx-1-1795149002.12", "1001"),
            id("1795149003.12", "1001"),
            on("pbx2", "1795149002.12", "1001"),
        ];
        for other in others {
            assert_ne!(other.unwrap(), call);
        }
        assert!(
            id("1795149003.1", "1001").unwrap() > call,
            "ordered by time"
        );
        for unlike in [
            "leg-a",
            "179514900.12",
            "1795149002.x",
            "ringback-1795149002",
        ] {
            assert_eq!(id(unlike, "1001"), None, "{unlike}");
        }
    }

    #[test]
    fn a_name_with_syntax_is_rejected() {
        for text in ["", "10/01", "1001@evil", "1001\n", "${EXTEN}", "a b", "é"] {
            assert!(Extension::try_from(text).is_err(), "{text:?}");
        }
        assert!(Extension::try_from("1001").is_ok());
    }

    #[test]
    fn an_extension_has_up_to_64_characters_and_its_accounts_names_stay_short() {
        assert!(Extension::try_from("e".repeat(65)).is_err());
        let sub = "8c2f6a1e-5b7d-4f3a-9c0e-1d2b3a4f5e6d";
        for extension in ["1001", sub, &"e".repeat(64)] {
            let account = SipAccountName::fresh(&Extension::try_from(extension).unwrap());
            let (start, random) = account.as_str().rsplit_once('-').unwrap();
            assert_eq!(start, &extension[..extension.len().min(32)]);
            assert!(random.len() == 12 && u64::from_str_radix(random, 16).is_ok());
        }
    }

    #[test]
    fn each_ring_of_a_call_sid_at_an_extension_has_its_own_id() {
        let ring = |sid: &str, extension: &str, ring| {
            let sid = CallSid::try_from(sid).unwrap();
            CallId::of_ring(&sid, &Extension::try_from(extension).unwrap(), ring)
        };
        let first = ring("b3d1e5a2", "1001", 1);
        assert_eq!(first, ring("b3d1e5a2", "1001", 1));
        assert_eq!(first.to_string().len(), 36);
        for other in [
            ring("b3d1e5a3", "1001", 1),
            ring("b3d1e5a2", "1002", 1),
            ring("b3d1e5a2", "1001", 2),
        ] {
            assert_ne!(first, other);
        }
    }

    #[test]
    fn two_ids_with_different_check_fields_are_equal() {
        let sid = CallSid::try_from("sid-1").unwrap();
        let unchecked = CallId::of_ring(&sid, &Extension::try_from("1001").unwrap(), 1);
        let checked = unchecked.with_check([0xde, 0xad, 0xbe, 0xef]);
        assert_eq!(checked, unchecked);
        assert_eq!(checked.key(), unchecked.key());
        assert_eq!(checked.to_string(), format!("{}deadbeef", checked.key()));
        assert!(unchecked.to_string().ends_with("00000000"));
        let kept = std::collections::HashMap::from([(checked, ())]);
        assert!(kept.contains_key(&unchecked));
        let stored = serde_json::to_string(&checked).unwrap();
        let read: CallId = serde_json::from_str(&stored).unwrap();
        assert_eq!(read.to_string(), checked.to_string());
    }

    #[test]
    fn each_id_is_a_different_uuid_of_version_8() {
        let extension = Extension::try_from("1001").unwrap();
        let leg = Leg {
            pbx: PbxName::try_from("pbx1").unwrap(),
            channel: ChannelId::try_from("1795149002.12").unwrap(),
        };
        let ids = [
            CallId::of_ring(&CallSid::try_from("a").unwrap(), &extension, 1),
            CallId::of_ring(&CallSid::try_from("a").unwrap(), &extension, 2),
            CallId::of_reference(&extension, &Reference::try_from("a").unwrap()),
            CallId::of_leg(&leg, &extension).unwrap(),
            CallId::fresh(),
            CallId::fresh(),
        ];
        for (place, id) in ids.iter().enumerate() {
            assert_eq!(id.0.get_version_num(), 8);
            assert_eq!(id.0.get_variant(), uuid::Variant::RFC4122);
            assert_eq!(ids.iter().position(|other| other == id), Some(place));
        }
    }

    #[test]
    fn ids_of_other_versions_have_no_check_field() {
        let other = CallId::try_from("38769b5f-dc86-51eb-90df-8b38ff063d1d").unwrap();
        assert!(!other.is_ours());
        assert_eq!((other.key(), other.check()), (other.to_string(), &[][..]));
        let like_it = CallId::try_from("38769b5f-dc86-51eb-90df-8b3800000000").unwrap();
        assert_ne!(other, like_it);
    }

    #[test]
    fn the_channel_id_of_a_phone_leg_names_its_call_and_attempt() {
        let call = CallId::fresh();
        assert_eq!(ChannelId::of_phone(call, 2).phone_of(), Some((call, 2)));
        let leg_of = |channel: &str| ChannelId::try_from(channel).unwrap().phone_of();
        assert_eq!(leg_of(&format!("ringback-{call}")), Some((call, 1)));
        for other in [
            "1732175943.12",
            &format!("ringback-{call}-"),
            "ringback-1-1",
        ] {
            assert_eq!(leg_of(other), None, "{other}");
        }
    }

    #[test]
    fn the_two_legs_of_a_call_between_apps_have_different_ids() {
        let call = CallId::fresh();
        let caller = ChannelId::of_app_caller(call);
        assert_eq!(
            (caller.app_caller_of(), caller.phone_of()),
            (Some(call), None)
        );
        let phone = ChannelId::of_phone(call, 1);
        assert_eq!(
            (phone.app_caller_of(), phone.phone_of()),
            (None, Some((call, 1)))
        );
    }

    #[test]
    fn a_reference_names_one_call_of_one_extension() {
        let id = |extension: &str, reference: &str| {
            CallId::of_reference(
                &Extension::try_from(extension).unwrap(),
                &Reference::try_from(reference).unwrap(),
            )
        };
        assert_eq!(id("1001", "a"), id("1001", "a"));
        assert_ne!(id("1001", "a"), id("1002", "a"));
        assert_ne!(id("1001", "a"), id("1001", "b"));
    }
}
