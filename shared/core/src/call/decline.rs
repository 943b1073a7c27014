//! The rules of a decline while a call rings.

use std::time::Duration;

use super::common_rules::{ended, waiting};
use super::rule::{Rule, otherwise, when};
use super::{
    Assignment, Call, CallParty, CallStatus, Condition, DeclineEnds, EndReason, PushedDevices,
    RejectReason,
};
use crate::timestamp::Timestamp;

/// An app declines when its own ring timer ends. That is no decision of its user.
const STOPS_ITSELF_WITHIN: Duration = Duration::from_secs(2);

pub(super) fn declined(by: &CallParty, now: Timestamp) -> Vec<Rule<'_>> {
    let mut rules = while_ringing(by, now);
    rules.push(when([Condition::StatusIs(CallStatus::Declined)]).repeat());
    rules.push(otherwise().reject(RejectReason::WrongStatus));
    rules
}

/// A decline ends the ring of the extension, or that of its device only ([`DeclineEnds`]). A decline without a device is for the whole
/// extension. Which devices ring may show only when it is recorded to which of them the push was sent.
pub(super) fn while_ringing(by: &CallParty, now: Timestamp) -> Vec<Rule<'_>> {
    let device = by.device.as_ref();
    let declined_by = move |call: &Call| {
        let mut all = call.declined_by.clone();
        all.extend(device.cloned());
        all
    };
    let others_ring = move |call: &Call| {
        let all_declined = |pushed: &PushedDevices| pushed.have_all_declined(&declined_by(call));
        let is_own = call.settings.decline_ends == DeclineEnds::Device && device.is_some();
        is_own && !call.pushed.as_ref().is_some_and(all_declined)
    };
    let declined = move |call: &Call| {
        let mut set = ended(CallStatus::Declined, EndReason::CalleeDeclined, now);
        set.extend(device.map(|_| Assignment::DeclinedBy(declined_by(call))));
        set
    };
    let usual = [
        waiting(),
        Condition::ExtensionIs(by.extension.clone()),
        Condition::RingingAt(now + STOPS_ITSELF_WITHIN),
        Condition::DeclineEndsCall,
        Condition::NoDeviceDeclined,
    ];
    let mut usual_decline = ended(CallStatus::Declined, EndReason::CalleeDeclined, now);
    usual_decline.extend(device.map(|device| Assignment::DeclinedBy([device.clone()].into())));
    let is_callee = |call: &Call| by.extension == call.extension;
    vec![
        when(usual).set(usual_decline).then_pending(),
        when([waiting()])
            .and("the ring of a device ends anyway", move |call| {
                is_callee(call) && now + STOPS_ITSELF_WITHIN >= call.rings_until
            })
            .nothing(),
        when([waiting()])
            .and(
                "the device did not ring, or has declined while others ring",
                move |call| {
                    let Some(device) = device.filter(|_| is_callee(call) && others_ring(call))
                    else {
                        return false;
                    };
                    // A client that rings is not known by its device.
                    let did_not_ring = |pushed: &PushedDevices| {
                        !pushed.devices.is_empty() && !pushed.devices.contains(device)
                    };
                    call.pushed.as_ref().is_some_and(did_not_ring)
                        || call.declined_by.contains(device)
                },
            )
            .nothing(),
        when([waiting()])
            .and("other devices ring", move |call| {
                is_callee(call) && others_ring(call)
            })
            .set_of("the devices that declined", move |call| {
                vec![Assignment::DeclinedBy(declined_by(call))]
            })
            .then_nothing(),
        when([waiting()])
            .and("the callee declines", is_callee)
            .set_of("the devices that declined, and the end", declined)
            .then_pending(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CancelAudience, CancelReason, Decision, Effect, Event, decide};
    use crate::ids::DeviceId;
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn device(id: &str) -> DeviceId {
        DeviceId::try_from(id).unwrap()
    }

    /// A call that rings on these devices.
    fn ringing_on(devices: &[&str], decline_ends: DeclineEnds) -> Call {
        let mut call = a_call(NOW);
        call.settings.decline_ends = decline_ends;
        call.pushed = Some(PushedDevices {
            devices: devices.iter().map(|id| device(id)).collect(),
            at: NOW,
            are_all: true,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
        });
        call.effects_pending_since = None;
        call
    }

    fn by(call: &Call, id: Option<&str>) -> CallParty {
        CallParty {
            extension: call.extension.clone(),
            device: id.map(device),
        }
    }

    fn decline(call: &Call, id: Option<&str>, now: Timestamp) -> (Call, Vec<Effect>) {
        let by = by(call, id);
        match decide(call, &Event::Declined { by }, now) {
            Decision::Advance { change, effects } => (call.apply(&change), effects),
            Decision::Stay { effects } => (call.clone(), effects),
            Decision::Reject(reason) => panic!("{reason:?}"),
        }
    }

    #[test]
    fn a_decline_ends_the_call_and_silences_the_other_devices() {
        let call = ringing_on(&["phone", "tablet"], DeclineEnds::Call);
        let (declined, effects) = decline(&call, Some("tablet"), NOW);
        assert_eq!(declined.status, CallStatus::Declined);
        let silenced = Effect::CancelPush {
            reason: CancelReason::DeclinedElsewhere,
            to: CancelAudience::AllExcept([device("tablet")].into()),
        };
        assert!(effects.contains(&silenced), "{effects:?}");
        assert!(effects.contains(&Effect::SendBusy), "{effects:?}");
        // It rang on one device, which has declined.
        let (_, effects) = decline(
            &ringing_on(&["tablet"], DeclineEnds::Call),
            Some("tablet"),
            NOW,
        );
        let cancels = |effect: &Effect| matches!(effect, Effect::CancelPush { .. });
        assert!(!effects.iter().any(cancels), "{effects:?}");
        // A device that only has the WebSocket declines.
        let (_, effects) = decline(
            &ringing_on(&["tablet"], DeclineEnds::Call),
            Some("browser"),
            NOW,
        );
        assert!(effects.iter().any(cancels), "{effects:?}");
    }

    #[test]
    fn a_decline_may_end_the_ring_of_its_device_only() {
        let call = ringing_on(&["phone", "tablet"], DeclineEnds::Device);
        let (one, effects) = decline(&call, Some("tablet"), NOW);
        assert_eq!(
            (one.status, effects),
            (CallStatus::WaitingForMobile, Vec::new())
        );
        let (both, _) = decline(&one, Some("phone"), NOW);
        assert_eq!(both.status, CallStatus::Declined);
        let (all, _) = decline(&call, None, NOW);
        assert_eq!(all.status, CallStatus::Declined);
    }

    /// Apps send a decline when their own ring timer ends.
    #[test]
    fn a_decline_at_the_end_of_the_ring_is_no_decision() {
        for decline_ends in [DeclineEnds::Call, DeclineEnds::Device] {
            let call = ringing_on(&["phone", "tablet"], decline_ends);
            let late = call.rings_until.before(STOPS_ITSELF_WITHIN);
            for id in [Some("phone"), Some("tablet"), None] {
                let (rings, effects) = decline(&call, id, late);
                assert_eq!(
                    (rings.status, effects),
                    (CallStatus::WaitingForMobile, Vec::new())
                );
            }
            let early = late.before(Duration::from_millis(1));
            assert_eq!(decline(&call, None, early).0.status, CallStatus::Declined);
        }
    }

    #[test]
    fn a_hang_up_without_device_ends_only_a_call_that_its_app_may_have_answered() {
        for (devices, answered_by, rejected) in [
            (&["phone", "tablet"][..], Some("phone"), true),
            (&["phone", "tablet"], None, false),
            (&["phone"], Some("phone"), false),
        ] {
            let mut call = ringing_on(devices, DeclineEnds::Call);
            call.status = CallStatus::InProgress;
            call.answered_by = Some(crate::call::AnsweredBy {
                device: answered_by.map(device),
            });
            let by = by(&call, None);
            let decision = decide(&call, &Event::HungUp { by }, NOW);
            let is_rejected = matches!(decision, Decision::Reject(RejectReason::DeviceUnknown));
            assert_eq!(is_rejected, rejected, "{decision:?}");
            let ends = matches!(decision, Decision::Advance { .. });
            assert_eq!(ends, !rejected, "{decision:?}");
        }
    }
}
