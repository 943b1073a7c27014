//! Clients connected to the WebSocket API of this region, and the messages to them.
//!
//! Item: `pk` = `EXTENSION#{extension}`, or `OPERATORS`, `sk` = `CONNECTION#{region}#{connection id}`, and `audience` =
//! `everyone#{region}#{shard}`, the key of the index `connections`. The index has one partition for each shard, so all clients are
//! found without a scan. Keys contain the region because replication brings the items of the other region's clients, which this
//! region's API does not know. An operator's connection is stored only under `OPERATORS`, even if its token names an extension.

use std::collections::HashSet;
use std::ops::AddAssign;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_apigatewaymanagement::error::SdkError;
use aws_sdk_apigatewaymanagement::operation::post_to_connection::PostToConnectionError;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use futures::stream::{self, Stream, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::auth::Viewer;
use crate::platform::lazy_client::LazyClient;
use crate::store::table::{
    Item, ItemKey, StoreError, Table, conditional_write, expiry, extension_partition, millis,
    number, text,
};
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;

/// The index over all connections.
const INDEX: &str = "connections";

/// The partition of the operators' connections.
const OPERATORS: &str = "OPERATORS";

/// The number of partitions of the index. Each costs half a read unit for each change of a call, even without clients.
/// DynamoDB reads 3,000 units a second from one partition, which is about 40,000 connections, and writes 1,000. The default
/// quotas of API Gateway allow 10,000 messages and 500 new connections a second.
pub const SHARDS: u8 = 4;

/// API Gateway ends a connection after 2 hours. It does not always call `$disconnect`, so the items of connections and of their
/// audio streams expire.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(2 * 60 * 60 + 10 * 60);

/// API Gateway answers 410 for a connection that is not established yet, as for one that is closed. After this time it is
/// established: `$connect` has 29 seconds.
const ESTABLISHED_WITHIN_MILLIS: u64 = 30_000;

/// How many items a query reads at a time, to keep memory small.
const PAGE: i32 = 500;

/// How many messages are sent at the same time. Each takes a connection of this process to API Gateway.
const AT_ONCE: usize = 64;
/// A client that needs longer than this for a message is slow. It gives its place among [`AT_ONCE`] to another.
const PROMPT: Duration = Duration::from_millis(500);
/// How many slow clients are waited for in addition.
const SLOW_AT_ONCE: usize = 192;
/// A message that a client does not take within this time is dropped.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many slow clients this process remembers.
const SLOW_KNOWN: usize = 10_000;

/// A connected client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// API Gateway's id of the connection.
    pub id: String,
    /// The calls that it may see.
    pub viewer: Viewer,
}

/// The result of sending a message to one client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryResult {
    /// API Gateway accepted the message.
    Sent,
    /// The client has disconnected. Its item is deleted.
    Gone,
    /// API Gateway did not accept the message, or not in time, or the client is still connecting.
    Failed,
}

/// How many clients had each [`DeliveryResult`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryCounts {
    /// [`DeliveryResult::Sent`].
    pub sent: u64,
    /// [`DeliveryResult::Gone`].
    pub gone: u64,
    /// [`DeliveryResult::Failed`].
    pub failed: u64,
}

impl AddAssign for DeliveryCounts {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.gone += more.gone;
        self.failed += more.failed;
    }
}

/// The connections in the table, and the API that sends messages to them.
#[derive(Clone, Debug)]
pub struct Connections {
    table: Table,
    api: LazyClient<aws_sdk_apigatewaymanagement::Client>,
    region: String,
    /// The connection ids of clients that did not take their last message in time.
    slow: Arc<Mutex<HashSet<String>>>,
}

impl Connections {
    /// The connections of this region in this table. `api` is the region's `@connections` API.
    #[must_use]
    pub fn new(
        table: Table,
        api: impl Into<LazyClient<aws_sdk_apigatewaymanagement::Client>>,
        region: String,
    ) -> Self {
        Self {
            table,
            api: api.into(),
            region,
            slow: Arc::default(),
        }
    }

    /// Stores a client that has connected.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn open(&self, connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
        let put = self.table.put(self.key_of(connection), Item::new());
        put.item("audience", text(self.audience(shard_of(&connection.id))))
            .item("connected_at", millis(now))
            .item("expires_at", expiry(now + KEPT_FOR))
            .send()
            .await
            .map_err(StoreError::unavailable("storing a connection"))?;
        Ok(())
    }

    fn key_of(&self, connection: &Connection) -> ItemKey {
        let partition = match &connection.viewer {
            Viewer::App(extension) => extension_partition(extension),
            Viewer::Operator => OPERATORS.to_owned(),
        };
        ItemKey::new(partition, format!("{}{}", self.prefix(), connection.id))
    }

    /// The prefix of this region's sort keys.
    fn prefix(&self) -> String {
        format!("CONNECTION#{}#", self.region)
    }

    fn audience(&self, shard: u8) -> String {
        format!("everyone#{}#{shard}", self.region)
    }

    /// Deletes a client. A client without an item is no error.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn close(&self, connection: &Connection) -> Result<(), StoreError> {
        let deleted = self.table.delete(self.key_of(connection)).send().await;
        deleted.map_err(StoreError::unavailable("deleting a connection"))?;
        Ok(())
    }

    /// Deletes a client that API Gateway does not know, unless it may still be connecting. Returns whether it was deleted.
    async fn delete_if_established(
        &self,
        connection: &Connection,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let established_before = now.as_millis().saturating_sub(ESTABLISHED_WITHIN_MILLIS);
        let delete = self
            .table
            .delete(self.key_of(connection))
            .condition_expression("attribute_not_exists(connected_at) OR connected_at < :made")
            .expression_attribute_values(":made", number(established_before));
        let deleted = conditional_write(delete.send().await, "deleting a connection")?;
        Ok(deleted.is_written())
    }

    /// The clients of one extension.
    pub fn of(
        &self,
        extension: &Extension,
    ) -> impl Stream<Item = Result<Connection, StoreError>> + use<> {
        self.in_partition(extension_partition(extension))
    }

    /// The clients of one extension in this region, and how many there are in other regions.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn in_all_regions(
        &self,
        extension: &Extension,
        now: Timestamp,
    ) -> Result<(Vec<Connection>, u32), StoreError> {
        // DynamoDB deletes expired items late.
        let query = self
            .query(extension_partition(extension), "CONNECTION#".to_owned())
            .filter_expression("expires_at > :now")
            .expression_attribute_values(":now", expiry(now));
        let mut items = pin!(items_of(query));
        let (mut here, mut elsewhere) = (Vec::new(), 0);
        while let Some(item) = items.next().await {
            let item = item?;
            let region = region_and_id(&item).map(|(region, _id)| region);
            if region == Some(self.region.as_str()) {
                here.extend(connection_in(&item));
            } else {
                elsewhere += 1;
            }
        }
        Ok((here, elsewhere))
    }

    /// The operators' clients.
    pub fn of_operators(&self) -> impl Stream<Item = Result<Connection, StoreError>> + use<> {
        self.in_partition(OPERATORS.to_owned())
    }

    fn in_partition(
        &self,
        partition: String,
    ) -> impl Stream<Item = Result<Connection, StoreError>> + use<> {
        found_by(self.query(partition, self.prefix()))
    }

    fn query(&self, partition: String, prefix: String) -> QueryFluentBuilder {
        self.table
            .query()
            .key_condition_expression("pk = :pk AND begins_with(sk, :connection)")
            .expression_attribute_values(":pk", text(partition))
            .expression_attribute_values(":connection", text(prefix))
            .projection_expression("pk, sk")
    }

    /// All clients, in no order. At most a few pages of them are in memory at a time.
    pub fn of_everyone(&self) -> impl Stream<Item = Result<Connection, StoreError>> {
        stream::iter(0..SHARDS).flat_map_unordered(None, move |shard| {
            let query = self
                .table
                .query()
                .index_name(INDEX)
                .key_condition_expression("audience = :audience")
                .expression_attribute_values(":audience", text(self.audience(shard)))
                .limit(PAGE);
            Box::pin(found_by(query))
        })
    }

    /// Sends each of these clients its text. A slow client does not delay the others.
    ///
    /// # Errors
    /// When not all clients can be read from the table. Some may have got the message by then.
    pub async fn send_to_all<'a>(
        &self,
        clients: impl Stream<Item = Result<Connection, StoreError>>,
        text_for: impl Fn(&Connection) -> &'a str,
        now: Timestamp,
    ) -> Result<DeliveryCounts, StoreError> {
        let places = &Semaphore::new(AT_ONCE);
        let send = async |client: Result<Connection, StoreError>| {
            let client = client?;
            Ok(self
                .send_from(places, &client, text_for(&client), now)
                .await)
        };
        let mut sending = pin!(clients.map(send).buffer_unordered(AT_ONCE + SLOW_AT_ONCE));
        let mut deliveries = DeliveryCounts::default();
        while let Some(delivery) = sending.next().await {
            match delivery? {
                DeliveryResult::Sent => deliveries.sent += 1,
                DeliveryResult::Gone => deliveries.gone += 1,
                DeliveryResult::Failed => deliveries.failed += 1,
            }
        }
        Ok(deliveries)
    }

    /// A slow client gives its place to another client and is then waited for without a place.
    async fn send_from(
        &self,
        places: &Semaphore,
        client: &Connection,
        text: &str,
        now: Timestamp,
    ) -> DeliveryResult {
        let place = places.acquire().await;
        let mut sending = pin!(self.send(client, text, now));
        match timeout(PROMPT, &mut sending).await {
            Ok(delivery) => delivery,
            Err(_) => {
                drop(place);
                sending.await
            }
        }
    }

    /// Sends a text message to a client. Deletes the client's item if it has disconnected. A client that did not take its last
    /// message in time gets only [`PROMPT`]: the next change of a call waits until all clients are done.
    pub async fn send(&self, client: &Connection, text: &str, now: Timestamp) -> DeliveryResult {
        let was_slow = self.slow().remove(&client.id);
        let patience = if was_slow { PROMPT } else { PATIENCE };
        match timeout(patience, self.post(client, text, now)).await {
            Ok(delivery) => delivery,
            Err(_) => {
                self.remember_as_slow(client);
                DeliveryResult::Failed
            }
        }
    }

    async fn post(&self, client: &Connection, text: &str, now: Timestamp) -> DeliveryResult {
        let post = self
            .api
            .post_to_connection()
            .connection_id(&client.id)
            .data(Blob::new(text));
        match post.send().await {
            Ok(_) => DeliveryResult::Sent,
            Err(SdkError::ServiceError(error))
                if matches!(error.err(), PostToConnectionError::GoneException(_)) =>
            {
                self.delete_unknown(client, now).await
            }
            Err(error) => {
                tracing::warn!(
                    connection_id = client.id,
                    error = %aws_sdk_apigatewaymanagement::error::DisplayErrorContext(error),
                    "message to client failed"
                );
                DeliveryResult::Failed
            }
        }
    }

    async fn delete_unknown(&self, client: &Connection, now: Timestamp) -> DeliveryResult {
        match self.delete_if_established(client, now).await {
            Ok(true) => DeliveryResult::Gone,
            Ok(false) => {
                tracing::info!(connection_id = client.id, "client still connecting");
                DeliveryResult::Failed
            }
            Err(error) => {
                tracing::warn!(%error, "connection of a disconnected client not deleted");
                DeliveryResult::Gone
            }
        }
    }

    fn remember_as_slow(&self, client: &Connection) {
        let mut slow = self.slow();
        // Clients that disconnect while they are slow would stay in this set for ever.
        if slow.len() >= SLOW_KNOWN {
            slow.clear();
        }
        slow.insert(client.id.clone());
    }

    fn slow(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn found_by(query: QueryFluentBuilder) -> impl Stream<Item = Result<Connection, StoreError>> {
    items_of(query).filter_map(|item| async { item.map(|item| connection_in(&item)).transpose() })
}

fn items_of(query: QueryFluentBuilder) -> impl Stream<Item = Result<Item, StoreError>> {
    let items = query.into_paginator().items().send();
    stream::unfold(items, |mut items| async {
        let item = items.next().await?;
        let item =
            item.map_err(|error| StoreError::unavailable("reading connected clients")(error));
        Some((item, items))
    })
}

/// The region and the id in the key of a connection's item: `sk` = `CONNECTION#{region}#{connection id}`.
fn region_and_id(item: &Item) -> Option<(&str, &str)> {
    let key = item.get("sk")?.as_s().ok()?;
    key.strip_prefix("CONNECTION#")?.split_once('#')
}

fn connection_in(item: &Item) -> Option<Connection> {
    let viewer = match item.get("pk")?.as_s().ok()?.as_str() {
        OPERATORS => Viewer::Operator,
        of_an_app => {
            let extension = of_an_app.strip_prefix("EXTENSION#")?;
            Viewer::App(Extension::try_from(extension).ok()?)
        }
    };
    let (_region, id) = region_and_id(item)?;
    let id = id.to_owned();
    Some(Connection { id, viewer })
}

/// FNV-1a. The hash must spread ids evenly and never change.
pub(super) fn shard_of(id: &str) -> u8 {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    });
    u8::try_from(hash % u32::from(SHARDS)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use serde_json::{Value, json};
    use wiremock::matchers::{method, path, path_regex};
    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;
    use crate::testing::{self, requests};

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
    const REGION: &str = "ap-south-1";

    /// Clients that take a message at once, and clients that never do, which are the first to be found.
    struct Audience {
        server: MockServer,
        prompt: usize,
        hanging: usize,
        /// The client of each message, and when it was sent.
        posts: Arc<Mutex<Vec<(String, Instant)>>>,
    }

    impl Audience {
        async fn of(prompt: usize, hanging: usize) -> Self {
            let this = Self {
                server: MockServer::start().await,
                prompt,
                hanging,
                posts: Arc::default(),
            };
            Mock::given(method("POST"))
                .and(path("/"))
                .respond_with(move |query: &Request| found(query, prompt, hanging))
                .mount(&this.server)
                .await;
            let posts = Arc::clone(&this.posts);
            let post = move |post: &Request| {
                let id = post.url.path().rsplit('/').next().unwrap();
                posts.lock().unwrap().push((id.to_owned(), Instant::now()));
                let hangs = id.starts_with("hanging");
                let delay = if hangs { 10 * PATIENCE } else { Duration::ZERO };
                ResponseTemplate::new(200).set_delay(delay)
            };
            Mock::given(path_regex("^/@connections/"))
                .respond_with(post)
                .mount(&this.server)
                .await;
            this
        }

        fn connections(&self) -> Connections {
            connections_at(&self.server)
        }

        /// Sends to everyone. Returns the time until the last prompt client, the time until the end, and the counts.
        async fn receive(&self, connections: &Connections) -> (Duration, Duration, DeliveryCounts) {
            self.posts.lock().unwrap().clear();
            let began = Instant::now();
            let sending = connections.send_to_all(connections.of_everyone(), |_| "{}", NOW);
            let counts = sending.await.unwrap();
            let over = began.elapsed();
            let posts = self.posts.lock().unwrap();
            let to_prompt = posts.iter().filter(|(id, _)| id.starts_with("prompt"));
            let times: Vec<Instant> = to_prompt.map(|(_, at)| *at).collect();
            assert_eq!(times.len(), self.prompt);
            assert_eq!(posts.len(), self.prompt + self.hanging);
            let last = times.into_iter().max().unwrap();
            (last - began, over, counts)
        }
    }

    fn connections_at(server: &MockServer) -> Connections {
        let api = aws_sdk_apigatewaymanagement::Client::new(&testing::aws(server));
        Connections::new(testing::table(server), api, REGION.to_owned())
    }

    /// DynamoDB has the hanging clients in the first shard and the others in the rest.
    fn found(query: &Request, prompt: usize, hanging: usize) -> ResponseTemplate {
        let query: Value = query.body_json().unwrap();
        let audience = &query["ExpressionAttributeValues"][":audience"]["S"];
        let shard: usize = audience
            .as_str()
            .unwrap()
            .rsplit('#')
            .next()
            .unwrap()
            .parse()
            .unwrap();
        let (kind, numbers) = match shard {
            0 => ("hanging", 0..hanging),
            other => {
                let others = usize::from(SHARDS) - 1;
                (
                    "prompt",
                    prompt * (other - 1) / others..prompt * other / others,
                )
            }
        };
        let items: Vec<Value> = numbers
            .map(|number| {
                let sk = format!("CONNECTION#{REGION}#{kind}-{number}");
                json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": sk } })
            })
            .collect();
        let found = ResponseTemplate::new(200).set_body_json(json!({ "Items": items }));
        let delay = if shard == 0 {
            Duration::ZERO
        } else {
            Duration::from_millis(20)
        };
        found.set_delay(delay)
    }

    #[tokio::test]
    async fn a_hundred_hanging_clients_do_not_delay_the_others() {
        let audience = Audience::of(100, 100).await;
        let connections = audience.connections();
        let (last, over, counts) = audience.receive(&connections).await;
        let expected = DeliveryCounts {
            sent: 100,
            gone: 0,
            failed: 100,
        };
        assert_eq!(counts, expected);
        assert!(last < PATIENCE, "the last prompt client after {last:?}");
        assert!(over < 2 * PATIENCE, "the end after {over:?}");

        // Now the hanging clients are known to be slow.
        let (_, over, counts) = audience.receive(&connections).await;
        assert_eq!(counts, expected);
        assert!(over < PATIENCE, "the second time, the end after {over:?}");
    }

    #[tokio::test]
    async fn connections_of_all_shards_are_found_once() {
        let audience = Audience::of(1_000, 7).await;
        let connections = audience.connections();
        let everyone = connections.of_everyone().map(|found| found.unwrap().id);
        let everyone: Vec<String> = everyone.collect().await;
        assert_eq!(everyone.len(), 1_007);
        assert_eq!(everyone.iter().collect::<HashSet<_>>().len(), 1_007);
    }

    #[tokio::test]
    async fn an_operators_connection_is_stored_and_found_under_the_operators() {
        let server = MockServer::start().await;
        let row =
            json!({ "pk": { "S": "OPERATORS" }, "sk": { "S": "CONNECTION#ap-south-1#L0SM9" } });
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "Items": [row] })))
            .mount(&server)
            .await;
        let connections = connections_at(&server);
        let operator = Connection {
            id: "L0SM9".to_owned(),
            viewer: Viewer::Operator,
        };
        connections.open(&operator, NOW).await.unwrap();
        let found: Vec<_> = connections
            .of_operators()
            .map(Result::unwrap)
            .collect()
            .await;
        assert_eq!(found, std::slice::from_ref(&operator));
        connections.close(&operator).await.unwrap();

        let [put, query, delete] = requests(&server).await.try_into().unwrap();
        let [put, query, delete] =
            [put, query, delete].map(|request: Request| request.body_json::<Value>().unwrap());
        assert_eq!(put["Item"]["pk"], row["pk"]);
        let shard = shard_of("L0SM9");
        assert_eq!(
            put["Item"]["audience"]["S"],
            format!("everyone#ap-south-1#{shard}")
        );
        assert_eq!(query["ExpressionAttributeValues"][":pk"], row["pk"]);
        assert_eq!(delete["Key"], row);
    }

    #[tokio::test]
    async fn the_clients_of_an_extension_are_found_in_all_regions() {
        let server = MockServer::start().await;
        let row = |key: &str| json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": key } });
        let rows = [
            row("CONNECTION#ap-south-1#L0SM9"),
            row("CONNECTION#ap-southeast-1#K1TN0"),
        ];
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "Items": rows })))
            .mount(&server)
            .await;
        let extension = Extension::try_from("1001").unwrap();
        let connections = connections_at(&server);
        let found = connections.in_all_regions(&extension, NOW).await;
        let (here, elsewhere) = found.unwrap();
        let ids: Vec<_> = here.iter().map(|client| client.id.as_str()).collect();
        assert_eq!((ids, elsewhere), (vec!["L0SM9"], 1));
        let [query] = requests(&server).await.try_into().unwrap();
        let query: Value = query.body_json().unwrap();
        let values = &query["ExpressionAttributeValues"];
        assert_eq!(values[":pk"], json!({ "S": "EXTENSION#1001" }));
        assert_eq!(values[":now"], json!({ "N": "1710417600" }));
    }

    /// Sends a message to a client that API Gateway does not know. `deletion` is DynamoDB's answer to the delete. Returns the
    /// result and the delete request.
    async fn send_to_unknown(deletion: ResponseTemplate) -> (DeliveryResult, Value) {
        let server = MockServer::start().await;
        let gone = ResponseTemplate::new(410).insert_header("x-amzn-errortype", "GoneException");
        Mock::given(path_regex("^/@connections/"))
            .respond_with(gone)
            .mount(&server)
            .await;
        Mock::given(path("/"))
            .respond_with(deletion)
            .mount(&server)
            .await;
        let connections = connections_at(&server);
        let client = Connection {
            id: "L0SM9".to_owned(),
            viewer: Viewer::Operator,
        };
        let delivery = connections.send(&client, "{}", NOW).await;
        let asked = requests(&server).await.pop().unwrap();
        (delivery, asked.body_json().unwrap())
    }

    #[tokio::test]
    async fn a_disconnected_client_is_deleted() {
        let (delivery, asked) =
            send_to_unknown(ResponseTemplate::new(200).set_body_json(json!({}))).await;
        assert_eq!(delivery, DeliveryResult::Gone);
        assert_eq!(asked["Key"]["sk"]["S"], "CONNECTION#ap-south-1#L0SM9");
        let condition = "attribute_not_exists(connected_at) OR connected_at < :made";
        assert_eq!(asked["ConditionExpression"], condition);
        let made = &asked["ExpressionAttributeValues"][":made"]["N"];
        assert_eq!(made, "1710417570000");
    }

    #[tokio::test]
    async fn a_client_that_is_still_connecting_is_not_deleted() {
        let (delivery, _) = send_to_unknown(testing::condition_failed()).await;
        assert_eq!(delivery, DeliveryResult::Failed);
    }

    #[test]
    fn connections_spread_evenly_over_the_shards() {
        let mut counts = [0_u32; SHARDS as usize];
        for number in 0..16_000 {
            counts[usize::from(shard_of(&format!("L0SM9c{number}Q=")))] += 1;
        }
        let even = 16_000 / u32::from(SHARDS);
        let is_even = |count: &u32| count.abs_diff(even) < even / 5;
        assert!(counts.iter().all(is_even), "{counts:?}");
    }
}
