//! What a region does about a change of a call that it reads from the table's stream.
//!
//! The stream shows every item before and after a change, and delivers a record again until it is handled. So it cannot
//! miss a new call, even if the process that stored it fails at once. Two regions share the calls in a global DynamoDB
//! table, and each reads its replica's stream. A region therefore needs no message from the other one, which may be lost.

use std::time::Duration;

use super::{Backstop, Call};
use crate::timestamp::Timestamp;

/// How long this region's timer fires after the other region's. By then the other region has ended the call, if it is
/// alive, and DynamoDB has replicated that (it normally takes about a second).
const REPLICATION_TIME: Duration = Duration::from_secs(1);

/// What this region has to do about a change of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum StreamAction<'a> {
    /// A process of this region has stored the call, or has continued an ended one after a late report. It arms the timer, and this is the
    /// backstop behind that timer.
    CreateBackstop {
        /// The call.
        call: &'a Call,
        /// The backstop of the ring or of the conversation.
        backstop: Backstop,
    },
    /// The other region has stored the call. It may be lost before it ends the ring, so this region arms a timer too.
    ArmTimer {
        /// The call.
        call: &'a Call,
        /// When the timer fires.
        at: Timestamp,
        /// The backstop of the ring.
        backstop: Backstop,
    },
    /// The other region's version has overwritten this one, which knew more. It is merged back:
    /// [`Event::ReplicaOverwritten`](super::Event::ReplicaOverwritten).
    Merge(&'a Call),
}

/// What to do about the change of a call from `before` to `after`. `stored_in` is the region in which the call was stored
/// first (`None` where there is one region), and `here` is this region.
#[must_use]
pub fn stream_action<'a>(
    before: Option<&'a Call>,
    after: &'a Call,
    stored_in: Option<&str>,
    here: &str,
) -> Option<StreamAction<'a>> {
    match before {
        Some(before) if after.has_lost(before) => return Some(StreamAction::Merge(before)),
        Some(before) if before.status.is_final() => return continued(after),
        Some(_) => return None,
        None if after.status.is_final() => return None,
        None => {}
    }
    let is_own = stored_in.is_none_or(|region| region == here);
    Some(if is_own {
        StreamAction::CreateBackstop {
            call: after,
            backstop: after.ring_backstop(after.rings_until),
        }
    } else {
        let at = after.rings_until + REPLICATION_TIME;
        StreamAction::ArmTimer {
            call: after,
            at,
            backstop: after.ring_backstop(at),
        }
    })
}

/// A late report continues a call. Its end has removed the backstops.
fn continued(call: &Call) -> Option<StreamAction<'_>> {
    let deadline = call.deadline()?;
    let backstop = call.backstop(deadline);
    let backstop = backstop.unwrap_or_else(|| call.ring_backstop(deadline));
    Some(StreamAction::CreateBackstop { call, backstop })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{BackstopPhase, CallStatus, Decision, Event, decide};
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
    const HERE: &str = "ap-southeast-1";
    const THERE: &str = "ap-south-1";

    fn ring_backstop_at(at: Timestamp) -> Backstop {
        let phase = BackstopPhase::Ring;
        Backstop { phase, at }
    }

    #[test]
    fn a_new_call_of_this_region_gets_a_backstop() {
        let call = a_call(NOW);
        // 30 s of ringing, 15 s of connecting, 5 s for the ordinary timer to act first.
        let backstop = ring_backstop_at(NOW + Duration::from_secs(50));
        for own in [Some(HERE), None] {
            let action = stream_action(None, &call, own, HERE);
            let call = &call;
            let expected = StreamAction::CreateBackstop { call, backstop };
            assert_eq!(action, Some(expected), "{own:?}");
        }
    }

    #[test]
    fn a_new_call_of_the_other_region_gets_a_timer_here_too() {
        let call = a_call(NOW);
        let armed = StreamAction::ArmTimer {
            call: &call,
            at: call.rings_until + Duration::from_secs(1),
            backstop: ring_backstop_at(NOW + Duration::from_secs(51)),
        };
        assert_eq!(stream_action(None, &call, Some(THERE), HERE), Some(armed));
    }

    #[test]
    fn a_call_that_has_ended_needs_nothing() {
        let mut call = a_call(NOW);
        call.status = CallStatus::Canceled;
        for region in [Some(HERE), Some(THERE), None] {
            assert_eq!(stream_action(None, &call, region, HERE), None);
        }
    }

    #[test]
    fn a_call_that_a_late_report_continues_gets_a_backstop() {
        let call = a_call(NOW);
        let late = call.rings_until;
        let changed = |call: &Call, event| match decide(call, &event, late) {
            Decision::Advance { change, .. } => call.apply(&change),
            decision => panic!("{decision:?}"),
        };
        let before = changed(&call, Event::TimerFired);
        assert_eq!(before.status, CallStatus::TimedOut);
        let after = changed(&before, Event::Bridged);
        let backstop = Backstop {
            phase: BackstopPhase::Talk,
            at: late + after.settings.talk,
        };
        let call = &after;
        let expected = StreamAction::CreateBackstop { call, backstop };
        let action = stream_action(Some(&before), call, Some(HERE), HERE);
        assert_eq!(action, Some(expected));
        let ends_again = stream_action(Some(&before), &before, Some(HERE), HERE);
        assert_eq!(ends_again, None);
    }

    #[test]
    fn a_change_that_loses_nothing_needs_nothing() {
        let (before, mut after) = (a_call(NOW), a_call(NOW));
        after.status = CallStatus::MobileReady;
        for region in [Some(HERE), Some(THERE), None] {
            assert_eq!(stream_action(Some(&before), &after, region, HERE), None);
        }
    }

    #[test]
    fn an_overwritten_version_that_knew_more_is_merged() {
        let (mut before, mut after) = (a_call(NOW), a_call(NOW));
        before.status = CallStatus::MobileReady;
        assert_eq!(
            stream_action(Some(&before), &after, Some(THERE), HERE),
            Some(StreamAction::Merge(&before))
        );
        after.status = CallStatus::InProgress;
        let action = stream_action(Some(&before), &after, Some(THERE), HERE);
        assert_eq!(action, None);
    }
}
