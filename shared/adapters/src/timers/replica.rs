//! Two regions keep the same calls, by a global table. What this region does about a call that the other one has stored
//! or changed is read off this region's stream, which shows each item as it was and as it is: so a region that is lost
//! need not have said anything to the other.

use std::time::Duration;

use crate::timers::{Timeouts, TimerError};
use ringback_core::call::Call;

/// This region's timer comes so long after the other's, which has ended the call by then if that region lives, and whose
/// end of it has been replicated.
const AFTER_THE_OTHER: Duration = Duration::from_secs(1);

/// What is to be done here about a change of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum Duty<'a> {
    /// The other region has stored the call: it may be lost before it can end the ring.
    SetTimer(&'a Call),
    /// The other region's version has taken the place of this one, which knew something more.
    TellAgain(&'a Call),
}

/// What a change calls for: from `before` to `after`, of a call that was stored in region `stored_in`, seen `here`.
#[must_use]
pub fn duty<'a>(
    before: Option<&'a Call>,
    after: &'a Call,
    stored_in: Option<&str>,
    here: &str,
) -> Option<Duty<'a>> {
    match before {
        Some(before) => after.has_lost(before).then_some(Duty::TellAgain(before)),
        None => {
            let is_foreign = stored_in.is_some_and(|region| region != here);
            let rings = is_foreign && !after.status.is_final();
            rings.then_some(Duty::SetTimer(after))
        }
    }
}

/// Does its duty.
///
/// # Errors
/// When a timer cannot be set, or the queue not reached. Trying again may help, and does no harm.
pub async fn fulfil(
    duty: &Duty<'_>,
    timeouts: &Timeouts,
    now: ringback_core::timestamp::Timestamp,
) -> Result<(), TimerError> {
    match duty {
        Duty::SetTimer(call) => {
            let at = call.rings_until + AFTER_THE_OTHER;
            timeouts.arm(call, at, now).await
        }
        Duty::TellAgain(version) => {
            tracing::warn!(call_id = %version.call_id, status = version.status.as_str(), "another region's version has taken this one's place");
            timeouts.tell_again(version).await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_core::call::CallStatus;
    use ringback_core::testing::a_call;
    use ringback_core::timestamp::Timestamp;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
    const HERE: &str = "ap-southeast-1";
    const THERE: &str = "ap-south-1";

    #[test]
    fn a_ring_of_the_other_region_gets_a_timer_here_too() {
        let call = a_call(NOW);
        let set = Some(Duty::SetTimer(&call));
        assert_eq!(duty(None, &call, Some(THERE), HERE), set);
        for own in [Some(HERE), None] {
            assert_eq!(duty(None, &call, own, HERE), None);
        }
        let mut over = call.clone();
        over.status = CallStatus::Canceled;
        assert_eq!(duty(None, &over, Some(THERE), HERE), None);
    }

    #[test]
    fn what_the_other_regions_version_lacks_is_told_again() {
        let (mut before, mut after) = (a_call(NOW), a_call(NOW));
        before.status = CallStatus::MobileReady;
        assert_eq!(
            duty(Some(&before), &after, Some(THERE), HERE),
            Some(Duty::TellAgain(&before))
        );
        after.status = CallStatus::InProgress;
        assert_eq!(duty(Some(&before), &after, Some(THERE), HERE), None);
    }
}
