//! Errors for messages that have no route of their own.
//!
//! `$default` has no route response: with one, API Gateway would answer each frame of a stream. So an error is posted to the
//! connection, which costs a request, and a client could cause any number of them. Each process posts at most one error a
//! second to a connection. A client can reach as many processes as are busy at the same time.

use std::time::{Duration, Instant};

use ringback::platform::clock;
use ringback::platform::throttle::Throttle;
use ringback::store::connections::{Connection, Connections};
use serde_json::Value;

/// To how many connections a process posts errors within a second.
const MAX_CONNECTIONS: usize = 100;

/// Posts errors to connections, at most one a second to each.
pub(crate) struct ErrorPosts(Throttle<MAX_CONNECTIONS>);

impl ErrorPosts {
    pub(crate) fn new() -> Self {
        Self(Throttle::once_in(Duration::from_secs(1)))
    }

    /// Posts the error. Drops it if the connection got one within the last second.
    pub(crate) async fn post(&self, connections: &Connections, to: &Connection, error: &Value) {
        if self.0.allow(&to.id, Instant::now()) {
            let text = error.to_string();
            let delivery = connections.send(to, &text, clock::now()).await;
            tracing::info!(
                connection_id = to.id,
                code = error["code"].as_str(),
                ?delivery,
                "error posted"
            );
        }
    }
}
