//! Stand-ins for the two external services, FCM and Exotel. They validate each request against the documented schema,
//! answer like the real services, record the requests, and fail when a test configures it.

pub mod behaviour;
pub mod exotel;
pub mod fcm;
pub mod fcm_message;
pub mod google_token;
pub mod recorder;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::settings::LOOPBACK;

/// Serves a stand-in on a loopback port until the handle is aborted.
pub async fn serve(router: Router, port: u16) -> Result<JoinHandle<()>> {
    let listener = TcpListener::bind((LOOPBACK, port))
        .await
        .with_context(|| format!("could not listen on {port}"))?;
    Ok(tokio::spawn(async move {
        // Ends with the stack.
        let _ = axum::serve(listener, router).await;
    }))
}

/// Serves a router on a free port, for tests.
pub async fn serve_anywhere(router: Router) -> Result<(SocketAddr, JoinHandle<()>)> {
    let listener = TcpListener::bind((LOOPBACK, 0)).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let _ = axum::serve(listener, router).await;
    });
    Ok((address, task))
}
