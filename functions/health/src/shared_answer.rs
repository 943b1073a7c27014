//! One answer for all requests of the same second.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

/// How long an answer is reused.
pub(crate) const REUSED_FOR: Duration = Duration::from_secs(1);

/// The last answer, and when its check ended.
pub(crate) struct SharedAnswer<T>(Mutex<Option<(Instant, T)>>);

impl<T: Clone> SharedAnswer<T> {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Returns the last answer if it is recent, otherwise a new one. Requests that arrive during a check wait for its answer,
    /// so at least `REUSED_FOR` passes between the end of one check and the start of the next.
    pub(crate) async fn get_or(&self, check: impl AsyncFnOnce() -> T) -> T {
        let mut last = self.0.lock().await;
        if let Some((checked_at, answer)) = &*last
            && checked_at.elapsed() < REUSED_FOR
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

    async fn request(shared: &SharedAnswer<u32>, checks: &AtomicU32) -> u32 {
        let check = async || {
            tokio::time::sleep(Duration::from_millis(20)).await;
            checks.fetch_add(1, Ordering::Relaxed) + 1
        };
        shared.get_or(check).await
    }

    #[tokio::test]
    async fn a_thousand_simultaneous_requests_share_one_check() {
        let (shared, checks) = (SharedAnswer::new(), AtomicU32::new(0));
        let answers = join_all((0..1_000).map(|_| request(&shared, &checks))).await;
        assert!(answers.iter().all(|answer| *answer == 1));
        assert_eq!(request(&shared, &checks).await, 1);
        tokio::time::sleep(REUSED_FOR).await;
        assert_eq!(request(&shared, &checks).await, 2);
    }

    #[tokio::test]
    async fn a_cancelled_check_stores_no_answer() {
        let (shared, checks) = (SharedAnswer::new(), AtomicU32::new(0));
        let cancelled =
            tokio::time::timeout(Duration::from_millis(1), request(&shared, &checks)).await;
        assert!(cancelled.is_err());
        assert_eq!(request(&shared, &checks).await, 1);
    }
}
