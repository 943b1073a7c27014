//! How many messages a second go to connected clients who have no part in a call.
//!
//! Posts to clients, requests of the PBX and answers of apps share one quota of the account. Several batches of the table's
//! stream post at the same time, in processes that know nothing of each other: ten for each of the stream's shards. A fixed
//! share for each would be a fortieth for the only one that is busy. So they share a counter in the table, one item for each
//! second, and take from it by one conditional write for every [`CHUNK`] posts.
//!
//! Item: `pk` = `POSTS#{region}`, `sk` = `SECOND#{seconds since the Unix epoch}`, `taken`. In two regions each has its own.

use crate::platform::clock;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::AttributeValue;

use crate::store::calls::StoreError;
use ringback_core::timestamp::Timestamp;

/// How many posts one write takes. What a process does not use within the second is lost.
pub const CHUNK: u32 = 100;

/// An item is of no use after its second; this is long enough for every clock.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// The posts of one region, `POSTS_PER_SECOND` of them.
#[derive(Debug)]
pub struct Posts {
    client: Client,
    table: String,
    region: String,
    per_second: u32,
    /// What this process has taken and not used: the second, and how many.
    left: Mutex<(u64, u32)>,
}

impl Posts {
    /// So many posts a second in this region, counted in this table.
    #[must_use]
    pub fn new(client: Client, table: String, region: String, per_second: u32) -> Self {
        Self {
            client,
            table,
            region,
            per_second: per_second.max(1),
            left: Mutex::default(),
        }
    }

    /// Takes one post, and waits for it while there is time: whether there was one before `until`. A table that cannot be
    /// written gives none.
    pub async fn take(&self, until: Timestamp) -> bool {
        loop {
            let now = clock::now();
            if now >= until {
                return false;
            }
            let second = now.as_millis() / 1_000;
            if self.use_one(second) {
                return true;
            }
            match self.take_chunk(second).await {
                Ok(true) => self.keep_chunk(second),
                Ok(false) => {
                    let next = Timestamp::from_millis((second + 1) * 1_000);
                    tokio::time::sleep(next.min(until).since(now)).await;
                }
                Err(error) => {
                    tracing::warn!(%error, cause = ?std::error::Error::source(&error), "posts to clients could not be counted");
                    return false;
                }
            }
        }
    }

    fn use_one(&self, second: u64) -> bool {
        let mut left = self.left();
        let has_one = left.0 == second && left.1 > 0;
        if has_one {
            left.1 -= 1;
        }
        has_one
    }

    fn keep_chunk(&self, second: u64) {
        let mut left = self.left();
        let unused = if left.0 == second { left.1 } else { 0 };
        *left = (second, unused + self.chunk());
    }

    fn chunk(&self) -> u32 {
        CHUNK.min(self.per_second)
    }

    fn left(&self) -> MutexGuard<'_, (u64, u32)> {
        self.left.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this second had a chunk left.
    async fn take_chunk(&self, second: u64) -> Result<bool, StoreError> {
        let doing = "counting posts to clients";
        let number = |value: u64| AttributeValue::N(value.to_string());
        let expires_at = Timestamp::from_millis(second * 1_000) + KEPT_FOR;
        let written = self
            .client
            .update_item()
            .table_name(&self.table)
            .key("pk", AttributeValue::S(format!("POSTS#{}", self.region)))
            .key("sk", AttributeValue::S(format!("SECOND#{second}")))
            .update_expression("SET expires_at = :expires_at ADD taken :chunk")
            .condition_expression("attribute_not_exists(taken) OR taken <= :rest")
            .expression_attribute_values(":chunk", number(self.chunk().into()))
            .expression_attribute_values(":rest", number((self.per_second - self.chunk()).into()))
            .expression_attribute_values(":expires_at", number(expires_at.as_secs_rounded_up()))
            .send()
            .await;
        match written {
            Ok(_) => Ok(true),
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(UpdateItemError::is_conditional_check_failed_exception) =>
            {
                Ok(false)
            }
            Err(error) => Err(StoreError::unavailable(doing)(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Arc;

    use futures::future::join_all;
    use serde_json::{Value, json};
    use wiremock::matchers::method;
    use wiremock::{Mock, MockServer, Request, ResponseTemplate};

    use super::*;
    use crate::testing::{aws, requests};

    /// A table that counts as DynamoDB would.
    async fn table() -> MockServer {
        let taken: Mutex<HashMap<String, u64>> = Mutex::default();
        let server = MockServer::start().await;
        let write = move |write: &Request| {
            let write: Value = write.body_json().unwrap();
            let number = |name: &str| -> u64 {
                let text = &write["ExpressionAttributeValues"][name]["N"];
                text.as_str().unwrap().parse().unwrap()
            };
            let mut taken = taken.lock().unwrap();
            let second = taken.entry(write["Key"].to_string()).or_insert(0);
            if *second > number(":rest") {
                return ResponseTemplate::new(400).set_body_json(json!({
                    "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                }));
            }
            *second += number(":chunk");
            ResponseTemplate::new(200).set_body_json(json!({}))
        };
        Mock::given(method("POST"))
            .respond_with(write)
            .mount(&server)
            .await;
        server
    }

    fn posts(table: &MockServer, per_second: u32) -> Posts {
        let client = Client::new(&aws(table));
        Posts::new(
            client,
            "calls".to_owned(),
            "ap-south-1".to_owned(),
            per_second,
        )
    }

    #[tokio::test]
    async fn processes_share_the_rate_of_their_region() {
        let table = table().await;
        let processes: Vec<Arc<Posts>> = (0..8).map(|_| Arc::new(posts(&table, 400))).collect();
        let began = clock::now();
        let until = began + Duration::from_millis(2_500);
        let each = processes.iter().map(async |posts| {
            let mut posted: HashMap<u64, u32> = HashMap::new();
            while posts.take(until).await {
                *posted.entry(clock::now().as_millis() / 1_000).or_default() += 1;
            }
            posted
        });
        let mut all: HashMap<u64, u32> = HashMap::new();
        for (second, count) in join_all(each).await.into_iter().flatten() {
            *all.entry(second).or_default() += count;
        }
        assert!(all.values().all(|posted| *posted <= 400), "{all:?}");
        // At least the whole seconds in between were used up.
        assert!(
            all.values().filter(|posted| **posted == 400).count() >= 1,
            "{all:?}"
        );
        assert!(clock::now() < until + Duration::from_millis(500));
    }

    #[tokio::test]
    async fn a_chunk_costs_one_write_and_lasts_for_the_second() {
        let table = table().await;
        let posts = posts(&table, 2_000);
        posts.keep_chunk(7);
        assert_eq!((0..).take_while(|_| posts.use_one(7)).count(), 100);
        posts.keep_chunk(7);
        assert!(!posts.use_one(8), "the last second's are gone");
        assert_eq!(requests(&table).await.len(), 0);
        assert!(posts.take_chunk(8).await.unwrap());
        let write: Value = requests(&table).await[0].body_json().unwrap();
        assert_eq!(
            write["Key"],
            json!({ "pk": { "S": "POSTS#ap-south-1" }, "sk": { "S": "SECOND#8" } })
        );
        assert_eq!(write["ExpressionAttributeValues"][":rest"]["N"], "1900");
        assert_eq!(write["ExpressionAttributeValues"][":expires_at"]["N"], "68");
    }

    #[tokio::test]
    async fn fewer_posts_than_a_chunk_are_still_some() {
        let table = table().await;
        let posts = posts(&table, 7);
        assert!(posts.take_chunk(8).await.unwrap());
        assert!(!posts.take_chunk(8).await.unwrap());
        assert!(posts.take_chunk(9).await.unwrap());
        posts.keep_chunk(9);
        assert_eq!((0..).take_while(|_| posts.use_one(9)).count(), 7);
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_written_gives_no_posts() {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(
                ResponseTemplate::new(400)
                    .set_body_json(json!({ "__type": "AccessDeniedException" })),
            )
            .mount(&server)
            .await;
        let posts = posts(&server, 2_000);
        assert!(!posts.take(clock::now() + Duration::from_secs(5)).await);
    }
}
