//! Exotel's voice API, as much of it as the application uses: connecting two numbers, and a call's details.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router, middleware};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use time::macros::{format_description, offset};
use time::{OffsetDateTime, format_description::FormatItem};
use uuid::Uuid;

use super::behaviour::{self, Behaving, Failure, Operation};
use super::recorder::{self, Recorder};
use crate::credentials::ExotelAccount;

/// Exotel's times have no zone: they are India's.
const LOCAL_TIME: &[FormatItem<'_>] =
    format_description!("[year]-[month]-[day] [hour]:[minute]:[second]");
/// The longest a call may be asked to last.
const MAX_TIME_LIMIT: u32 = 14_400;
/// The longest a leg may be asked to ring.
const MAX_TIME_OUT: u32 = 60;
/// The longest `CustomField`.
const MAX_CUSTOM_FIELD: usize = 128;

#[derive(Clone)]
struct Exotel {
    account: Arc<ExotelAccount>,
    calls: Arc<Mutex<HashMap<String, Value>>>,
    behaving: Behaving,
}

/// The stand-in for one account.
pub fn router(account: &ExotelAccount) -> Router {
    let behaving = Behaving::default();
    let recorder = Recorder::default();
    let exotel = Exotel {
        account: Arc::new(account.clone()),
        calls: Arc::default(),
        behaving: behaving.clone(),
    };
    let service = Router::new()
        .route("/v1/Accounts/{sid}/Calls/connect.json", post(connect))
        .route("/v1/Accounts/{sid}/Calls/{call}", get(details))
        .fallback(not_found)
        .with_state(exotel)
        .layer(middleware::from_fn_with_state(
            recorder.clone(),
            recorder::record,
        ));
    Router::new()
        .route("/requests", get(recorder::list).delete(recorder::clear))
        .with_state(recorder)
        .merge(
            Router::new()
                .route(
                    "/behaviour",
                    get(behaviour::show)
                        .put(behaviour::replace)
                        .delete(behaviour::reset),
                )
                .with_state(behaving),
        )
        .fallback_service(service)
}

/// `POST …/Calls/connect.json`.
async fn connect(
    State(exotel): State<Exotel>,
    Path(sid): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    if let Some(failure) = exotel.behaving.before(Operation::Connect).await {
        return failing(&failure);
    }
    if let Some(refusal) = exotel.refuse_stranger(&sid, &headers) {
        return refusal;
    }
    let fields: BTreeMap<String, String> = form_urlencoded::parse(&body)
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect();
    if let Err(problem) = check_connect(&fields) {
        return rest_exception(StatusCode::BAD_REQUEST, &problem);
    }
    let call = new_call(&sid, &fields, OffsetDateTime::now_utc());
    let id = call["Sid"].as_str().unwrap_or_default().to_owned();
    exotel
        .calls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .insert(id, call.clone());
    Json(json!({"Call": call})).into_response()
}

/// `GET …/Calls/{CallSid}.json`.
async fn details(
    State(exotel): State<Exotel>,
    Path((sid, call)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    if let Some(failure) = exotel.behaving.before(Operation::Details).await {
        return failing(&failure);
    }
    if let Some(refusal) = exotel.refuse_stranger(&sid, &headers) {
        return refusal;
    }
    let Some(id) = call.strip_suffix(".json") else {
        return not_found().await;
    };
    match exotel
        .calls
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .get(id)
    {
        Some(call) => Json(json!({"Call": call})).into_response(),
        None => rest_exception(StatusCode::NOT_FOUND, "Call not found"),
    }
}

impl Exotel {
    fn refuse_stranger(&self, sid: &str, headers: &HeaderMap) -> Option<Response> {
        let expected = STANDARD.encode(format!(
            "{}:{}",
            self.account.api_key, self.account.api_token
        ));
        let given = headers
            .get(header::AUTHORIZATION)
            .and_then(|value| value.to_str().ok()?.strip_prefix("Basic "));
        if given != Some(expected.as_str()) {
            return Some(rest_exception(
                StatusCode::UNAUTHORIZED,
                "Authentication failed",
            ));
        }
        (sid != self.account.sid)
            .then(|| rest_exception(StatusCode::FORBIDDEN, "Access to this account is denied"))
    }
}

/// Checks the fields of a connect request as the reference documents them.
fn check_connect(fields: &BTreeMap<String, String>) -> Result<(), String> {
    for name in ["From", "To", "CallerId"] {
        let number = fields
            .get(name)
            .ok_or_else(|| format!("Missing mandatory parameter '{name}'"))?;
        if !is_phone_number(number) {
            return Err(format!("Invalid parameter '{name}': {number}"));
        }
    }
    let at_most = |name: &str, most: u32| match fields.get(name).map(|value| value.parse::<u32>()) {
        None => Ok(()),
        Some(Ok(seconds)) if seconds <= most => Ok(()),
        Some(_) => Err(format!(
            "Invalid parameter '{name}': seconds, {most} at most"
        )),
    };
    at_most("TimeLimit", MAX_TIME_LIMIT)?;
    at_most("TimeOut", MAX_TIME_OUT)?;
    at_most("MaxRetries", 3)?;
    one_of(fields, "CallType", &["trans"])?;
    one_of(fields, "Record", &["true", "false"])?;
    one_of(
        fields,
        "StatusCallbackContentType",
        &["multipart/form-data", "application/json"],
    )?;
    if fields
        .get("CustomField")
        .is_some_and(|value| value.chars().count() > MAX_CUSTOM_FIELD)
    {
        return Err(format!(
            "Invalid parameter 'CustomField': {MAX_CUSTOM_FIELD} characters at most"
        ));
    }
    check_callback(fields)
}

fn check_callback(fields: &BTreeMap<String, String>) -> Result<(), String> {
    if let Some(url) = fields.get("StatusCallback")
        && !(url.starts_with("http://") || url.starts_with("https://"))
    {
        return Err(format!("Invalid parameter 'StatusCallback': {url}"));
    }
    let events = fields
        .iter()
        .filter(|(name, _)| name.starts_with("StatusCallbackEvents["));
    for (_, event) in events {
        if !matches!(event.as_str(), "terminal" | "answered") {
            return Err(format!("Invalid parameter 'StatusCallbackEvents': {event}"));
        }
    }
    Ok(())
}

fn one_of(fields: &BTreeMap<String, String>, name: &str, values: &[&str]) -> Result<(), String> {
    match fields.get(name) {
        Some(value) if !values.contains(&value.as_str()) => {
            Err(format!("Invalid parameter '{name}': {value}"))
        }
        _ => Ok(()),
    }
}

/// E.164, or as dialled within the country.
fn is_phone_number(number: &str) -> bool {
    let digits = number.strip_prefix('+').unwrap_or(number);
    (8..=15).contains(&digits.len()) && digits.chars().all(|letter| letter.is_ascii_digit())
}

/// Exotel shows Indian numbers as they are dialled in India, however they were given.
fn national(number: &str) -> String {
    number
        .strip_prefix("+91")
        .map_or_else(|| number.to_owned(), |rest| format!("0{rest}"))
}

fn new_call(account: &str, fields: &BTreeMap<String, String>, now: OffsetDateTime) -> Value {
    let sid = Uuid::new_v4().simple().to_string();
    let now = now
        .to_offset(offset!(+5:30))
        .format(LOCAL_TIME)
        .unwrap_or_default();
    json!({
        "Sid": sid,
        "ParentCallSid": null,
        "DateCreated": now,
        "DateUpdated": now,
        "AccountSid": account,
        "To": national(&fields["To"]),
        "From": national(&fields["From"]),
        "PhoneNumberSid": national(&fields["CallerId"]),
        "Status": "in-progress",
        "StartTime": now,
        "EndTime": null,
        "Duration": null,
        "Price": null,
        "Direction": "outbound-api",
        "AnsweredBy": null,
        "ForwardedFrom": null,
        "CallerName": null,
        "Uri": format!("/v1/Accounts/{account}/Calls/{sid}.json"),
        "RecordingUrl": null,
    })
}

async fn not_found() -> Response {
    rest_exception(StatusCode::NOT_FOUND, "Resource not found")
}

fn failing(failure: &Failure) -> Response {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = rest_exception(status, status.canonical_reason().unwrap_or("Error"));
    if let Some(seconds) = failure.retry_after {
        response
            .headers_mut()
            .insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn rest_exception(status: StatusCode, message: &str) -> Response {
    (
        status,
        Json(json!({"RestException": {"Status": status.as_u16(), "Message": message}})),
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::serve_anywhere;
    use reqwest::Client;
    use ringback::exotel::{ConnectRequest, Exotel as Application, ExotelError, OutboundProgress};
    use ringback::names::{CallId, CallSid, PhoneNumber};
    use std::time::Duration;

    const GOOD: [(&str, &str); 8] = [
        ("From", "+919876543210"),
        ("To", "09052161119"),
        ("CallerId", "08047491899"),
        ("CallType", "trans"),
        ("TimeOut", "30"),
        (
            "StatusCallback",
            "https://example.test/exotel/webhook?secret=s",
        ),
        ("StatusCallbackEvents[0]", "terminal"),
        ("StatusCallbackContentType", "application/json"),
    ];

    fn check_with(name: &str, value: &str) -> Result<(), String> {
        let mut fields: BTreeMap<String, String> = GOOD
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        fields.insert(name.to_owned(), value.to_owned());
        check_connect(&fields)
    }

    #[test]
    fn a_connect_is_checked_field_by_field() {
        assert_eq!(check_with("CustomField", "order 1"), Ok(()));
        let wrong = [
            ("From", "sip:1001"),
            ("To", ""),
            ("CallType", "promo"),
            ("TimeLimit", "14401"),
            ("TimeOut", "61"),
            ("TimeOut", "soon"),
            ("Record", "yes"),
            ("StatusCallback", "example.test"),
            ("StatusCallbackEvents[1]", "ringing"),
            ("StatusCallbackContentType", "text/xml"),
            ("CustomField", &"x".repeat(129)),
        ];
        for (name, value) in wrong {
            assert!(check_with(name, value).is_err(), "{name}={value}");
        }
        assert_eq!(
            check_connect(&BTreeMap::new()),
            Err("Missing mandatory parameter 'From'".into())
        );
    }

    #[tokio::test]
    async fn a_connected_call_can_be_looked_up() {
        let (address, _) = serve_anywhere(router(&account())).await.unwrap();
        let (base, http) = (
            format!("http://{address}/v1/Accounts/acc/Calls"),
            Client::new(),
        );

        let stranger = http
            .post(format!("{base}/connect.json"))
            .form(&GOOD)
            .send()
            .await
            .unwrap();
        assert_eq!(stranger.status(), 401);
        let stranger: Value = stranger.json().await.unwrap();
        assert_eq!(stranger["RestException"]["Status"], 401);

        let connect = http
            .post(format!("{base}/connect.json"))
            .basic_auth("key", Some("token"))
            .form(&GOOD);
        let call: Value = connect.send().await.unwrap().json().await.unwrap();
        let sid = call["Call"]["Sid"].as_str().unwrap();
        let look_up = |sid: &str| {
            http.get(format!("{base}/{sid}.json"))
                .basic_auth("key", Some("token"))
                .send()
        };
        let found: Value = look_up(sid).await.unwrap().json().await.unwrap();
        assert_eq!(found, call);
        assert_eq!(look_up("unknown").await.unwrap().status(), 404);
    }

    fn account() -> ExotelAccount {
        ExotelAccount {
            sid: "acc".into(),
            api_key: "key".into(),
            api_token: "token".into(),
            caller_id: "08047491899".into(),
        }
    }

    /// The application's own client of this account.
    fn application(address: std::net::SocketAddr) -> Application {
        let secret = json!({
            "webhook_secret": "s", "account_sid": "acc", "api_key": "key", "api_token": "token",
        });
        Application::at(
            format!("http://{address}").parse().unwrap(),
            serde_json::from_value(secret).unwrap(),
        )
    }

    fn request(to: &str) -> ConnectRequest {
        let number = |text| PhoneNumber::parse(text, "IN").unwrap();
        ConnectRequest {
            from: number("+919876543210"),
            to: number(to),
            caller_id: number("08047491899"),
            custom_field: CallId::fresh(),
            status_callback: "https://example.test/exotel/webhook?secret=s".into(),
            time_limit: Duration::from_secs(14_400),
            ring_timeout: Duration::from_secs(30),
        }
    }

    #[tokio::test]
    async fn what_the_application_asks_for_is_what_exotel_documents() {
        let (address, _) = serve_anywhere(router(&account())).await.unwrap();
        let application = application(address);
        let wanted = request("09052161119");
        let placed = application.connect(&wanted).await.unwrap();
        assert_eq!(placed.status, OutboundProgress::Initiated);

        let details = application.details(&placed.call_sid).await.unwrap();
        assert_eq!(details.call_sid, placed.call_sid);
        assert_eq!(details.status, Some(OutboundProgress::InProgress));
        assert_eq!(details.from, Some(wanted.from));
        assert_eq!(details.to, Some(wanted.to));
        assert!(details.started_at.is_some() && details.ended_at.is_none());

        let unknown = CallSid::try_from("unknown").unwrap();
        let error = application.details(&unknown).await.unwrap_err();
        assert!(matches!(error, ExotelError::NoSuchCall), "{error:?}");
        let error = application.connect(&request("56161")).await.unwrap_err();
        assert!(matches!(error, ExotelError::Refused { .. }), "{error:?}");
    }

    #[tokio::test]
    async fn the_application_understands_how_it_is_refused() {
        let (address, _) = serve_anywhere(router(&account())).await.unwrap();
        let failures = json!({"connect": [{"status": 402}, {"status": 429, "retry_after": 7}]});
        let http = Client::new();
        let told = http.put(format!("http://{address}/behaviour"));
        told.json(&failures).send().await.unwrap();
        let application = application(address);
        let wanted = request("09052161119");
        let error = application.connect(&wanted).await.unwrap_err();
        assert!(matches!(error, ExotelError::NoBalance), "{error:?}");
        let error = application.connect(&wanted).await.unwrap_err();
        let ExotelError::TooMany { retry_after } = error else {
            panic!("{error:?}");
        };
        assert_eq!(retry_after, Some(Duration::from_secs(7)));
        assert!(application.connect(&wanted).await.is_ok());
    }
}
