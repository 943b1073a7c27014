//! What a region does about a call that another region has stored or changed.
//!
//! Two regions share the calls in a global DynamoDB table. Each region reads its replica's stream, which shows every
//! item before and after a change. A region therefore needs no message from the other one, which may be lost.

use std::time::Duration;

use super::Call;
use crate::timestamp::Timestamp;

/// How long this region's timer fires after the other region's. By then the other region has ended the call, if it is
/// alive, and DynamoDB has replicated that (it normally takes about a second).
const REPLICATION_TIME: Duration = Duration::from_secs(1);

/// What this region has to do about a replicated change of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum ReplicationAction<'a> {
    /// The other region has stored the call. It may be lost before it ends the ring, so this region arms a timer too.
    ArmTimer {
        /// The call.
        call: &'a Call,
        /// When the timer fires.
        at: Timestamp,
    },
    /// The other region's version has overwritten this one, which knew more. It is merged back:
    /// [`Event::ReplicaOverwritten`](super::Event::ReplicaOverwritten).
    Merge(&'a Call),
}

/// What to do about the change of a call from `before` to `after`. `stored_in` is the region in which the call was stored
/// first, and `here` is this region.
#[must_use]
pub fn replication_action<'a>(
    before: Option<&'a Call>,
    after: &'a Call,
    stored_in: Option<&str>,
    here: &str,
) -> Option<ReplicationAction<'a>> {
    match before {
        Some(before) => after
            .has_lost(before)
            .then_some(ReplicationAction::Merge(before)),
        None => {
            let is_foreign = stored_in.is_some_and(|region| region != here);
            let is_active = !after.status.is_final();
            (is_foreign && is_active).then(|| ReplicationAction::ArmTimer {
                call: after,
                at: after.rings_until + REPLICATION_TIME,
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::CallStatus;
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
    const HERE: &str = "ap-southeast-1";
    const THERE: &str = "ap-south-1";

    #[test]
    fn a_ringing_call_of_the_other_region_gets_a_timer_here_too() {
        let call = a_call(NOW);
        let armed = ReplicationAction::ArmTimer {
            call: &call,
            at: call.rings_until + Duration::from_secs(1),
        };
        assert_eq!(
            replication_action(None, &call, Some(THERE), HERE),
            Some(armed)
        );
        for own in [Some(HERE), None] {
            assert_eq!(replication_action(None, &call, own, HERE), None);
        }
        let mut ended = call.clone();
        ended.status = CallStatus::Canceled;
        assert_eq!(replication_action(None, &ended, Some(THERE), HERE), None);
    }

    #[test]
    fn an_overwritten_version_that_knew_more_is_merged() {
        let (mut before, mut after) = (a_call(NOW), a_call(NOW));
        before.status = CallStatus::MobileReady;
        assert_eq!(
            replication_action(Some(&before), &after, Some(THERE), HERE),
            Some(ReplicationAction::Merge(&before))
        );
        after.status = CallStatus::InProgress;
        let action = replication_action(Some(&before), &after, Some(THERE), HERE);
        assert_eq!(action, None);
    }
}
