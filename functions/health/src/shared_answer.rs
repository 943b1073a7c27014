//! One answer for all who ask at about the same time.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// How long an answer is good for.
pub(crate) const GOOD_FOR: Duration = Duration::from_secs(1);

/// The last answer, and when it was found.
pub(crate) struct SharedAnswer<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> SharedAnswer<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The last answer, if it is still good; otherwise a new one, for which all who ask meanwhile wait. So `GOOD_FOR`
    /// passes at least from the end of one check to the beginning of the next.
    pub(crate) async fn find(&self, check: impl AsyncFnOnce() -> T) -> T {
        let mut last = self.0.lock().await;
        if let Some((found_at, answer)) = &*last
            && found_at.elapsed() < GOOD_FOR
        {
            return answer.clone();
        }
        let answer = check().await;
        *last = Some((Instant::now(), answer.clone()));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures::future::join_all;

    use super::*;

    async fn ask(shared: &SharedAnswer<u32>, checks: &AtomicU32) -> u32 {
        let check = async || {
            tokio::time::sleep(Duration::from_millis(20)).await;
            checks.fetch_add(1, Ordering::Relaxed) + 1
        };
        shared.find(check).await
    }

    #[tokio::test]
    async fn a_thousand_who_ask_at_once_share_one_check() {
        let (shared, checks) = (SharedAnswer::new(), AtomicU32::new(0));
        let answers = join_all((0..1_000).map(|_| ask(&shared, &checks))).await;
        assert!(answers.iter().all(|answer| *answer == 1));
        assert_eq!(ask(&shared, &checks).await, 1);
        tokio::time::sleep(GOOD_FOR).await;
        assert_eq!(ask(&shared, &checks).await, 2);
    }

    #[tokio::test]
    async fn a_check_that_is_given_up_leaves_no_answer() {
        let (shared, checks) = (SharedAnswer::new(), AtomicU32::new(0));
        let given_up = tokio::time::timeout(Duration::from_millis(1), ask(&shared, &checks)).await;
        assert!(given_up.is_err());
        assert_eq!(ask(&shared, &checks).await, 1);
    }
}
