//! FCM, SNS and the table of devices, played by one server.

use crate::platform::clock;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use wiremock::matchers::{body_partial_json, body_string_contains, header, method, path};
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;
use ringback_core::ids::DeviceId;

const SEND: &str = "/v1/projects/ringback-test/messages:send";
const DELETE_ITEM: &str = "DynamoDB_20120810.DeleteItem";

struct World {
    server: MockServer,
    pushes: Pushes,
    call: Call,
}

impl World {
    /// A world in which SNS takes every push. What FCM answers is each Android phone's own.
    async fn start() -> Self {
        let taken = "<PublishResponse><PublishResult/></PublishResponse>";
        Self::where_sns_answers(ResponseTemplate::new(200).set_body_string(taken)).await
    }

    async fn where_sns_answers(answer: ResponseTemplate) -> Self {
        let server = MockServer::start().await;
        let aws = testing::aws(&server);
        let devices = Devices::new(aws_sdk_dynamodb::Client::new(&aws), "calls".to_owned());
        let sns = Sns::without_applications(aws_sdk_sns::Client::new(&aws));
        let world = Self {
            pushes: Pushes::new(devices, Fcm::with_access(&server.uri()), sns),
            call: ringback_core::testing::a_call(clock::now()),
            server,
        };
        world
            .answers(Mock::given(body_string_contains("Action=Publish")), answer)
            .await;
        world
    }

    async fn answers(&self, asked: wiremock::MockBuilder, answer: ResponseTemplate) {
        asked.respond_with(answer).mount(&self.server).await;
    }

    /// An Android phone, to whose pushes FCM answers so.
    async fn android(&self, name: &str, answer: ResponseTemplate) -> Device {
        let token = format!("hush-{name}");
        let to_this_phone = body_partial_json(json!({ "message": { "token": token } }));
        self.answers(
            Mock::given(method("POST"))
                .and(path(SEND))
                .and(to_this_phone),
            answer,
        )
        .await;
        testing::device(name, PushAddress::Fcm { token })
    }

    /// What the table answers when a device is deleted.
    async fn deletion_answers(&self, answer: ResponseTemplate) {
        self.answers(Mock::given(header("x-amz-target", DELETE_ITEM)), answer)
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

    async fn asked(&self) -> Vec<Request> {
        testing::requests(&self.server).await
    }

    /// Whom FCM has been asked to push to.
    async fn pushed_to(&self) -> Vec<String> {
        let asked = self.asked().await;
        let sends = asked.iter().filter(|request| request.url.path() == SEND);
        let mut tokens: Vec<String> = sends
            .map(|request| request.body_json::<Value>().unwrap())
            .map(|body| body["message"]["token"].as_str().unwrap().to_owned())
            .collect();
        tokens.sort();
        tokens
    }

    async fn deletions(&self) -> Vec<Value> {
        let asked = self.asked().await;
        let deletions = asked
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

fn taken() -> ResponseTemplate {
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

fn everybody() -> CancelAudience {
    CancelAudience::AllExcept(BTreeSet::new())
}

fn ids<const N: usize>(names: [&str; N]) -> BTreeSet<DeviceId> {
    names.map(|name| DeviceId::try_from(name).unwrap()).into()
}

fn who_rang(event: Event) -> BTreeSet<DeviceId> {
    match event {
        Event::PushSent { devices, .. } => devices,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn every_device_rings_whatever_it_is_reached_by() {
    let world = World::start().await;
    let devices = [
        world.android("pixel", taken()).await,
        iphone("iphone", SnsService::ApnsVoip),
        iphone("ipad", SnsService::Apns),
    ];
    let event = world.ring(&devices).await;
    assert_eq!(who_rang(event), ids(["pixel", "iphone", "ipad"]));
    assert_eq!(world.asked().await.len(), 3);
}

#[tokio::test]
async fn all_devices_ring_at_once() {
    let world = World::start().await;
    let slow = || taken().set_delay(Duration::from_millis(500));
    let mut devices = Vec::new();
    for name in ["a", "b", "c", "d"] {
        devices.push(world.android(name, slow()).await);
    }
    let began = clock::now();
    assert_eq!(who_rang(world.ring(&devices).await).len(), 4);
    assert!(clock::now().since(began) < Duration::from_millis(1500));
}

#[tokio::test]
async fn without_a_device_nobody_rings() {
    let world = World::start().await;
    assert_eq!(
        world.ring(&[]).await,
        Event::PushNotSent(EndReason::NoDevice)
    );
    assert_eq!(world.asked().await.len(), 0);
}

#[tokio::test]
async fn one_device_that_cannot_be_reached_does_not_silence_another() {
    let world = World::start().await;
    let devices = [
        world.android("broken", refused()).await,
        world.android("pixel", taken()).await,
    ];
    assert_eq!(who_rang(world.ring(&devices).await), ids(["pixel"]));
}

#[tokio::test]
async fn when_every_push_fails_nobody_rings() {
    let world = World::start().await;
    world.deletion_answers(deleted()).await;
    let devices = [
        world.android("broken", refused()).await,
        world.android("dead", unregistered()).await,
    ];
    let event = world.ring(&devices).await;
    assert_eq!(event, Event::PushNotSent(EndReason::PushFailed));
}

#[tokio::test]
async fn a_dead_device_is_forgotten_if_its_address_is_still_that_one() {
    let world = World::start().await;
    world.deletion_answers(deleted()).await;
    let dead = world.android("dead", unregistered()).await;
    world.ring(&[dead]).await;

    let deletions = world.deletions().await;
    // The device, and that its address is its own.
    let [deletion, owner] = deletions.as_slice() else {
        panic!("{deletions:?}");
    };
    assert_eq!(owner["Key"]["sk"], json!({ "S": "OWNER" }));
    assert_eq!(deletion["TableName"], "calls");
    let key = json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": "DEVICE#dead" } });
    assert_eq!(deletion["Key"], key);
    assert_eq!(deletion["ConditionExpression"], "address = :dead");
    let address = json!({ "M": { "via": { "S": "fcm" }, "token": { "S": "hush-dead" } } });
    assert_eq!(deletion["ExpressionAttributeValues"][":dead"], address);
}

#[tokio::test]
async fn a_device_that_is_refused_for_another_reason_is_kept() {
    let world = World::start().await;
    let broken = world.android("broken", refused()).await;
    world.ring(&[broken]).await;
    assert_eq!(world.deletions().await.len(), 0);
}

#[tokio::test]
async fn a_dead_device_that_cannot_be_forgotten_does_not_silence_another() {
    let broken = ResponseTemplate::new(400).set_body_json(json!({ "__type": "x#NotAllowed" }));
    for answer in [testing::condition_failed(), broken] {
        let world = World::start().await;
        world.deletion_answers(answer).await;
        let devices = [
            world.android("dead", unregistered()).await,
            world.android("pixel", taken()).await,
        ];
        assert_eq!(who_rang(world.ring(&devices).await), ids(["pixel"]));
    }
}

#[tokio::test]
async fn a_disabled_endpoint_is_forgotten_too() {
    let disabled = "<ErrorResponse><Error><Code>EndpointDisabled</Code></Error></ErrorResponse>";
    let world =
        World::where_sns_answers(ResponseTemplate::new(400).set_body_string(disabled)).await;
    world.deletion_answers(deleted()).await;
    let event = world.ring(&[iphone("iphone", SnsService::ApnsVoip)]).await;
    assert_eq!(event, Event::PushNotSent(EndReason::PushFailed));
    let address = &world.deletions().await[0]["ExpressionAttributeValues"][":dead"]["M"];
    assert_eq!(address["service"]["S"], "apns_voip");
}

#[tokio::test]
async fn a_cancellation_never_goes_out_as_a_voip_push() {
    let world = World::start().await;
    let devices = [
        iphone("iphone", SnsService::ApnsVoip),
        iphone("ipad", SnsService::Apns),
        world.android("pixel", taken()).await,
    ];
    world.cancel(&devices, &everybody()).await;
    assert_eq!(world.pushed_to().await, ["hush-pixel"]);
    let asked = world.asked().await;
    let published: Vec<String> = asked
        .iter()
        .filter(|request| request.url.path() == "/")
        .map(|request| String::from_utf8(request.body.clone()).unwrap())
        .collect();
    assert_eq!(published.len(), 1);
    assert!(published[0].contains("ipad"), "{published:?}");
}

#[tokio::test]
async fn the_device_that_answered_is_not_told_that_the_call_was_answered() {
    let world = World::start().await;
    let devices = [
        world.android("pixel", taken()).await,
        world.android("tablet", taken()).await,
    ];
    world
        .cancel(&devices, &CancelAudience::AllExcept(ids(["pixel"])))
        .await;
    assert_eq!(world.pushed_to().await, ["hush-tablet"]);
}

#[tokio::test]
async fn a_device_can_be_told_alone() {
    let world = World::start().await;
    let devices = [
        world.android("pixel", taken()).await,
        world.android("tablet", taken()).await,
    ];
    let late = DeviceId::try_from("tablet").unwrap();
    world.cancel(&devices, &CancelAudience::Only(late)).await;
    assert_eq!(world.pushed_to().await, ["hush-tablet"]);
}

#[tokio::test]
async fn neither_tokens_nor_callers_are_logged() {
    let world = World::start().await;
    world.deletion_answers(testing::condition_failed()).await;
    let devices = [
        world.android("pixel", taken()).await,
        world.android("broken", refused()).await,
        world.android("dead", unregistered()).await,
        iphone("iphone", SnsService::ApnsVoip),
    ];
    let log = Log::default();
    // While there is one subscriber alone, tracing lets each thread decide for all which lines are of interest.
    let _second = tracing::Dispatch::new(log.subscriber());
    {
        let _logging = tracing::subscriber::set_default(log.subscriber());
        world.ring(&devices).await;
        world.cancel(&devices, &everybody()).await;
    }
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(log.contains("push sent"), "{log}");
    assert!(log.contains("push failed"), "{log}");
    assert!(log.contains("device forgotten"), "{log}");
    for secret in ["hush", "9876543210", "आशा"] {
        assert!(!log.contains(secret), "{log}");
    }
}

#[test]
fn a_message_does_not_show_the_caller() {
    let now = clock::now();
    let message = Message::incoming_call(&ringback_core::testing::a_call(now), now);
    let shown = format!("{message:?}");
    for secret in ["9876543210", "आशा"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

/// A log that can be read afterwards.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn subscriber(&self) -> impl tracing::Subscriber + Send + Sync + use<> {
        let writer = self.clone();
        tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(move || writer.clone())
            .finish()
            .with(Targets::new().with_target("ringback", tracing::Level::TRACE))
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
