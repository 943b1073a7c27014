//! The HTTP API that controls the faults:
//!
//! - `PUT`, `GET`, `DELETE /rules/{name}`: a [`Rule`], and how often it matched,
//! - `PUT /links/{system}`: a [`LinkState`],
//! - `PUT /test-calls/{name}`: the marks of its requests; `DELETE`: returns its requests.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::put;
use axum::{Json, Router};
use tokio::sync::watch;

use super::registry::FaultRegistry;
use super::rule::{LinkState, Rule, RuleStatus, System, TestCall};

type Links = Arc<Vec<(System, watch::Sender<LinkState>)>>;

#[derive(Clone)]
struct Control {
    registry: Arc<FaultRegistry>,
    links: Links,
}

pub(super) fn router(
    registry: Arc<FaultRegistry>,
    links: Vec<(System, watch::Sender<LinkState>)>,
) -> Router {
    let rules = put(set_rule).get(get_rule).delete(remove_rule);
    Router::new()
        .route("/rules/{name}", rules)
        .route("/links/{system}", put(set_link))
        .route(
            "/test-calls/{name}",
            put(begin_test_call).delete(end_test_call),
        )
        .with_state(Control {
            registry,
            links: Arc::new(links),
        })
}

async fn set_rule(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(rule): Json<Rule>,
) -> StatusCode {
    control.registry.set_rule(name, rule);
    StatusCode::NO_CONTENT
}

async fn get_rule(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<RuleStatus>, StatusCode> {
    let status = control.registry.rule(&name);
    status.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn remove_rule(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<RuleStatus>, StatusCode> {
    let status = control.registry.remove_rule(&name);
    status.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn set_link(
    State(control): State<Control>,
    Path(system): Path<System>,
    Json(link): Json<LinkState>,
) -> StatusCode {
    for (linked, sender) in control.links.iter() {
        if *linked == system {
            sender.send_replace(link);
        }
    }
    StatusCode::NO_CONTENT
}

async fn begin_test_call(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(marks): Json<BTreeSet<String>>,
) -> StatusCode {
    control.registry.begin_test_call(name, marks);
    StatusCode::NO_CONTENT
}

async fn end_test_call(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<TestCall>, StatusCode> {
    let test_call = control.registry.end_test_call(&name);
    test_call.map(Json).ok_or(StatusCode::NOT_FOUND)
}
