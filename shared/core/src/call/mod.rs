//! The life of a call: what it is, what can happen to it, and what follows. No I/O, no clock.
//!
//! [`decide`] holds every rule. [`Event`] is what can happen, [`Effect`] what is to be done about it, and
//! [`ConditionalUpdate`] the change to save first, with the condition on which it may be saved.

mod backstop;
mod change;
mod decide;
mod effect;
mod event;
mod exotel_query;
mod inbound;
mod merge;
mod outbound;
mod progress;
#[cfg(test)]
mod properties;
mod replication;
mod verdict;

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use backstop::{Backstop, BackstopPhase};
pub use change::{Change, Condition, ConditionalUpdate, Set};
pub use decide::{decide, effects_after, first_effects, usual};
pub use effect::{Audience, CancelReason, Effect};
pub use event::{CallParty, CallSide, EndReason, Event, Readiness, StopReason};
pub use inbound::{Incoming, ring};
pub use outbound::{Outgoing, initiate};
pub use progress::OutboundProgress;
pub use replication::{ReplicationAction, replication_action};
pub use verdict::{Decision, RejectReason};

use crate::ids::{CallId, CallSid, ChannelId, DeviceId, Extension, Leg, PbxName};
use crate::phone_number::{Caller, PhoneNumber};
use crate::timestamp::Timestamp;

/// One call, as it is stored.
///
/// New code must read what old code wrote: a new field is optional or has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The call's id; S1's `server_call_id` and `call_id` are both this.
    pub call_id: CallId,
    /// Counts the changes of this item, so that a rival who saved first is noticed.
    pub version: u64,
    /// Where the call is in its life.
    pub status: CallStatus,
    /// Whose phone is wanted; of an outbound call, whose app asked for it.
    pub extension: Extension,
    /// Who calls; of an outbound call, the number that Exotel calls first.
    pub caller: Caller,
    /// The number wanted, which makes this an outbound call: Exotel connects two numbers, Asterisk has no part in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<PhoneNumber>,
    /// Voice or video.
    pub call_type: CallType,
    /// When the call was stored, which is just before the phone was woken.
    pub created_at: Timestamp,
    /// Until when the phone rings (S1: `timeout`).
    pub rings_until: Timestamp,
    /// The time limits that were in force when the call came.
    pub limits: CallLimits,
    /// Exotel's id of the call, once one of the witnesses has told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub call_sid: Option<CallSid>,
    /// The channel on which the caller waits, once it has reached Asterisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caller_leg: Option<ChannelId>,
    /// The PBX that holds the caller's leg, and calls the phone; absent while the call has no leg, and in what was stored
    /// before there could be several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pbx: Option<PbxName>,
    /// When it was last asked how the call stands: of an outbound call, Exotel; of a phone that should talk by now,
    /// Asterisk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checked_at: Option<Timestamp>,
    /// Whether Exotel streams the call's audio to us; absent if it never has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stream: Option<StreamState>,
    /// The devices whose push went out; absent until that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rang: Option<BTreeSet<DeviceId>>,
    /// The devices that declined while others rang on.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub declined_by: BTreeSet<DeviceId>,
    /// Who accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answered_by: Option<AnsweredBy>,
    /// When the app said it was ready (S1: `mobile_ready_time`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_at: Option<Timestamp>,
    /// When the two legs were joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bridged_at: Option<Timestamp>,
    /// When the call was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
    /// Why it was over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end_reason: Option<EndReason>,
    /// Since when the effects of the last transition are owed; absent once they have been carried out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effects_pending_since: Option<Timestamp>,
    /// What happened, oldest first.
    #[serde(default)]
    pub history: Vec<HistoryEntry>,
    /// When the item may be forgotten, in seconds since the Unix epoch (DynamoDB's TTL attribute).
    pub expires_at: u64,
}

/// Where a call is in its life. `snake_case` on the wire, as the contract spells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallStatus {
    /// The caller waits, the phone is being woken.
    WaitingForMobile,
    /// The app has said that it is ready; the two legs are being joined.
    MobileReady,
    /// Exotel has been asked to connect two numbers.
    Initiated,
    /// One of the two numbers rings.
    Ringing,
    /// Caller and phone, or the two numbers, are talking.
    InProgress,
    /// They have talked.
    Completed,
    /// The person wanted did not want the call.
    Declined,
    /// Nobody answered in time.
    TimedOut,
    /// The caller hung up before anybody answered.
    Canceled,
    /// It could not be carried out.
    Failed,
}

impl CallStatus {
    /// Whether the call is over. There is no way out of a final state.
    #[must_use]
    pub const fn is_final(self) -> bool {
        match self {
            Self::WaitingForMobile
            | Self::MobileReady
            | Self::Initiated
            | Self::Ringing
            | Self::InProgress => false,
            Self::Completed | Self::Declined | Self::TimedOut | Self::Canceled | Self::Failed => {
                true
            }
        }
    }

    /// As it stands on the wire and in the table.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::WaitingForMobile => "waiting_for_mobile",
            Self::MobileReady => "mobile_ready",
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::InProgress => "in_progress",
            Self::Completed => "completed",
            Self::Declined => "declined",
            Self::TimedOut => "timed_out",
            Self::Canceled => "canceled",
            Self::Failed => "failed",
        }
    }
}

/// Voice or video (S2: `callType`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallType {
    /// Sound alone.
    #[default]
    Voice,
    /// Sound and picture.
    Video,
}

impl CallType {
    /// As it stands in pushes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Voice => "voice",
            Self::Video => "video",
        }
    }
}

/// Whether Exotel streams a call's audio to us (its Stream and Voicebot applets).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamState {
    /// It does.
    Started,
    /// It has stopped.
    Stopped,
}

/// Who accepted a call: an app that named its device, or the extension as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnsweredBy {
    /// The device, where the app named it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
}

/// How long each part of a call may last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallLimits {
    /// How long a phone rings.
    #[serde(rename = "ring_ms", with = "millis")]
    pub ring: Duration,
    /// How long a phone that said it is ready may take until it talks.
    #[serde(rename = "connect_ms", with = "millis")]
    pub connect: Duration,
    /// How long the two may talk.
    #[serde(rename = "talk_ms", with = "millis")]
    pub talk: Duration,
    /// How often an outbound call is looked up of which Exotel says nothing.
    #[serde(rename = "check_ms", with = "millis", default = "every_five_minutes")]
    pub check: Duration,
}

const fn every_five_minutes() -> Duration {
    Duration::from_secs(300)
}

/// One line of a call's history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// When.
    pub at: Timestamp,
    /// What happened, in the words of [`Event::as_str`].
    pub event: String,
    /// By whom, or with what cause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// How long effects may be owed before somebody else takes them for abandoned and carries them out.
///
/// Longer than a push and an originate take; shorter than a caller's patience.
pub const ABANDONED_AFTER: Duration = Duration::from_secs(5);

/// How long a finished call is kept for late and repeated requests (the contract: a day).
pub const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

impl Call {
    /// Whether Exotel connects two numbers, because an app asked for it.
    #[must_use]
    pub const fn is_outbound(&self) -> bool {
        self.to.is_some()
    }

    /// Whether Exotel was asked to place the call and gave no answer, nor any report since.
    #[must_use]
    pub fn may_have_been_placed(&self) -> bool {
        let silent = |entry: &HistoryEntry| entry.event == event::EXOTEL_SILENT;
        self.call_sid.is_none() && self.history.iter().any(silent)
    }

    /// The extension whose app started the call. `None` if the call came in by the trunk.
    #[must_use]
    pub fn started_by(&self) -> Option<&Extension> {
        if self.is_outbound() {
            Some(&self.extension)
        } else {
            self.caller.extension.as_ref()
        }
    }

    /// The time limit of the whole call, for a call whose end is never reported.
    #[must_use]
    pub fn ends_by(&self) -> Timestamp {
        self.rings_until + self.limits.connect + self.limits.talk
    }

    /// Whether the call is active at `now`: it has not ended, and its time limit has not passed.
    #[must_use]
    pub fn is_live(&self, now: Timestamp) -> bool {
        !self.status.is_final() && self.ends_by() > now
    }

    /// The extensions that have part in the call.
    pub fn participants(&self) -> impl Iterator<Item = &Extension> {
        std::iter::once(&self.extension).chain(&self.caller.extension)
    }

    /// The channel that is taken down to end the caller's part: the one on which the caller waits, or the one that an
    /// app's own phone is called on, which may not have come so far.
    #[must_use]
    pub fn caller_channel(&self) -> Option<ChannelId> {
        let app = self.caller.extension.as_ref();
        let own = app.map(|_| ChannelId::of_app_caller(self.call_id));
        self.caller_leg.clone().or(own)
    }

    /// Whether `leg` is the one on which the caller waits.
    #[must_use]
    pub fn is_callers_leg(&self, leg: &Leg) -> bool {
        self.caller_leg.as_ref() == Some(&leg.channel) && self.pbx_can_be(&leg.pbx)
    }

    /// Whether `leg` may be the caller's, which is so too as long as none is known.
    #[must_use]
    pub fn callers_leg_can_be(&self, leg: &Leg) -> bool {
        let no_other = |known: &ChannelId| *known == leg.channel;
        self.caller_leg.as_ref().is_none_or(no_other) && self.pbx_can_be(&leg.pbx)
    }

    /// Whether the call's legs may be on this PBX.
    #[must_use]
    pub fn pbx_can_be(&self, pbx: &PbxName) -> bool {
        self.pbx.as_ref().is_none_or(|known| known == pbx)
    }

    /// Until when the call may stay in the state it is in; `None` once it is over. No other state lacks a deadline,
    /// so no call gets stuck.
    #[must_use]
    pub fn deadline(&self) -> Option<Timestamp> {
        match self.status {
            CallStatus::WaitingForMobile => Some(inbound::once_answered(self, self.rings_until)),
            CallStatus::Initiated | CallStatus::Ringing => Some(outbound::report_due(self)),
            CallStatus::MobileReady => Some(inbound::gives_up_at(self)),
            CallStatus::InProgress if self.is_outbound() => Some(outbound::report_due(self)),
            CallStatus::InProgress => {
                Some(self.bridged_at.unwrap_or(self.created_at) + self.limits.talk)
            }
            CallStatus::Completed
            | CallStatus::Declined
            | CallStatus::TimedOut
            | CallStatus::Canceled
            | CallStatus::Failed => None,
        }
    }

    /// The status as a phone should see it now: a ring whose time is up is over, even before its timer fires.
    #[must_use]
    pub fn status_at(&self, now: Timestamp) -> CallStatus {
        let ringing_too_long =
            self.status == CallStatus::WaitingForMobile && now >= self.rings_until;
        if ringing_too_long {
            CallStatus::TimedOut
        } else {
            self.status
        }
    }

    /// Whether the effects of the last transition have been owed for so long that whoever carried them out must
    /// have died.
    #[must_use]
    pub fn was_abandoned(&self, now: Timestamp) -> bool {
        self.effects_pending_since
            .is_some_and(|since| now.since(since) >= ABANDONED_AFTER)
    }

    /// The attempt to save `change` unless somebody else has changed the call since it was read.
    #[must_use]
    pub fn attempt(&self, change: Change) -> ConditionalUpdate {
        ConditionalUpdate {
            checks: vec![Condition::VersionIs(self.version)],
            change,
        }
    }

    /// The call as it is after `change`.
    #[must_use]
    pub fn apply(&self, change: &Change) -> Self {
        let mut next = self.clone();
        for set in &change.sets {
            set.apply_to(&mut next);
        }
        next.version += 1;
        next.history.push(change.entry.clone());
        next
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
