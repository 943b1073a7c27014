//! Simulates the outage of a region, and delays or stops replication, for tests.
//!
//! During an outage the region does nothing: its local AWS is frozen with its queues, schedules and streams, and
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
    pub const fn new(region: Region, cloud: ProcessGroup, upstream: Upstream, gateway: Gateway) -> Self {
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
            RegionState::Up => self.cloud.thaw()?,
            RegionState::Refusing | RegionState::Silent => {
                // Freeze first, so that it does not start new functions.
                self.cloud.freeze()?;
                self.cloud.kill_all_but_the_daemon()?;
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
pub fn router(two: Arc<RegionPair>) -> Router {
    Router::new()
        .route("/", get(show))
        .route("/regions/{name}", put(set_region_state))
        .route("/replication", put(change_replication))
        .with_state(two)
}

async fn show(State(two): State<Arc<RegionPair>>) -> Json<Value> {
    let regions = two.regions.lock().await;
    let conditions: Map<String, Value> = regions
        .iter()
        .map(|one| (one.region.name.to_owned(), json!(one.state)))
        .collect();
    Json(json!({ "regions": conditions, "replication": two.replication.link() }))
}

#[derive(Debug, Deserialize)]
struct RegionChange {
    state: RegionState,
}

async fn set_region_state(
    State(two): State<Arc<RegionPair>>,
    Path(name): Path<String>,
    Json(order): Json<RegionChange>,
) -> Response {
    let mut regions = two.regions.lock().await;
    let Some(region) = regions.iter_mut().find(|one| one.region.name == name) else {
        return (StatusCode::NOT_FOUND, format!("no region {name}\n")).into_response();
    };
    // Stop replication before the region goes down and until it is back up, because a table that is frozen answers
    // nothing.
    two.replication.change(|link| link.lost = true);
    if let Err(error) = region.set_state(order.state).await {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response();
    }
    let all_well = regions.iter().all(|one| one.state == RegionState::Up);
    two.replication.change(|link| link.lost = !all_well);
    StatusCode::NO_CONTENT.into_response()
}

/// Changes only the given fields.
#[derive(Debug, Deserialize)]
struct ReplicationChange {
    lag_ms: Option<u64>,
    cut: Option<bool>,
}

async fn change_replication(
    State(two): State<Arc<RegionPair>>,
    Json(order): Json<ReplicationChange>,
) -> StatusCode {
    two.replication.change(|link| {
        link.lag_ms = order.lag_ms.unwrap_or(link.lag_ms);
        link.cut = order.cut.unwrap_or(link.cut);
    });
    StatusCode::NO_CONTENT
}
