//! The stand-in against the application's own client and its own reading of reports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use axum::extract::RawQuery;
use reqwest::redirect::Policy;
use ringback::api::form::Fields;
use ringback::exotel::{
    CallStatus, ConnectRequest, Exotel as Application, ExotelError, ExotelWebhook, Source, Stage,
};
use ringback_core::ids::{CallId, CallSid};
use ringback_core::phone_number::PhoneNumber;
use serde_json::Value;

use super::*;
use crate::stand_in::serve_anywhere;

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

#[tokio::test]
async fn a_connected_call_can_be_looked_up() {
    let address = stand_in().await;
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

/// The application's own client of this account.
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
async fn what_the_application_asks_for_is_what_exotel_documents() {
    let address = stand_in().await;
    let application = application(address);
    let wanted = request("09052161119");
    let placed = application.connect(&wanted).await.unwrap();
    assert_eq!(placed.status, CallStatus::Initiated);

    let details = application.details(&placed.call_sid).await.unwrap();
    assert_eq!(details.call_sid, placed.call_sid);
    assert_eq!(details.status, Some(CallStatus::InProgress));
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
    let address = stand_in().await;
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

/// The stand-in, and a webhook that its calls are reported to.
struct Scene {
    exotel: SocketAddr,
    webhook: SocketAddr,
    heard: Arc<Mutex<Vec<Report>>>,
    http: Client,
}

/// A report as the webhook received it.
struct Report {
    content_type: String,
    query: String,
    body: Bytes,
}

impl Report {
    async fn fields(&self) -> Fields {
        let body = Fields::from_body(&self.content_type, &self.body).await;
        body.unwrap()
    }

    async fn notice(&self) -> ExotelWebhook {
        let query = Fields::from_form(self.query.as_bytes());
        ExotelWebhook::parse(&self.fields().await.or(query), "IN").unwrap()
    }
}

impl Scene {
    async fn set() -> Self {
        let heard: Arc<Mutex<Vec<Report>>> = Arc::default();
        let ear = heard.clone();
        let hear = async move |RawQuery(query): RawQuery, headers: HeaderMap, body: Bytes| {
            let content_type = headers[header::CONTENT_TYPE].to_str().unwrap().to_owned();
            let query = query.unwrap_or_default();
            ear.lock().unwrap().push(Report {
                content_type,
                query,
                body,
            });
            Json(json!({"success": true}))
        };
        let moved = || async { (StatusCode::FOUND, [(header::LOCATION, "/exotel/webhook")]) };
        let webhook = Router::new()
            .route("/exotel/webhook", post(hear))
            .route("/moved", post(moved));
        Self {
            exotel: stand_in().await,
            webhook: serve_anywhere(webhook).await.unwrap().0,
            heard,
            http: Client::builder().redirect(Policy::none()).build().unwrap(),
        }
    }

    /// Places a call by the application's own client, and gives Exotel's id of it.
    async fn call(&self, id: CallId, path: &str) -> String {
        let mut wanted = request("09052161119");
        wanted.custom_field = id;
        wanted.status_callback = format!("http://{}{path}", self.webhook).into();
        let placed = application(self.exotel).connect(&wanted).await.unwrap();
        placed.call_sid.to_string()
    }

    async fn happens(&self, sid: &str, what: Value) -> Value {
        let url = format!("http://{}/calls/{sid}/events", self.exotel);
        let answer = self.http.post(url).json(&what).send().await.unwrap();
        answer.json().await.unwrap()
    }

    async fn notices(&self) -> Vec<ExotelWebhook> {
        let heard = std::mem::take(&mut *self.heard.lock().unwrap());
        let mut notices = Vec::new();
        for report in heard {
            notices.push(report.notice().await);
        }
        notices
    }

    async fn details(&self, sid: &str) -> Option<CallStatus> {
        let sid = CallSid::try_from(sid).unwrap();
        let details = application(self.exotel).details(&sid).await.unwrap();
        assert_eq!(
            details.ended_at.is_some(),
            details.status.unwrap().is_final()
        );
        details.status
    }
}

const WEBHOOK: &str = "/exotel/webhook?secret=s";

#[tokio::test]
async fn the_application_understands_a_report_in_every_format() {
    let scene = Scene::set().await;
    for (format, content_type) in [
        (json!(null), "application/json"),
        (json!("json"), "application/json"),
        (json!("form"), "application/x-www-form-urlencoded"),
        (json!("multipart"), "multipart/form-data; boundary="),
    ] {
        let id = CallId::fresh();
        let sid = scene.call(id, WEBHOOK).await;
        for (status, progress, stage) in [
            ("in-progress", CallStatus::InProgress, Stage::UnderWay),
            ("completed", CallStatus::Completed, Stage::Over),
        ] {
            let what = json!({"status": status, "format": format});
            let outcome = scene.happens(&sid, what).await;
            let answers = json!([{"status": 200, "body": {"success": true}}]);
            assert_eq!(outcome["answers"], answers, "{outcome}");

            let report = scene.heard.lock().unwrap().remove(0);
            assert!(report.content_type.starts_with(content_type));
            assert_eq!(report.query, "secret=s");
            let fields = report.fields().await;
            assert_eq!(fields.text("From"), Some("09876543210"));
            assert_eq!(fields.text("PhoneNumberSid"), Some("08047491899"));
            if format == "form" || format == "multipart" {
                assert_eq!(fields.text("Legs[1][Status]"), Some(status));
            }
            let notice = report.notice().await;
            assert_eq!(notice.call_sid.to_string(), sid);
            assert_eq!(notice.call_id, Some(id));
            assert_eq!(notice.to, PhoneNumber::parse("09052161119", "IN"));
            assert_eq!(notice.source, Source::StatusCallback);
            assert_eq!((notice.progress, notice.stage), (Some(progress), stage));
            assert!(notice.reported_at.is_some());
            assert_eq!(scene.details(&sid).await, Some(progress));
        }
    }
}

#[tokio::test]
async fn a_report_may_be_lost_or_doubled_or_overtaken() {
    let scene = Scene::set().await;
    let sid = scene.call(CallId::fresh(), WEBHOOK).await;
    let lost = json!({"status": "in-progress", "silent": true});
    assert_eq!(scene.happens(&sid, lost).await["not_sent"], "silent");
    assert!(scene.notices().await.is_empty());

    let doubled = json!({"status": "busy", "times": 2});
    let outcome = scene.happens(&sid, doubled).await;
    assert_eq!(outcome["answers"].as_array().unwrap().len(), 2);
    let [first, second] = &scene.notices().await[..] else {
        panic!("{outcome}");
    };
    assert_eq!(first, second);
    assert_eq!(first.progress, Some(CallStatus::Declined));

    let late = json!({"status": "in-progress"});
    let outcome = scene.happens(&sid, late).await;
    assert_eq!(outcome["call"]["Status"], "busy");
    let late = &scene.notices().await[0];
    assert_eq!(late.progress, Some(CallStatus::InProgress));
    assert_eq!(scene.details(&sid).await, Some(CallStatus::Declined));
}

#[tokio::test]
async fn the_first_phone_may_have_answered_while_the_second_rings() {
    let scene = Scene::set().await;
    let sid = scene.call(CallId::fresh(), WEBHOOK).await;
    let first = json!({"status": "in-progress", "legs": ["in-progress", null], "format": "form"});
    scene.happens(&sid, first).await;
    let report = scene.heard.lock().unwrap().remove(0);
    let fields = report.fields().await;
    assert_eq!(fields.text("Legs[0][Status]"), Some("in-progress"));
    assert_eq!(fields.text("Legs[1][Status]"), None);
    assert_eq!(fields.text("EventType"), Some("answered"));
}

#[tokio::test]
async fn only_events_that_were_asked_for_are_reported() {
    let scene = Scene::set().await;
    let connect = |callback: String| {
        let mut form: BTreeMap<&str, String> = GOOD
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
    let answered = scene.happens(&sid, json!({"status": "in-progress"})).await;
    assert_eq!(
        answered["not_sent"],
        "the connect request did not ask for this event"
    );
    // Ringing has no event, so it can be told only without one, and then the report says little.
    let outcome = scene.happens(&sid, json!({"status": "ringing"})).await;
    assert_eq!(outcome["answers"][0]["status"], 200);
    let report = scene.heard.lock().unwrap().remove(0);
    let fields = report.fields().await;
    assert_eq!(fields.text("Status"), Some("ringing"));
    assert_eq!((fields.text("EventType"), fields.text("To")), (None, None));
}

#[tokio::test]
async fn what_the_webhook_answers_is_handed_back_and_no_redirect_followed() {
    let scene = Scene::set().await;
    let sid = scene.call(CallId::fresh(), "/moved").await;
    let outcome = scene.happens(&sid, json!({"status": "failed"})).await;
    assert_eq!(outcome["answers"], json!([{"status": 302, "body": ""}]));
    let sid = scene.call(CallId::fresh(), "/nowhere").await;
    let outcome = scene.happens(&sid, json!({"status": "failed"})).await;
    assert_eq!(outcome["answers"][0]["status"], 404);
    assert!(scene.notices().await.is_empty());
}

#[tokio::test]
async fn a_call_is_found_by_our_own_id_and_can_be_forgotten() {
    let scene = Scene::set().await;
    let (ours, other) = (CallId::fresh(), CallId::fresh());
    let sid = scene.call(ours, WEBHOOK).await;
    scene.call(other, WEBHOOK).await;
    let calls = format!("http://{}/calls", scene.exotel);
    let found = scene.http.get(format!("{calls}?custom_field={ours}"));
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
async fn a_call_may_be_placed_though_the_answer_is_lost() {
    let scene = Scene::set().await;
    let behaviour = format!("http://{}/behaviour", scene.exotel);
    let failures = json!({"connect": [
        {"status": 504, "placed": true},
        {"status": 200, "placed": true, "after_ms": 60_000},
    ]});
    let told = scene.http.put(behaviour).json(&failures).send();
    assert_eq!(told.await.unwrap().status(), 204);

    let id = CallId::fresh();
    let mut wanted = request("09052161119");
    wanted.custom_field = id;
    let application = application(scene.exotel);
    let error = application.connect(&wanted).await.unwrap_err();
    assert!(matches!(error, ExotelError::Unknown(_)), "{error:?}");
    let given_up = tokio::time::timeout(Duration::from_millis(300), application.connect(&wanted));
    assert!(given_up.await.is_err());

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
