//! The HTTP API that controls the faults:
//!
//! - `PUT`, `GET`, `DELETE /rules/{name}`: a [`Rule`], and how often it matched,
//! - `PUT /links/{system}`: a [`LinkState`],
//! - `PUT /scenarios/{name}`: the marks of its requests; `DELETE`: returns its requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use axum::{Json, Router};
use tokio::sync::watch;

use super::registry::FaultRegistry;
use super::rule::{LinkState, TestCall, Rule, RuleStatus, System};

type Lines = Arc<Vec<(System, watch::Sender<LinkState>)>>;

#[derive(Clone)]
struct Control {
    registry: Arc<FaultRegistry>,
    lines: Lines,
}

pub(super) fn router(registry: Arc<FaultRegistry>, lines: Vec<(System, watch::Sender<LinkState>)>) -> Router {
    let rules = put(make).get(rule).delete(drop_rule);
    Router::new()
        .route("/rules/{name}", rules)
        .route("/links/{system}", put(switch))
        .route("/test-calls/{name}", put(begin).delete(end))
        .with_state(Control {
            registry,
            lines: Arc::new(lines),
        })
}

async fn make(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(rule): Json<Rule>,
) -> StatusCode {
    control.registry.make(name, rule);
    StatusCode::NO_CONTENT
}

async fn rule(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<RuleStatus>, StatusCode> {
    let standing = control.registry.rule(&name);
    standing.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn drop_rule(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<RuleStatus>, StatusCode> {
    let standing = control.registry.drop_rule(&name);
    standing.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn switch(
    State(control): State<Control>,
    Path(system): Path<System>,
    Json(line): Json<LinkState>,
) -> StatusCode {
    for (of, sender) in control.lines.iter() {
        if *of == system {
            sender.send_replace(line);
        }
    }
    StatusCode::NO_CONTENT
}

async fn begin(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(marks): Json<BTreeSet<String>>,
) -> StatusCode {
    control.registry.begin(name, marks);
    StatusCode::NO_CONTENT
}

async fn end(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<TestCall>, StatusCode> {
    let play = control.registry.end(&name);
    play.map(Json).ok_or(StatusCode::NOT_FOUND)
}
