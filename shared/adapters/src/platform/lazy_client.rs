//! Clients that are made when they are first needed.
//!
//! Making one of the SDK's clients takes longer than answering an event does: each of its crates compiles the patterns of all
//! regions first. Few events need all of them, and those that do wait for others meanwhile.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

type Make<C> = Box<dyn FnOnce() -> C + Send>;

/// A client that is there once it is used.
pub struct LazyClient<C>(Arc<LazyLock<C, Make<C>>>);

impl<C> LazyClient<C> {
    /// The client that this makes.
    pub fn made_by(make: impl FnOnce() -> C + Send + 'static) -> Self {
        Self(Arc::new(LazyLock::new(Box::new(make))))
    }
}

impl<C: Send + 'static> From<C> for LazyClient<C> {
    fn from(client: C) -> Self {
        Self::made_by(|| client)
    }
}

impl<C> Clone for LazyClient<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> Deref for LazyClient<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.0
    }
}

impl<C> fmt::Debug for LazyClient<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LazyClient")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn a_client_is_made_once_and_by_whoever_needs_it_first() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let client = LazyClient::made_by(move || counted.fetch_add(1, Ordering::Relaxed));
        let same = client.clone();
        assert_eq!(made.load(Ordering::Relaxed), 0);
        assert_eq!((*same, *client), (0, 0));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
