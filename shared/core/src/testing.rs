//! An ordinary call, which tests begin with.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use crate::call::{
    Call, CallKind, CallSettings, CallType, CallWaiting, DeclineEnds, NewCall, Rejection,
};
use crate::ids::{CallId, ChannelId, Extension, Leg, PbxName};
use crate::phone_number::{CallerName, PhoneNumber};
use crate::timestamp::Timestamp;

/// आशा calls extension 1001, and waits in Asterisk. The phone rings for 30 s.
#[must_use]
pub fn a_call(now: Timestamp) -> Call {
    let new = NewCall {
        call_id: CallId::fresh(),
        extension: Extension::try_from("1001").unwrap(),
        kind: CallKind::FromTrunk {
            number: PhoneNumber::parse("9876543210", "IN"),
            name: CallerName::parse("आशा"),
        },
        call_type: CallType::Voice,
        caller_leg: Some(leg("pbx", "1732175943.12")),
        call_sid: None,
    };
    let settings = CallSettings {
        ring: Duration::from_secs(30),
        connect: Duration::from_secs(15),
        talk: Duration::from_secs(14_400),
        check: Duration::from_secs(300),
        decline_ends: DeclineEnds::Call,
        kept_seconds: 7 * 24 * 60 * 60,
        unanswered: Rejection::BusyHere,
        call_waiting: CallWaiting::Ring,
    };
    Call::new(new, settings, now)
}

/// A leg of this id on this PBX.
#[must_use]
pub fn leg(pbx: &str, channel: &str) -> Leg {
    Leg {
        pbx: PbxName::try_from(pbx).unwrap(),
        channel: ChannelId::try_from(channel).unwrap(),
    }
}

/// The same caller with a withheld number.
#[must_use]
pub fn without_number(kind: CallKind) -> CallKind {
    match kind {
        CallKind::FromTrunk { name, .. } => CallKind::FromTrunk { number: None, name },
        other => other,
    }
}

/// The same caller without a name.
#[must_use]
pub fn without_name(kind: CallKind) -> CallKind {
    match kind {
        CallKind::FromTrunk { number, .. } => CallKind::FromTrunk { number, name: None },
        other => other,
    }
}
