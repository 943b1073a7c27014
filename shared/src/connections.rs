//! Clients connected to the WebSocket API of this region, and what is sent to them.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `CONNECTION#{connection id}`, and `audience` = `everyone#{shard}`, the
//! key of the index `connections`: all clients are found without a scan, in as many partitions as there are shards.

use std::time::Duration;

use aws_sdk_apigatewaymanagement::error::SdkError;
use aws_sdk_apigatewaymanagement::operation::post_to_connection::PostToConnectionError;
use aws_sdk_apigatewaymanagement::primitives::Blob;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::types::AttributeValue;
use futures::stream::{self, Stream, StreamExt};

use crate::calls::StoreError;
use crate::clock::Timestamp;
use crate::names::Extension;

/// The index over all connections.
const INDEX: &str = "connections";

/// In how many partitions the index keeps them. DynamoDB reads 3,000 units a second from each, which is some 40,000
/// connections.
pub const SHARDS: u8 = 16;

/// API Gateway ends a connection after 2 hours; its `$disconnect` is best effort, so rows end by themselves.
const KEPT_FOR: Duration = Duration::from_secs(2 * 60 * 60 + 10 * 60);

/// A client that takes longer than this to take a message goes without.
const PATIENCE: Duration = Duration::from_secs(2);

/// A connected client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// API Gateway's id of it.
    pub id: String,
    /// Whose app it is.
    pub extension: Extension,
}

/// How a message reached a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// API Gateway took it.
    Sent,
    /// The client has gone; its connection is forgotten.
    Gone,
    /// It was not taken, or not in time.
    Failed,
}

/// The connections in the table, and the API that reaches them.
#[derive(Clone, Debug)]
pub struct Connections {
    table_client: aws_sdk_dynamodb::Client,
    table: String,
    api: aws_sdk_apigatewaymanagement::Client,
}

impl Connections {
    /// The connections in this table, reached through this API.
    #[must_use]
    pub const fn new(
        table_client: aws_sdk_dynamodb::Client,
        table: String,
        api: aws_sdk_apigatewaymanagement::Client,
    ) -> Self {
        Self {
            table_client,
            table,
            api,
        }
    }

    /// Remembers a client that has connected.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn open(&self, connection: &Connection, now: Timestamp) -> Result<(), StoreError> {
        let doing = "remembering a connection";
        let expires_at = (now + KEPT_FOR).as_secs_rounded_up();
        self.table_client
            .put_item()
            .table_name(&self.table)
            .item(
                "pk",
                AttributeValue::S(format!("EXTENSION#{}", connection.extension)),
            )
            .item(
                "sk",
                AttributeValue::S(format!("CONNECTION#{}", connection.id)),
            )
            .item(
                "audience",
                AttributeValue::S(audience(shard_of(&connection.id))),
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

    /// Forgets a client. Forgetting one that is not there is no error.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn close(&self, connection: &Connection) -> Result<(), StoreError> {
        let doing = "forgetting a connection";
        self.table_client
            .delete_item()
            .table_name(&self.table)
            .key(
                "pk",
                AttributeValue::S(format!("EXTENSION#{}", connection.extension)),
            )
            .key(
                "sk",
                AttributeValue::S(format!("CONNECTION#{}", connection.id)),
            )
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(())
    }

    /// The clients of one extension.
    pub fn of(&self, extension: &Extension) -> impl Stream<Item = Result<Connection, StoreError>> {
        let query = self
            .table_client
            .query()
            .table_name(&self.table)
            .key_condition_expression("pk = :pk AND begins_with(sk, :connection)")
            .expression_attribute_values(":pk", AttributeValue::S(format!("EXTENSION#{extension}")))
            .expression_attribute_values(":connection", AttributeValue::S("CONNECTION#".to_owned()))
            .projection_expression("pk, sk");
        found_by(query)
    }

    /// All clients, shard after shard. At no time are more than a page of them in memory.
    pub fn of_everyone(&self) -> impl Stream<Item = Result<Connection, StoreError>> {
        stream::iter(0..SHARDS).flat_map(move |shard| {
            let query = self
                .table_client
                .query()
                .table_name(&self.table)
                .index_name(INDEX)
                .key_condition_expression("audience = :audience")
                .expression_attribute_values(":audience", AttributeValue::S(audience(shard)));
            found_by(query)
        })
    }

    /// Sends a text message to a client. A client that has gone is forgotten.
    pub async fn send(&self, connection: &Connection, text: &str) -> Delivery {
        let post = self
            .api
            .post_to_connection()
            .connection_id(&connection.id)
            .data(Blob::new(text));
        let answer = match tokio::time::timeout(PATIENCE, post.send()).await {
            Ok(answer) => answer,
            Err(_) => return Delivery::Failed,
        };
        match answer {
            Ok(_) => Delivery::Sent,
            Err(SdkError::ServiceError(refused))
                if matches!(refused.err(), PostToConnectionError::GoneException(_)) =>
            {
                if let Err(error) = self.close(connection).await {
                    tracing::warn!(%error, "a client that has gone was not forgotten");
                }
                Delivery::Gone
            }
            Err(error) => {
                tracing::warn!(
                    connection_id = connection.id,
                    error = %aws_sdk_apigatewaymanagement::error::DisplayErrorContext(error),
                    "a client was not reached"
                );
                Delivery::Failed
            }
        }
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
    let extension = text("pk")?.strip_prefix("EXTENSION#")?;
    let id = text("sk")?.strip_prefix("CONNECTION#")?;
    Some(Connection {
        id: id.to_owned(),
        extension: Extension::try_from(extension).ok()?,
    })
}

fn audience(shard: u8) -> String {
    format!("everyone#{shard}")
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
    use super::*;

    #[test]
    fn connections_spread_evenly_over_the_shards() {
        let mut counts = [0_u32; SHARDS as usize];
        for number in 0..16_000 {
            counts[usize::from(shard_of(&format!("L0SM9c{number}Q=")))] += 1;
        }
        assert!(
            counts.iter().all(|count| (800..1_200).contains(count)),
            "{counts:?}"
        );
    }
}
