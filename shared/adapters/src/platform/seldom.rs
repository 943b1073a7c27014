//! Something that is done for each of many at most once in a while, as far as this process remembers them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// When it was last done for each, for `AT_MOST` of them.
#[derive(Debug)]
pub struct Seldom<const AT_MOST: usize> {
    interval: Duration,
    last: Mutex<HashMap<String, Instant>>,
}

impl<const AT_MOST: usize> Seldom<AT_MOST> {
    /// At most once in each interval.
    #[must_use]
    pub fn once_in(interval: Duration) -> Self {
        Self {
            interval,
            last: Mutex::default(),
        }
    }

    /// Whether it may be done for this one now; it is taken to be done then. While as many others were served within the
    /// interval as are remembered, it may not.
    pub fn may(&self, one: &str, now: Instant) -> bool {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Instant| now.saturating_duration_since(*at) < self.interval;
        if last.get(one).is_some_and(is_recent) {
            return false;
        }
        if last.len() >= AT_MOST {
            last.retain(|_, at| is_recent(at));
        }
        let has_room = last.len() < AT_MOST;
        if has_room {
            last.insert(one.to_owned(), now);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_is_served_once_in_an_interval() {
        let seldom = Seldom::<10>::once_in(SECOND);
        let now = Instant::now();
        let times = |at: Instant| (0..100).filter(|_| seldom.may("a", at)).count();
        assert_eq!(times(now), 1);
        assert!(seldom.may("b", now), "another one's time is its own");
        assert_eq!(times(now + SECOND - Duration::from_millis(1)), 0);
        assert_eq!(times(now + SECOND), 1);
    }

    #[test]
    fn no_more_are_remembered_and_served_than_there_is_room_for() {
        let seldom = Seldom::<10>::once_in(SECOND);
        let now = Instant::now();
        let served = |at: Instant| {
            (0..1_000)
                .filter(|n| seldom.may(&n.to_string(), at))
                .count()
        };
        assert_eq!(served(now), 10);
        assert_eq!(served(now + SECOND), 10);
        assert_eq!(seldom.last.lock().unwrap().len(), 10);
    }
}
