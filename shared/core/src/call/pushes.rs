//! Which devices a call has reached, and when it tries to reach the others again.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Call, CallStatus, is_default};
use crate::ids::DeviceId;
use crate::timestamp::Timestamp;

/// A phone that gets its push later than this before the end of the ring wakes too late.
const WAKES_WITHIN: Duration = Duration::from_secs(3);

/// The devices to which a push was sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushedDevices {
    /// The devices. Empty if no push service has accepted a push.
    pub devices: BTreeSet<DeviceId>,
    /// Whether these are all devices of the extension. If a push to another one was rejected, that device may ring all the same: the
    /// other region has sent a push too, or the answer of the push service was wrong.
    #[serde(default)]
    pub are_all: bool,
    /// When the last push was accepted or failed.
    pub at: Timestamp,
    /// The same of the other pushes, in both regions. Their clocks differ, so the time of the last one does not show whether a region
    /// knows all of them.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub earlier: BTreeSet<Timestamp>,
    /// When a push to the other devices may succeed: their push service did not accept it for now. `None` if that is too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_at: Option<Timestamp>,
    /// How many connected clients of the extension took the ring. Counted only if no device has been reached by a push.
    #[serde(default, skip_serializing_if = "is_default")]
    pub clients: u32,
}

impl PushedDevices {
    /// Whether any device rings.
    #[must_use]
    pub fn reach_any(&self) -> bool {
        !self.devices.is_empty() || self.clients > 0
    }

    /// Whether all devices that ring have declined, and no other will ring. A client is not known by its device.
    pub(crate) fn have_all_declined(&self, declined: &BTreeSet<DeviceId>) -> bool {
        let clients = usize::try_from(self.clients).unwrap_or(usize::MAX);
        let all_declined = if self.devices.is_empty() {
            clients > 0 && declined.len() >= clients
        } else {
            self.devices.is_subset(declined)
        };
        all_declined && self.retry_at.is_none()
    }

    /// Whether this record includes those pushes.
    pub(crate) fn include(&self, other: &Self) -> bool {
        let times = self.times();
        other.devices.is_subset(&self.devices) && other.times().is_subset(&times)
    }

    fn times(&self) -> BTreeSet<Timestamp> {
        self.earlier.iter().copied().chain([self.at]).collect()
    }

    /// The record of these pushes and of those that are recorded already. These know better when to send again.
    pub(crate) fn added_to(&self, known: Option<&Self>) -> Self {
        let Some(known) = known else {
            return self.clone();
        };
        let at = self.at.max(known.at);
        let mut earlier = &self.times() | &known.times();
        earlier.remove(&at);
        Self {
            devices: self.devices.union(&known.devices).cloned().collect(),
            are_all: self.are_all && known.are_all,
            at,
            earlier,
            retry_at: self.retry_at,
            clients: self.clients.max(known.clients),
        }
    }
}

impl Call {
    /// Whether a push at this moment leaves a phone the time to wake.
    #[must_use]
    pub fn push_helps_at(&self, at: Timestamp) -> bool {
        at + WAKES_WITHIN <= self.rings_until
    }

    /// When the devices that got no push get another one.
    pub(crate) fn pushes_again_at(&self) -> Option<Timestamp> {
        let rings = self.status == CallStatus::WaitingForMobile;
        self.pushed.as_ref()?.retry_at.filter(|_| rings)
    }

    /// Whether the device needs no push: it has one, or has declined meanwhile.
    #[must_use]
    pub fn needs_no_push(&self, device: &DeviceId) -> bool {
        // Without a record of the first pushes, it shows only from its result that all devices have declined.
        self.pushed.as_ref().is_some_and(|pushed| {
            pushed.devices.contains(device) || self.declined_by.contains(device)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallParty, Decision, DeclineEnds, Effect, EndReason, Event, decide};
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn at(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    fn ids(names: &[&str]) -> BTreeSet<DeviceId> {
        let id = |name: &&str| DeviceId::try_from(*name).unwrap();
        names.iter().map(id).collect()
    }

    fn pushed(devices: &[&str], retry: Option<u64>, clients: u32) -> Event {
        Event::PushSent(PushedDevices {
            devices: ids(devices),
            are_all: false,
            at: NOW,
            retry_at: retry.map(at),
            earlier: [].into(),
            clients,
        })
    }

    /// The call after an event, and the effects that follow.
    fn after(call: &Call, event: &Event, now: Timestamp) -> (Call, Vec<Effect>) {
        match decide(call, event, now) {
            Decision::Advance { change, effects } => (call.apply(&change), effects),
            Decision::Stay { effects } => (call.clone(), effects),
            Decision::Reject(reason) => panic!("{reason:?}"),
        }
    }

    fn declined(call: &Call, device: &str, now: Timestamp) -> Call {
        let by = CallParty {
            extension: call.extension.clone(),
            device: DeviceId::try_from(device).ok(),
        };
        after(call, &Event::Declined { by }, now).0
    }

    #[test]
    fn a_delayed_push_arms_the_timer_of_the_next_one_before_the_effects_are_completed() {
        let call = a_call(NOW);
        let (call, effects) = after(&call, &pushed(&[], Some(10), 0), at(1));
        assert_eq!(call.status, CallStatus::WaitingForMobile);
        assert_eq!(call.effects_pending_since, Some(NOW));
        let expected = [Effect::ArmTimer(at(10)), Effect::MarkEffectsCompleted(NOW)];
        assert_eq!(effects, expected);
    }

    #[test]
    fn only_one_of_several_timers_sends_the_push_again() {
        let (call, _) = after(&a_call(NOW), &pushed(&["phone"], Some(10), 0), at(1));
        let (call, effects) = after(&call, &Event::TimerFired, at(10));
        assert!(effects.contains(&Effect::SendPush), "{effects:?}");
        // If this process crashes, the next timer sends it.
        assert!(effects.contains(&Effect::ArmTimer(at(15))), "{effects:?}");
        let (call, effects) = after(&call, &Event::TimerFired, at(10));
        assert!(!effects.contains(&Effect::SendPush), "{effects:?}");
        let (crashed, effects) = after(&call, &Event::TimerFired, at(15));
        assert!(effects.contains(&Effect::SendPush), "{effects:?}");

        let (call, effects) = after(&crashed, &pushed(&["tablet"], None, 0), at(16));
        assert_eq!(
            call.pushed.as_ref().unwrap().devices,
            ids(&["phone", "tablet"])
        );
        assert!(
            !effects
                .iter()
                .any(|effect| matches!(effect, Effect::ArmTimer(_)))
        );
        let (_, effects) = after(&call, &Event::TimerFired, at(20));
        assert!(!effects.contains(&Effect::SendPush), "{effects:?}");
    }

    #[test]
    fn a_push_that_comes_too_late_is_not_sent() {
        let call = a_call(NOW);
        assert!(call.push_helps_at(at(27)));
        assert!(!call.push_helps_at(at(28)));
        let (call, _) = after(&call, &pushed(&[], Some(25), 0), at(1));
        let (call, effects) = after(&call, &Event::TimerFired, at(26));
        assert!(effects.contains(&Effect::SendPush), "{effects:?}");
        assert_eq!(call.pushed.as_ref().unwrap().retry_at, None);
    }

    #[test]
    fn the_ring_ends_at_once_only_if_no_device_rings() {
        let dead = Event::PushNotSent(EndReason::PushFailed);
        let ringing = a_call(NOW);
        let delayed = after(&ringing, &pushed(&[], Some(10), 0), at(1)).0;
        for call in [&ringing, &delayed] {
            let (ended, effects) = after(call, &dead, at(11));
            assert_eq!(ended.end_reason(), Some(EndReason::PushFailed));
            assert!(effects.contains(&Effect::SendBusy), "{effects:?}");
        }
        for event in [pushed(&["phone"], Some(10), 0), pushed(&[], None, 1)] {
            let rings = after(&ringing, &event, at(1)).0;
            assert_eq!(
                after(&rings, &dead, at(11)).0.status,
                CallStatus::WaitingForMobile
            );
        }
    }

    #[test]
    fn a_call_that_rings_only_on_clients_ends_when_as_many_have_declined() {
        let mut call = a_call(NOW);
        call.settings.decline_ends = DeclineEnds::Device;
        let call = after(&call, &pushed(&[], None, 2), at(1)).0;
        let call = declined(&call, "tablet", at(2));
        assert_eq!(call.status, CallStatus::WaitingForMobile);
        let call = declined(&call, "tablet", at(3));
        assert_eq!(call.status, CallStatus::WaitingForMobile);
        assert_eq!(
            declined(&call, "browser", at(4)).status,
            CallStatus::Declined
        );
    }

    #[test]
    fn a_decline_does_not_end_a_ring_that_another_device_still_waits_for() {
        let mut call = a_call(NOW);
        call.settings.decline_ends = DeclineEnds::Device;
        let call = after(&call, &pushed(&["phone"], Some(10), 0), at(1)).0;
        let call = declined(&call, "phone", at(2));
        assert_eq!(call.status, CallStatus::WaitingForMobile);
        assert!(call.needs_no_push(ids(&["phone"]).first().unwrap()));
        // The other device's address has expired.
        let (call, _) = after(&call, &pushed(&[], None, 0), at(11));
        assert_eq!(call.status, CallStatus::Declined);
    }
}
