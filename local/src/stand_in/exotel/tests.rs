//! Tests the stand-in with the application's own Exotel client and webhook parser.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::RawQuery;
use axum::http::header;
use reqwest::Client;
use reqwest::redirect::Policy;
use ringback::exotel::{
    CallStage, ConnectRequest, Exotel as Application, ExotelError, ExotelWebhook, WebhookSource,
};
use ringback::form_fields::FormFields;
use ringback_core::call::CallStatus;
use ringback_core::ids::{CallId, CallSid};
use ringback_core::phone_number::PhoneNumber;
use serde_json::Value;

use super::*;
use crate::stand_in::serve_anywhere;

const VALID_REQUEST: [(&str, &str); 8] = [
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

#[tokio::test]
async fn a_connected_call_can_be_looked_up() {
    let address = stand_in().await;
    let (base, http) = (
        format!("http://{address}/v1/Accounts/acc/Calls"),
        Client::new(),
    );

    let unauthenticated = http
        .post(format!("{base}/connect.json"))
        .form(&VALID_REQUEST)
        .send()
        .await
        .unwrap();
    assert_eq!(unauthenticated.status(), 401);
    let unauthenticated: Value = unauthenticated.json().await.unwrap();
    assert_eq!(unauthenticated["RestException"]["Status"], 401);

    let connect = http
        .post(format!("{base}/connect.json"))
        .basic_auth("key", Some("token"))
        .form(&VALID_REQUEST);
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

async fn stand_in() -> SocketAddr {
    let router = router(&account()).unwrap();
    serve_anywhere(router).await.unwrap().0
}

fn account() -> ExotelAccount {
    ExotelAccount {
        sid: "acc".into(),
        api_key: "key".into(),
        api_token: "token".into(),
        caller_id: "08047491899".into(),
    }
}

/// The application's own client for this account.
fn application(address: SocketAddr) -> Application {
    let secret = json!({
        "account_sid": "acc", "api_key": "key", "api_token": "token",
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
async fn the_applications_requests_match_exotels_documentation() {
    let address = stand_in().await;
    let application = application(address);
    let connect_request = request("09052161119");
    let placed = application.connect(&connect_request).await.unwrap();
    assert_eq!(placed.progress, CallStatus::Initiated);

    let details = application.details(&placed.call_sid).await.unwrap();
    assert_eq!(details.call_sid, placed.call_sid);
    assert_eq!(details.progress, Some(CallStatus::InProgress));
    assert_eq!(details.from, Some(connect_request.from));
    assert_eq!(details.to, Some(connect_request.to));
    assert!(details.started_at.is_some() && details.ended_at.is_none());

    let unknown = CallSid::try_from("unknown").unwrap();
    let error = application.details(&unknown).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoSuchCall), "{error:?}");
    let error = application.connect(&request("56161")).await.unwrap_err();
    assert!(matches!(error, ExotelError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn the_application_understands_exotels_errors() {
    let address = stand_in().await;
    let failures = json!({"connect": [{"status": 402}, {"status": 429, "retry_after": 7}]});
    let http = Client::new();
    let configured = http.put(format!("http://{address}/behaviour"));
    configured.json(&failures).send().await.unwrap();
    let application = application(address);
    let connect_request = request("09052161119");
    let error = application.connect(&connect_request).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoBalance), "{error:?}");
    let error = application.connect(&connect_request).await.unwrap_err();
    let ExotelError::TooMany { retry_after } = error else {
        panic!("{error:?}");
    };
    assert_eq!(retry_after, Some(Duration::from_secs(7)));
    assert!(application.connect(&connect_request).await.is_ok());
}

/// The stand-in, and a webhook that receives its reports.
struct Scene {
    exotel: SocketAddr,
    webhook: SocketAddr,
    received: Arc<Mutex<Vec<Report>>>,
    http: Client,
}

/// A report that the webhook received.
struct Report {
    content_type: String,
    query: String,
    body: Bytes,
}

impl Report {
    async fn fields(&self) -> FormFields {
        let body = FormFields::from_body(&self.content_type, &self.body).await;
        body.unwrap()
    }

    async fn parse(&self) -> ExotelWebhook {
        let query = FormFields::from_form(self.query.as_bytes());
        ExotelWebhook::parse(&self.fields().await.or(query), "IN").unwrap()
    }
}

impl Scene {
    async fn new() -> Self {
        let received: Arc<Mutex<Vec<Report>>> = Arc::default();
        let recorded = received.clone();
        let record = async move |RawQuery(query): RawQuery, headers: HeaderMap, body: Bytes| {
            let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            let query = query.unwrap_or_default();
            recorded.lock().unwrap().push(Report {
                content_type,
                query,
                body,
            });
            Json(json!({"success": true}))
        };
        let moved = || async { (StatusCode::FOUND, [(header::LOCATION, "/exotel/webhook")]) };
        let webhook = Router::new()
            .route("/exotel/webhook", post(record))
            .route("/moved", post(moved));
        Self {
            exotel: stand_in().await,
            webhook: serve_anywhere(webhook).await.unwrap().0,
            received,
            http: Client::builder().redirect(Policy::none()).build().unwrap(),
        }
    }

    /// Places a call with the application's client, and returns its CallSid.
    async fn call(&self, id: CallId, path: &str) -> String {
        let mut connect_request = request("09052161119");
        connect_request.custom_field = id;
        connect_request.status_callback = format!("http://{}{path}", self.webhook).into();
        let placed = application(self.exotel)
            .connect(&connect_request)
            .await
            .unwrap();
        placed.call_sid.to_string()
    }

    async fn change(&self, sid: &str, what: Value) -> Value {
        let url = format!("http://{}/calls/{sid}/events", self.exotel);
        let answer = self.http.post(url).json(&what).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn webhooks(&self) -> Vec<ExotelWebhook> {
        let received = std::mem::take(&mut *self.received.lock().unwrap());
        let mut webhooks = Vec::new();
        for report in received {
            webhooks.push(report.parse().await);
        }
        webhooks
    }

    async fn details(&self, sid: &str) -> Option<CallStatus> {
        let sid = CallSid::try_from(sid).unwrap();
        let details = application(self.exotel).details(&sid).await.unwrap();
        assert_eq!(
            details.ended_at.is_some(),
            details.progress.unwrap().is_final()
        );
        details.progress
    }
}

const WEBHOOK: &str = "/exotel/webhook?secret=s";

#[tokio::test]
async fn the_application_parses_a_report_in_every_format() {
    let scene = Scene::new().await;
    for (format, content_type) in [
        (json!(null), "application/json"),
        (json!("json"), "application/json"),
        (json!("form"), "application/x-www-form-urlencoded"),
        (json!("multipart"), "multipart/form-data; boundary="),
    ] {
        let id = CallId::fresh();
        let sid = scene.call(id, WEBHOOK).await;
        for (status, progress, stage) in [
            ("in-progress", CallStatus::InProgress, CallStage::Ongoing),
            ("completed", CallStatus::Completed, CallStage::Ended),
        ] {
            let what = json!({"status": status, "format": format});
            let outcome = scene.change(&sid, what).await;
            let answers = json!([{"status": 200, "body": {"success": true}}]);
            assert_eq!(outcome["answers"], answers, "{outcome}");

            let report = scene.received.lock().unwrap().remove(0);
            assert!(report.content_type.starts_with(content_type));
            assert_eq!(report.query, "secret=s");
            let fields = report.fields().await;
            assert_eq!(fields.text("From"), Some("09876543210"));
            assert_eq!(fields.text("PhoneNumberSid"), Some("08047491899"));
            if format == "form" || format == "multipart" {
                assert_eq!(fields.text("Legs[1][Status]"), Some(status));
            }
            let parsed = report.parse().await;
            assert_eq!(parsed.call_sid.to_string(), sid);
            assert_eq!(parsed.call_id, Some(id));
            assert_eq!(parsed.to, PhoneNumber::parse("09052161119", "IN"));
            assert_eq!(parsed.source, WebhookSource::StatusCallback);
            assert_eq!((parsed.progress, parsed.stage), (Some(progress), stage));
            assert!(parsed.reported_at.is_some());
            assert_eq!(scene.details(&sid).await, Some(progress));
        }
    }
}

#[tokio::test]
async fn a_report_may_be_lost_or_repeated_or_late() {
    let scene = Scene::new().await;
    let sid = scene.call(CallId::fresh(), WEBHOOK).await;
    let lost = json!({"status": "in-progress", "silent": true});
    assert_eq!(scene.change(&sid, lost).await["not_sent"], "silent");
    assert!(scene.webhooks().await.is_empty());

    let doubled = json!({"status": "busy", "times": 2});
    let outcome = scene.change(&sid, doubled).await;
    assert_eq!(outcome["answers"].as_array().unwrap().len(), 2);
    let [first, second] = &scene.webhooks().await[..] else {
        panic!("{outcome}");
    };
    assert_eq!(first, second);
    assert_eq!(first.progress, Some(CallStatus::Declined));

    let late = json!({"status": "in-progress"});
    let outcome = scene.change(&sid, late).await;
    assert_eq!(outcome["call"]["Status"], "busy");
    let late = &scene.webhooks().await[0];
    assert_eq!(late.progress, Some(CallStatus::InProgress));
    assert_eq!(scene.details(&sid).await, Some(CallStatus::Declined));
}

#[tokio::test]
async fn the_first_leg_may_be_answered_while_the_second_rings() {
    let scene = Scene::new().await;
    let sid = scene.call(CallId::fresh(), WEBHOOK).await;
    let first = json!({"status": "in-progress", "legs": ["in-progress", null], "format": "form"});
    scene.change(&sid, first).await;
    let report = scene.received.lock().unwrap().remove(0);
    let fields = report.fields().await;
    assert_eq!(fields.text("Legs[0][Status]"), Some("in-progress"));
    assert_eq!(fields.text("Legs[1][Status]"), None);
    assert_eq!(fields.text("EventType"), Some("answered"));
}

#[tokio::test]
async fn only_requested_events_are_reported() {
    let scene = Scene::new().await;
    let connect = |callback: String| {
        let mut form: BTreeMap<&str, String> = VALID_REQUEST
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        form.insert("StatusCallback", callback);
        let url = format!("http://{}/v1/Accounts/acc/Calls/connect.json", scene.exotel);
        let request = scene.http.post(url).basic_auth("key", Some("token"));
        async move {
            let call: Value = request.form(&form).send().await?.json().await?;
            reqwest::Result::Ok(call["Call"]["Sid"].as_str().unwrap().to_owned())
        }
    };
    let sid = connect(format!("http://{}{WEBHOOK}", scene.webhook)).await;
    let sid = sid.unwrap();
    let answered = scene.change(&sid, json!({"status": "in-progress"})).await;
    assert_eq!(
        answered["not_sent"],
        "the connect request does not include this event"
    );
    // Ringing has no event type, so the report contains few fields.
    let outcome = scene.change(&sid, json!({"status": "ringing"})).await;
    assert_eq!(outcome["answers"][0]["status"], 200);
    let report = scene.received.lock().unwrap().remove(0);
    let fields = report.fields().await;
    assert_eq!(fields.text("Status"), Some("ringing"));
    assert_eq!((fields.text("EventType"), fields.text("To")), (None, None));
}

#[tokio::test]
async fn the_answer_of_the_webhook_is_returned_and_redirects_are_not_followed() {
    let scene = Scene::new().await;
    let sid = scene.call(CallId::fresh(), "/moved").await;
    let outcome = scene.change(&sid, json!({"status": "failed"})).await;
    assert_eq!(outcome["answers"], json!([{"status": 302, "body": ""}]));
    let sid = scene.call(CallId::fresh(), "/nowhere").await;
    let outcome = scene.change(&sid, json!({"status": "failed"})).await;
    assert_eq!(outcome["answers"][0]["status"], 404);
    assert!(scene.webhooks().await.is_empty());
}

#[tokio::test]
async fn a_call_is_found_by_its_custom_field_and_can_be_deleted() {
    let scene = Scene::new().await;
    let (id, other) = (CallId::fresh(), CallId::fresh());
    let sid = scene.call(id, WEBHOOK).await;
    scene.call(other, WEBHOOK).await;
    let calls = format!("http://{}/calls", scene.exotel);
    let found = scene.http.get(format!("{calls}?custom_field={id}"));
    let found: Value = found.send().await.unwrap().json().await.unwrap();
    assert_eq!(found.as_array().unwrap().len(), 1);
    assert_eq!(found[0]["call_sid"], sid);
    let callback = json!({
        "url": format!("http://{}{WEBHOOK}", scene.webhook),
        "events": ["terminal", "answered"],
        "format": "json",
    });
    assert_eq!(found[0]["status_callback"], callback);

    for status in [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND] {
        let forget = scene.http.delete(format!("{calls}/{sid}"));
        assert_eq!(forget.send().await.unwrap().status(), status);
    }
    let sid = CallSid::try_from(sid.as_str()).unwrap();
    let error = application(scene.exotel).details(&sid).await.unwrap_err();
    assert!(matches!(error, ExotelError::NoSuchCall), "{error:?}");
}

#[tokio::test]
async fn a_call_may_be_placed_although_the_answer_is_lost() {
    let scene = Scene::new().await;
    let behaviour = format!("http://{}/behaviour", scene.exotel);
    let failures = json!({"connect": [
        {"status": 504, "placed": true},
        {"status": 200, "placed": true, "after_ms": 60_000},
    ]});
    let configured = scene.http.put(behaviour).json(&failures).send();
    assert_eq!(configured.await.unwrap().status(), 204);

    let id = CallId::fresh();
    let mut connect_request = request("09052161119");
    connect_request.custom_field = id;
    let application = application(scene.exotel);
    let error = application.connect(&connect_request).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
    let timed_out = tokio::time::timeout(
        Duration::from_millis(300),
        application.connect(&connect_request),
    );
    assert!(timed_out.await.is_err());

    let calls = format!("http://{}/calls?custom_field={id}", scene.exotel);
    let calls: Value = scene
        .http
        .get(calls)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(calls.as_array().unwrap().len(), 2);
}
