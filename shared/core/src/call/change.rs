//! A change of a call as data: what to set, and on what condition. The store makes one conditional write of it;
//! [`Call::apply`] and [`Condition::holds`] say what that write means.

use std::collections::BTreeSet;

use super::{AnsweredBy, Call, CallStatus, EndReason, HistoryEntry, KEPT_FOR, StreamState};
use crate::ids::{CallSid, ChannelId, DeviceId, Extension, Leg, PbxName};
use crate::timestamp::Timestamp;

/// A change that may be saved if every check holds for the call as it is stored then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionalUpdate {
    /// The condition: all of these.
    pub checks: Vec<Condition>,
    /// The change.
    pub change: Change,
}

/// What to set, and the line of history that tells of it. Each change also counts the version up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The fields to set.
    pub sets: Vec<Set>,
    /// The line to add to the call's history.
    pub entry: HistoryEntry,
}

/// One thing that must be true of the stored call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing has changed since this version was read.
    VersionIs(u64),
    /// The call is in this state.
    StatusIs(CallStatus),
    /// The call is for this extension.
    ExtensionIs(Extension),
    /// The phone may still ring at this moment.
    RingsAfter(Timestamp),
    /// The ring is over at this moment.
    RingOverAt(Timestamp),
    /// Nobody has recorded yet which devices rang.
    PushNotRecorded,
    /// No device has declined on its own.
    NobodyDeclined,
    /// This device rang and no other did.
    PushedOnlyTo(DeviceId),
    /// This is the caller's leg, or none has arrived yet.
    CallerLegMayBe(Leg),
    /// The call is on this PBX, or on none that is known.
    PbxMayBe(PbxName),
    /// It is not known on which PBX the call is.
    PbxUnknown,
    /// The caller is on the telephone network.
    CallerIsNotApp,
    /// An app calls, and its own phone does not wait yet.
    CallerIsAppWithoutLeg,
    /// Exotel connects two numbers (true), or a phone is woken (false).
    IsOutbound(bool),
    /// This is Exotel's id of the call.
    CallSidIs(CallSid),
    /// The effects of the transition made at this moment are still owed.
    EffectsPendingSince(Timestamp),
}

impl Condition {
    /// Whether this is true of `call`.
    #[must_use]
    pub fn holds(&self, call: &Call) -> bool {
        match self {
            Self::VersionIs(version) => call.version == *version,
            Self::StatusIs(status) => call.status == *status,
            Self::ExtensionIs(extension) => call.extension == *extension,
            Self::RingsAfter(moment) => call.rings_until > *moment,
            Self::RingOverAt(moment) => call.rings_until <= *moment,
            Self::PushNotRecorded => call.rang.is_none(),
            Self::NobodyDeclined => call.declined_by.is_empty(),
            Self::PushedOnlyTo(device) => call
                .rang
                .as_ref()
                .is_some_and(|rang| rang.len() == 1 && rang.contains(device)),
            Self::CallerLegMayBe(leg) => call.callers_leg_can_be(leg),
            Self::PbxMayBe(pbx) => call.pbx_can_be(pbx),
            Self::PbxUnknown => call.pbx.is_none(),
            Self::CallerIsNotApp => call.caller.extension.is_none(),
            Self::CallerIsAppWithoutLeg => {
                call.caller.extension.is_some() && call.caller_leg.is_none()
            }
            Self::IsOutbound(outbound) => call.is_outbound() == *outbound,
            Self::CallSidIs(sid) => call.call_sid.as_ref() == Some(sid),
            Self::EffectsPendingSince(moment) => call.effects_pending_since == Some(*moment),
        }
    }
}

/// One field to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Set {
    /// Go on to this state.
    Status(CallStatus),
    /// Who accepted.
    AnsweredBy(AnsweredBy),
    /// When the app was ready.
    ReadyAt(Timestamp),
    /// When the legs were joined.
    BridgedAt(Timestamp),
    /// When and why the call was over; it is kept for a day from then on.
    Ended(Timestamp, EndReason),
    /// The channel on which the caller waits.
    CallerLeg(ChannelId),
    /// The PBX that holds the call's legs.
    Pbx(PbxName),
    /// Exotel's id of the call.
    CallSid(CallSid),
    /// When the call was looked up at Exotel.
    CheckedAt(Timestamp),
    /// Whether its audio is streamed to us.
    Stream(StreamState),
    /// The devices that rang.
    PushedTo(BTreeSet<DeviceId>),
    /// The devices that declined.
    DeclinedBy(BTreeSet<DeviceId>),
    /// Effects are owed from now on.
    EffectsPendingSince(Timestamp),
    /// Nothing is owed any longer.
    NoEffectsPending,
}

impl Set {
    /// When an item whose call ended at `ended_at` may be forgotten, in seconds since the Unix epoch.
    #[must_use]
    pub fn expiry_after(ended_at: Timestamp) -> u64 {
        (ended_at + KEPT_FOR).as_secs_rounded_up()
    }

    pub(super) fn apply_to(&self, call: &mut Call) {
        match self {
            Self::Status(status) => call.status = *status,
            Self::AnsweredBy(answerer) => call.answered_by = Some(answerer.clone()),
            Self::ReadyAt(moment) => call.ready_at = Some(*moment),
            Self::BridgedAt(moment) => call.bridged_at = Some(*moment),
            Self::Ended(moment, why) => {
                call.ended_at = Some(*moment);
                call.end_reason = Some(*why);
                call.expires_at = Self::expiry_after(*moment);
            }
            Self::CallerLeg(channel) => call.caller_leg = Some(channel.clone()),
            Self::Pbx(pbx) => call.pbx = Some(pbx.clone()),
            Self::CallSid(sid) => call.call_sid = Some(sid.clone()),
            Self::CheckedAt(moment) => call.checked_at = Some(*moment),
            Self::Stream(state) => call.stream = Some(*state),
            Self::PushedTo(devices) => call.rang = Some(devices.clone()),
            Self::DeclinedBy(devices) => call.declined_by.clone_from(devices),
            Self::EffectsPendingSince(moment) => call.effects_pending_since = Some(*moment),
            Self::NoEffectsPending => call.effects_pending_since = None,
        }
    }
}
