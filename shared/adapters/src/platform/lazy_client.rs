//! Clients that are made at their first use.
//!
//! Making a client of the AWS SDK takes longer than handling an event: each of its crates first compiles the patterns of all
//! regions. Few events need all clients.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, LazyLock};

type Make<C> = Box<dyn FnOnce() -> C + Send>;

/// A client that is made at its first use. Clones share the client.
pub struct LazyClient<C>(Arc<LazyLock<C, Make<C>>>);

impl<C> LazyClient<C> {
    /// The client that this function makes.
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
    fn the_first_use_makes_the_client_once() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let client = LazyClient::made_by(move || counted.fetch_add(1, Ordering::Relaxed));
        let same = client.clone();
        assert_eq!(made.load(Ordering::Relaxed), 0);
        assert_eq!((*same, *client), (0, 0));
        assert_eq!(made.load(Ordering::Relaxed), 1);
    }
}
