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
use crate::process::Group;
use crate::replication::Replication;

/// The state of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// It works normally.
    Well,
    /// It is down, and connections to it are refused.
    Refuses,
    /// It is down. Connections to it are accepted but get no answer.
    Silent,
}

/// A region that can be taken down.
#[derive(Debug)]
pub struct Losable {
    region: Region,
    cloud: Group,
    upstream: Upstream,
    condition: Condition,
    gateway: Option<Gateway>,
}

impl Losable {
    /// A region that works normally.
    #[must_use]
    pub const fn new(region: Region, cloud: Group, upstream: Upstream, gateway: Gateway) -> Self {
        Self {
            region,
            cloud,
            upstream,
            condition: Condition::Well,
            gateway: Some(gateway),
        }
    }

    async fn become_like(&mut self, condition: Condition) -> Result<()> {
        match condition {
            Condition::Well => self.cloud.thaw()?,
            Condition::Refuses | Condition::Silent => {
                // Freeze first, so that it does not start new functions.
                self.cloud.freeze()?;
                self.cloud.kill_all_but_the_daemon()?;
            }
        }
        self.condition = condition;
        if condition == Condition::Refuses {
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
pub struct TwoRegions {
    regions: Mutex<[Losable; 2]>,
    replication: Replication,
}

impl TwoRegions {
    /// Two regions that work normally.
    #[must_use]
    pub const fn new(regions: [Losable; 2], replication: Replication) -> Self {
        Self {
            regions: Mutex::const_new(regions),
            replication,
        }
    }
}

/// `GET /`, `PUT /regions/{name}`, `PUT /replication`.
pub fn router(two: Arc<TwoRegions>) -> Router {
    Router::new()
        .route("/", get(tell))
        .route("/regions/{name}", put(lose_or_find))
        .route("/replication", put(change_link))
        .with_state(two)
}

async fn tell(State(two): State<Arc<TwoRegions>>) -> Json<Value> {
    let regions = two.regions.lock().await;
    let conditions: Map<String, Value> = regions
        .iter()
        .map(|one| (one.region.name.to_owned(), json!(one.condition)))
        .collect();
    Json(json!({ "regions": conditions, "replication": two.replication.link() }))
}

#[derive(Debug, Deserialize)]
struct Order {
    state: Condition,
}

async fn lose_or_find(
    State(two): State<Arc<TwoRegions>>,
    Path(name): Path<String>,
    Json(order): Json<Order>,
) -> Response {
    let mut regions = two.regions.lock().await;
    let Some(region) = regions.iter_mut().find(|one| one.region.name == name) else {
        return (StatusCode::NOT_FOUND, format!("no region {name}\n")).into_response();
    };
    // Stop replication before the region goes down and until it is back up, because a table that is frozen answers
    // nothing.
    two.replication.change(|link| link.lost = true);
    if let Err(error) = region.become_like(order.state).await {
        return (StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}\n")).into_response();
    }
    let all_well = regions.iter().all(|one| one.condition == Condition::Well);
    two.replication.change(|link| link.lost = !all_well);
    StatusCode::NO_CONTENT.into_response()
}

/// Changes only the given fields.
#[derive(Debug, Deserialize)]
struct LinkOrder {
    lag_ms: Option<u64>,
    cut: Option<bool>,
}

async fn change_link(
    State(two): State<Arc<TwoRegions>>,
    Json(order): Json<LinkOrder>,
) -> StatusCode {
    two.replication.change(|link| {
        link.lag_ms = order.lag_ms.unwrap_or(link.lag_ms);
        link.cut = order.cut.unwrap_or(link.cut);
    });
    StatusCode::NO_CONTENT
}
