//! What a rule can say of an event, and the changes that rules of every kind of call make.

use super::{Call, CallStatus, Change, Effect, EndReason, Event, Set, StreamState};
use crate::timestamp::Timestamp;

/// What follows from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Save the change, on condition that nobody saved another first; then carry the effects out.
    Advance {
        /// What to save.
        change: Change,
        /// What to do then.
        effects: Vec<Effect>,
    },
    /// The event has been dealt with before. These effects may have been left undone.
    Stay {
        /// What to do again.
        effects: Vec<Effect>,
    },
    /// The event is not for this call, or comes too late. Not a fault of ours: the caller is told why.
    Refuse(RejectReason),
}

/// Why an event was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// The party's extension has no part in the call.
    NotYours,
    /// The call has gone another way; its status says which.
    GoneAnotherWay,
    /// The witness speaks of another call of the same caller.
    AnotherCall,
    /// The call is between two phones that are no apps of ours; it ends when one of them hangs up.
    EndsAtThePhones,
}

/// How a rule ends: [`Decision`] before the parts that all rules share are added.
pub(super) enum Verdict {
    Change(Vec<Set>),
    Repeat,
    Only(Vec<Effect>),
    Refuse(RejectReason),
}

pub(super) const NOTHING_TO_DO: Verdict = Verdict::Only(Vec::new());
pub(super) const GONE_ANOTHER_WAY: Verdict = Verdict::Refuse(RejectReason::GoneAnotherWay);

pub(super) fn streaming(call: &Call, event: &Event) -> Verdict {
    let starts = *event == Event::StreamStarted;
    let says_nothing = if starts {
        call.status.is_final()
    } else {
        call.stream.is_none()
    };
    if says_nothing {
        return NOTHING_TO_DO;
    }
    let state = if starts {
        StreamState::Started
    } else {
        StreamState::Stopped
    };
    if call.stream == Some(state) {
        NOTHING_TO_DO
    } else {
        Verdict::Change(vec![Set::Stream(state)])
    }
}

pub(super) fn settled(call: &Call, effects_pending_since: Timestamp) -> Verdict {
    if call.effects_pending_since == Some(effects_pending_since) {
        return Verdict::Change(vec![Set::NoEffectsPending]);
    }
    // The call ended while the phone was being called: its leg may have come up after it was taken down.
    if call.status.is_final() && call.ready_at.is_some() {
        return Verdict::Only(vec![Effect::HangUpPhone]);
    }
    NOTHING_TO_DO
}

pub(super) fn talking(now: Timestamp) -> Vec<Set> {
    vec![Set::Status(CallStatus::InProgress), Set::BridgedAt(now)]
}

pub(super) fn ended(status: CallStatus, why: EndReason, now: Timestamp) -> Vec<Set> {
    vec![
        Set::Status(status),
        Set::Ended(now, why),
        Set::EffectsPendingSince(now),
    ]
}
