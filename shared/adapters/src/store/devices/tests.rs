//! Requests and answers, against a server that plays the table.

use serde_json::{Value, json};
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use super::*;
use crate::testing;

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
    let token = "token-hush".to_owned();
    testing::device("pixel", PushAddress::Fcm { token })
}

fn iphone() -> Device {
    let address = PushAddress::Sns {
        service: SnsService::ApnsVoip,
        endpoint: "arn:…:endpoint/APNS_VOIP/app/1".to_owned(),
    };
    testing::device("iphone", address)
}

fn pixel_item() -> Value {
    json!({
        "pk": { "S": "EXTENSION#1001" },
        "sk": { "S": "DEVICE#pixel" },
        "device_id": { "S": "pixel" },
        "address": { "M": { "via": { "S": "fcm" }, "token": { "S": "token-hush" } } },
        "registered_at": { "N": "1000000000000" },
    })
}

fn iphone_item() -> Value {
    json!({
        "pk": { "S": "EXTENSION#1001" },
        "sk": { "S": "DEVICE#iphone" },
        "device_id": { "S": "iphone" },
        "address": { "M": {
            "via": { "S": "sns" },
            "service": { "S": "apns_voip" },
            "endpoint": { "S": "arn:…:endpoint/APNS_VOIP/app/1" },
        } },
        "registered_at": { "N": "1000000000000" },
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
    newer_version["address"]["M"]["via"]["S"] = "carrier_pigeon".into();
    let table = PlayedTable::that_answers(found(&[newer_version, iphone_item()])).await;
    assert_eq!(table.devices.of(&extension()).await.unwrap(), [iphone()]);
}

#[tokio::test]
async fn a_registered_device_is_read_back_unchanged() {
    for (device, item) in [(pixel(), pixel_item()), (iphone(), iphone_item())] {
        let table = PlayedTable::that_answers(done()).await;
        let registered = table.devices.register(&extension(), &device, 5).await;
        assert_eq!(registered.unwrap(), []);
        let requests = testing::requests(&table.server).await;
        let puts: Vec<Value> = requests
            .iter()
            .filter(|request| testing::operation(request) == "PutItem")
            .map(|put| put.body_json::<Value>().unwrap()["Item"].clone())
            .collect();
        let [written, owner] = puts.as_slice() else {
            panic!("{puts:?}")
        };
        let mut written = written.clone();
        let registration = written.as_object_mut().unwrap().remove("registration");
        assert_eq!(written, item);
        assert_eq!(owner["registration"], registration.unwrap());
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

#[tokio::test]
async fn a_device_is_removed_with_any_address() {
    let table = PlayedTable::that_answers(done()).await;
    let device = pixel().device_id;
    table.devices.remove(&extension(), &device).await.unwrap();
    let (operation, deletion) = table.request().await;
    assert_eq!(operation, "DeleteItem");
    assert_eq!(deletion["Key"]["sk"]["S"], "DEVICE#pixel");
    assert!(deletion.get("ConditionExpression").is_none());
}

#[tokio::test]
async fn an_unreachable_device_is_removed_only_with_that_address() {
    let table = PlayedTable::that_answers(done()).await;
    let devices = &table.devices;
    devices
        .remove_unreachable(&extension(), &pixel())
        .await
        .unwrap();
    let requests = testing::requests(&table.server).await;
    let deletion: Value = requests[0].body_json().unwrap();
    assert_eq!(deletion["ConditionExpression"], "address = :unreachable");
    // DynamoDB compares the map as a whole, so it must be equal to the registered one.
    let address = &deletion["ExpressionAttributeValues"][":unreachable"];
    assert_eq!(*address, pixel_item()["address"]);
}

#[tokio::test]
async fn a_device_with_a_new_registration_is_kept_without_an_error() {
    let table = PlayedTable::that_answers(testing::condition_failed()).await;
    let devices = &table.devices;
    devices
        .remove_unreachable(&extension(), &pixel())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_table_that_does_not_answer_is_an_error_and_not_an_empty_table() {
    let table = PlayedTable::that_answers(ResponseTemplate::new(500)).await;
    let (devices, device) = (&table.devices, pixel());
    for result in [
        devices.of(&extension()).await.map(|_| ()),
        devices.register(&extension(), &device, 5).await.map(|_| ()),
        devices
            .remove(&extension(), &device.device_id)
            .await
            .map(|_| ()),
        devices.remove_unreachable(&extension(), &device).await,
    ] {
        let error = result.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(!format!("{error} {error:?}").contains("hush"));
    }
}

#[test]
fn debug_output_of_an_address_shows_only_its_service() {
    assert_eq!(format!("{:?}", pixel().address), "fcm");
    assert_eq!(format!("{:?}", iphone().address), "sns/apns_voip");
    assert!(!format!("{:?}", pixel()).contains("hush"));
}
