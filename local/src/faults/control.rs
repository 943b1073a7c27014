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

use super::book::Book;
use super::rule::{Line, Play, Rule, Standing, System};

type Lines = Arc<Vec<(System, watch::Sender<Line>)>>;

#[derive(Clone)]
struct Control {
    book: Arc<Book>,
    lines: Lines,
}

pub(super) fn router(book: Arc<Book>, lines: Vec<(System, watch::Sender<Line>)>) -> Router {
    let rules = put(make).get(rule).delete(drop_rule);
    Router::new()
        .route("/rules/{name}", rules)
        .route("/lines/{system}", put(switch))
        .route("/plays/{name}", put(begin).delete(end))
        .with_state(Control {
            book,
            lines: Arc::new(lines),
        })
}

async fn make(
    State(control): State<Control>,
    Path(name): Path<String>,
    Json(rule): Json<Rule>,
) -> StatusCode {
    control.book.make(name, rule);
    StatusCode::NO_CONTENT
}

async fn rule(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<Standing>, StatusCode> {
    let standing = control.book.rule(&name);
    standing.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn drop_rule(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<Standing>, StatusCode> {
    let standing = control.book.drop_rule(&name);
    standing.map(Json).ok_or(StatusCode::NOT_FOUND)
}

async fn switch(
    State(control): State<Control>,
    Path(system): Path<System>,
    Json(line): Json<Line>,
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
    control.book.begin(name, marks);
    StatusCode::NO_CONTENT
}

async fn end(
    State(control): State<Control>,
    Path(name): Path<String>,
) -> Result<Json<Play>, StatusCode> {
    let play = control.book.end(&name);
    play.map(Json).ok_or(StatusCode::NOT_FOUND)
}
