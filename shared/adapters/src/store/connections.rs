//! Clients connected to the WebSocket API of this region, and what is sent to them.
//!
//! Item: `pk` = `EXTENSION#{extension}`, or `OPERATORS`, `sk` = `CONNECTION#{region}#{connection id}`, and `audience` =
//! `everyone#{region}#{shard}`, the key of the index `connections`: all clients are found without a scan, in as many partitions as
//! there are shards. Replication brings the rows of other regions' clients, whom this region's API does not know. An operator's connection is only among the operators', whether or not its token names an extension.

use std::collections::HashSet;
use std::ops::AddAssign;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_sdk_apigatewaymanagement::error::SdkError;
use aws_sdk_apigatewaymanagement::operation::post_to_connection::PostToConnectionError;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::stream::{self, Stream, StreamExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::auth::Viewer;
use crate::store::calls::StoreError;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;

/// The index over all connections.
const INDEX: &str = "connections";

/// The partition of the operators' connections.
const OPERATORS: &str = "OPERATORS";

/// In how many partitions the index keeps them; each costs half a read unit for each change of a call, however few clients there
/// are. DynamoDB reads 3,000 units a second from one, which is some 40,000 connections, and writes 1,000; an account's API Gateway
/// posts to 10,000 connections a second and makes 500, unless AWS has raised that.
pub const SHARDS: u8 = 4;

/// API Gateway ends a connection after 2 hours; its `$disconnect` is best effort, so rows end by themselves, and those of
/// streams with them.
pub(crate) const KEPT_FOR: Duration = Duration::from_secs(2 * 60 * 60 + 10 * 60);

/// API Gateway says of a connection that is only being made what it says of one that has gone (410). By this age it has
/// been made: `$connect` has 29 seconds.
const MADE_WITHIN_MILLIS: u64 = 30_000;

/// How much of each partition is read at a time, so that what is in memory stays small.
const PAGE: i32 = 500;

/// How many clients are sent to at once. Each takes a connection of this process to API Gateway.
const AT_ONCE: usize = 64;
/// A client that takes longer than this holds up no other: one more is sent to meanwhile.
const PROMPT: Duration = Duration::from_millis(500);
/// How many such clients are waited for besides.
const SLOW_AT_ONCE: usize = 192;
/// A client that takes longer than this to take a message goes without.
const PATIENCE: Duration = Duration::from_secs(2);
/// Of how many clients is known that they went without the last time.
const SLOW_KNOWN: usize = 10_000;

/// A connected client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// API Gateway's id of it.
    pub id: String,
    /// Whose calls it hears of.
    pub viewer: Viewer,
}

/// How a message reached a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// API Gateway took it.
    Sent,
    /// The client has gone; its connection is forgotten.
    Gone,
    /// It was not taken, or not in time; or the client is still connecting.
    Failed,
}

/// How a message reached many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// To how many it was [`Delivery::Sent`].
    pub sent: u64,
    /// How many were [`Delivery::Gone`].
    pub gone: u64,
    /// For how many it [`Delivery::Failed`].
    pub failed: u64,
}

impl AddAssign for Deliveries {
    fn add_assign(&mut self, more: Self) {
        self.sent += more.sent;
        self.gone += more.gone;
        self.failed += more.failed;
    }
}

/// The connections in the table, and the API that reaches them.
#[derive(Clone, Debug)]
pub struct Connections {
    table_client: aws_sdk_dynamodb::Client,
    table: String,
    api: aws_sdk_apigatewaymanagement::Client,
    region: String,
    /// Ids of clients that did not take their last message in time.
    slow: Arc<Mutex<HashSet<String>>>,
}

impl Connections {
    /// The connections of this region in this table, reached through its API.
    #[must_use]
    pub fn new(
        table_client: aws_sdk_dynamodb::Client,
        table: String,
        api: aws_sdk_apigatewaymanagement::Client,
        region: String,
    ) -> Self {
        Self {
            table_client,
            table,
            api,
            region,
            slow: Arc::default(),
        }
    }

    /// Remembers a client that has connected.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn open(&self, connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
        let doing = "remembering a connection";
        let [(pk, partition), (sk, sort)] = self.key_of(connection);
        let expires_at = (now + KEPT_FOR).as_secs_rounded_up();
        self.table_client
            .put_item()
            .table_name(&self.table)
            .item(pk, partition)
            .item(sk, sort)
            .item(
                "audience",
                AttributeValue::S(self.audience(shard_of(&connection.id))),
            )
            .item(
                "connected_at",
                AttributeValue::N(now.as_millis().to_string()),
            )
            .item("expires_at", AttributeValue::N(expires_at.to_string()))
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    fn key_of(&self, connection: &Connection) -> [(&'static str, AttributeValue); 2] {
        let partition = match &connection.viewer {
            Viewer::App(extension) => partition_of(extension),
            Viewer::Operator => OPERATORS.to_owned(),
        };
        let sort = format!("{}{}", self.prefix(), connection.id);
        [("pk", partition), ("sk", sort)].map(|(name, text)| (name, AttributeValue::S(text)))
    }

    /// What this region's connections begin with.
    fn prefix(&self) -> String {
        format!("CONNECTION#{}#", self.region)
    }

    fn audience(&self, shard: u8) -> String {
        format!("everyone#{}#{shard}", self.region)
    }

    /// Forgets a client. Forgetting one that is not there is no error.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn close(&self, connection: &Connection) -> Result<(), StoreError> {
        let doing = "forgetting a connection";
        let [(pk, partition), (sk, sort)] = self.key_of(connection);
        self.table_client
            .delete_item()
            .table_name(&self.table)
            .key(pk, partition)
            .key(sk, sort)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    /// Forgets a client that API Gateway does not know, unless it may be connecting just now: whether it was forgotten.
    async fn forget(&self, connection: &Connection, now: Timestamp) -> Result<bool, StoreError> {
        let doing = "forgetting a connection";
        let [(pk, partition), (sk, sort)] = self.key_of(connection);
        let made_before = now.as_millis().saturating_sub(MADE_WITHIN_MILLIS);
        let deleted = self
            .table_client
            .delete_item()
            .table_name(&self.table)
            .key(pk, partition)
            .key(sk, sort)
            .condition_expression("attribute_not_exists(connected_at) OR connected_at < :made")
            .expression_attribute_values(":made", AttributeValue::N(made_before.to_string()))
            .send()
            .await;
        match deleted {
            Ok(_) => Ok(true),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(DeleteItemError::is_conditional_check_failed_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(StoreError::unavailable(doing)(error)),
        }
    }

    /// The clients of one extension.
    pub fn of(
        &self,
        extension: &Extension,
    ) -> impl Stream<Item = Result<Connection, StoreError>> + use<> {
        self.in_partition(partition_of(extension))
    }

    /// The operators' clients.
    pub fn of_operators(&self) -> impl Stream<Item = Result<Connection, StoreError>> + use<> {
        self.in_partition(OPERATORS.to_owned())
    }

    fn in_partition(
        &self,
        partition: String,
    ) -> impl Stream<Item = Result<Connection, StoreError>> + use<> {
        let query = self
            .table_client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :connection)")
            .expression_attribute_values(":pk", AttributeValue::S(partition))
            .expression_attribute_values(":connection", AttributeValue::S(self.prefix()))
            .projection_expression("pk, sk");
        found_by(query)
    }

    /// All clients, in no order. At no time are more than a few pages of them in memory.
    pub fn of_everyone(&self) -> impl Stream<Item = Result<Connection, StoreError>> {
        stream::iter(0..SHARDS).flat_map_unordered(None, move |shard| {
            let query = self
                .table_client
                .query()
                .table_name(&self.table)
                .index_name(INDEX)
                .key_condition_expression("audience = :audience")
                .expression_attribute_values(":audience", AttributeValue::S(self.audience(shard)))
                .limit(PAGE);
            Box::pin(found_by(query))
        })
    }

    /// Sends each of these clients the text that is meant for it. One that is slow, or hangs, holds up no other.
    ///
    /// # Errors
    /// When the clients cannot all be found. Some may have been sent to by then.
    pub async fn send_to_all<'a>(
        &self,
        clients: impl Stream<Item = Result<Connection, StoreError>>,
        text_for: impl Fn(&Connection) -> &'a str,
        now: Timestamp,
    ) -> Result<Deliveries, StoreError> {
        let places = &Semaphore::new(AT_ONCE);
        let send = async |client: Result<Connection, StoreError>| {
            let client = client?;
            Ok(self
                .send_from(places, &client, text_for(&client), now)
                .await)
        };
        let mut sending = pin!(clients.map(send).buffer_unordered(AT_ONCE + SLOW_AT_ONCE));
        let mut deliveries = Deliveries::default();
        while let Some(delivery) = sending.next().await {
            match delivery? {
                Delivery::Sent => deliveries.sent += 1,
                Delivery::Gone => deliveries.gone += 1,
                Delivery::Failed => deliveries.failed += 1,
            }
        }
        Ok(deliveries)
    }

    /// A client that is not prompt gives its place to another, and is waited for without one.
    async fn send_from(
        &self,
        places: &Semaphore,
        client: &Connection,
        text: &str,
        now: Timestamp,
    ) -> Delivery {
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

    /// Sends a text message to a client. A client that has gone is forgotten. One that did not take the last message in
    /// time has to be prompt now: the next change of a call is not told before all have been dealt with.
    pub async fn send(&self, client: &Connection, text: &str, now: Timestamp) -> Delivery {
        let was_slow = self.slow().remove(&client.id);
        let patience = if was_slow { PROMPT } else { PATIENCE };
        match timeout(patience, self.post(client, text, now)).await {
            Ok(delivery) => delivery,
            Err(_) => {
                self.remember_as_slow(client);
                Delivery::Failed
            }
        }
    }

    async fn post(&self, client: &Connection, text: &str, now: Timestamp) -> Delivery {
        let post = self
            .api
            .post_to_connection()
            .connection_id(&client.id)
            .data(Blob::new(text));
        match post.send().await {
            Ok(_) => Delivery::Sent,
            Err(SdkError::ServiceError(refused))
                if matches!(refused.err(), PostToConnectionError::GoneException(_)) =>
            {
                self.not_there(client, now).await
            }
            Err(error) => {
                tracing::warn!(
                    connection_id = client.id,
                    error = %aws_sdk_apigatewaymanagement::error::DisplayErrorContext(error),
                    "a client was not reached"
                );
                Delivery::Failed
            }
        }
    }

    async fn not_there(&self, client: &Connection, now: Timestamp) -> Delivery {
        match self.forget(client, now).await {
            Ok(true) => Delivery::Gone,
            Ok(false) => {
                tracing::info!(connection_id = client.id, "a client is still connecting");
                Delivery::Failed
            }
            Err(error) => {
                tracing::warn!(%error, "a client that has gone was not forgotten");
                Delivery::Gone
            }
        }
    }

    fn remember_as_slow(&self, client: &Connection) {
        let mut slow = self.slow();
        // Those who left without having taken another message are never heard of again.
        if slow.len() >= SLOW_KNOWN {
            slow.clear();
        }
        slow.insert(client.id.clone());
    }

    fn slow(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Item = std::collections::HashMap<String, AttributeValue>;

fn found_by(query: QueryFluentBuilder) -> impl Stream<Item = Result<Connection, StoreError>> {
    let items = query.into_paginator().items().send();
    let items = stream::unfold(items, |mut items| async {
        items.next().await.map(|item| (item, items))
    });
    items.filter_map(|item| async {
        match item {
            Ok(item) => connection_in(&item).map(Ok),
            Err(error) => {
                let doing = "looking for connected clients";
                Some(Err(StoreError::unavailable(doing)(error)))
            }
        }
    })
}

fn connection_in(item: &Item) -> Option<Connection> {
    let text = |name: &str| item.get(name)?.as_s().ok();
    let viewer = match text("pk")?.as_str() {
        OPERATORS => Viewer::Operator,
        of_an_app => {
            let extension = of_an_app.strip_prefix("EXTENSION#")?;
            Viewer::App(Extension::try_from(extension).ok()?)
        }
    };
    let (_region, id) = text("sk")?.strip_prefix("CONNECTION#")?.split_once('#')?;
    let id = id.to_owned();
    Some(Connection { id, viewer })
}

fn partition_of(extension: &Extension) -> String {
    format!("EXTENSION#{extension}")
}

/// FNV-1a: any hash will do that spreads ids evenly and stays the same.
fn shard_of(id: &str) -> u8 {
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
    use crate::testing::{aws, requests};

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);
    const REGION: &str = "ap-south-1";

    /// Clients that take a message at once, and those that never do, which are the first to be found.
    struct Audience {
        server: MockServer,
        prompt: usize,
        hanging: usize,
        /// Who was posted to, and when.
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
            let aws = aws(&self.server);
            let table_client = aws_sdk_dynamodb::Client::new(&aws);
            let api = aws_sdk_apigatewaymanagement::Client::new(&aws);
            Connections::new(table_client, "calls".to_owned(), api, REGION.to_owned())
        }

        /// Tells everyone: until the last of the prompt ones was sent to, until it was all over, and what came of it.
        async fn hears(&self, connections: &Connections) -> (Duration, Duration, Deliveries) {
            self.posts.lock().unwrap().clear();
            let began = Instant::now();
            let told = connections.send_to_all(connections.of_everyone(), |_| "{}", NOW);
            let told = told.await.unwrap();
            let over = began.elapsed();
            let posts = self.posts.lock().unwrap();
            let to_prompt = posts.iter().filter(|(id, _)| id.starts_with("prompt"));
            let times: Vec<Instant> = to_prompt.map(|(_, at)| *at).collect();
            assert_eq!(times.len(), self.prompt);
            assert_eq!(posts.len(), self.prompt + self.hanging);
            let last = times.into_iter().max().unwrap();
            (last - began, over, told)
        }
    }

    /// DynamoDB finds the hanging ones in the first shard that is asked for, and the others in the rest.
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
    async fn a_hundred_clients_that_hang_hold_up_no_other() {
        let audience = Audience::of(100, 100).await;
        let connections = audience.connections();
        let (last, over, told) = audience.hears(&connections).await;
        let expected = Deliveries {
            sent: 100,
            gone: 0,
            failed: 100,
        };
        assert_eq!(told, expected);
        assert!(last < PATIENCE, "the last was told after {last:?}");
        assert!(over < 2 * PATIENCE, "it was over after {over:?}");

        // They are known by now.
        let (_, over, told) = audience.hears(&connections).await;
        assert_eq!(told, expected);
        assert!(
            over < PATIENCE,
            "the second time, it was over after {over:?}"
        );
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
    async fn an_operators_connection_is_kept_and_found_among_the_operators() {
        let server = MockServer::start().await;
        let row =
            json!({ "pk": { "S": "OPERATORS" }, "sk": { "S": "CONNECTION#ap-south-1#L0SM9" } });
        Mock::given(method("POST"))
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "Items": [row] })))
            .mount(&server)
            .await;
        let aws = aws(&server);
        let table_client = aws_sdk_dynamodb::Client::new(&aws);
        let api = aws_sdk_apigatewaymanagement::Client::new(&aws);
        let connections =
            Connections::new(table_client, "calls".to_owned(), api, REGION.to_owned());
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

    /// What comes of a message to a client that API Gateway does not know, when DynamoDB answers its deletion so; and how
    /// it was asked.
    async fn not_known(deletion: ResponseTemplate) -> (Delivery, Value) {
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
        let aws = aws(&server);
        let table_client = aws_sdk_dynamodb::Client::new(&aws);
        let api = aws_sdk_apigatewaymanagement::Client::new(&aws);
        let connections =
            Connections::new(table_client, "calls".to_owned(), api, REGION.to_owned());
        let client = Connection {
            id: "L0SM9".to_owned(),
            viewer: Viewer::Operator,
        };
        let delivery = connections.send(&client, "{}", NOW).await;
        let asked = requests(&server).await.pop().unwrap();
        (delivery, asked.body_json().unwrap())
    }

    #[tokio::test]
    async fn a_client_that_has_gone_is_forgotten() {
        let (delivery, asked) =
            not_known(ResponseTemplate::new(200).set_body_json(json!({}))).await;
        assert_eq!(delivery, Delivery::Gone);
        assert_eq!(asked["Key"]["sk"]["S"], "CONNECTION#ap-south-1#L0SM9");
        let condition = "attribute_not_exists(connected_at) OR connected_at < :made";
        assert_eq!(asked["ConditionExpression"], condition);
        let made = &asked["ExpressionAttributeValues"][":made"]["N"];
        assert_eq!(made, "1710417570000");
    }

    #[tokio::test]
    async fn a_client_that_is_just_connecting_is_not_forgotten() {
        let refused = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "message": "The conditional request failed",
        });
        let (delivery, _) = not_known(ResponseTemplate::new(400).set_body_json(refused)).await;
        assert_eq!(delivery, Delivery::Failed);
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
