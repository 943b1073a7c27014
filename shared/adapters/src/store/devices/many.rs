//! Many devices that register and are removed, one after the other and at once, in a table that does as it is asked.

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

/// A table that keeps what is put, honours the conditions that this module sets, and counts its requests.
struct Table {
    items: Arc<Mutex<Items>>,
    server: MockServer,
    devices: Devices,
}

impl Table {
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
        let client = Client::new(&testing::aws(&server));
        let devices = Devices::new(client, "calls".to_owned());
        Self {
            items,
            server,
            devices,
        }
    }

    /// Does these at once. Gives the addresses that were said to reach nobody any more.
    async fn at_once(&self, wishes: &[Wish], now: Timestamp) -> Vec<PushAddress> {
        let done = wishes.iter().map(async |wish| {
            let (extension, device) = (extension(wish.extension), wish.device(now));
            if wish.is_removal {
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

/// Whether this item is of a later registration than the one that is there, or of another device.
fn may_be_put(there: Option<&Value>, request: &Value) -> bool {
    let condition = request["ConditionExpression"].as_str().unwrap();
    assert!(condition.ends_with(LATER), "{condition}");
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

/// Whether each attribute that the condition names is as it says; none need be, where the item may be missing.
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
            ":dead" => "address",
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

/// What an app wants of its device.
#[derive(Clone, Copy, Debug)]
struct Wish {
    extension: u8,
    device: u8,
    token: u8,
    is_removal: bool,
}

impl Wish {
    const fn register(extension: u8, device: u8, token: u8) -> Self {
        Self {
            extension,
            device,
            token,
            is_removal: false,
        }
    }

    /// Every other token is an endpoint at SNS.
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
async fn the_oldest_device_goes_and_its_address_with_it() {
    let table = Table::empty().await;
    for number in 0..3 {
        let wish = Wish::register(0, number, number);
        assert_eq!(table.at_once(&[wish], moment(number.into())).await, []);
    }
    // Registering anew makes the first the youngest.
    assert_eq!(
        table.at_once(&[Wish::register(0, 0, 0)], moment(3)).await,
        []
    );
    let gone = table.at_once(&[Wish::register(0, 3, 3)], moment(4)).await;
    let second = Wish::register(0, 1, 1).device(moment(1)).address;
    assert_eq!(gone, [second]);
    let left = ["device-0", "device-2", "device-3"];
    assert_eq!(names(&table.of(0).await), left.into());
}

#[tokio::test]
async fn a_phone_that_changes_hands_rings_for_its_new_owner_alone() {
    let table = Table::empty().await;
    table.at_once(&[Wish::register(0, 1, 7)], moment(0)).await;
    let gone = table.at_once(&[Wish::register(1, 2, 7)], moment(1)).await;
    assert_eq!(gone, [], "its endpoint is the new owner's");
    assert_eq!(table.of(0).await, []);
    assert_eq!(names(&table.of(1).await), ["device-2"].into());

    // What its first owner says late is of no consequence.
    let late = Wish {
        is_removal: true,
        ..Wish::register(0, 1, 7)
    };
    assert_eq!(table.at_once(&[late], moment(2)).await, []);
    assert_eq!(names(&table.of(1).await), ["device-2"].into());
}

#[tokio::test]
async fn a_device_with_a_new_token_gives_its_old_one_up() {
    let table = Table::empty().await;
    table.at_once(&[Wish::register(0, 1, 1)], moment(0)).await;
    let gone = table.at_once(&[Wish::register(0, 1, 3)], moment(1)).await;
    assert_eq!(gone, [Wish::register(0, 1, 1).device(moment(0)).address]);
    let removal = Wish {
        is_removal: true,
        ..Wish::register(0, 1, 3)
    };
    let gone = table.at_once(&[removal], moment(2)).await;
    assert_eq!(gone, [Wish::register(0, 1, 3).device(moment(1)).address]);
    assert!(table.items.lock().unwrap().is_empty(), "something is left");
}

#[tokio::test]
async fn a_phone_that_registered_before_registrations_had_names_changes_hands_all_the_same() {
    let table = Table::empty().await;
    table.at_once(&[Wish::register(0, 1, 7)], moment(0)).await;
    for item in table.items.lock().unwrap().values_mut() {
        item.as_object_mut().unwrap().remove("registration");
    }
    table.at_once(&[Wish::register(1, 2, 7)], moment(1)).await;
    assert_eq!(table.of(0).await, []);
    assert_eq!(names(&table.of(1).await), ["device-2"].into());
}

#[tokio::test]
async fn a_dead_device_leaves_nothing_behind() {
    let table = Table::empty().await;
    table.at_once(&[Wish::register(0, 1, 2)], moment(0)).await;
    let dead = table.of(0).await.remove(0);
    let forgotten = table.devices.forget_dead(&extension(0), &dead).await;
    forgotten.unwrap();
    assert!(table.items.lock().unwrap().is_empty(), "something is left");
}

#[tokio::test]
async fn registering_again_takes_three_requests_none_of_them_a_scan() {
    let table = Table::empty().await;
    table.at_once(&[Wish::register(0, 1, 2)], moment(0)).await;
    let before = testing::requests(&table.server).await.len();
    table.at_once(&[Wish::register(0, 1, 2)], moment(1)).await;
    let requests = testing::requests(&table.server).await;
    let mut asked: Vec<&str> = requests[before..].iter().map(testing::operation).collect();
    asked.sort_unstable();
    assert_eq!(asked, ["PutItem", "PutItem", "Query"]);
}

/// Found by the property below.
#[tokio::test]
async fn one_of_several_registrations_in_one_millisecond_gives_no_address_up_that_another_has_taken()
 {
    for _ in 0..20 {
        let table = Table::empty().await;
        let back_and_forth = [4, 0, 4].map(|token| Wish::register(0, 2, token));
        table.at_once(&back_and_forth, moment(0)).await;
        let next = [Wish::register(0, 0, 4), Wish::register(0, 1, 0)];
        table.at_once(&next, moment(1)).await;
        let addresses = table.addresses().await;
        let twice = (1..addresses.len()).any(|at| addresses[..at].contains(&addresses[at]));
        assert!(!twice, "two devices have one address");
    }
}

fn wishes() -> impl Strategy<Value = Wish> {
    (0_u8..2, 0_u8..5, 0_u8..6, prop::bool::weighted(0.2)).prop_map(
        |(extension, device, token, is_removal)| Wish {
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
    fn however_devices_register_there_are_never_too_many_and_no_two_share_an_address(
        rounds in prop::collection::vec(prop::collection::vec(wishes(), 1..6), 1..10),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let table = Table::empty().await;
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
                if let [wish] = at_once.as_slice() {
                    prop_assert!(!gone.iter().any(|one| addresses.contains(one)), "a live address is given up");
                    let is_there = names(&table.of(wish.extension).await)
                        .contains(format!("device-{}", wish.device).as_str());
                    prop_assert_eq!(is_there, !wish.is_removal);
                }
            }
            Ok(())
        })?;
    }
}
