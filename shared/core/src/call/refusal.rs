//! Calls that are refused before they ring, because their callee takes no call now.

use serde::{Deserialize, Serialize};

use super::common_rules::{ended, waiting};
use super::rule::{Rule, otherwise, when};
use super::{Call, CallStatus, CancelReason, Condition, EndReason};
use crate::ids::Extension;
use crate::timestamp::Timestamp;

/// What a caller hears while the callee talks to another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallWaiting {
    /// Ringing: the second call rings as the first one did.
    #[default]
    Ring,
    /// Busy.
    Busy,
}

/// Why a callee takes no call now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is in another conversation.
    Busy,
    /// Its person wants no calls.
    DoNotDisturb,
}

impl Refusal {
    pub(super) const fn reason(self) -> EndReason {
        match self {
            Self::Busy => EndReason::Busy,
            Self::DoNotDisturb => EndReason::DoNotDisturb,
        }
    }

    /// The reason in the notice of the missed call.
    pub(super) const fn notice(self) -> CancelReason {
        match self {
            Self::Busy => CancelReason::Busy,
            Self::DoNotDisturb => CancelReason::DoNotDisturb,
        }
    }
}

/// The rules for a callee that takes no call.
pub(super) fn callee_unavailable(refusal: Refusal, now: Timestamp) -> Vec<Rule<'static>> {
    vec![
        when([waiting(), Condition::PushNotRecorded])
            .set(ended(CallStatus::Declined, refusal.reason(), now))
            .then_pending(),
        otherwise().nothing(),
    ]
}

impl Call {
    /// Why the call was refused. `None` if it was not.
    #[must_use]
    pub fn refusal(&self) -> Option<Refusal> {
        match self.end_reason()? {
            EndReason::Busy => Some(Refusal::Busy),
            EndReason::DoNotDisturb => Some(Refusal::DoNotDisturb),
            _ => None,
        }
    }

    /// Whether it is known whether the callee takes this call.
    #[must_use]
    pub fn has_callees_answer(&self) -> bool {
        self.status != CallStatus::WaitingForMobile || self.pushed.is_some()
    }

    /// Whether the process that stored this version of the call has refused it. Another version may ring in the other region.
    pub(crate) fn was_refused_when_stored(&self) -> bool {
        self.refusal().is_some() && self.ended_at() == Some(self.created_at)
    }

    /// Whether a conversation begins (`true`) or ends with the change of a call to this version. `None` if neither does, or if the deployment
    /// does not refuse second calls.
    #[must_use]
    pub fn conversation_change(&self, before: Option<&Self>) -> Option<bool> {
        let is_talking = |call: &Self| call.status == CallStatus::InProgress;
        let (talked, talks) = (before.is_some_and(is_talking), is_talking(self));
        let is_noted = self.settings.call_waiting == CallWaiting::Busy && talked != talks;
        is_noted.then_some(talks)
    }

    /// Whether the person of this extension talks in this call.
    #[must_use]
    pub fn occupies(&self, extension: &Extension) -> bool {
        self.status == CallStatus::InProgress && self.participants().any(|one| one == extension)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::call::{CancelAudience, Decision, Effect, Event, PushedDevices, decide};
    use crate::ids::DeviceId;
    use crate::testing::{a_call, leg};

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn notice(reason: CancelReason) -> Effect {
        Effect::CancelPush {
            reason,
            to: CancelAudience::AllExcept([].into()),
        }
    }

    fn refuse(call: &Call, refusal: Refusal) -> (Call, Vec<Effect>) {
        match decide(call, &Event::CalleeUnavailable(refusal), NOW) {
            Decision::Advance { change, effects } => (call.apply(&change), effects),
            decision => panic!("{decision:?}"),
        }
    }

    #[test]
    fn a_refused_call_rings_no_device_and_its_caller_hears_busy() {
        for (refusal, reason) in [
            (Refusal::Busy, CancelReason::Busy),
            (Refusal::DoNotDisturb, CancelReason::DoNotDisturb),
        ] {
            let (call, effects) = refuse(&a_call(NOW), refusal);
            let expected = [
                Effect::SendBusy,
                notice(reason),
                Effect::MarkEffectsCompleted(NOW),
                Effect::DisarmTimer,
            ];
            assert_eq!(effects, expected);
            assert_eq!(call.status_at(NOW), CallStatus::Declined);
        }
    }

    /// Exotel's webhook stores the call before its leg reaches the PBX.
    #[test]
    fn a_leg_that_arrives_late_hears_busy_too() {
        let mut call = a_call(NOW);
        (call.caller_leg, call.pbx) = (None, None);
        let (call, effects) = refuse(&call, Refusal::Busy);
        assert!(!effects.contains(&Effect::SendBusy));
        let arrives = Event::CallerReported {
            caller_leg: Some(leg("pbx", "leg-1")),
            call_sid: None,
        };
        let Decision::Advance { effects, .. } =
            decide(&call, &arrives, NOW + Duration::from_secs(1))
        else {
            panic!("the leg is not stored");
        };
        assert_eq!(effects, [Effect::SendBusy]);
    }

    /// One region has heard of the conversation, and the other one rings.
    #[test]
    fn devices_that_rang_in_the_other_region_stop() {
        let (refused, _) = refuse(&a_call(NOW), Refusal::Busy);
        let began = NOW.before(Duration::from_secs(10));
        let rings = Call {
            call_id: refused.call_id,
            pushed: Some(PushedDevices {
                devices: [DeviceId::try_from("phone").unwrap()].into(),
                at: began,
                are_all: true,
                retry_at: None,
                earlier: [].into(),
                clients: 0,
            }),
            ..a_call(began)
        };
        for (standing, lost) in [(&refused, &rings), (&rings, &refused)] {
            let merge = Event::ReplicaOverwritten(Box::new(lost.clone()));
            let Decision::Advance { change, effects } = decide(standing, &merge, NOW) else {
                panic!("nothing is learned");
            };
            assert_eq!(standing.apply(&change).end_reason(), Some(EndReason::Busy));
            assert!(
                effects.contains(&notice(CancelReason::Timeout)),
                "{effects:?}"
            );
            assert!(effects.contains(&Effect::SendBusy), "{effects:?}");
        }
    }
}
