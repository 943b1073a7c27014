//! What an app hears of a message that has no route of its own.
//!
//! `$default` has no route response, because AWS would answer each frame of a stream. So errors are posted to the
//! connection, which costs a request each, and a client can cause any number of them: each connection gets one a second
//! from a process. A client's messages come to as many processes as are busy at the same time.

use ringback::platform::clock;
use std::time::{Duration, Instant};

use ringback::platform::throttle::Throttle;
use ringback::store::connections::{Connection, Connections};
use serde_json::Value;

/// How many connections a process posts errors to within a second.
const CONNECTIONS: usize = 100;

/// The errors that are posted.
pub(crate) struct Errors(Throttle<CONNECTIONS>);

impl Errors {
    pub(crate) fn new() -> Self {
        Self(Throttle::once_in(Duration::from_secs(1)))
    }

    /// Posts the error, or drops it if the connection has just had one.
    pub(crate) async fn post(&self, connections: &Connections, to: &Connection, error: &Value) {
        if self.0.allow(&to.id, Instant::now()) {
            let text = error.to_string();
            let delivery = connections.send(to, &text, clock::now()).await;
            tracing::info!(
                connection_id = to.id,
                code = error["code"].as_str(),
                ?delivery,
                "an error was posted"
            );
        }
    }
}
