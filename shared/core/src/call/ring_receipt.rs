//! Apps report that their devices ring: the only proof that a push has reached its phone. No rule for the end of a call reads it.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::rule::{Rule, otherwise, when, when_read};
use super::{Assignment, Call, CallParty, Condition, PushPlatform};
use crate::ids::DeviceId;
use crate::timestamp::Timestamp;

/// A device rings, as its app reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RingReceipt {
    /// When the report arrived.
    pub at: Timestamp,
    /// When the push was sent: `sent_at` in it.
    pub pushed_at: Timestamp,
    /// The platform that delivered the push.
    pub platform: PushPlatform,
}

impl RingReceipt {
    /// The time from sending the push until the report arrived.
    #[must_use]
    pub fn time_to_ring(&self) -> Duration {
        self.at.since(self.pushed_at)
    }
}

/// The first report of each device is kept, also one that arrives after the ring: it says how late the push was. A report never changes
/// the status, and the caller of `decide` reads from the status whether the device should stop.
pub(super) fn device_rings(by: &CallParty, receipt: RingReceipt) -> Vec<Rule<'_>> {
    let Some(device) = &by.device else {
        return vec![otherwise().nothing()];
    };
    let with_receipt = move |call: &Call| {
        let mut receipts = call.ring_receipts.clone();
        receipts.insert(device.clone(), receipt);
        vec![Assignment::RingReceipts(receipts)]
    };
    let only_receipt = [(device.clone(), receipt)].into();
    vec![
        when([
            Condition::IsToNumber(false),
            Condition::ExtensionIs(by.extension.clone()),
            Condition::NoDeviceRings,
        ])
        .set([Assignment::RingReceipts(only_receipt)])
        .then_nothing(),
        when_read("has a report of this device", move |call| {
            call.ring_receipts.contains_key(device)
        })
        .nothing(),
        otherwise()
            .set_of("the report, beside those of other devices", with_receipt)
            .then_nothing(),
    ]
}

/// The receipts of two regions: the first one of each device.
pub(super) fn first_of_both(
    own: &BTreeMap<DeviceId, RingReceipt>,
    other: &BTreeMap<DeviceId, RingReceipt>,
) -> BTreeMap<DeviceId, RingReceipt> {
    let mut receipts = own.clone();
    for (device, receipt) in other {
        let first = receipts.entry(device.clone()).or_insert(*receipt);
        *first = (*first).min(*receipt);
    }
    receipts
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallStatus, Decision, Event, decide};
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn rings(call: &Call, device: &str, at: Timestamp) -> Decision {
        let receipt = RingReceipt {
            at,
            pushed_at: NOW,
            platform: PushPlatform::Fcm,
        };
        let by = CallParty {
            extension: call.extension.clone(),
            device: DeviceId::try_from(device).ok(),
        };
        decide(call, &Event::DeviceRings { by, receipt }, at)
    }

    fn after(call: &Call, decision: &Decision) -> Call {
        match decision {
            Decision::Advance { change, effects } => {
                assert_eq!(effects, &[]);
                call.apply(change)
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_first_report_of_each_device_is_kept_and_changes_no_status() {
        let call = a_call(NOW);
        let later = NOW + Duration::from_millis(800);
        let one = after(&call, &rings(&call, "phone", later));
        let both = after(&one, &rings(&one, "tablet", later));
        assert_eq!(both.ring_receipts.len(), 2);
        assert_eq!(both.status, CallStatus::WaitingForMobile);
        let receipt = both.ring_receipts.values().next().unwrap();
        assert_eq!(receipt.time_to_ring(), Duration::from_millis(800));
        let line = both.history.last().unwrap();
        assert_eq!(
            (line.event.as_str(), line.by.as_deref()),
            ("ringing", Some("1001/tablet"))
        );
        let repeated = rings(&both, "phone", later + Duration::from_secs(1));
        assert!(matches!(repeated, Decision::Stay { effects } if effects.is_empty()));
    }

    /// A push may be delivered long after the call has ended.
    #[test]
    fn a_report_after_the_end_is_kept() {
        let mut call = a_call(NOW);
        call.status = CallStatus::TimedOut;
        let ended = after(&call, &rings(&call, "phone", call.rings_until));
        assert_eq!(ended.ring_receipts.len(), 1);
        assert_eq!(ended.status, CallStatus::TimedOut);
    }

    #[test]
    fn two_regions_keep_the_reports_of_both() {
        let call = a_call(NOW);
        let second = |seconds| NOW + Duration::from_secs(seconds);
        let here = after(&call, &rings(&call, "phone", second(2)));
        let there = after(&call, &rings(&call, "phone", second(1)));
        let there = after(&there, &rings(&there, "tablet", second(3)));
        for (standing, lost) in [(&here, &there), (&there, &here)] {
            let overwritten = Event::ReplicaOverwritten(Box::new(lost.clone()));
            let merged = match decide(standing, &overwritten, second(4)) {
                Decision::Advance { change, .. } => standing.apply(&change),
                Decision::Stay { .. } | Decision::Reject(_) => standing.clone(),
            };
            let reported: Vec<_> = merged.ring_receipts.values().map(|one| one.at).collect();
            assert_eq!(reported, [second(1), second(3)]);
        }
    }
}
