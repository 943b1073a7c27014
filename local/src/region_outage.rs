//! Simulates the outage of a region, and delays or stops replication, for tests.
//!
//! During an outage the region does nothing: its local AWS is suspended with its queues, schedules and streams, and
//! running functions are killed. It loses no data, so its timers fire late when it is back.

use std::sync::Arc;

use anyhow::Result;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use crate::cloud::region::Region;
use crate::gateway::{Gateway, Upstream};
use crate::process::ProcessGroup;
use crate::replication::Replication;

/// The state of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegionState {
    /// It works normally.
    Up,
    /// It is down, and connections to it are refused.
    Refusing,
    /// It is down. Connections to it are accepted but get no answer.
    Silent,
}

/// A region that can be taken down.
#[derive(Debug)]
pub struct StoppableRegion {
    region: Region,
    cloud: ProcessGroup,
    upstream: Upstream,
    state: RegionState,
    gateway: Option<Gateway>,
}

impl StoppableRegion {
    /// A region that works normally.
    #[must_use]
    pub const fn new(
        region: Region,
        cloud: ProcessGroup,
        upstream: Upstream,
        gateway: Gateway,
    ) -> Self {
        Self {
            region,
            cloud,
            upstream,
            state: RegionState::Up,
            gateway: Some(gateway),
        }
    }

    async fn set_state(&mut self, state: RegionState) -> Result<()> {
        match state {
            RegionState::Up => self.cloud.resume()?,
            RegionState::Refusing | RegionState::Silent => {
                // Suspend first, so that it does not start new functions.
                self.cloud.suspend()?;
                self.cloud.kill_children()?;
            }
        }
        self.state = state;
        if state == RegionState::Refusing {
            self.gateway = None;
        } else if self.gateway.is_none() {
            let port = self.region.gateway_port;
            self.gateway = Some(Gateway::start(self.upstream.clone(), port).await?);
        }
        Ok(())
    }
}

/// Two regions and the replication between them.
#[derive(Debug)]
pub struct RegionPair {
    regions: Mutex<[StoppableRegion; 2]>,
    replication: Replication,
}

impl RegionPair {
    /// Two regions that work normally.
    #[must_use]
    pub const fn new(regions: [StoppableRegion; 2], replication: Replication) -> Self {
        Self {
            regions: Mutex::const_new(regions),
            replication,
        }
    }
}

/// `GET /`, `PUT /regions/{name}`, `PUT /replication`.
pub fn router(pair: Arc<RegionPair>) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/regions/{name}", put(set_region_state))
        .route("/replication", put(change_replication))
        .with_state(pair)
}

async fn show(State(pair): State<Arc<RegionPair>>) -> Json<Value> {
    let regions = pair.regions.lock().await;
    let states: Map<String, Value> = regions
        .iter()
        .map(|region| (region.region.name.to_owned(), json!(region.state)))
        .collect();
    Json(json!({ "regions": states, "replication": pair.replication.state() }))
}

#[derive(Debug, Deserialize)]
struct RegionChange {
    state: RegionState,
}

async fn set_region_state(
    State(pair): State<Arc<RegionPair>>,
    Path(name): Path<String>,
    Json(change): Json<RegionChange>,
) -> Response {
    let mut regions = pair.regions.lock().await;
    let Some(region) = regions.iter_mut().find(|region| region.region.name == name) else {
        return (StatusCode::NOT_FOUND, format!("unknown region {name}\n")).into_response();
    };
    // Stop replication before the region goes down and until it is back up, because a table that is frozen answers
    // nothing.
    pair.replication
        .change(|settings| settings.region_down = true);
    if let Err(error) = region.set_state(change.state).await {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response();
    }
    let all_up = regions.iter().all(|region| region.state == RegionState::Up);
    pair.replication
        .change(|settings| settings.region_down = !all_up);
    StatusCode::NO_CONTENT.into_response()
}

/// Changes only the given fields.
#[derive(Debug, Deserialize)]
struct ReplicationChange {
    lag_ms: Option<u64>,
    cut: Option<bool>,
}

async fn change_replication(
    State(pair): State<Arc<RegionPair>>,
    Json(change): Json<ReplicationChange>,
) -> StatusCode {
    pair.replication.change(|settings| {
        settings.lag_ms = change.lag_ms.unwrap_or(settings.lag_ms);
        settings.cut = change.cut.unwrap_or(settings.cut);
    });
    StatusCode::NO_CONTENT
}
