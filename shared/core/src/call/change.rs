//! A change of a call as data: what to set, and on what condition. The store makes one conditional write of it;
//! [`Condition::holds`] and [`Call::apply`] define what that write means.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    AnsweredBy, Call, CallEnd, CallKind, CallStatus, DeclineEnds, EndReason, HistoryEntry,
    LostPhoneLegs, PushedDevices, RingReceipt, StreamState,
};
use crate::ids::{CallSid, ChannelId, DeviceId, Extension, Leg, PbxName};
use crate::timestamp::Timestamp;

/// A change that is saved if every condition holds for the call as it is stored at that moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionalUpdate {
    /// All of these must hold.
    pub conditions: Vec<Condition>,
    /// The change.
    pub change: Change,
}

/// What to set, and the line of history that says why. Each change also increments the version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The fields to set.
    pub assignments: Vec<Assignment>,
    /// The line to append to the call's history.
    pub entry: HistoryEntry,
}

/// One thing that must be true of the stored call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Nothing has changed since this version was read.
    VersionIs(u64),
    /// The call has this status.
    StatusIs(CallStatus),
    /// This extension is called.
    ExtensionIs(Extension),
    /// The ring ends after this moment.
    RingingAt(Timestamp),
    /// The ring ends at this moment or before.
    RingOverAt(Timestamp),
    /// It is not recorded yet to which devices the push was sent.
    PushNotRecorded,
    /// No device has reported that it rings.
    NoDeviceRings,
    /// No device has declined on its own.
    NoDeviceDeclined,
    /// A decline on one device ends the call.
    DeclineEndsCall,
    /// This is the caller's leg, or none has arrived yet.
    CallerLegMayBe(Leg),
    /// The call is on this PBX, or its PBX is unknown.
    PbxMayBe(PbxName),
    /// No leg of the caller has arrived.
    NoCallerLeg,
    /// The PBX of the call is unknown.
    PbxUnknown,
    /// The caller came in through the trunk.
    CalledFromTrunk,
    /// An app calls another app, and the phone of the calling app does not wait yet.
    CallingAppHasNoLeg,
    /// Exotel connects two numbers (true), or the PBX connects a phone (false).
    IsToNumber(bool),
    /// This is Exotel's id of the call.
    CallSidIs(CallSid),
    /// The effects of the transition made at this moment are pending.
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
            Self::RingingAt(moment) => call.rings_until > *moment,
            Self::RingOverAt(moment) => call.rings_until <= *moment,
            Self::PushNotRecorded => call.pushed.is_none(),
            Self::NoDeviceRings => call.ring_receipts.is_empty(),
            Self::NoDeviceDeclined => call.declined_by.is_empty(),
            Self::DeclineEndsCall => call.settings.decline_ends == DeclineEnds::Call,
            Self::CallerLegMayBe(leg) => call.may_be_callers_leg(leg),
            Self::PbxMayBe(pbx) => call.may_be_on_pbx(pbx),
            Self::NoCallerLeg => call.caller_leg.is_none(),
            Self::PbxUnknown => call.pbx.is_none(),
            Self::CalledFromTrunk => matches!(call.kind, CallKind::FromTrunk { .. }),
            Self::CallingAppHasNoLeg => {
                matches!(call.kind, CallKind::BetweenApps { .. }) && call.caller_leg.is_none()
            }
            Self::IsToNumber(expected) => call.is_to_number() == *expected,
            Self::CallSidIs(sid) => call.call_sid.as_ref() == Some(sid),
            Self::EffectsPendingSince(moment) => call.effects_pending_since == Some(*moment),
        }
    }
}

/// One field to set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Assignment {
    /// The new status.
    Status(CallStatus),
    /// Who accepted.
    AnsweredBy(AnsweredBy),
    /// Whether the other devices may still lack the push that says that the call was answered.
    AnswerUnannounced(bool),
    /// When the app was ready.
    ReadyAt(Timestamp),
    /// The number of the leg to the phone.
    PhoneAttempt(u32),
    /// The phone legs that ended before the call was bridged.
    LostPhoneLegs(LostPhoneLegs),
    /// When the legs were bridged.
    BridgedAt(Timestamp),
    /// When and why the call ended. The item is kept for [`CallSettings::kept_seconds`](super::CallSettings) from then on.
    Ended(Timestamp, EndReason),
    /// The call has not ended after all. The item is kept as long after this moment.
    NotEnded(Timestamp),
    /// The channel on which the caller waits.
    CallerLeg(ChannelId),
    /// The PBX that holds the call's legs.
    Pbx(PbxName),
    /// Exotel's id of the call.
    CallSid(CallSid),
    /// When an outside system was last asked about the call.
    CheckedAt(Timestamp),
    /// Exotel did not answer the request for this call.
    ExotelUnanswered,
    /// Whether the call's audio is streamed to us.
    Stream(StreamState),
    /// The devices to which the push was sent.
    Pushed(PushedDevices),
    /// The devices that have reported that they ring.
    RingReceipts(BTreeMap<DeviceId, RingReceipt>),
    /// The devices that declined.
    DeclinedBy(BTreeSet<DeviceId>),
    /// Effects are pending from this moment on.
    EffectsPendingSince(Timestamp),
    /// No effects are pending.
    NoEffectsPending,
    /// The effects that were pending since this moment are completed.
    EffectsCompleted(Timestamp),
}

impl Assignment {
    pub(super) fn apply_to(&self, call: &mut Call) {
        match self {
            Self::Status(status) => call.status = *status,
            Self::AnsweredBy(answered_by) => call.answered_by = Some(answered_by.clone()),
            Self::AnswerUnannounced(unannounced) => call.answer_unannounced = *unannounced,
            Self::ReadyAt(moment) => call.ready_at = Some(*moment),
            Self::PhoneAttempt(attempt) => call.phone_attempt = *attempt,
            Self::LostPhoneLegs(lost) => call.lost_phone_legs = Some(*lost),
            Self::BridgedAt(moment) => call.bridged_at = Some(*moment),
            Self::Ended(at, reason) => {
                call.ended = Some(CallEnd {
                    at: *at,
                    reason: *reason,
                });
                call.expires_at = call.expiry_after(*at);
            }
            Self::NotEnded(until) => {
                call.ended = None;
                call.expires_at = call.expiry_after(*until);
            }
            Self::CallerLeg(channel) => call.caller_leg = Some(channel.clone()),
            Self::Pbx(pbx) => call.pbx = Some(pbx.clone()),
            Self::CallSid(sid) => call.call_sid = Some(sid.clone()),
            Self::CheckedAt(moment) => call.checked_at = Some(*moment),
            Self::ExotelUnanswered => call.exotel_unanswered = true,
            Self::Stream(state) => call.stream = Some(*state),
            Self::Pushed(pushed) => call.pushed = Some(pushed.clone()),
            Self::RingReceipts(receipts) => call.ring_receipts.clone_from(receipts),
            Self::DeclinedBy(devices) => call.declined_by.clone_from(devices),
            Self::EffectsPendingSince(moment) => call.effects_pending_since = Some(*moment),
            Self::NoEffectsPending => call.effects_pending_since = None,
            Self::EffectsCompleted(since) => {
                call.effects_pending_since = None;
                call.effects_completed = Some(*since);
            }
        }
    }
}
