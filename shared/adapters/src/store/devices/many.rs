//! Many devices register and are removed, one after the other and at the same time, in an in-memory table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use futures::future::join_all;
use proptest::prelude::*;
use serde_json::{Value, json};
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
    async fn at_once(&self, requests: &[DeviceRequest], now: Timestamp) -> BTreeSet<Address> {
        let done = requests.iter().map(async |request| {
            let (extension, device) = (extension(request.extension), request.device(now));
            let released = if request.is_removal {
                self.devices.remove(&extension, &device.device_id).await
            } else {
                self.devices
                    .register(&extension, &device, &SipAccountUpdate::Keep, MOST)
                    .await
            };
            released.unwrap()
        });
        let released = join_all(done).await;
        released.iter().flatten().map(platform_and_token).collect()
    }

    async fn of(&self, number: u8) -> Vec<Device> {
        self.devices.of(&extension(number)).await.unwrap()
    }

    /// The addresses of all devices of all extensions.
    async fn addresses(&self) -> Vec<Address> {
        let of_both = join_all((0..2).map(|number| self.of(number))).await;
        let devices = of_both.iter().flatten();
        devices
            .flat_map(Device::addresses)
            .map(platform_and_token)
            .collect()
    }
}

type Address = (PushPlatform, String);

fn platform_and_token(address: &PushAddress) -> Address {
    (address.platform, address.token.as_str().to_owned())
}

fn answer(items: &mut Items, operation: &str, request: &Value) -> ResponseTemplate {
    let text = |value: &Value| value["S"].as_str().unwrap().to_owned();
    let key = |of: &Value| (text(&of["pk"]), text(&of["sk"]));
    if operation == "Query" {
        let values = &request["ExpressionAttributeValues"];
        let (pk, prefix) = (text(&values[":pk"]), text(&values[":device"]));
        let found = items
            .iter()
            .filter(|((its, sk), _)| *its == pk && sk.starts_with(&prefix));
        let found: Vec<&Value> = found.map(|(_, item)| item).collect();
        return ResponseTemplate::new(200).set_body_json(json!({ "Items": found }));
    }
    let key = key(match operation {
        "PutItem" => &request["Item"],
        _ => &request["Key"],
    });
    let old = items.get(&key).cloned();
    let condition = request["ConditionExpression"].as_str();
    let values = &request["ExpressionAttributeValues"];
    if condition.is_some_and(|condition| !holds(condition, old.as_ref(), values)) {
        return testing::condition_failed_on(&old.into());
    }
    match operation {
        "PutItem" => drop(items.insert(key, request["Item"].clone())),
        "DeleteItem" => drop(items.remove(&key)),
        "UpdateItem" => update(items.entry(key).or_insert(request["Key"].clone()), request),
        other => panic!("{other}"),
    }
    let is_asked_for = request["ReturnValues"] == "ALL_OLD";
    let attributes = old.filter(|_| is_asked_for);
    ResponseTemplate::new(200).set_body_json(json!({ "Attributes": attributes }))
}

/// Carries out `SET a = :a, b = :b` or `REMOVE a`.
fn update(item: &mut Value, request: &Value) {
    let expression = request["UpdateExpression"].as_str().unwrap();
    if let Some(name) = expression.strip_prefix("REMOVE ") {
        item.as_object_mut().unwrap().remove(name);
        return;
    }
    let set = expression.strip_prefix("SET ").unwrap();
    for (name, value) in set.split(", ").map(|one| one.split_once(" = ").unwrap()) {
        item[name] = request["ExpressionAttributeValues"][value].clone();
    }
}

/// Whether a condition of comparisons and `attribute_not_exists` holds.
fn holds(condition: &str, item: Option<&Value>, values: &Value) -> bool {
    let parts = |word| parts(condition, word).into_iter();
    if parts(" OR ").len() > 1 {
        return parts(" OR ").any(|part| holds(part, item, values));
    }
    if parts(" AND ").len() > 1 {
        return parts(" AND ").all(|part| holds(part, item, values));
    }
    let attribute = |path: &str| {
        let mut names = path.split('.');
        let of_item = &item?[names.next()?];
        let found = names.fold(of_item, |map, name| &map["M"][name]);
        found["S"].as_str()
    };
    if let Some(inner) = condition.strip_prefix('(') {
        return holds(inner.strip_suffix(')').unwrap(), item, values);
    }
    if let Some(path) = condition.strip_prefix("attribute_not_exists(") {
        return attribute(path.strip_suffix(')').unwrap()).is_none();
    }
    let [path, comparison, value] = *condition.split(' ').collect::<Vec<_>>() else {
        panic!("{condition}");
    };
    let (found, value) = (attribute(path), values[value]["S"].as_str().unwrap());
    match comparison {
        "=" => found == Some(value),
        "<>" => found != Some(value),
        "<" => found.is_some_and(|found| found < value),
        other => panic!("{other}"),
    }
}

/// The parts of a condition between `word`, where it is not in parentheses.
fn parts<'a>(condition: &'a str, word: &str) -> Vec<&'a str> {
    let (mut depth, mut start, mut parts) = (0, 0, Vec::new());
    for (at, character) in condition.char_indices() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 && condition[at..].starts_with(word) => {
                parts.push(&condition[start..at]);
                start = at + word.len();
            }
            _ => {}
        }
    }
    parts.push(&condition[start..]);
    parts
}

/// An app registers or removes its device.
#[derive(Clone, Debug)]
struct DeviceRequest {
    extension: u8,
    device: u8,
    tokens: Vec<u8>,
    is_removal: bool,
}

impl DeviceRequest {
    fn register(extension: u8, device: u8, tokens: &[u8]) -> Self {
        Self {
            extension,
            device,
            tokens: tokens.to_vec(),
            is_removal: false,
        }
    }

    fn remove(extension: u8, device: u8) -> Self {
        Self {
            is_removal: true,
            ..Self::register(extension, device, &[])
        }
    }

    fn device(&self, registered_at: Timestamp) -> Device {
        let addresses = self.tokens.iter().map(|token| {
            let (platform, token) = address(*token);
            testing::address(platform, &token)
        });
        Device {
            registered_at,
            ..testing::device(&format!("device-{}", self.device), addresses)
        }
    }
}

/// Tokens 0, 3, 6 … are those of the first push service, and so on.
fn address(token: u8) -> Address {
    let platform = PushPlatform::ALL[usize::from(token % 3)];
    (platform, format!("token-{token}"))
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

/// Each of these requests after the one before. Returns the addresses that the last one has released.
async fn one_after_the_other(table: &MemoryTable, requests: &[DeviceRequest]) -> BTreeSet<Address> {
    let mut released = BTreeSet::new();
    for (number, request) in requests.iter().enumerate() {
        let request = std::slice::from_ref(request);
        released = table.at_once(request, moment(number)).await;
    }
    released
}

#[tokio::test]
async fn the_oldest_device_is_removed_with_its_addresses() {
    let table = MemoryTable::empty().await;
    let register = |device, tokens: &[u8]| DeviceRequest::register(0, device, tokens);
    let released = one_after_the_other(
        &table,
        &[
            register(0, &[0]),
            register(1, &[1, 2]),
            register(2, &[3, 4, 5]),
            // A new registration makes the first device the newest.
            register(0, &[0]),
            register(3, &[]),
        ],
    )
    .await;
    assert_eq!(released, [address(1), address(2)].into());
    let left = ["device-0", "device-2", "device-3"];
    assert_eq!(names(&table.of(0).await), left.into());
}

#[tokio::test]
async fn a_registration_replaces_the_address_of_the_same_push_service_only() {
    let table = MemoryTable::empty().await;
    let register = |tokens: &[u8]| DeviceRequest::register(0, 1, tokens);
    let released = one_after_the_other(&table, &[register(&[0, 2]), register(&[3])]).await;
    assert_eq!(released, [address(0)].into());
    let left: BTreeSet<Address> = table.addresses().await.into_iter().collect();
    assert_eq!(left, [address(2), address(3)].into());
    assert_eq!(names(&table.of(0).await), ["device-1"].into());
}

#[tokio::test]
async fn two_addresses_that_a_phone_registers_at_once_both_stay() {
    for _ in 0..20 {
        let table = MemoryTable::empty().await;
        let both = [0, 2].map(|token| DeviceRequest::register(0, 1, &[token]));
        table.at_once(&both, moment(0)).await;
        assert_eq!(table.addresses().await, [address(0), address(2)]);
    }
}

#[tokio::test]
async fn an_outdated_registration_keeps_what_no_later_one_has_replaced() {
    let table = MemoryTable::empty().await;
    let old = DeviceRequest::register(0, 1, &[0, 2]).device(moment(0));
    let old = old.registered_as(Uuid::now_v7());
    let new = DeviceRequest::register(0, 1, &[3]);
    table.at_once(&[new], moment(1)).await;
    let devices = &table.devices;
    let (written, _) = devices
        .write(&extension(0), old, &SipAccountUpdate::Keep)
        .await
        .unwrap();
    let written: Vec<Address> = written.addresses().map(platform_and_token).collect();
    assert_eq!(written, [address(2)]);
    assert_eq!(table.addresses().await, [address(3), address(2)]);
}

#[tokio::test]
async fn a_phone_that_changes_hands_rings_only_for_its_new_owner() {
    let table = MemoryTable::empty().await;
    let released = one_after_the_other(
        &table,
        &[
            DeviceRequest::register(0, 1, &[7, 2]),
            DeviceRequest::register(1, 2, &[7]),
        ],
    )
    .await;
    assert_eq!(released, [].into(), "the new owner uses the address");
    let [before] = table.of(0).await.try_into().unwrap();
    let kept: Vec<Address> = before.addresses().map(platform_and_token).collect();
    assert_eq!(kept, [address(2)], "only the address moves");
    assert_eq!(names(&table.of(1).await), ["device-2"].into());

    // A late removal by the first owner releases only the address that it still had.
    let late = [DeviceRequest::remove(0, 1)];
    let released = table.at_once(&late, moment(2)).await;
    assert_eq!(released, [address(2)].into());
    assert_eq!(table.addresses().await, [address(7)]);
}

#[tokio::test]
async fn a_device_with_a_new_token_releases_the_old_one() {
    let table = MemoryTable::empty().await;
    let register = |token| DeviceRequest::register(0, 1, &[token]);
    let released = one_after_the_other(&table, &[register(1), register(4)]).await;
    assert_eq!(released, [address(1)].into());
    let removal = [DeviceRequest::remove(0, 1)];
    let released = table.at_once(&removal, moment(2)).await;
    assert_eq!(released, [address(4)].into());
    assert!(table.items.lock().unwrap().is_empty(), "something is left");
}

#[tokio::test]
async fn an_unreachable_address_is_removed_and_its_device_stays() {
    let table = MemoryTable::empty().await;
    let both = DeviceRequest::register(0, 1, &[1, 2]);
    table.at_once(&[both], moment(0)).await;
    let [device] = table.of(0).await.try_into().unwrap();
    let dead = device.address(PushPlatform::Fcm).unwrap();
    let remove = async || {
        let (devices, id) = (&table.devices, &device.device_id);
        let removed = devices.remove_unreachable(&extension(0), id, dead).await;
        removed.unwrap();
    };
    // An app that has registered again keeps its address: the push service may have answered about an earlier installation.
    let again = DeviceRequest::register(0, 1, &[1]);
    table.at_once(&[again], moment(1)).await;
    remove().await;
    assert_eq!(table.addresses().await, [address(1), address(2)]);

    let [device] = table.of(0).await.try_into().unwrap();
    let dead = device.address(PushPlatform::Fcm).unwrap();
    let (devices, id) = (&table.devices, &device.device_id);
    let removed = devices.remove_unreachable(&extension(0), id, dead).await;
    removed.unwrap();
    assert_eq!(table.addresses().await, [address(2)]);
    assert_eq!(table.items.lock().unwrap().len(), 2, "its owner is left");
}

#[tokio::test]
async fn registering_again_takes_one_request_and_one_for_each_address_and_no_scan() {
    let table = MemoryTable::empty().await;
    let both = [DeviceRequest::register(0, 1, &[0, 2])];
    table.at_once(&both, moment(0)).await;
    let before = testing::requests(&table.server).await.len();
    table.at_once(&both, moment(1)).await;
    let requests = testing::requests(&table.server).await;
    let mut asked: Vec<&str> = requests[before..].iter().map(testing::operation).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["PutItem", "PutItem", "Query", "UpdateItem"]);
}

/// A case that the property test below has found.
#[tokio::test]
async fn registrations_in_one_millisecond_never_release_an_address_that_another_device_has() {
    for _ in 0..20 {
        let table = MemoryTable::empty().await;
        let back_and_forth = [4, 1, 4].map(|token| DeviceRequest::register(0, 2, &[token]));
        table.at_once(&back_and_forth, moment(0)).await;
        let next = [
            DeviceRequest::register(0, 0, &[4]),
            DeviceRequest::register(0, 1, &[1]),
        ];
        table.at_once(&next, moment(1)).await;
        let addresses = table.addresses().await;
        let twice = (1..addresses.len()).any(|at| addresses[..at].contains(&addresses[at]));
        assert!(!twice, "two devices have one address");
    }
}

fn requests() -> impl Strategy<Value = DeviceRequest> {
    let tokens = prop::collection::btree_set(0_u8..6, 0..3);
    (0_u8..2, 0_u8..5, tokens, prop::bool::weighted(0.2)).prop_map(
        |(extension, device, tokens, is_removal)| DeviceRequest {
            extension,
            device,
            tokens: tokens.into_iter().collect(),
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
                let released = table.at_once(at_once, moment(round)).await;
                for number in 0..2 {
                    let devices = table.of(number).await;
                    prop_assert!(devices.len() <= MOST, "{devices:?}");
                }
                let addresses = table.addresses().await;
                for (index, address) in addresses.iter().enumerate() {
                    prop_assert!(!addresses[..index].contains(address), "two devices have one address");
                }
                if let [request] = at_once.as_slice() {
                    prop_assert!(!released.iter().any(|one| addresses.contains(one)), "an address in use is released");
                    let devices = table.of(request.extension).await;
                    let name = format!("device-{}", request.device);
                    let device = devices.iter().find(|device| device.device_id.as_str() == name);
                    prop_assert_eq!(device.is_some(), !request.is_removal);
                    let has: BTreeSet<Address> = device.iter().flat_map(|device| device.addresses()).map(platform_and_token).collect();
                    for address in request.device(moment(round)).addresses().map(platform_and_token) {
                        prop_assert!(request.is_removal || has.contains(&address), "{:?} is missing", address);
                    }
                }
            }
            Ok(())
        })?;
    }
}
