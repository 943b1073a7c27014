//! A rate limit for messages to connected clients that do not take part in a call.
//!
//! Messages to clients, requests of the PBX and answers of apps share one API Gateway quota of the account. Several batches of
//! the table's stream are processed at the same time, in processes that do not know each other: ten for each shard of the
//! stream. A fixed share for each process would leave a single busy one a fortieth. So all processes share a counter in the
//! table, one item for each second, and take from it with one conditional write for every [`CHUNK`] messages.
//!
//! Item: `pk` = `POSTS#{region}`, `sk` = `SECOND#{seconds since the Unix epoch}`, `taken`. Each region has its own items.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::platform::clock;
use crate::store::table::{ItemKey, StoreError, Table, conditional_write, expiry, number};
use ringback_core::timestamp::Timestamp;

/// How many messages one write takes. What a process does not use within the second is lost.
pub const CHUNK: u32 = 100;

/// An item is useless after its second. This is long enough for clocks that differ.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// How many messages may be sent in one region: `POSTS_PER_SECOND`.
#[derive(Debug)]
pub struct PostBudget {
    table: Table,
    region: String,
    per_second: u32,
    /// What this process has taken and not used yet: the second, and how many messages.
    left: Mutex<(u64, u32)>,
}

impl PostBudget {
    /// A budget of `per_second` messages in this region, counted in this table.
    #[must_use]
    pub fn new(table: Table, region: String, per_second: u32) -> Self {
        Self {
            table,
            region,
            per_second: per_second.max(1),
            left: Mutex::default(),
        }
    }

    /// Takes one message from the budget, and waits for it while there is time. Returns whether it got one before `until`.
    /// While the table cannot be written, there is no budget.
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
                    tracing::warn!(%error, cause = ?std::error::Error::source(&error), "message budget not available");
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

    /// Takes a chunk of this second's budget. Returns whether there was one.
    async fn take_chunk(&self, second: u64) -> Result<bool, StoreError> {
        let key = ItemKey::new(format!("POSTS#{}", self.region), format!("SECOND#{second}"));
        let expires_at = Timestamp::from_millis(second * 1_000) + KEPT_FOR;
        let write = self
            .table
            .update(key)
            .update_expression("SET expires_at = :expires_at ADD taken :chunk")
            .condition_expression("attribute_not_exists(taken) OR taken <= :rest")
            .expression_attribute_values(":chunk", number(self.chunk().into()))
            .expression_attribute_values(":rest", number((self.per_second - self.chunk()).into()))
            .expression_attribute_values(":expires_at", expiry(expires_at));
        let written = conditional_write(write.send().await, "taking message budget")?;
        Ok(written.is_written())
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
    use crate::testing::{self, requests};

    /// A server that counts as DynamoDB would.
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
                return testing::condition_failed();
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

    fn budget(table: &MockServer, per_second: u32) -> PostBudget {
        PostBudget::new(testing::table(table), "ap-south-1".to_owned(), per_second)
    }

    #[tokio::test]
    async fn processes_share_the_rate_of_their_region() {
        let table = table().await;
        let processes: Vec<Arc<PostBudget>> =
            (0..8).map(|_| Arc::new(budget(&table, 400))).collect();
        let began = clock::now();
        let until = began + Duration::from_millis(2_500);
        let each = processes.iter().map(async |budget| {
            let mut posted: HashMap<u64, u32> = HashMap::new();
            while budget.take(until).await {
                *posted.entry(clock::now().as_millis() / 1_000).or_default() += 1;
            }
            posted
        });
        let mut all: HashMap<u64, u32> = HashMap::new();
        for (second, count) in join_all(each).await.into_iter().flatten() {
            *all.entry(second).or_default() += count;
        }
        assert!(all.values().all(|posted| *posted <= 400), "{all:?}");
        // At least the whole seconds in between are used up.
        assert!(
            all.values().filter(|posted| **posted == 400).count() >= 1,
            "{all:?}"
        );
        assert!(clock::now() < until + Duration::from_millis(500));
    }

    #[tokio::test]
    async fn a_chunk_costs_one_write_and_lasts_for_the_second() {
        let table = table().await;
        let budget = budget(&table, 2_000);
        budget.keep_chunk(7);
        assert_eq!((0..).take_while(|_| budget.use_one(7)).count(), 100);
        budget.keep_chunk(7);
        assert!(
            !budget.use_one(8),
            "what is left of the last second is lost"
        );
        assert_eq!(requests(&table).await.len(), 0);
        assert!(budget.take_chunk(8).await.unwrap());
        let write: Value = requests(&table).await[0].body_json().unwrap();
        assert_eq!(
            write["Key"],
            json!({ "pk": { "S": "POSTS#ap-south-1" }, "sk": { "S": "SECOND#8" } })
        );
        assert_eq!(write["ExpressionAttributeValues"][":rest"]["N"], "1900");
        assert_eq!(write["ExpressionAttributeValues"][":expires_at"]["N"], "68");
    }

    #[tokio::test]
    async fn a_budget_smaller_than_a_chunk_is_taken_in_one_write() {
        let table = table().await;
        let budget = budget(&table, 7);
        assert!(budget.take_chunk(8).await.unwrap());
        assert!(!budget.take_chunk(8).await.unwrap());
        assert!(budget.take_chunk(9).await.unwrap());
        budget.keep_chunk(9);
        assert_eq!((0..).take_while(|_| budget.use_one(9)).count(), 7);
    }

    #[tokio::test]
    async fn a_table_that_cannot_be_written_gives_no_budget() {
        let server = MockServer::start().await;
        Mock::given(method("POST"))
            .respond_with(
                ResponseTemplate::new(400)
                    .set_body_json(json!({ "__type": "AccessDeniedException" })),
            )
            .mount(&server)
            .await;
        let budget = budget(&server, 2_000);
        assert!(!budget.take(clock::now() + Duration::from_secs(5)).await);
    }
}
