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
use crate::platform::config::Environment;
use crate::platform::secrets::{Secret, SigningSecret};
use crate::store::Table;
use crate::testing;
use ringback_core::call::PushPlatform;
use ringback_core::ids::DeviceId;

const SEND: &str = "/v1/projects/ringback-test/messages:send";
const DELETE_ITEM: &str = "DynamoDB_20120810.DeleteItem";

struct TestSender {
    server: MockServer,
    pushes: PushSender,
    call: Call,
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
        let sns = Sns::without_applications(aws_sdk_sns::Client::new(&aws));
        let sender = Self {
            pushes: PushSender::new(devices, Fcm::with_access(&server.uri()), sns),
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
        testing::device(name, PushAddress::Fcm { token })
    }

    /// Sets the reply of the table when a device is deleted.
    async fn deletion_replies(&self, reply: ResponseTemplate) {
        self.reply_to(Mock::given(header("x-amz-target", DELETE_ITEM)), reply)
            .await;
    }

    async fn ring(&self, devices: &[Device]) -> Event {
        let until = clock::now() + Duration::from_secs(20);
        self.pushes.ring(&self.call, devices, until).await
    }

    async fn cancel(&self, devices: &[Device], audience: &CancelAudience) {
        let until = clock::now() + Duration::from_secs(20);
        let reason = CancelReason::AnsweredElsewhere;
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

    async fn deletions(&self) -> Vec<Value> {
        let requests = self.requests().await;
        let deletions = requests
            .iter()
            .filter(|request| testing::operation(request) == "DeleteItem");
        deletions
            .map(|request| request.body_json().unwrap())
            .collect()
    }
}

fn iphone(name: &str, service: SnsService) -> Device {
    let platform = match service {
        SnsService::Fcm => "GCM",
        SnsService::Apns => "APNS",
        SnsService::ApnsVoip => "APNS_VOIP",
    };
    let endpoint = format!("arn:aws:sns:ap-south-1:123456789012:endpoint/{platform}/app/{name}");
    testing::device(name, PushAddress::Sns { service, endpoint })
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

fn deleted() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

fn all_devices() -> CancelAudience {
    CancelAudience::AllExcept(BTreeSet::new())
}

fn ids<const N: usize>(names: [&str; N]) -> BTreeSet<DeviceId> {
    names.map(|name| DeviceId::try_from(name).unwrap()).into()
}

fn rung_devices(event: Event) -> BTreeSet<DeviceId> {
    match event {
        Event::PushSent(pushed) => pushed.devices,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn devices_ring_through_fcm_and_sns() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("pixel", accepted()).await,
        iphone("iphone", SnsService::ApnsVoip),
        iphone("ipad", SnsService::Apns),
    ];
    let event = sender.ring(&devices).await;
    assert_eq!(rung_devices(event), ids(["pixel", "iphone", "ipad"]));
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
    assert_eq!(rung_devices(sender.ring(&devices).await).len(), 4);
    assert!(clock::now().since(start) < Duration::from_millis(1500));
}

#[tokio::test]
async fn without_a_device_no_push_is_sent() {
    let sender = TestSender::start().await;
    assert_eq!(
        sender.ring(&[]).await,
        Event::PushNotSent(EndReason::NoDevice)
    );
    assert_eq!(sender.requests().await.len(), 0);
}

#[tokio::test]
async fn a_failed_push_does_not_prevent_the_others() {
    let sender = TestSender::start().await;
    let devices = [
        sender.android("broken", refused()).await,
        sender.android("pixel", accepted()).await,
    ];
    assert_eq!(rung_devices(sender.ring(&devices).await), ids(["pixel"]));
}

#[tokio::test]
async fn when_every_push_fails_the_event_says_so() {
    let sender = TestSender::start().await;
    sender.deletion_replies(deleted()).await;
    let devices = [
        sender.android("broken", refused()).await,
        sender.android("dead", unregistered()).await,
    ];
    let event = sender.ring(&devices).await;
    assert_eq!(event, Event::PushNotSent(EndReason::PushFailed));
}

#[tokio::test]
async fn an_expired_device_is_deleted_if_its_address_has_not_changed() {
    let sender = TestSender::start().await;
    sender.deletion_replies(deleted()).await;
    let dead = sender.android("dead", unregistered()).await;
    sender.ring(&[dead]).await;

    let deletions = sender.deletions().await;
    // Deletes the device, and the item that reserves its address.
    let [deletion, owner] = deletions.as_slice() else {
        panic!("{deletions:?}");
    };
    assert_eq!(owner["Key"]["sk"], json!({ "S": "OWNER" }));
    assert_eq!(deletion["TableName"], "calls");
    let key = json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": "DEVICE#dead" } });
    assert_eq!(deletion["Key"], key);
    assert_eq!(deletion["ConditionExpression"], "address = :unreachable");
    let address = json!({ "M": { "via": { "S": "fcm" }, "token": { "S": "hush-dead" } } });
    assert_eq!(
        deletion["ExpressionAttributeValues"][":unreachable"],
        address
    );
}

#[tokio::test]
async fn a_device_is_kept_after_any_other_failure() {
    let sender = TestSender::start().await;
    let broken = sender.android("broken", refused()).await;
    sender.ring(&[broken]).await;
    assert_eq!(sender.deletions().await.len(), 0);
}

#[tokio::test]
async fn a_failed_deletion_does_not_prevent_other_pushes() {
    let broken = ResponseTemplate::new(400).set_body_json(json!({ "__type": "x#NotAllowed" }));
    for reply in [testing::condition_failed(), broken] {
        let sender = TestSender::start().await;
        sender.deletion_replies(reply).await;
        let devices = [
            sender.android("dead", unregistered()).await,
            sender.android("pixel", accepted()).await,
        ];
        assert_eq!(rung_devices(sender.ring(&devices).await), ids(["pixel"]));
    }
}

#[tokio::test]
async fn the_device_of_a_disabled_endpoint_is_deleted_too() {
    let disabled = "<ErrorResponse><Error><Code>EndpointDisabled</Code></Error></ErrorResponse>";
    let sender =
        TestSender::where_sns_replies(ResponseTemplate::new(400).set_body_string(disabled)).await;
    sender.deletion_replies(deleted()).await;
    let event = sender.ring(&[iphone("iphone", SnsService::ApnsVoip)]).await;
    assert_eq!(event, Event::PushNotSent(EndReason::PushFailed));
    let address = &sender.deletions().await[0]["ExpressionAttributeValues"][":unreachable"]["M"];
    assert_eq!(address["service"]["S"], "apns_voip");
}

#[tokio::test]
async fn a_cancellation_is_never_sent_as_a_voip_push() {
    let sender = TestSender::start().await;
    let devices = [
        iphone("iphone", SnsService::ApnsVoip),
        iphone("ipad", SnsService::Apns),
        sender.android("pixel", accepted()).await,
    ];
    sender.cancel(&devices, &all_devices()).await;
    assert_eq!(sender.fcm_tokens().await, ["hush-pixel"]);
    let requests = sender.requests().await;
    let published: Vec<String> = requests
        .iter()
        .filter(|request| request.url.path() == "/")
        .map(|request| String::from_utf8(request.body.clone()).unwrap())
        .collect();
    assert_eq!(published.len(), 1);
    assert!(published[0].contains("ipad"), "{published:?}");
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
    sender.deletion_replies(testing::condition_failed()).await;
    let devices = [
        sender.android("pixel", accepted()).await,
        sender.android("broken", refused()).await,
        sender.android("dead", unregistered()).await,
        iphone("iphone", SnsService::ApnsVoip),
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
    assert!(log.contains("deleting the device"), "{log}");
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
    let secret: SigningSecret =
        serde_json::from_value(json!({ "signing_secret": "hush" })).unwrap();
    let signing = Arc::new(Signing::new(Secret::known(secret)));
    let environment = Environment::of(|_| Some("https://calls.example.com".to_owned()));
    let answer_urls = AnswerUrls::from_environment(&environment, signing.clone()).unwrap();
    let sender = TestSender::start().await;
    let pushes = sender.pushes.with_answer_urls(answer_urls);
    let sender = TestSender { pushes, ..sender };
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
        let grant = signing.check_answer(&token, clock::now()).await.unwrap();
        assert_eq!(grant.call_id, sender.call.call_id);
        assert_eq!(grant.platform, PushPlatform::Fcm);
        assert_eq!(message["token"], format!("hush-{}", grant.device));
        answering.insert(grant.device.to_string());
    }
    assert_eq!(answering, ["phone", "tablet"].map(str::to_owned).into());
}
