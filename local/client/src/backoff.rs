//! How long to wait before connecting again: exponential backoff with full jitter.

use std::time::Duration;

/// Doubles from `first` up to `longest`, and waits for a random part of that: after an outage, clients that lost
/// their connections in the same moment do not all come back in the same moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The longest first wait.
    pub first: Duration,
    /// The longest wait of all.
    pub longest: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(60),
        }
    }
}

impl Backoff {
    /// How long to wait when `failed` attempts in a row have failed, with `random` between 0 and 1.
    #[must_use]
    pub fn wait(&self, failed: u32, random: f64) -> Duration {
        self.ceiling(failed).mul_f64(random)
    }

    /// How many attempts count as failed in a row once a connection has been lost. One that broke sooner than the
    /// longest wait is one more of them: a server that accepts and drops at once is not to be hammered.
    #[must_use]
    pub fn failed_after(&self, failed: u32, lasted: Duration) -> u32 {
        if lasted < self.longest {
            failed.saturating_add(1)
        } else {
            0
        }
    }

    fn ceiling(&self, failed: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(failed);
        self.first.saturating_mul(doubled).min(self.longest)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_longest_waits_are_one_second_doubled_up_to_a_minute() {
        let waits: Vec<u64> = (0..9)
            .map(|failed| Backoff::default().wait(failed, 1.0).as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn a_connection_that_lasted_makes_the_failures_before_it_forgotten() {
        let backoff = Backoff::default();
        assert_eq!(backoff.failed_after(7, Duration::from_secs(60)), 0);
        assert_eq!(backoff.failed_after(7, Duration::from_secs(59)), 8);
    }

    proptest! {
        #[test]
        fn no_wait_is_longer_than_the_longest(failed: u32, random in 0.0..1.0_f64) {
            let backoff = Backoff::default();
            prop_assert!(backoff.wait(failed, random) <= backoff.longest);
        }

        #[test]
        fn with_the_same_luck_no_later_wait_is_shorter(failed in 0..u32::MAX, random in 0.0..1.0_f64) {
            let backoff = Backoff::default();
            prop_assert!(backoff.wait(failed, random) <= backoff.wait(failed + 1, random));
        }

        #[test]
        fn the_jitter_is_full(failed: u32, random in 0.0..1.0_f64) {
            let backoff = Backoff::default();
            let part = backoff.wait(failed, random).as_secs_f64() / backoff.wait(failed, 1.0).as_secs_f64();
            prop_assert!((part - random).abs() < 1e-6);
        }
    }
}
