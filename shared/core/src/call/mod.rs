//! The life of a call: what it is, what can happen to it, and what follows. No I/O and no clock.
//!
//! To read it in order:
//!
//! 1. [`Call`]: one call as it is stored. [`CallKind`] has what only one kind of call has.
//! 2. [`Event`]: what can happen. [`Effect`]: what must be done about it.
//! 3. `rule`: a rule is one row, *when these conditions hold, then these assignments and these effects*.
//! 4. `phone_rules` and `number_rules`: all rows, for calls to an app's phone and for calls to a telephone number.
//! 5. [`decide`]: takes the first row that applies.

#[cfg(test)]
mod attempts;
mod backstop;
mod change;
mod common_rules;
mod correlation;
mod deadline;
mod decide;
mod decline;
mod effect;
mod end_reason;
mod event;
mod exotel_query;
mod kind;
mod merge;
mod number_rules;
mod pending;
mod phone_rules;
#[cfg(test)]
mod properties;
mod push_platform;
mod pushes;
mod refusal;
mod ring_receipt;
mod rule;
mod status;
mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use backstop::{Backstop, BackstopPhase};
pub use change::{Assignment, Change, Condition, ConditionalUpdate};
pub use correlation::CorrelationKey;
pub use decide::{Decision, RejectReason, UnreadUpdate, decide, first_effects, unread_update};
pub use effect::{CancelAudience, CancelReason, Effect};
pub use end_reason::EndReason;
pub use event::{CallParty, CallSide, Event, Readiness, StopReason};
pub use kind::{CallKind, CallType};
pub use push_platform::PushPlatform;
pub use pushes::PushedDevices;
pub use refusal::{CallWaiting, Refusal};
pub use ring_receipt::RingReceipt;
pub use status::CallStatus;
pub use stream::{StreamAction, stream_action};

use crate::ids::{CallId, CallSid, ChannelId, DeviceId, Extension, Leg, PbxName};
use crate::phone_number::{Caller, PhoneNumber};
use crate::timestamp::Timestamp;

/// One call, as it is stored.
///
/// New code reads what old code wrote: a new field is optional or has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The call's id: `call_id` and `server_call_id` in messages.
    pub call_id: CallId,
    /// Counts the changes of this item, so that a concurrent change is noticed.
    pub version: u64,
    /// Where the call is in its life.
    pub status: CallStatus,
    /// The extension that is called. For a call to a telephone number: the extension of the app that started it.
    pub extension: Extension,
    /// The kind of the call, with what only this kind has.
    pub kind: CallKind,
    /// Voice or video.
    pub call_type: CallType,
    /// When the call was stored, which is just before the push.
    pub created_at: Timestamp,
    /// Until when the phone rings.
    pub rings_until: Timestamp,
    /// What was configured when the call began.
    pub settings: CallSettings,
    /// Exotel's id of the call, once a report has named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_sid: Option<CallSid>,
    /// The channel on which the caller waits, once it has reached Asterisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_leg: Option<ChannelId>,
    /// The PBX that holds the caller's leg and dials the phone. `None` while the call has no leg.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pbx: Option<PbxName>,
    /// When an outside system was last asked about the call: Exotel about a call to a number, Asterisk about a phone that
    /// should talk by now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Timestamp>,
    /// Whether Exotel did not answer the request for this call.
    #[serde(default, skip_serializing_if = "is_default")]
    pub exotel_unanswered: bool,
    /// Whether Exotel streams the call's audio. `None` if it never has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamState>,
    /// The devices to which a push was sent. `None` until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<PushedDevices>,
    /// The devices that have reported that they ring, with their first report.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub ring_receipts: BTreeMap<DeviceId, RingReceipt>,
    /// The devices that declined while others kept ringing.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub declined_by: BTreeSet<DeviceId>,
    /// Who accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<AnsweredBy>,
    /// Whether other devices may still lack the push that says that the call was answered.
    #[serde(default, skip_serializing_if = "is_default")]
    pub answer_unannounced: bool,
    /// When the app said that it was ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// The number of the leg to the phone, which counts from 1. It grows each time that the phone has left the address of the last leg
    /// and is dialed elsewhere.
    #[serde(default = "first_attempt", skip_serializing_if = "is_first_attempt")]
    pub phone_attempt: u32,
    /// The phone legs that ended before the call was bridged. `None` if there were none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lost_phone_legs: Option<LostPhoneLegs>,
    /// When the two legs were bridged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridged_at: Option<Timestamp>,
    /// When and why the call ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<CallEnd>,
    /// Since when the effects of the last transition are pending. `None` once they are completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects_pending_since: Option<Timestamp>,
    /// The effects pending since this moment were completed. The other region's version may say that they still are pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects_completed: Option<Timestamp>,
    /// What happened, oldest first. For people: no rule reads it.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
    /// When the item may be deleted, in seconds since the Unix epoch (DynamoDB's TTL attribute).
    pub expires_at: u64,
}

/// Whether a value need not be stored.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn first_attempt() -> u32 {
    1
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde passes a reference"
)]
const fn is_first_attempt(attempt: &u32) -> bool {
    *attempt == first_attempt()
}

/// Whether Exotel streams a call's audio (its Stream and Voicebot applets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// Exotel streams the audio.
    Started,
    /// Exotel has stopped.
    Stopped,
}

/// Who accepted a call: a device, or the extension as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredBy {
    /// The device, if the app named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

/// The phone legs that ended before the call was bridged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LostPhoneLegs {
    /// How many.
    pub count: u32,
    /// When the last one ended.
    pub last_at: Timestamp,
}

/// When and why a call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallEnd {
    /// When.
    pub at: Timestamp,
    /// Why.
    pub reason: EndReason,
}

/// What a deployment configures for its calls: how long each part may last, and what ends the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallSettings {
    /// How long a phone rings.
    #[serde(rename = "ring_ms", with = "millis")]
    pub ring: Duration,
    /// How long a phone may take from being ready until it talks.
    #[serde(rename = "connect_ms", with = "millis")]
    pub connect: Duration,
    /// How long the two sides may talk.
    #[serde(rename = "talk_ms", with = "millis")]
    pub talk: Duration,
    /// How often Exotel is asked about a call to a number of which it reports nothing.
    #[serde(rename = "check_ms", with = "millis")]
    pub check: Duration,
    /// What a decline on one device ends.
    #[serde(default)]
    pub decline_ends: DeclineEnds,
    /// For how many seconds an ended call is kept, for late and repeated requests and for the list of calls.
    pub kept_seconds: u64,
    /// The final SIP status of an unanswered INVITE from the trunk.
    // A default takes no room: DynamoDB charges a write by the KiB, and a call has about one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub unanswered: Rejection,
    /// What a caller hears while the callee talks to another one.
    #[serde(default, skip_serializing_if = "is_default")]
    pub call_waiting: CallWaiting,
}

/// The final SIP status for the trunk's INVITE. Some trunks try another destination after one of these and not after the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rejection {
    /// 486 Busy Here.
    #[default]
    #[serde(rename = "486")]
    BusyHere,
    /// 480 Temporarily Unavailable.
    #[serde(rename = "480")]
    TemporarilyUnavailable,
}

/// What a decline on one device ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeclineEnds {
    /// The call: all devices stop ringing, and the caller hears busy.
    #[default]
    Call,
    /// The ring of this device. The call ends when all devices have declined.
    Device,
}

/// One line of a call's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When it happened.
    pub at: Timestamp,
    /// What happened: [`Event::as_str`].
    pub event: String,
    /// Its source or cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// How long effects may be pending before another process counts them as abandoned and carries them out.
///
/// Longer than a push and an originate take, shorter than a caller's patience.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(5);

/// A timer that fires early by no more than this is on time: the queue and the writers of the table have different clocks.
const CLOCK_DIFFERENCE: Duration = Duration::from_secs(2);

/// How long after the end of the ring the PBX may repeat its report of the caller. It tries four times, 5 s each, and once more.
const REPEATED_WITHIN: Duration = Duration::from_secs(30);

/// The longest that Exotel lets a call last.
const LONGEST_EXOTEL_CALL: Duration = Duration::from_secs(4 * 60 * 60);

/// A call that begins.
#[derive(Clone, Debug)]
pub struct NewCall {
    /// Its id.
    pub call_id: CallId,
    /// The extension that is called. For a call to a telephone number: the extension of the app that starts it.
    pub extension: Extension,
    /// Its kind.
    pub kind: CallKind,
    /// Voice or video.
    pub call_type: CallType,
    /// The leg on which the caller waits, if the PBX reports it.
    pub caller_leg: Option<Leg>,
    /// Exotel's id, if it is known.
    pub call_sid: Option<CallSid>,
}

impl Call {
    /// The beginning of a call's life. The caller stores it, and then carries [`first_effects`] out. (A push that goes out first
    /// can bring an answer to a call that does not exist yet.)
    #[must_use]
    pub fn new(new: NewCall, settings: CallSettings, now: Timestamp) -> Self {
        let is_to_number = matches!(new.kind, CallKind::ToNumber { .. });
        let settings = CallSettings {
            talk: if is_to_number {
                settings.talk.min(LONGEST_EXOTEL_CALL)
            } else {
                settings.talk
            },
            ..settings
        };
        let (status, event, rings_until) = if is_to_number {
            // Both numbers may ring, one after the other.
            let rings_until = now + settings.ring + settings.ring + settings.connect;
            (CallStatus::Initiated, "initiate", rings_until)
        } else {
            (CallStatus::WaitingForMobile, "ring", now + settings.ring)
        };
        let by = new.caller_leg.as_ref().map(ToString::to_string);
        let (caller_leg, pbx) = new.caller_leg.map(|leg| (leg.channel, leg.pbx)).unzip();
        Self {
            call_id: new.call_id,
            version: 1,
            status,
            extension: new.extension,
            kind: new.kind,
            call_type: new.call_type,
            created_at: now,
            rings_until,
            settings,
            call_sid: new.call_sid,
            caller_leg,
            pbx,
            checked_at: None,
            exotel_unanswered: false,
            stream: None,
            pushed: None,
            ring_receipts: BTreeMap::new(),
            declined_by: BTreeSet::new(),
            answered_by: None,
            answer_unannounced: false,
            ready_at: None,
            phone_attempt: first_attempt(),
            lost_phone_legs: None,
            bridged_at: None,
            ended: None,
            effects_pending_since: Some(now),
            effects_completed: None,
            history: vec![HistoryEntry {
                at: now,
                event: event.to_owned(),
                by,
            }],
            expires_at: (rings_until + settings.connect + settings.talk).as_secs_rounded_up()
                + settings.kept_seconds,
        }
    }

    /// Whether Exotel connects two numbers for an app.
    #[must_use]
    pub const fn is_to_number(&self) -> bool {
        matches!(self.kind, CallKind::ToNumber { .. })
    }

    /// The number that is called, of a call to a number.
    #[must_use]
    pub const fn number_called(&self) -> Option<&PhoneNumber> {
        match &self.kind {
            CallKind::ToNumber { to, .. } => Some(to),
            CallKind::FromTrunk { .. } | CallKind::BetweenApps { .. } => None,
        }
    }

    /// Who calls.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.kind.caller()
    }

    /// Whether Exotel may have placed the call although it has not answered the request and has not reported the call.
    #[must_use]
    pub const fn may_have_been_placed(&self) -> bool {
        self.exotel_unanswered && self.call_sid.is_none()
    }

    /// Until when reports without a CallSid are matched to this call by its caller: while it rings, and while the PBX may report the
    /// caller's leg again.
    #[must_use]
    pub fn claims_caller_until(&self) -> Timestamp {
        self.rings_until + REPEATED_WITHIN
    }

    pub(crate) fn rang_on_one_device(&self) -> bool {
        let pushed = self.pushed.as_ref();
        pushed.is_some_and(|pushed| pushed.are_all && pushed.devices.len() <= 1)
    }

    pub(crate) fn has_ended_unanswered(&self) -> bool {
        self.status.is_final() && self.status != CallStatus::Completed
    }

    /// Whether the call was given up without a report of its end: the other region, or a report that comes later, may know better.
    #[must_use]
    pub fn end_is_assumed(&self) -> bool {
        match self.end_reason() {
            Some(EndReason::NoAnswer) => !self.is_to_number(),
            // Another device may have answered in the other region, or the phone when it was dialed again.
            Some(
                EndReason::CalleeDeclined
                | EndReason::Busy
                | EndReason::DoNotDisturb
                | EndReason::NotConnected
                | EndReason::PhoneUnreachable
                | EndReason::NeverReported,
            ) => true,
            _ => false,
        }
    }

    /// The extension of the app that started the call. `None` if the call came in through the trunk.
    #[must_use]
    pub const fn started_by(&self) -> Option<&Extension> {
        match &self.kind {
            CallKind::FromTrunk { .. } => None,
            CallKind::BetweenApps { caller, .. } => Some(caller),
            CallKind::ToNumber { .. } => Some(&self.extension),
        }
    }

    /// The time limit of the whole call, in case its end is never reported.
    #[must_use]
    pub fn ends_by(&self) -> Timestamp {
        self.rings_until + self.settings.connect + self.settings.talk
    }

    /// Whether the call is active at `now`: it has not ended, and its time limit has not passed.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.status.is_final() && self.ends_by() > now
    }

    /// When the call ended.
    #[must_use]
    pub fn ended_at(&self) -> Option<Timestamp> {
        self.ended.map(|end| end.at)
    }

    /// Why the call ended.
    #[must_use]
    pub fn end_reason(&self) -> Option<EndReason> {
        self.ended.map(|end| end.reason)
    }

    /// The final SIP status for the waiting caller. After a decline and for a refused call, it is always 486.
    #[must_use]
    pub const fn rejection(&self) -> Rejection {
        match self.status {
            CallStatus::TimedOut | CallStatus::Failed => self.settings.unanswered,
            CallStatus::WaitingForMobile
            | CallStatus::MobileReady
            | CallStatus::Initiated
            | CallStatus::Ringing
            | CallStatus::InProgress
            | CallStatus::Completed
            | CallStatus::Declined
            | CallStatus::Canceled => Rejection::BusyHere,
        }
    }

    /// The extensions that take part in the call.
    pub fn participants(&self) -> impl Iterator<Item = &Extension> {
        std::iter::once(&self.extension).chain(self.kind.calling_app())
    }

    /// The channel to hang up to end the caller's part: the one on which the caller waits, or the one on which the phone of the
    /// calling app is dialed, which may not exist yet.
    #[must_use]
    pub fn caller_channel(&self) -> Option<ChannelId> {
        let own = self.kind.calling_app();
        let own = own.map(|_| ChannelId::of_app_caller(self.call_id));
        self.caller_leg.clone().or(own)
    }

    /// The channel of the leg to the phone.
    #[must_use]
    pub fn phone_channel(&self) -> ChannelId {
        ChannelId::of_phone(self.call_id, self.phone_attempt)
    }

    /// The channels of all legs to the phone, the last one first. Normally, only the last one exists.
    pub fn phone_channels(&self) -> impl Iterator<Item = ChannelId> + use<> {
        let call = self.call_id;
        let attempts = (1..=self.phone_attempt).rev();
        attempts.map(move |attempt| ChannelId::of_phone(call, attempt))
    }

    /// The same, and the channel of the next attempt before them: the other region may have dialed the phone once more.
    pub fn phone_channels_of_both_regions(&self) -> impl Iterator<Item = ChannelId> + use<> {
        let next = ChannelId::of_phone(self.call_id, self.phone_attempt + 1);
        std::iter::once(next).chain(self.phone_channels())
    }

    /// Whether the caller waits on `leg`.
    #[must_use]
    pub fn is_callers_leg(&self, leg: &Leg) -> bool {
        self.caller_leg.as_ref() == Some(&leg.channel) && self.may_be_on_pbx(&leg.pbx)
    }

    /// Whether `leg` may be the caller's: it is, or no leg is known yet.
    #[must_use]
    pub fn may_be_callers_leg(&self, leg: &Leg) -> bool {
        let is_same = |known: &ChannelId| *known == leg.channel;
        self.caller_leg.as_ref().is_none_or(is_same) && self.may_be_on_pbx(&leg.pbx)
    }

    /// Whether the call's legs may be on this PBX: they are, or no PBX is known yet.
    #[must_use]
    pub fn may_be_on_pbx(&self, pbx: &PbxName) -> bool {
        self.pbx.as_ref().is_none_or(|known| known == pbx)
    }

    /// The status that clients see at `now`: a ring ends at its time, even before its timer fires.
    #[must_use]
    pub fn status_at(&self, now: Timestamp) -> CallStatus {
        let is_over = self.status == CallStatus::WaitingForMobile && now >= self.rings_until;
        if is_over {
            CallStatus::TimedOut
        } else {
            self.status
        }
    }

    /// Whether the effects of the last transition are pending for so long that the process that carried them out must have
    /// crashed.
    #[must_use]
    pub fn was_abandoned(&self, now: Timestamp) -> bool {
        self.effects_pending_since
            .is_some_and(|since| now.since(since) >= ABANDONED_AFTER)
    }

    /// The update that saves `change`, unless the call has changed since it was read.
    #[must_use]
    pub fn update(&self, change: Change) -> ConditionalUpdate {
        ConditionalUpdate {
            conditions: vec![Condition::VersionIs(self.version)],
            change,
        }
    }

    /// The call after `change`.
    #[must_use]
    pub fn apply(&self, change: &Change) -> Self {
        let mut next = self.clone();
        for assignment in &change.assignments {
            assignment.apply_to(&mut next);
        }
        next.version += 1;
        next.history.push(change.entry.clone());
        next
    }

    /// When the item of a call that ends at `ended_at` may be deleted, in seconds since the Unix epoch.
    #[must_use]
    pub const fn expiry_after(&self, ended_at: Timestamp) -> u64 {
        ended_at.as_secs_rounded_up() + self.settings.kept_seconds
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(duration: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}
