//! Stand-ins for the two services nobody can run at home: FCM and Exotel's API. They check each request
//! against the documented schema, answer as the real ones do, remember what they were asked, and misbehave
//! when told to.

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
        // It ends when the stack does; there is nobody left to tell.
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
