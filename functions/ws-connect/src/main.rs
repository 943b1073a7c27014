//! `$connect`: stores the connection of an authorized client. A connection of Exotel's is not stored, because it receives no
//! status updates.

use lambda_runtime::{Error, LambdaEvent};
use ringback::api::websocket::{self, Request};
use ringback::platform::clock;
use ringback::start::{Start, run};
use ringback::store::connections::Connections;
use serde_json::Value;

async fn handle(connections: &Connections, event: LambdaEvent<Request>) -> Result<Value, Error> {
    let connection_id = event.payload.connection_id();
    let Some(connection) = event.payload.connection() else {
        tracing::info!(connection_id, "Exotel connected");
        return Ok(websocket::done());
    };
    connections.open(&connection, clock::now()).await?;
    tracing::info!(connection_id, client = %connection.viewer, "client connected");
    Ok(websocket::done())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function().await;
    let connections = &start.connections()?;
    run(move |event| handle(connections, event)).await
}
