//! The times of one Lambda invocation.

use std::time::Duration;

use lambda_runtime::Context;

use crate::platform::clock;
use ringback_core::timestamp::Timestamp;

/// An invocation stops working this long before Lambda ends it, so that there is time left to answer.
const TIME_TO_ANSWER: Duration = Duration::from_secs(1);

/// Work that does not observe [`InvocationContext::deadline`] is canceled this long after it. Work that observes the deadline
/// can still report how far it came.
const GRACE: Duration = Duration::from_millis(500);

/// The times of one invocation. A function makes it once, at the beginning, and passes it on: code that gets it does not read
/// the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvocationContext {
    /// When the invocation began.
    pub now: Timestamp,
    /// Until when it may work: one second before Lambda ends it.
    pub deadline: Timestamp,
}

impl InvocationContext {
    /// The context of an invocation that begins now.
    #[must_use]
    pub fn begin(lambda: &Context) -> Self {
        Self::new(clock::now(), Timestamp::from_millis(lambda.deadline))
    }

    /// The context of an invocation that began at `now` and that Lambda ends at `lambda_deadline`.
    #[must_use]
    pub fn new(now: Timestamp, lambda_deadline: Timestamp) -> Self {
        let time_to_answer = u64::try_from(TIME_TO_ANSWER.as_millis()).unwrap_or(u64::MAX);
        let deadline = lambda_deadline.as_millis().saturating_sub(time_to_answer);
        Self {
            now,
            deadline: Timestamp::from_millis(deadline),
        }
    }

    /// The same context, for a client that waits no longer than this for its answer.
    #[must_use]
    pub fn within(self, patience: Duration) -> Self {
        Self {
            deadline: self.deadline.min(self.now + patience),
            ..self
        }
    }

    /// The time from `now` until all work is canceled.
    #[must_use]
    pub fn time_left(&self, now: Timestamp) -> Duration {
        self.deadline.since(now) + GRACE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    #[test]
    fn the_deadline_leaves_a_second_to_answer() {
        let context = InvocationContext::new(NOW, NOW + Duration::from_secs(10));
        assert_eq!(context.deadline, NOW + Duration::from_secs(9));
        assert_eq!(context.time_left(NOW), Duration::from_millis(9_500));
        let impatient = context.within(Duration::from_secs(4));
        assert_eq!(impatient.deadline, NOW + Duration::from_secs(4));
        assert_eq!(context.within(Duration::from_secs(60)), context);
    }

    #[test]
    fn after_the_deadline_only_the_grace_is_left() {
        let context = InvocationContext::new(NOW, NOW);
        assert_eq!(context.time_left(NOW), GRACE);
    }
}
