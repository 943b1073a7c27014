//! Many devices register and are removed, one after the other and at the same time, in an in-memory table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use wiremock::matchers::any;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use super::*;
use crate::testing;

const MOST: usize = 3;

/// Items by their keys.
type Items = BTreeMap<(String, String), Value>;

/// A server that stores items, checks the conditions that this module uses, and counts its requests.
struct MemoryTable {
    items: Arc<Mutex<Items>>,
    server: MockServer,
    devices: Devices,
}

impl MemoryTable {
    async fn empty() -> Self {
        let items = Arc::<Mutex<Items>>::default();
        let server = MockServer::start().await;
        let kept = Arc::clone(&items);
        let answer = move |request: &Request| {
            let body = request.body_json().unwrap();
            answer(
                &mut kept.lock().unwrap(),
                testing::operation(request),
                &body,
            )
        };
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let devices = Devices::new(testing::table(&server));
        Self {
            items,
            server,
            devices,
        }
    }

    /// Sends these requests at the same time. Returns the addresses that no device uses any more.
    async fn at_once(&self, requests: &[DeviceRequest], now: Timestamp) -> Vec<PushAddress> {
        let done = requests.iter().map(async |request| {
            let (extension, device) = (extension(request.extension), request.device(now));
            if request.is_removal {
                let removed = self.devices.remove(&extension, &device.device_id).await;
                removed.unwrap().into_iter().collect()
            } else {
                let registered = self.devices.register(&extension, &device, MOST).await;
                registered.unwrap()
            }
        });
        join_all(done).await.into_iter().flatten().collect()
    }

    async fn of(&self, number: u8) -> Vec<Device> {
        self.devices.of(&extension(number)).await.unwrap()
    }

    /// The addresses of all devices of all extensions.
    async fn addresses(&self) -> Vec<PushAddress> {
        let of_both = join_all((0..2).map(|number| self.of(number))).await;
        let devices = of_both.into_iter().flatten();
        devices.map(|device| device.address).collect()
    }
}

fn answer(items: &mut Items, operation: &str, request: &Value) -> ResponseTemplate {
    let text = |value: &Value| value["S"].as_str().unwrap().to_owned();
    let key = |of: &Value| (text(&of["pk"]), text(&of["sk"]));
    let old = |old: Option<Value>| match (old, &request["ReturnValues"]) {
        (Some(old), all) if all == "ALL_OLD" => json!({ "Attributes": old }),
        _ => json!({}),
    };
    let body = match operation {
        "PutItem" => {
            let key = key(&request["Item"]);
            if !may_be_put(items.get(&key), request) {
                return testing::condition_failed();
            }
            old(items.insert(key, request["Item"].clone()))
        }
        "DeleteItem" => {
            let key = key(&request["Key"]);
            if !holds(items.get(&key), request) {
                return testing::condition_failed();
            }
            old(items.remove(&key))
        }
        "Query" => {
            let values = &request["ExpressionAttributeValues"];
            let (pk, prefix) = (text(&values[":pk"]), text(&values[":device"]));
            let found = items
                .iter()
                .filter(|((its, sk), _)| *its == pk && sk.starts_with(&prefix));
            json!({ "Items": found.map(|(_, item)| item).collect::<Vec<_>>() })
        }
        other => panic!("{other}"),
    };
    ResponseTemplate::new(200).set_body_json(body)
}

/// Whether this item belongs to a later registration than the stored one, or to another device.
fn may_be_put(there: Option<&Value>, request: &Value) -> bool {
    let condition = request["ConditionExpression"].as_str().unwrap();
    assert!(condition.ends_with(IS_LATER), "{condition}");
    let Some(there) = there else {
        return true;
    };
    let new = &request["Item"];
    let is_another = ["extension", "device_id"]
        .iter()
        .any(|name| condition.contains(&format!("{name} <> :")) && there[name] != new[name]);
    let of = |item: &Value| item["registration"]["S"].as_str().map(str::to_owned);
    is_another || of(there).is_none_or(|there| of(new) > Some(there))
}

/// Whether each attribute has the value that the condition names, or the item is missing where the condition allows that.
fn holds(item: Option<&Value>, request: &Value) -> bool {
    let Some(condition) = request["ConditionExpression"].as_str() else {
        return true;
    };
    let Some(item) = item else {
        return condition.starts_with("attribute_not_exists(pk) OR ");
    };
    let values = request["ExpressionAttributeValues"].as_object().unwrap();
    let attributes = Map::from_iter(values.iter().map(|(name, value)| {
        let attribute = match name.as_str() {
            ":then" => "registered_at",
            ":device" => "device_id",
            ":unreachable" => "address",
            other => other.strip_prefix(':').unwrap(),
        };
        assert!(
            condition.contains(&format!("{attribute} = {name}")),
            "{condition}"
        );
        (attribute.to_owned(), value.clone())
    }));
    let may_be_missing = |name: &str| condition.contains(&format!("attribute_not_exists({name})"));
    attributes
        .iter()
        .all(|(name, value)| item[name] == *value || item[name].is_null() && may_be_missing(name))
}

/// An app registers or removes its device.
#[derive(Clone, Copy, Debug)]
struct DeviceRequest {
    extension: u8,
    device: u8,
    token: u8,
    is_removal: bool,
}

impl DeviceRequest {
    const fn register(extension: u8, device: u8, token: u8) -> Self {
        Self {
            extension,
            device,
            token,
            is_removal: false,
        }
    }

    /// Even tokens are FCM's, odd ones are SNS endpoints.
    fn device(self, registered_at: Timestamp) -> Device {
        let token = format!("token-{}", self.token);
        let address = if self.token.is_multiple_of(2) {
            PushAddress::Fcm { token }
        } else {
            PushAddress::Sns {
                service: SnsService::Apns,
                endpoint: token,
            }
        };
        Device {
            registered_at,
            ..testing::device(&format!("device-{}", self.device), address)
        }
    }
}

fn extension(number: u8) -> Extension {
    Extension::try_from(format!("100{number}")).unwrap()
}

fn moment(number: usize) -> Timestamp {
    Timestamp::from_millis(1_710_417_600_000 + u64::try_from(number).unwrap())
}

fn names(devices: &[Device]) -> BTreeSet<&str> {
    devices
        .iter()
        .map(|device| device.device_id.as_str())
        .collect()
}

#[tokio::test]
async fn the_oldest_device_is_removed_with_its_address() {
    let table = MemoryTable::empty().await;
    for number in 0..3 {
        let request = DeviceRequest::register(0, number, number);
        assert_eq!(table.at_once(&[request], moment(number.into())).await, []);
    }
    // A new registration makes the first device the newest.
    assert_eq!(
        table
            .at_once(&[DeviceRequest::register(0, 0, 0)], moment(3))
            .await,
        []
    );
    let gone = table
        .at_once(&[DeviceRequest::register(0, 3, 3)], moment(4))
        .await;
    let second = DeviceRequest::register(0, 1, 1).device(moment(1)).address;
    assert_eq!(gone, [second]);
    let left = ["device-0", "device-2", "device-3"];
    assert_eq!(names(&table.of(0).await), left.into());
}

#[tokio::test]
async fn a_phone_that_changes_hands_rings_only_for_its_new_owner() {
    let table = MemoryTable::empty().await;
    table
        .at_once(&[DeviceRequest::register(0, 1, 7)], moment(0))
        .await;
    let gone = table
        .at_once(&[DeviceRequest::register(1, 2, 7)], moment(1))
        .await;
    assert_eq!(gone, [], "the new owner uses its endpoint");
    assert_eq!(table.of(0).await, []);
    assert_eq!(names(&table.of(1).await), ["device-2"].into());

    // A late removal by the first owner has no effect.
    let late = DeviceRequest {
        is_removal: true,
        ..DeviceRequest::register(0, 1, 7)
    };
    assert_eq!(table.at_once(&[late], moment(2)).await, []);
    assert_eq!(names(&table.of(1).await), ["device-2"].into());
}

#[tokio::test]
async fn a_device_with_a_new_token_releases_the_old_one() {
    let table = MemoryTable::empty().await;
    table
        .at_once(&[DeviceRequest::register(0, 1, 1)], moment(0))
        .await;
    let gone = table
        .at_once(&[DeviceRequest::register(0, 1, 3)], moment(1))
        .await;
    assert_eq!(
        gone,
        [DeviceRequest::register(0, 1, 1).device(moment(0)).address]
    );
    let removal = DeviceRequest {
        is_removal: true,
        ..DeviceRequest::register(0, 1, 3)
    };
    let gone = table.at_once(&[removal], moment(2)).await;
    assert_eq!(
        gone,
        [DeviceRequest::register(0, 1, 3).device(moment(1)).address]
    );
    assert!(table.items.lock().unwrap().is_empty(), "something is left");
}

#[tokio::test]
async fn a_phone_registered_without_a_registration_id_can_change_hands() {
    let table = MemoryTable::empty().await;
    table
        .at_once(&[DeviceRequest::register(0, 1, 7)], moment(0))
        .await;
    for item in table.items.lock().unwrap().values_mut() {
        item.as_object_mut().unwrap().remove("registration");
    }
    table
        .at_once(&[DeviceRequest::register(1, 2, 7)], moment(1))
        .await;
    assert_eq!(table.of(0).await, []);
    assert_eq!(names(&table.of(1).await), ["device-2"].into());
}

#[tokio::test]
async fn an_unreachable_device_leaves_no_item() {
    let table = MemoryTable::empty().await;
    table
        .at_once(&[DeviceRequest::register(0, 1, 2)], moment(0))
        .await;
    let device = table.of(0).await.remove(0);
    let removed = table
        .devices
        .remove_unreachable(&extension(0), &device)
        .await;
    removed.unwrap();
    assert!(table.items.lock().unwrap().is_empty(), "something is left");
}

#[tokio::test]
async fn registering_again_takes_three_requests_and_no_scan() {
    let table = MemoryTable::empty().await;
    table
        .at_once(&[DeviceRequest::register(0, 1, 2)], moment(0))
        .await;
    let before = testing::requests(&table.server).await.len();
    table
        .at_once(&[DeviceRequest::register(0, 1, 2)], moment(1))
        .await;
    let requests = testing::requests(&table.server).await;
    let mut asked: Vec<&str> = requests[before..].iter().map(testing::operation).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["PutItem", "PutItem", "Query"]);
}

/// A case that the property test below has found.
#[tokio::test]
async fn registrations_in_one_millisecond_never_release_an_address_that_another_device_has() {
    for _ in 0..20 {
        let table = MemoryTable::empty().await;
        let back_and_forth = [4, 0, 4].map(|token| DeviceRequest::register(0, 2, token));
        table.at_once(&back_and_forth, moment(0)).await;
        let next = [
            DeviceRequest::register(0, 0, 4),
            DeviceRequest::register(0, 1, 0),
        ];
        table.at_once(&next, moment(1)).await;
        let addresses = table.addresses().await;
        let twice = (1..addresses.len()).any(|at| addresses[..at].contains(&addresses[at]));
        assert!(!twice, "two devices have one address");
    }
}

fn requests() -> impl Strategy<Value = DeviceRequest> {
    (0_u8..2, 0_u8..5, 0_u8..6, prop::bool::weighted(0.2)).prop_map(
        |(extension, device, token, is_removal)| DeviceRequest {
            extension,
            device,
            token,
            is_removal,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, ..ProptestConfig::default() })]

    #[test]
    fn there_are_never_too_many_devices_and_never_two_with_one_address(
        rounds in prop::collection::vec(prop::collection::vec(requests(), 1..6), 1..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = MemoryTable::empty().await;
            for (round, at_once) in rounds.iter().enumerate() {
                let gone = table.at_once(at_once, moment(round)).await;
                for number in 0..2 {
                    let devices = table.of(number).await;
                    prop_assert!(devices.len() <= MOST, "{devices:?}");
                }
                let addresses = table.addresses().await;
                for (index, address) in addresses.iter().enumerate() {
                    prop_assert!(!addresses[..index].contains(address), "two devices have one address");
                }
                if let [request] = at_once.as_slice() {
                    prop_assert!(!gone.iter().any(|one| addresses.contains(one)), "an address in use is released");
                    let is_there = names(&table.of(request.extension).await)
                        .contains(format!("device-{}", request.device).as_str());
                    prop_assert_eq!(is_there, !request.is_removal);
                }
            }
            Ok(())
        })?;
    }
}
