//! Requests and answers, against a server that plays the table.

use std::time::Duration;

use serde_json::{Value, json};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::testing;
use ringback_core::call::{CallKind, CallStatus, CallWaiting};
use ringback_core::ids::CallId;

struct PlayedTable {
    server: MockServer,
    devices: Devices,
}

impl PlayedTable {
    async fn that_answers(answer: ResponseTemplate) -> Self {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(answer)
            .mount(&server)
            .await;
        Self {
            devices: Devices::new(testing::table(&server)),
            server,
        }
    }

    /// The only request that the table has received: its operation and its body.
    async fn request(&self) -> (String, Value) {
        let mut requests = testing::requests(&self.server).await;
        assert_eq!(requests.len(), 1);
        let request = requests.remove(0);
        (
            testing::operation(&request).to_owned(),
            request.body_json().unwrap(),
        )
    }
}

fn extension() -> Extension {
    Extension::try_from("1001").unwrap()
}

fn pixel() -> Device {
    testing::device("pixel", [testing::address(PushPlatform::Fcm, "token-hush")])
}

const ENDPOINT: &str = "arn:…:endpoint/APNS_VOIP/app/1";

fn iphone() -> Device {
    let token = |token: &str| PushToken::try_from(token).unwrap();
    let voip = token("token-hush-voip");
    testing::device(
        "iphone",
        [
            PushAddress::new(PushPlatform::ApnsVoip, voip, Some(ENDPOINT.to_owned())),
            testing::address(PushPlatform::Apns, "token-hush-alert"),
        ],
    )
}

fn address_item(platform: &str, token: &str) -> Value {
    json!({ "M": {
        "platform": { "S": platform },
        "token": { "S": token },
        "registration": { "S": Uuid::nil().to_string() },
    } })
}

fn pixel_item() -> Value {
    json!({
        "pk": { "S": "EXTENSION#1001" },
        "sk": { "S": "DEVICE#pixel" },
        "device_id": { "S": "pixel" },
        "fcm": address_item("fcm", "token-hush"),
        "registered_at": { "N": "1000000000000" },
        "registration": { "S": Uuid::nil().to_string() },
    })
}

fn iphone_item() -> Value {
    let mut voip = address_item("apns_voip", "token-hush-voip");
    voip["M"]["endpoint"] = json!({ "S": ENDPOINT });
    json!({
        "pk": { "S": "EXTENSION#1001" },
        "sk": { "S": "DEVICE#iphone" },
        "device_id": { "S": "iphone" },
        "apns_voip": voip,
        "apns": address_item("apns", "token-hush-alert"),
        "registered_at": { "N": "1000000000000" },
        "registration": { "S": Uuid::nil().to_string() },
    })
}

fn found(items: &[Value]) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({ "Items": items, "Count": items.len() }))
}

fn done() -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(json!({}))
}

#[tokio::test]
async fn one_query_reads_the_devices_of_an_extension() {
    let table = PlayedTable::that_answers(found(&[pixel_item(), iphone_item()])).await;
    let devices = table.devices.of(&extension()).await.unwrap();
    assert_eq!(devices, [pixel(), iphone()]);
    let (operation, query) = table.request().await;
    assert_eq!(operation, "Query");
    assert_eq!(query["TableName"], "calls");
    let values = json!({ ":pk": { "S": "EXTENSION#1001" }, ":device": { "S": "DEVICE#" } });
    assert_eq!(query["ExpressionAttributeValues"], values);
}

#[tokio::test]
async fn an_extension_can_have_no_device() {
    let table = PlayedTable::that_answers(found(&[])).await;
    assert_eq!(table.devices.of(&extension()).await.unwrap(), []);
}

#[tokio::test]
async fn an_unreadable_device_does_not_hide_the_others() {
    let mut newer_version = pixel_item();
    newer_version["fcm"]["M"]["platform"]["S"] = "carrier_pigeon".into();
    let table = PlayedTable::that_answers(found(&[newer_version, iphone_item()])).await;
    assert_eq!(table.devices.of(&extension()).await.unwrap(), [iphone()]);
}

#[tokio::test]
async fn a_registration_is_one_update_and_an_owner_for_each_address() {
    for (device, item) in [(pixel(), pixel_item()), (iphone(), iphone_item())] {
        let table = PlayedTable::that_answers(done()).await;
        let registered = table
            .devices
            .register(&extension(), &device, &SipAccountUpdate::Keep, 5)
            .await;
        assert_eq!(registered.unwrap(), []);
        let requests = testing::requests(&table.server).await;
        let sent = |operation: &str| -> Vec<Value> {
            let requests = requests.iter();
            let sent = requests.filter(|request| testing::operation(request) == operation);
            sent.map(|request| request.body_json().unwrap()).collect()
        };
        let [update] = sent("UpdateItem").try_into().unwrap();
        let values = update["ExpressionAttributeValues"].as_object().unwrap();
        let registration = &values[":registration"];
        let mut written = update["Key"].clone();
        for (name, value) in values {
            written[name.trim_start_matches(':')] = value.clone();
        }
        assert_eq!(written, registered_as(item.clone(), registration));

        let owners = sent("PutItem");
        assert_eq!(owners.len(), device.addresses().count());
        for put in owners {
            let owner = &put["Item"];
            assert_eq!(owner["registration"], *registration);
            assert_eq!(
                (&owner["extension"]["S"], &owner["device_id"]),
                (&"1001".into(), &item["device_id"])
            );
            // Tokens are credentials, so the key has a hash of it.
            let pk = owner["pk"]["S"].as_str().unwrap();
            assert!(
                pk.starts_with("ADDRESS#") && pk.len() == 51 && !pk.contains("hush"),
                "{pk}"
            );
        }
    }
}

/// The item with another registration.
fn registered_as(mut item: Value, registration: &Value) -> Value {
    item["registration"] = registration.clone();
    for platform in PushPlatform::ALL {
        if let Some(address) = item.get_mut(platform.as_str()) {
            address["M"]["registration"] = registration.clone();
        }
    }
    item
}

#[tokio::test]
async fn a_device_is_removed_with_all_its_addresses() {
    let table = PlayedTable::that_answers(done()).await;
    let device = pixel().device_id;
    table.devices.remove(&extension(), &device).await.unwrap();
    let (operation, deletion) = table.request().await;
    assert_eq!(operation, "DeleteItem");
    assert_eq!(deletion["Key"]["sk"]["S"], "DEVICE#pixel");
    assert!(deletion.get("ConditionExpression").is_none());
}

#[tokio::test]
async fn an_address_that_has_been_registered_again_is_kept_without_an_error() {
    let table = PlayedTable::that_answers(testing::condition_failed()).await;
    let (extension, device) = (extension(), pixel());
    let address = device.addresses().next().unwrap();
    let devices = &table.devices;
    let removed = devices.remove_unreachable(&extension, &device.device_id, address);
    removed.await.unwrap();
    let (operation, update) = table.request().await;
    assert_eq!(operation, "UpdateItem");
    assert_eq!(update["UpdateExpression"], "REMOVE fcm");
    let condition = "fcm.registration = :registration";
    assert_eq!(update["ConditionExpression"], condition);
}

#[tokio::test]
async fn a_table_that_does_not_answer_is_an_error_and_not_an_empty_table() {
    let table = PlayedTable::that_answers(ResponseTemplate::new(500)).await;
    let (devices, device) = (&table.devices, pixel());
    let address = device.addresses().next().unwrap();
    for result in [
        devices.of(&extension()).await.map(|_| ()),
        devices
            .register(&extension(), &device, &SipAccountUpdate::Keep, 5)
            .await
            .map(|_| ()),
        devices
            .remove(&extension(), &device.device_id)
            .await
            .map(|_| ()),
        devices
            .remove_unreachable(&extension(), &device.device_id, address)
            .await,
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"));
    }
}

#[test]
fn debug_output_of_a_device_contains_no_token() {
    let text = format!("{:?}", iphone());
    assert!(
        text.contains("ApnsVoip") && !text.contains("hush"),
        "{text}"
    );
}

#[test]
fn a_ring_tries_a_voip_push_first_and_an_alert_last() {
    let platforms = [
        PushPlatform::Apns,
        PushPlatform::Fcm,
        PushPlatform::ApnsVoip,
    ];
    let device = testing::device("any", platforms.map(|it| testing::address(it, "1")));
    let order: Vec<PushPlatform> = device.addresses().map(|it| it.platform).collect();
    assert_eq!(order, PushPlatform::ALL);
}

#[tokio::test]
async fn a_sip_account_is_set_or_removed_and_otherwise_kept() {
    let name = |name: &str| SipAccountName::try_from(name).unwrap();
    let set = SipAccountUpdate::Set {
        name: name("1001-b"),
        before: Some(name("1001-a")),
    };
    for (change, sets, removes) in [
        (SipAccountUpdate::Keep, false, false),
        (SipAccountUpdate::Remove, false, true),
        (set, true, false),
    ] {
        let table = PlayedTable::that_answers(done()).await;
        let (extension, device) = (extension(), pixel());
        let registered = table.devices.register(&extension, &device, &change, 5);
        registered.await.unwrap();
        let requests = testing::requests(&table.server).await;
        let mut updates = requests
            .iter()
            .filter(|request| testing::operation(request) == "UpdateItem");
        let update: Value = updates.next().unwrap().body_json().unwrap();
        let expression = update["UpdateExpression"].as_str().unwrap();
        let condition = update["ConditionExpression"].as_str().unwrap();
        let values = &update["ExpressionAttributeValues"];
        assert_eq!(expression.contains("sip_account = :sip_account"), sets);
        assert_eq!(expression.ends_with(" REMOVE sip_account"), removes);
        assert_eq!(condition.contains("sip_account IN"), sets);
        assert_eq!(values[":before"]["S"] == "1001-a", sets);
    }
}

#[tokio::test]
async fn a_registration_whose_sip_account_lost_against_another_is_an_error() {
    let mut stored = pixel_item();
    stored["sip_account"] = json!({ "S": "1001-other" });
    let failed = ResponseTemplate::new(400).set_body_json(json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        "Item": stored,
    }));
    let table = PlayedTable::that_answers(failed).await;
    let change = SipAccountUpdate::Set {
        name: SipAccountName::try_from("1001-mine").unwrap(),
        before: None,
    };
    let (extension, device) = (extension(), pixel());
    let registered = table.devices.register(&extension, &device, &change, 5);
    let error = registered.await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    let (operation, _) = table.request().await;
    assert_eq!(operation, "UpdateItem");
}

/// What the query of a callee finds beside its device.
fn callee_items(items: &[Value]) -> ResponseTemplate {
    let mut all = vec![pixel_item()];
    all.extend_from_slice(items);
    ResponseTemplate::new(200).set_body_json(json!({ "Items": all }))
}

#[tokio::test]
async fn one_query_finds_a_callee_with_all_that_decides_whether_it_takes_a_call() {
    let now = Timestamp::from_millis(1_710_417_600_000);
    let hint = |call: CallId, expires_at: &str| {
        json!({
            "sk": { "S": format!("DURING-CALL#{}", call.key()) },
            "call_id": { "S": call },
            "expires_at": { "N": expires_at },
        })
    };
    let dnd = |until: &str| json!({ "sk": { "S": "DO-NOT-DISTURB" }, "until": { "N": until } });
    let [first, second, expired] = [(); 3].map(|()| CallId::fresh());
    let table = PlayedTable::that_answers(callee_items(&[
        dnd("1710417600001"),
        hint(first, "1710417700"),
        hint(expired, "1710417600"),
        hint(second, "1710417800"),
    ]))
    .await;
    let callee = table.devices.callee(&extension(), now).await.unwrap();
    assert_eq!(callee.devices, [pixel()]);
    assert_eq!(callee.during_calls, [second, first]);
    let until = Timestamp::from_millis(1_710_417_600_001);
    assert_eq!(callee.do_not_disturb_until, Some(until));
    let (operation, _) = table.request().await;
    assert_eq!(operation, "Query");
}

#[test]
fn a_callee_may_have_refused_a_call_that_was_stored_before_the_end_of_do_not_disturb() {
    let now = Timestamp::from_millis(1_710_417_600_000);
    let call = ringback_core::testing::a_call(now);
    for (until, may_refuse) in [(1, true), (0, false)] {
        let callee = Callee {
            do_not_disturb_until: Some(now + Duration::from_millis(until)),
            ..Callee::default()
        };
        assert_eq!(callee.may_refuse(&call), may_refuse);
    }
}

#[tokio::test]
async fn a_conversation_is_noted_for_both_apps_if_second_calls_are_refused() {
    let mut talks = ringback_core::testing::a_call(Timestamp::from_millis(1_710_417_600_000));
    talks.kind = CallKind::BetweenApps {
        caller: Extension::try_from("1002").unwrap(),
        device: None,
    };
    let rings = talks.clone();
    talks.status = CallStatus::InProgress;
    for (call_waiting, expected) in [(CallWaiting::Ring, 0), (CallWaiting::Busy, 2)] {
        let table = PlayedTable::that_answers(ResponseTemplate::new(200)).await;
        talks.settings.call_waiting = call_waiting;
        let mut over = talks.clone();
        over.status = CallStatus::Completed;
        for (before, after) in [(&rings, &talks), (&talks, &talks), (&talks, &over)] {
            let noted = table.devices.note_conversation(Some(before), after);
            noted.await.unwrap();
        }
        let requests = testing::requests(&table.server).await;
        let operations = requests.iter().map(testing::operation);
        let expected = ["PutItem", "DeleteItem"]
            .map(|it| vec![it; expected])
            .concat();
        assert_eq!(operations.collect::<Vec<_>>(), expected);
    }
}
