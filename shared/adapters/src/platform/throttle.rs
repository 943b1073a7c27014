//! Limits an action to once in an interval for each key, within this process.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When the action was last done for each key. Remembers at most `KEYS` keys.
#[derive(Debug)]
pub struct Throttle<const KEYS: usize> {
    interval: Duration,
    last: Mutex<HashMap<String, Instant>>,
}

impl<const KEYS: usize> Throttle<KEYS> {
    /// At most once in each interval.
    #[must_use]
    pub fn once_in(interval: Duration) -> Self {
        Self {
            interval,
            last: Mutex::default(),
        }
    }

    /// Whether the action may be done for this key now. If so, it counts as done. It may not while `KEYS` other keys have used
    /// their interval.
    pub fn allow(&self, key: &str, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < self.interval;
        if last.get(key).is_some_and(is_recent) {
            return false;
        }
        if last.len() >= KEYS {
            last.retain(|_, at| is_recent(at));
        }
        let has_room = last.len() < KEYS;
        if has_room {
            last.insert(key.to_owned(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_key_is_allowed_once_in_an_interval() {
        let throttle = Throttle::<10>::once_in(SECOND);
        let now = Instant::now();
        let times = |at: Instant| (0..100).filter(|_| throttle.allow("a", at)).count();
        assert_eq!(times(now), 1);
        assert!(throttle.allow("b", now), "another key has its own interval");
        assert_eq!(times(now + SECOND - Duration::from_millis(1)), 0);
        assert_eq!(times(now + SECOND), 1);
    }

    #[test]
    fn no_more_keys_are_allowed_and_remembered_than_there_is_room_for() {
        let throttle = Throttle::<10>::once_in(SECOND);
        let now = Instant::now();
        let allowed = |at: Instant| {
            (0..1_000)
                .filter(|n| throttle.allow(&n.to_string(), at))
                .count()
        };
        assert_eq!(allowed(now), 10);
        assert_eq!(allowed(now + SECOND), 10);
        assert_eq!(throttle.last.lock().unwrap().len(), 10);
    }
}
