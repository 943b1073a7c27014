//! The control API of the stand-in: tests change the status of a call, list calls, and delete them.

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use super::call::{ExotelCall, ExotelStatus, LegStatuses};
use super::callback::{self, CallbackFormat, EventType};
use super::state::ExotelState;

/// A change of a call's status.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallChange {
    /// The new status.
    status: ExotelStatus,
    /// The `EventType` of the report. `null` gives a report without one. If missing, it follows from the status.
    #[serde(default, deserialize_with = "null_or_missing")]
    event: Option<Option<EventType>>,
    /// The status of the legs. If missing, the usual one for the status.
    #[serde(default)]
    legs: Option<LegStatuses>,
    /// The format of the report. If missing, the one in the connect request.
    #[serde(default)]
    format: Option<CallbackFormat>,
    /// How often the report is sent.
    #[serde(default = "once")]
    times: u32,
    /// The report is not sent.
    #[serde(default)]
    silent: bool,
}

/// Distinguishes `null` (`Some(None)`) from a missing field (`None`).
fn null_or_missing<'de, D: Deserializer<'de>>(
    value: D,
) -> Result<Option<Option<EventType>>, D::Error> {
    Option::deserialize(value).map(Some)
}

const fn once() -> u32 {
    1
}

/// A new API key of the account.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewKey {
    api_key: String,
    api_token: String,
}

/// `PUT /key`: replaces the account's API key.
pub(super) async fn replace_key(
    State(exotel): State<ExotelState>,
    Json(new): Json<NewKey>,
) -> StatusCode {
    let mut account = exotel.account();
    account.api_key = new.api_key;
    account.api_token = new.api_token;
    StatusCode::NO_CONTENT
}

/// Selects calls.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CallFilter {
    custom_field: Option<String>,
}

/// `GET /calls?custom_field=…`: the placed calls, newest last.
pub(super) async fn list(
    State(exotel): State<ExotelState>,
    Query(which): Query<CallFilter>,
) -> Json<Vec<Value>> {
    let is_wanted = |call: &&ExotelCall| {
        which.custom_field.is_none() || call.custom_field == which.custom_field
    };
    Json(exotel.calls().iter().filter(is_wanted).map(shown).collect())
}

fn shown(call: &ExotelCall) -> Value {
    json!({
        "call_sid": call.sid,
        "custom_field": call.custom_field,
        "status_callback": call.callback,
        "call": call.details(),
    })
}

/// `DELETE /calls/{CallSid}`: deletes the call, so that Call Details returns 404.
pub(super) async fn remove(
    State(exotel): State<ExotelState>,
    Path(sid): Path<String>,
) -> StatusCode {
    let mut calls = exotel.calls();
    let before = calls.len();
    calls.retain(|call| call.sid != sid);
    if calls.len() < before {
        StatusCode::NO_CONTENT
    } else {
        StatusCode::NOT_FOUND
    }
}

/// `POST /calls/{CallSid}/events`: changes the status of a call, and reports it.
pub(super) async fn change(
    State(exotel): State<ExotelState>,
    Path(sid): Path<String>,
    Json(requested): Json<CallChange>,
) -> Response {
    let now = OffsetDateTime::now_utc();
    let Some((reported, stored)) = exotel.advance(&sid, requested.status, now) else {
        let unknown = json!({"error": format!("no call has the CallSid {sid}")});
        return (StatusCode::NOT_FOUND, Json(unknown)).into_response();
    };
    let mut outcome = json!({"call": stored.details(), "answers": []});
    match requested.callback(&reported) {
        Ok((url, format)) => {
            let report = reported.report(requested.event(), requested.legs);
            let mut answers = Vec::new();
            for _ in 0..requested.times {
                answers.push(callback::send(&exotel.http, url, format, &report).await);
            }
            outcome["answers"] = answers.into();
        }
        Err(reason) => outcome["not_sent"] = reason.into(),
    }
    Json(outcome).into_response()
}

impl CallChange {
    fn event(&self) -> Option<EventType> {
        self.event.unwrap_or_else(|| self.status.event())
    }

    /// The URL and the format of the report, or the reason why none is sent.
    fn callback<'a>(
        &self,
        call: &'a ExotelCall,
    ) -> Result<(&'a str, CallbackFormat), &'static str> {
        if self.silent {
            return Err("silent");
        }
        let callback = call.callback.as_ref();
        let callback = callback.ok_or("the connect request has no StatusCallback")?;
        match self.event() {
            Some(event) if !callback.events.contains(&event) => {
                Err("the connect request does not include this event")
            }
            _ => Ok((&callback.url, self.format.unwrap_or(callback.format))),
        }
    }
}
