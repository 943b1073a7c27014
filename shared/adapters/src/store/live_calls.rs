//! The calls in progress, for a client that connects.
//!
//! Item: `pk` = `EXTENSION#{extension}` for each extension of the call, and `LIVE-CALLS#{shard}` for operators, `sk` = `LIVE#{start of the
//! call, epoch ms}#{call id without its check field}`, `call_id`. `broadcast` writes the items of a new call before it reads which clients
//! are connected, and deletes them when the call has ended. A client is stored before this list is read for it. So the client finds the
//! call here, or `broadcast` finds the client. An item only names the call, and the call says whether it is in progress. So an item that is
//! not deleted does no harm; it expires at the call's time limit.
//!
//! The items for operators are in as many partitions as connections are: DynamoDB writes 1,000 units a second to one, which is 500 calls.

use futures::future::try_join_all;
use ringback_core::call::Call;
use ringback_core::ids::CallId;

use crate::auth::Viewer;
use crate::store::call_lists::{call_id_in, position_of};
use crate::store::connections::{SHARDS, shard_of};
use crate::store::table::{Item, ItemKey, StoreError, Table, expiry, extension_partition, text};

/// The prefix of the sort keys.
const PREFIX: &str = "LIVE#";

/// How many calls a client gets at most: as many as one request reads.
const AT_MOST: usize = 100;

/// The calls in progress in the table.
#[derive(Clone, Debug)]
pub struct LiveCalls {
    table: Table,
}

impl LiveCalls {
    /// The calls in progress in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Adds a call that begins, or that a late report continues, and removes one that ends. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn update(&self, before: Option<&Call>, after: &Call) -> Result<(), StoreError> {
        let is_live = |call: &Call| !call.status.is_final();
        match (before.is_some_and(is_live), is_live(after)) {
            (false, true) => self.add(after).await,
            (true, false) => self.remove(after).await,
            (false, false) | (true, true) => Ok(()),
        }
    }

    async fn add(&self, call: &Call) -> Result<(), StoreError> {
        let puts = keys_of(call).map(|key| {
            let attributes = Item::from([
                ("call_id".to_owned(), text(call.call_id)),
                ("expires_at".to_owned(), expiry(call.ends_by())),
            ]);
            self.table.put(key, attributes).send()
        });
        let written = try_join_all(puts).await;
        written.map_err(StoreError::unavailable("listing a call in progress"))?;
        Ok(())
    }

    async fn remove(&self, call: &Call) -> Result<(), StoreError> {
        let deletes = keys_of(call).map(|key| self.table.delete(key).send());
        let deleted = try_join_all(deletes).await;
        deleted.map_err(StoreError::unavailable(
            "deleting an ended call from a list",
        ))?;
        Ok(())
    }

    /// The newest calls that this viewer may see, the oldest of them first. A few may have ended.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn of(&self, viewer: &Viewer) -> Result<Vec<CallId>, StoreError> {
        let partitions = match viewer {
            Viewer::App(extension) => vec![extension_partition(extension)],
            Viewer::Operator => (0..SHARDS).map(for_operators).collect(),
        };
        let queries = partitions.into_iter().map(|partition| {
            self.table
                .query()
                .key_condition_expression("pk = :pk AND begins_with(sk, :live)")
                .expression_attribute_values(":pk", text(partition))
                .expression_attribute_values(":live", text(PREFIX))
                .consistent_read(true)
                .scan_index_forward(false)
                .limit(i32::try_from(AT_MOST).unwrap_or(i32::MAX))
                .send()
        });
        let answers = try_join_all(queries).await;
        let answers = answers.map_err(StoreError::unavailable("reading the calls in progress"))?;
        let mut items: Vec<Item> = answers
            .into_iter()
            .flat_map(|answer| answer.items.unwrap_or_default())
            .collect();
        items.sort_by_cached_key(|item| item.get("sk").and_then(|key| key.as_s().ok().cloned()));
        let newest = items.len().saturating_sub(AT_MOST);
        Ok(items[newest..].iter().filter_map(call_id_in).collect())
    }
}

fn keys_of(call: &Call) -> impl Iterator<Item = ItemKey> {
    let position = format!("{PREFIX}{}", position_of(call).as_str());
    let shard = shard_of(&call.call_id.key());
    let partitions = call.participants().map(extension_partition);
    partitions
        .chain([for_operators(shard)])
        .map(move |partition| ItemKey::new(partition, position.as_str()))
}

fn for_operators(shard: u8) -> String {
    format!("LIVE-CALLS#{shard}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use ringback_core::call::CallStatus;
    use ringback_core::testing::a_call;
    use ringback_core::timestamp::Timestamp;
    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn call_at(millis: u64) -> Call {
        a_call(Timestamp::from_millis(NOW.as_millis() + millis))
    }

    /// The list in a table that answers a query with the items of these calls in the queried partition, the newest first.
    async fn list_of(calls: &[Call]) -> (MockServer, LiveCalls) {
        let mut items: Vec<(String, Value)> = Vec::new();
        for call in calls.iter().rev() {
            for key in keys_of(call) {
                let mut item = key.into_item();
                let [partition, position] =
                    ["pk", "sk"].map(|name| item.remove(name).unwrap().as_s().unwrap().clone());
                let item = json!({ "pk": { "S": partition }, "sk": { "S": position }, "call_id": { "S": call.call_id } });
                items.push((partition, item));
            }
        }
        let server = MockServer::start().await;
        let answer = move |query: &Request| {
            let query: Value = query.body_json().unwrap();
            let queried = query["ExpressionAttributeValues"][":pk"]["S"].as_str();
            let items = items.iter();
            let items = items.filter(|(partition, _)| Some(partition.as_str()) == queried);
            let items: Vec<&Value> = items.map(|(_, item)| item).take(AT_MOST).collect();
            ResponseTemplate::new(200).set_body_json(json!({ "Items": items }))
        };
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let list = LiveCalls::new(testing::table(&server));
        (server, list)
    }

    fn ids(calls: &[Call]) -> Vec<CallId> {
        calls.iter().map(|call| call.call_id).collect()
    }

    #[tokio::test]
    async fn an_app_finds_its_calls_in_one_query() {
        let calls = [call_at(0), call_at(1)];
        let (server, list) = list_of(&calls).await;
        let app = Viewer::App(calls[0].extension.clone());
        assert_eq!(list.of(&app).await.unwrap(), ids(&calls));
        let [query] = testing::requests(&server).await.try_into().unwrap();
        let query: Value = query.body_json().unwrap();
        assert_eq!(query["ConsistentRead"], true);
        assert_eq!(query["ScanIndexForward"], false);
    }

    #[tokio::test]
    async fn an_operator_finds_the_newest_hundred_calls_of_all_shards_the_oldest_first() {
        let calls: Vec<Call> = (0..130).map(call_at).collect();
        let (server, list) = list_of(&calls).await;
        assert_eq!(list.of(&Viewer::Operator).await.unwrap(), ids(&calls[30..]));
        let queries = testing::requests(&server).await;
        assert_eq!(queries.len(), usize::from(SHARDS));
    }

    #[tokio::test]
    async fn a_call_is_removed_from_the_lists_that_it_was_added_to() {
        let (server, list) = list_of(&[]).await;
        let call = call_at(0);
        let mut ended = call.clone();
        ended.status = CallStatus::TimedOut;
        list.update(None, &call).await.unwrap();
        list.update(Some(&call), &call).await.unwrap();
        list.update(Some(&call), &ended).await.unwrap();
        list.update(None, &ended).await.unwrap();
        let requests = testing::requests(&server).await;
        let keys = |of: &str| -> BTreeSet<String> {
            let bodies = requests.iter().map(|it| it.body_json::<Value>().unwrap());
            let items = bodies.filter_map(|body| body.get(of).cloned());
            items
                .map(|item| format!("{} {}", item["pk"]["S"], item["sk"]["S"]))
                .collect()
        };
        assert_eq!(requests.len(), 4);
        assert_eq!(keys("Item").len(), 2);
        assert_eq!(keys("Item"), keys("Key"));
    }
}
