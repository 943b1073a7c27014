//! Which durable timer stands behind the ordinary one.
//!
//! A call is normally checked on time by a delayed queue message. A backstop is a second, durable timer that fires later
//! and ends the call if that message is lost, or was never sent. This file decides which backstop a call needs; the timer
//! adapter only creates it.
//!
//! The backstop of the ring is created from the table's stream ([`stream_action`](super::stream_action)), because the
//! process that stores the call may fail before it arms a timer. The backstop of the conversation is created together with
//! the ordinary timer.

use std::time::Duration;

use super::{Call, CallStatus};
use crate::timestamp::Timestamp;

/// How long after the ordinary timer a ring's backstop fires, so that the ordinary timer normally acts first.
const BACKSTOP_DELAY: Duration = Duration::from_secs(5);

/// A durable timer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backstop {
    /// The part of the call that it ends.
    pub phase: BackstopPhase,
    /// When it fires.
    pub at: Timestamp,
}

/// The part of a call that a backstop ends. A call has at most one backstop for each phase.
///
/// The phases are separate because the backstop for the conversation is created while the one for the ring may be firing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackstopPhase {
    /// Ringing, and connecting after it.
    Ring,
    /// The conversation.
    Talk,
}

impl BackstopPhase {
    /// `ring` or `talk`: unique for each phase of a call.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ring => "ring",
            Self::Talk => "talk",
        }
    }
}

impl Call {
    /// The backstop of the ring, for a new call. `timer_at` is when the ordinary timer ends the ring. The backstop includes
    /// the time to connect after it.
    #[must_use]
    pub(super) fn ring_backstop(&self, timer_at: Timestamp) -> Backstop {
        let connect = if self.is_to_number() {
            Duration::ZERO
        } else {
            self.settings.connect
        };
        Backstop {
            phase: BackstopPhase::Ring,
            at: timer_at + connect + BACKSTOP_DELAY,
        }
    }

    /// The backstop to create when the ordinary timer is armed for `timer_at`: that of the conversation. `None` until then,
    /// because the backstop of the ring exists as soon as the call is stored, and fires after such a timer.
    #[must_use]
    pub fn backstop(&self, timer_at: Timestamp) -> Option<Backstop> {
        let at = match self.status {
            CallStatus::Initiated if timer_at <= self.rings_until => return None,
            // The ordinary timers of a call to a number repeat every few minutes to query Exotel. One backstop at the
            // call's deadline is enough for all of them.
            CallStatus::Initiated | CallStatus::Ringing | CallStatus::InProgress
                if self.is_to_number() =>
            {
                self.deadline().unwrap_or(timer_at)
            }
            CallStatus::InProgress => timer_at,
            CallStatus::WaitingForMobile
            | CallStatus::MobileReady
            | CallStatus::Initiated
            | CallStatus::Ringing
            | CallStatus::Completed
            | CallStatus::Declined
            | CallStatus::TimedOut
            | CallStatus::Canceled
            | CallStatus::Failed => return None,
        };
        let phase = BackstopPhase::Talk;
        Some(Backstop { phase, at })
    }

    /// The phases for which this call may have a backstop.
    #[must_use]
    pub fn backstop_phases(&self) -> &'static [BackstopPhase] {
        if self.bridged_at.is_some() || self.is_to_number() {
            &[BackstopPhase::Ring, BackstopPhase::Talk]
        } else {
            &[BackstopPhase::Ring]
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{CallKind, CallType, NewCall};
    use crate::ids::{CallId, Extension};
    use crate::phone_number::PhoneNumber;
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn call_to_a_number() -> Call {
        let number = |text| PhoneNumber::parse(text, "IN").unwrap();
        let new = NewCall {
            call_id: CallId::fresh(),
            extension: Extension::try_from("1001").unwrap(),
            kind: CallKind::ToNumber {
                from: number("9876543210"),
                to: number("9052161119"),
            },
            call_type: CallType::Voice,
            caller_leg: None,
            call_sid: None,
        };
        Call::new(new, a_call(NOW).settings, NOW)
    }

    #[test]
    fn the_backstop_of_a_ring_fires_after_ringing_and_connecting() {
        let call = a_call(NOW);
        let expected = Backstop {
            phase: BackstopPhase::Ring,
            // 30 s of ringing, 15 s of connecting, 5 s for the ordinary timer to act first.
            at: NOW + Duration::from_secs(50),
        };
        assert_eq!(call.ring_backstop(call.rings_until), expected);
        assert_eq!(call.backstop_phases(), [BackstopPhase::Ring]);
    }

    #[test]
    fn a_call_that_rings_or_connects_relies_on_the_backstop_of_its_ring() {
        let mut call = a_call(NOW);
        assert_eq!(call.backstop(call.rings_until), None);
        let of_the_ring = call.ring_backstop(call.rings_until).at;
        call.status = CallStatus::MobileReady;
        // The app accepts at the last moment of the ring, and connecting takes as long as it may.
        let deadline = call.rings_until + call.settings.connect;
        assert_eq!(call.backstop(deadline), None);
        assert!(of_the_ring > deadline);
    }

    #[test]
    fn the_backstop_of_a_conversation_fires_at_its_limit() {
        let mut call = a_call(NOW);
        call.status = CallStatus::InProgress;
        call.bridged_at = Some(call.rings_until);
        let at = call.deadline().unwrap();
        let phase = BackstopPhase::Talk;
        assert_eq!(call.backstop(at), Some(Backstop { phase, at }));
        let both = [BackstopPhase::Ring, BackstopPhase::Talk];
        assert_eq!(call.backstop_phases(), both);
    }

    #[test]
    fn a_call_to_a_number_has_a_backstop_for_its_ring_and_one_at_its_deadline() {
        let mut call = call_to_a_number();
        assert_eq!(call.backstop(call.rings_until), None);
        let first = call.ring_backstop(call.rings_until);
        let after_the_ring = call.rings_until + BACKSTOP_DELAY;
        assert_eq!(first.phase, BackstopPhase::Ring);
        assert_eq!(first.at, after_the_ring);

        for status in [
            CallStatus::Initiated,
            CallStatus::Ringing,
            CallStatus::InProgress,
        ] {
            call.status = status;
            let next_query = call.rings_until + call.settings.check;
            let backstop = call.backstop(next_query).unwrap();
            assert_eq!(backstop.phase, BackstopPhase::Talk, "{status:?}");
            assert_eq!(Some(backstop.at), call.deadline(), "{status:?}");
        }
        let both = [BackstopPhase::Ring, BackstopPhase::Talk];
        assert_eq!(call.backstop_phases(), both);
    }

    #[test]
    fn an_ended_call_needs_no_backstop() {
        for status in [
            CallStatus::Completed,
            CallStatus::Declined,
            CallStatus::TimedOut,
            CallStatus::Canceled,
            CallStatus::Failed,
        ] {
            let mut call = a_call(NOW);
            call.status = status;
            assert_eq!(call.backstop(call.rings_until), None, "{status:?}");
        }
    }
}
