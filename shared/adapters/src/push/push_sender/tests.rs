//! FCM, SNS and the table of devices, all simulated by one HTTP server.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use wiremock::matchers::{body_partial_json, body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::auth::signing::Signing;
use crate::form_fields::FormFields;
use crate::platform::config::Environment;
use crate::platform::secrets::{Secret, SigningSecret};
use crate::push::fcm::Fcm;
use crate::push::sns::{Sns, SnsApplications};
use crate::store::Table;
use crate::store::devices::PushToken;
use crate::testing;
use ringback_core::call::PushPlatform::{self, Apns, ApnsVoip};
use ringback_core::ids::DeviceId;

const SEND: &str = "/v1/projects/ringback-test/messages:send";
const A_DAY: Duration = Duration::from_secs(86_400);
const UPDATE_ITEM: &str = "DynamoDB_20120810.UpdateItem";

struct TestSender {
    server: MockServer,
    pushes: PushSender,
    call: Call,
}

fn signing() -> Signing {
    let secret: SigningSecret =
        serde_json::from_value(json!({ "signing_secret": "hush" })).unwrap();
    Signing::new(Secret::known(secret))
}

fn answer_urls() -> AnswerUrls {
    let environment = Environment::of(|_| Some("https://calls.example.com".to_owned()));
    AnswerUrls::from_environment(&environment, Arc::new(signing())).unwrap()
}

impl TestSender {
    /// A sender with an SNS that accepts every push. FCM's reply is set for each Android phone.
    async fn start() -> Self {
        let accepted = "<PublishResponse><PublishResult/></PublishResponse>";
        Self::where_sns_replies(ResponseTemplate::new(200).set_body_string(accepted)).await
    }

    async fn where_sns_replies(reply: ResponseTemplate) -> Self {
        let server = MockServer::start().await;
        let aws = testing::aws(&server);
        let devices = Devices::new(Table::new(aws_sdk_dynamodb::Client::new(&aws), "calls"));
        let applications = Environment::of(|name| match name {
            "SNS_APNS_APPLICATION_ARN" => Some(application("APNS")),
            "SNS_APNS_VOIP_APPLICATION_ARN" => Some(application("APNS_VOIP")),
            _ => None,
        });
        let applications = SnsApplications::from_environment(&applications).unwrap();
        let sns = Sns::new(aws_sdk_sns::Client::new(&aws), applications);
        let sender = Self {
            pushes: PushSender::new(
                devices,
                PushServices::new(Fcm::with_access(&server.uri()), sns),
                answer_urls(),
                MissedCalls::new(testing::table(&server)),
                A_DAY,
            ),
            call: ringback_core::testing::a_call(clock::now()),
            server,
        };
        sender
            .reply_to(Mock::given(body_string_contains("Action=Publish")), reply)
            .await;
        sender
    }

    async fn reply_to(&self, request: wiremock::MockBuilder, reply: ResponseTemplate) {
        request.respond_with(reply).mount(&self.server).await;
    }

    /// An Android phone. FCM sends this reply to every push to it.
    async fn android(&self, name: &str, reply: ResponseTemplate) -> Device {
        let token = format!("hush-{name}");
        let to_this_phone = body_partial_json(json!({ "message": { "token": token } }));
        self.reply_to(
            Mock::given(method("POST"))
                .and(path(SEND))
                .and(to_this_phone),
            reply,
        )
        .await;
        testing::device(name, [testing::address(PushPlatform::Fcm, &token)])
    }

    /// Sets the reply of the table when an address is removed.
    async fn removal_replies(&self, reply: ResponseTemplate) {
        self.reply_to(Mock::given(header("x-amz-target", UPDATE_ITEM)), reply)
            .await;
    }

    async fn ring(&self, devices: &[Device]) -> RingResult {
        let until = clock::now() + Duration::from_secs(20);
        self.pushes.ring(&self.call, devices, until).await
    }

    async fn cancel(&self, devices: &[Device], audience: &CancelAudience) {
        self.cancel_because(CancelReason::AnsweredElsewhere, devices, audience)
            .await;
    }

    async fn cancel_because(
        &self,
        reason: CancelReason,
        devices: &[Device],
        audience: &CancelAudience,
    ) {
        let until = clock::now() + Duration::from_secs(20);
        self.pushes
            .cancel(&self.call, devices, reason, audience, until)
            .await;
    }

    async fn requests(&self) -> Vec<Request> {
        testing::requests(&self.server).await
    }

    /// The tokens that FCM has received a push for.
    async fn fcm_tokens(&self) -> Vec<String> {
        let requests = self.requests().await;
        let sends = requests.iter().filter(|request| request.url.path() == SEND);
        let mut tokens: Vec<String> = sends
            .map(|request| request.body_json::<Value>().unwrap())
            .map(|body| body["message"]["token"].as_str().unwrap().to_owned())
            .collect();
        tokens.sort();
        tokens
    }

    /// The endpoints that SNS has received a message for.
    async fn endpoints(&self) -> Vec<String> {
        let requests = self.requests().await;
        let forms = requests
            .iter()
            .map(|request| FormFields::from_form(&request.body));
        let mut endpoints: Vec<String> = forms
            .filter_map(|form| Some(form.text("TargetArn")?.to_owned()))
            .collect();
        endpoints.sort();
        endpoints
    }

    /// The removals of addresses.
    async fn removals(&self) -> Vec<Value> {
        let requests = self.requests().await;
        let removals = requests
            .iter()
            .filter(|request| testing::operation(request) == "UpdateItem");
        removals
            .map(|request| request.body_json().unwrap())
            .collect()
    }
}

fn application(platform: &str) -> String {
    format!("arn:aws:sns:ap-south-1:123456789012:app/{platform}/app")
}

/// An iPhone with these addresses.
fn iphone<const N: usize>(name: &str, platforms: [PushPlatform; N]) -> Device {
    let addresses = platforms.map(|platform| {
        let token = PushToken::try_from(format!("hush-{name}").as_str()).unwrap();
        PushAddress::new(platform, token, Some(endpoint(name, platform)))
    });
    testing::device(name, addresses)
}

fn endpoint(name: &str, platform: PushPlatform) -> String {
    let application = application(&platform.as_str().to_uppercase());
    let endpoint = application.replace(":app/", ":endpoint/");
    format!("{endpoint}/{name}")
}

fn accepted() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "name": "projects/ringback-test/messages/1" }))
}

fn unregistered() -> ResponseTemplate {
    let details = json!([{ "errorCode": "UNREGISTERED" }]);
    ResponseTemplate::new(404).set_body_json(json!({ "error": { "details": details } }))
}

fn refused() -> ResponseTemplate {
    ResponseTemplate::new(400).set_body_json(json!({ "error": { "status": "INVALID_ARGUMENT" } }))
}

fn removed() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

fn all_devices() -> CancelAudience {
    CancelAudience::AllExcept(BTreeSet::new())
}

fn ids<const N: usize>(names: [&str; N]) -> BTreeSet<DeviceId> {
    names.map(|name| DeviceId::try_from(name).unwrap()).into()
}

fn nobody() -> RingResult {
    RingResult::default()
}

fn busy(status: u16, retry_after: &str) -> ResponseTemplate {
    ResponseTemplate::new(status).insert_header("retry-after", retry_after)
}

#[tokio::test]
async fn devices_ring_through_fcm_and_sns() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("pixel", accepted()).await,
        iphone("iphone", [ApnsVoip]),
        iphone("ipad", [Apns]),
    ];
    let result = sender.ring(&devices).await;
    assert_eq!(result.accepted, ids(["pixel", "iphone", "ipad"]));
    assert_eq!(result.retry_at, None);
    assert_eq!(sender.requests().await.len(), 3);
}

#[tokio::test]
async fn all_devices_ring_at_once() {
    let sender = TestSender::start().await;
    let slow = || accepted().set_delay(Duration::from_millis(500));
    let mut devices = Vec::new();
    for name in ["a", "b", "c", "d"] {
        devices.push(sender.android(name, slow()).await);
    }
    let start = clock::now();
    assert_eq!(sender.ring(&devices).await.accepted.len(), 4);
    assert!(clock::now().since(start) < Duration::from_millis(1500));
}

#[tokio::test]
async fn without_a_device_no_push_is_sent() {
    let sender = TestSender::start().await;
    assert_eq!(sender.ring(&[]).await, nobody());
    assert_eq!(sender.requests().await.len(), 0);
}

#[tokio::test]
async fn a_failed_push_does_not_prevent_the_others() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("broken", refused()).await,
        sender.android("pixel", accepted()).await,
    ];
    assert_eq!(sender.ring(&devices).await.accepted, ids(["pixel"]));
}

#[tokio::test]
async fn refused_pushes_and_dead_devices_are_not_tried_again() {
    let sender = TestSender::start().await;
    sender.removal_replies(removed()).await;
    let devices = [
        sender.android("broken", refused()).await,
        sender.android("dead", unregistered()).await,
    ];
    assert_eq!(sender.ring(&devices).await, nobody());
}

#[tokio::test]
async fn a_device_whose_push_is_delayed_is_tried_again_at_the_earliest_time() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("pixel", accepted()).await,
        sender.android("slow", busy(429, "7")).await,
        sender.android("slower", busy(503, "9")).await,
    ];
    let result = sender.ring(&devices).await;
    assert_eq!(result.accepted, ids(["pixel"]));
    let pause = result.retry_at.unwrap().since(sender.call.created_at);
    let about_seven_seconds = Duration::from_secs(7)..Duration::from_secs(9);
    assert!(about_seven_seconds.contains(&pause), "{pause:?}");
}

#[tokio::test]
async fn a_device_that_has_a_push_or_has_declined_gets_no_other_push() {
    let mut sender = TestSender::start().await;
    let devices = [
        sender.android("pixel", accepted()).await,
        sender.android("tablet", accepted()).await,
        sender.android("watch", accepted()).await,
    ];
    sender.call.declined_by = ids(["watch"]);
    sender.call.pushed = Some(ringback_core::call::PushedDevices {
        devices: ids(["pixel"]),
        are_all: false,
        at: clock::now(),
        retry_at: Some(clock::now()),
        earlier: [].into(),
        clients: 0,
    });
    assert_eq!(sender.ring(&devices).await.accepted, ids(["tablet"]));
    assert_eq!(sender.fcm_tokens().await, ["hush-tablet"]);
}

#[tokio::test]
async fn an_sns_that_fails_is_tried_again() {
    for (status, is_delayed) in [(503, true), (429, true), (403, false)] {
        let sender = TestSender::where_sns_replies(ResponseTemplate::new(status)).await;
        let result = sender.ring(&[iphone("iphone", [ApnsVoip])]).await;
        assert_eq!(result.retry_at.is_some(), is_delayed, "{status}");
    }
}

#[tokio::test]
async fn an_expired_address_is_removed_if_it_has_not_been_registered_again() {
    let sender = TestSender::start().await;
    sender.removal_replies(removed()).await;
    let dead = sender.android("dead", unregistered()).await;
    sender.ring(&[dead]).await;

    let removals = sender.removals().await;
    let [removal] = removals.as_slice() else {
        panic!("{removals:?}");
    };
    assert_eq!(removal["TableName"], "calls");
    let key = json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": "DEVICE#dead" } });
    assert_eq!(removal["Key"], key);
    assert_eq!(removal["UpdateExpression"], "REMOVE fcm");
    let condition = "fcm.registration = :registration";
    assert_eq!(removal["ConditionExpression"], condition);
    // The item that reserves the address is deleted, too.
    let requests = sender.requests().await;
    let owner = requests
        .iter()
        .find(|request| testing::operation(request) == "DeleteItem");
    let owner: Value = owner.unwrap().body_json().unwrap();
    assert_eq!(owner["Key"]["sk"], json!({ "S": "OWNER" }));
}

#[tokio::test]
async fn an_address_is_kept_after_any_other_failure() {
    let sender = TestSender::start().await;
    let broken = sender.android("broken", refused()).await;
    sender.ring(&[broken]).await;
    assert_eq!(sender.removals().await.len(), 0);
}

#[tokio::test]
async fn a_failed_removal_does_not_prevent_other_pushes() {
    let broken = ResponseTemplate::new(400).set_body_json(json!({ "__type": "x#NotAllowed" }));
    for reply in [testing::condition_failed(), broken] {
        let sender = TestSender::start().await;
        sender.removal_replies(reply).await;
        let devices = [
            sender.android("dead", unregistered()).await,
            sender.android("pixel", accepted()).await,
        ];
        assert_eq!(sender.ring(&devices).await.accepted, ids(["pixel"]));
    }
}

#[tokio::test]
async fn the_address_of_a_disabled_endpoint_is_kept() {
    let disabled = "<ErrorResponse><Error><Code>EndpointDisabled</Code></Error></ErrorResponse>";
    let sender =
        TestSender::where_sns_replies(ResponseTemplate::new(400).set_body_string(disabled)).await;
    let result = sender.ring(&[iphone("iphone", [ApnsVoip])]).await;
    assert_eq!(result.accepted, ids([]));
    assert_eq!(sender.removals().await.len(), 0);
}

#[tokio::test]
async fn an_iphone_with_two_addresses_rings_by_voip_and_is_cancelled_by_an_alert() {
    let sender = TestSender::start().await;
    let devices = [iphone("iphone", [Apns, ApnsVoip])];
    let result = sender.ring(&devices).await;
    assert_eq!(result.accepted, ids(["iphone"]));
    assert_eq!(sender.endpoints().await, [endpoint("iphone", ApnsVoip)]);
    sender.cancel(&devices, &all_devices()).await;
    let both = [endpoint("iphone", Apns), endpoint("iphone", ApnsVoip)];
    assert_eq!(sender.endpoints().await, both);
}

#[tokio::test]
async fn if_the_best_address_has_expired_the_next_one_is_tried() {
    let sender = TestSender::start().await;
    sender.removal_replies(removed()).await;
    let dead = sender.android("phone", unregistered()).await;
    let [fcm] = dead.addresses().collect::<Vec<_>>().try_into().unwrap();
    let iphone = iphone("phone", [Apns]);
    let both = iphone.addresses().chain([fcm]).cloned();
    let result = sender.ring(&[testing::device("phone", both)]).await;
    assert_eq!(result.accepted, ids(["phone"]));
    assert_eq!(sender.fcm_tokens().await, ["hush-phone"]);
    assert_eq!(sender.endpoints().await, [endpoint("phone", Apns)]);
    let [removal] = sender.removals().await.try_into().unwrap();
    assert_eq!(removal["UpdateExpression"], "REMOVE fcm");
}

#[tokio::test]
async fn a_device_without_an_address_gets_no_push() {
    let sender = TestSender::start().await;
    let browser = testing::device("browser", []);
    let only = [browser.clone()];
    assert_eq!(sender.ring(&only).await, nobody());
    let both = [browser, iphone("iphone", [ApnsVoip])];
    assert_eq!(sender.ring(&both).await.accepted, ids(["iphone"]));
}

#[tokio::test]
async fn a_cancellation_is_never_sent_as_a_voip_push() {
    let sender = TestSender::start().await;
    let devices = [
        iphone("iphone", [ApnsVoip]),
        iphone("ipad", [Apns]),
        sender.android("pixel", accepted()).await,
    ];
    sender.cancel(&devices, &all_devices()).await;
    assert_eq!(sender.fcm_tokens().await, ["hush-pixel"]);
    assert_eq!(sender.endpoints().await, [endpoint("ipad", Apns)]);
}

impl TestSender {
    /// The Android part and the data of each message that FCM has received, in order.
    async fn sent_to_android(&self) -> Vec<(Value, Value)> {
        let requests = self.requests().await;
        let sends = requests.iter().filter(|request| request.url.path() == SEND);
        let sent = sends.map(|request| {
            let message = request.body_json::<Value>().unwrap()["message"].clone();
            (message["android"].clone(), message["data"].clone())
        });
        sent.collect()
    }

    /// The table has counted this many missed calls.
    async fn has_missed(&self, count: usize) {
        let calls: Vec<String> = (0..count).map(|call| call.to_string()).collect();
        let saved = json!({ "Attributes": { "calls": { "SS": calls } } });
        let reply = ResponseTemplate::new(200).set_body_json(saved);
        self.reply_to(Mock::given(header("x-amz-target", UPDATE_ITEM)), reply)
            .await;
    }
}

#[tokio::test]
async fn during_the_ring_a_missed_call_replaces_its_push_and_a_notice_outlives_it() {
    let sender = TestSender::start().await;
    sender.has_missed(4).await;
    let devices = [sender.android("pixel", accepted()).await];
    sender.ring(&devices).await;
    let everyone = all_devices();
    sender
        .cancel_because(CancelReason::CallerHungUp, &devices, &everyone)
        .await;
    let [ring, stop, notice] = sender.sent_to_android().await.try_into().unwrap();
    let id = sender.call.call_id.to_string();
    assert_eq!(
        (&ring.0["collapse_key"], &stop.0["collapse_key"]),
        (&json!(id), &json!(id))
    );
    // The cancellation does not outlive the push that it replaces.
    let seconds = |ttl: &Value| {
        ttl.as_str()
            .unwrap()
            .trim_end_matches('s')
            .parse::<u64>()
            .unwrap()
    };
    assert!(seconds(&stop.0["ttl"]) <= seconds(&ring.0["ttl"]));
    assert_eq!(stop.1["missed_calls"], Value::Null);

    assert_eq!(notice.0["collapse_key"], "missed_calls");
    assert_eq!(
        (&notice.0["ttl"], &notice.0["priority"]),
        (&json!("86400s"), &json!("HIGH"))
    );
    assert_eq!(notice.1["missed_calls"], "4");
    for (_, data) in [stop, notice] {
        assert_eq!(
            (&data["type"], &data["reason"], &data["call_id"]),
            (
                &json!("call_cancelled"),
                &json!("caller_hung_up"),
                &json!(id)
            )
        );
    }
}

#[tokio::test]
async fn after_the_ring_the_notice_is_the_cancellation() {
    let mut sender = TestSender::start().await;
    sender.call = ringback_core::testing::a_call(clock::now().before(Duration::from_secs(31)));
    // The table does not answer as expected, so the number is not known.
    let devices = [sender.android("pixel", accepted()).await];
    sender
        .cancel_because(CancelReason::Timeout, &devices, &all_devices())
        .await;
    let [notice] = sender.sent_to_android().await.try_into().unwrap();
    assert_eq!(notice.0["collapse_key"], "missed_calls");
    assert_eq!(
        (&notice.1["reason"], &notice.1["missed_calls"]),
        (&json!("timeout"), &Value::Null)
    );
}

#[tokio::test]
async fn an_answer_elsewhere_is_no_missed_call() {
    let sender = TestSender::start().await;
    let devices = [sender.android("pixel", accepted()).await];
    for reason in [
        CancelReason::AnsweredElsewhere,
        CancelReason::DeclinedElsewhere,
    ] {
        sender
            .cancel_because(reason, &devices, &all_devices())
            .await;
    }
    let sent = sender.sent_to_android().await;
    assert_eq!(sent.len(), 2);
    for (android, data) in sent {
        assert_eq!(android["collapse_key"], sender.call.call_id.to_string());
        // The ring of 30 s, and a minute.
        assert!(
            ["89s", "90s"].contains(&android["ttl"].as_str().unwrap()),
            "{android}"
        );
        assert_eq!(data["missed_calls"], Value::Null);
    }
    assert!(sender.removals().await.is_empty(), "a write counted it");
}

#[tokio::test]
async fn the_device_that_answered_gets_no_cancellation() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("pixel", accepted()).await,
        sender.android("tablet", accepted()).await,
    ];
    sender
        .cancel(&devices, &CancelAudience::AllExcept(ids(["pixel"])))
        .await;
    assert_eq!(sender.fcm_tokens().await, ["hush-tablet"]);
}

#[tokio::test]
async fn a_cancellation_can_go_to_one_device_only() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("pixel", accepted()).await,
        sender.android("tablet", accepted()).await,
    ];
    let late = DeviceId::try_from("tablet").unwrap();
    sender.cancel(&devices, &CancelAudience::Only(late)).await;
    assert_eq!(sender.fcm_tokens().await, ["hush-tablet"]);
}

#[tokio::test]
async fn the_log_contains_no_token_and_no_caller() {
    let sender = TestSender::start().await;
    sender.removal_replies(testing::condition_failed()).await;
    let devices = [
        sender.android("pixel", accepted()).await,
        sender.android("broken", refused()).await,
        sender.android("dead", unregistered()).await,
        iphone("iphone", [ApnsVoip]),
    ];
    let log = MemoryLog::default();
    // With only one subscriber, tracing caches the log level of one thread for all threads. A second one prevents that.
    let _second = tracing::Dispatch::new(log.subscriber());
    {
        let _logging = tracing::subscriber::set_default(log.subscriber());
        sender.ring(&devices).await;
        sender.cancel(&devices, &all_devices()).await;
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("push sent"), "{log}");
    assert!(log.contains("push failed"), "{log}");
    assert!(log.contains("removing it"), "{log}");
    for secret in ["hush", "9876543210", "आशा"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn debug_output_of_a_message_contains_no_caller() {
    let now = clock::now();
    let message = PushMessage::incoming_call(&ringback_core::testing::a_call(now), now);
    let text = format!("{message:?}");
    for secret in ["9876543210", "आशा"] {
        assert!(!text.contains(secret), "{text}");
    }
}

/// A log in memory.
#[derive(Clone, Default)]
struct MemoryLog(Arc<Mutex<Vec<u8>>>);

impl MemoryLog {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let writer = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish()
            .with(Targets::new().with_target("ringback", tracing::Level::TRACE))
    }
}

impl Write for MemoryLog {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn each_device_that_rings_gets_its_own_answer_url() {
    let sender = TestSender::start().await;
    let accepted = || ResponseTemplate::new(200).set_body_json(json!({ "name": "n" }));
    let phone = sender.android("phone", accepted()).await;
    let tablet = sender.android("tablet", accepted()).await;
    let devices = [phone, tablet];
    sender.ring(&devices).await;
    let everyone = CancelAudience::AllExcept(BTreeSet::new());
    sender.cancel(&devices, &everyone).await;

    let requests = sender.requests().await;
    let sends = requests.iter().filter(|request| request.url.path() == SEND);
    let mut answering = BTreeSet::new();
    for request in sends {
        let message = request.body_json::<Value>().unwrap()["message"].clone();
        let Some(url) = message["data"]["answer_url"].as_str() else {
            assert_eq!(message["data"]["type"], "call_cancelled");
            continue;
        };
        assert_eq!(message["data"]["type"], "incoming_call");
        let token = url.strip_prefix("https://calls.example.com/api/answers/");
        let token = token.unwrap().into();
        let grant = signing().check_answer(&token, clock::now()).await.unwrap();
        assert_eq!(grant.call_id, sender.call.call_id);
        assert_eq!(grant.platform, PushPlatform::Fcm);
        assert_eq!(message["token"], format!("hush-{}", grant.device));
        answering.insert(grant.device.to_string());
    }
    assert_eq!(answering, ["phone", "tablet"].map(str::to_owned).into());
}
