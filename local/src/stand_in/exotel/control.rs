//! How the stand-in is told what becomes of its calls: somebody answers, somebody hangs up, a report is lost.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::Exotel;
use super::call::{Call, EventType, Format, Legs, Status};
use super::callback;

/// What happens to a call.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Happening {
    /// How the call stands then.
    status: Status,
    /// The report's `EventType`; `null` for a report without one. Left out, it is the one that goes with the status.
    #[serde(default, deserialize_with = "given")]
    event: Option<Option<EventType>>,
    /// How the legs stand, where not as they do in the usual call of this status.
    #[serde(default)]
    legs: Option<Legs>,
    /// How the report is written, where not as the call's connect request asked.
    #[serde(default)]
    format: Option<Format>,
    /// How often the report comes.
    #[serde(default = "once")]
    times: u32,
    /// The report is lost on its way.
    #[serde(default)]
    silent: bool,
}

/// Tells `null` from what is not there.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<EventType>>, D::Error> {
    Option::deserialize(value).map(Some)
}

const fn once() -> u32 {
    1
}

/// The account's new API key.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    api_key: String,
    api_token: String,
}

/// `PUT /key`: the account gets another API key.
pub(super) async fn replace_key(
    State(exotel): State<Exotel>,
    Json(new): Json<NewKey>,
) -> StatusCode {
    let mut account = exotel.account();
    account.api_key = new.api_key;
    account.api_token = new.api_token;
    StatusCode::NO_CONTENT
}

/// Which calls are asked for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    custom_field: Option<String>,
}

/// `GET /calls?custom_field=…`: the calls that were placed, newest last.
pub(super) async fn list(
    State(exotel): State<Exotel>,
    Query(which): Query<Which>,
) -> Json<Vec<Value>> {
    let is_wanted =
        |call: &&Call| which.custom_field.is_none() || call.custom_field == which.custom_field;
    Json(exotel.calls().iter().filter(is_wanted).map(shown).collect())
}

fn shown(call: &Call) -> Value {
    json!({
        "call_sid": call.sid,
        "custom_field": call.custom_field,
        "status_callback": call.callback,
        "call": call.details(),
    })
}

/// `DELETE /calls/{CallSid}`: from now on Exotel has never heard of it.
pub(super) async fn forget(State(exotel): State<Exotel>, Path(sid): Path<String>) -> StatusCode {
    let mut calls = exotel.calls();
    let before = calls.len();
    calls.retain(|call| call.sid != sid);
    if calls.len() < before {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

/// `POST /calls/{CallSid}/events`: something happens to the call, and is reported.
pub(super) async fn happen(
    State(exotel): State<Exotel>,
    Path(sid): Path<String>,
    Json(happening): Json<Happening>,
) -> Response {
    let now = OffsetDateTime::now_utc();
    let Some((told, kept)) = exotel.advance(&sid, happening.status, now) else {
        let unknown = json!({"error": format!("no call has the CallSid {sid}")});
        return (StatusCode::NOT_FOUND, Json(unknown)).into_response();
    };
    let mut outcome = json!({"call": kept.details(), "answers": []});
    match happening.receiver(&told) {
        Ok((url, format)) => {
            let report = told.report(happening.event(), happening.legs);
            let mut answers = Vec::new();
            for _ in 0..happening.times {
                answers.push(callback::send(&exotel.http, url, format, &report).await);
            }
            outcome["answers"] = answers.into();
        }
        Err(reason) => outcome["not_sent"] = reason.into(),
    }
    Json(outcome).into_response()
}

impl Happening {
    fn event(&self) -> Option<EventType> {
        self.event.unwrap_or_else(|| self.status.event())
    }

    /// Where the report goes and how it is written, or why nobody hears of it.
    fn receiver<'a>(&self, call: &'a Call) -> Result<(&'a str, Format), &'static str> {
        if self.silent {
            return Err("silent");
        }
        let callback = call.callback.as_ref();
        let callback = callback.ok_or("the connect request has no StatusCallback")?;
        match self.event() {
            Some(event) if !callback.events.contains(&event) => {
                Err("the connect request did not ask for this event")
            }
            _ => Ok((&callback.url, self.format.unwrap_or(callback.format))),
        }
    }
}

impl Exotel {
    /// Moves a call on. Gives what is told of it, and the call as it is kept: one that is over stays as it ended.
    fn advance(&self, sid: &str, status: Status, now: OffsetDateTime) -> Option<(Call, Call)> {
        let mut calls = self.calls();
        let call = calls.iter_mut().find(|call| call.sid == sid)?;
        let told = call.when(status, now);
        if !call.is_over() {
            call.clone_from(&told);
        }
        Some((told, call.clone()))
    }
}
