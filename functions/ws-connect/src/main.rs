//! `$connect`: stores the connection of an authorized client, and has the calls in progress sent to it. A connection of Exotel's is not
//! stored, because it receives no status updates.

use std::error::Error as _;

use lambda_runtime::{Error, LambdaEvent};
use ringback::api::websocket::{self, Request};
use ringback::platform::clock;
use ringback::replay_queue::{ReplayQueue, ReplayRequest};
use ringback::start::{Start, run};
use ringback::store::connections::Connections;
use serde_json::Value;

async fn handle(
    connections: &Connections,
    replays: &ReplayQueue,
    event: LambdaEvent<Request>,
) -> Result<Value, Error> {
    let connection_id = event.payload.connection_id();
    let Some(connection) = event.payload.connection() else {
        tracing::info!(connection_id, "Exotel connected");
        return Ok(websocket::done());
    };
    connections.open(&connection, clock::now()).await?;
    tracing::info!(connection_id, client = %connection.viewer, "client connected");
    let request = ReplayRequest {
        connection,
        stored_at: clock::now(),
    };
    // Without a replay, the client still gets each change of a call, and may ask for its calls.
    if let Err(error) = replays.send(&request).await {
        tracing::warn!(connection_id, %error, cause = ?error.source(), "calls in progress not requested");
    }
    Ok(websocket::done())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let connections = &start.connections()?;
    let replays = &start.replay_queue()?;
    run(move |event| handle(connections, replays, event)).await
}
