//! `$disconnect`: deletes a client's connection. API Gateway does not guarantee this event, so connections also expire. A
//! connection of Exotel's was never stored.

use lambda_runtime::{Error, LambdaEvent};
use ringback::api::websocket::{self, Request};
use ringback::start::{Start, run};
use ringback::store::connections::Connections;
use serde_json::Value;

async fn handle(connections: &Connections, event: LambdaEvent<Request>) -> Result<Value, Error> {
    let connection_id = event.payload.connection_id();
    let Some(connection) = event.payload.connection() else {
        tracing::info!(connection_id, "Exotel disconnected");
        return Ok(websocket::done());
    };
    connections.close(&connection).await?;
    tracing::info!(connection_id, client = %connection.viewer, "client disconnected");
    Ok(websocket::done())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    let connections = &start.connections()?;
    run(move |event| handle(connections, event)).await
}
