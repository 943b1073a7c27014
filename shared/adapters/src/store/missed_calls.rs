//! An extension's missed calls since the last request of its apps for recent calls. A missed-call notice has their number.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `MISSED`, `calls` = the ids of the calls without their check fields, as a set. A set, and
//! not a number, because an effect may run twice: it adds the same call again. It is of the extension, and not of each device, because an
//! extension is one person: a list that was read on one device is read. One write without a read adds a call, beside the cancellation.

use aws_sdk_dynamodb::types::{AttributeValue, ReturnValue};
use ringback_core::call::Call;
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;

use crate::store::table::{
    ConditionalWrite, ItemKey, StoreError, Table, conditional_write, expiry, number,
};

/// The largest count, which limits the size of an item. It means this many or more.
pub const MOST_COUNTED: u64 = 99;

/// The missed calls in the table.
#[derive(Clone, Debug)]
pub struct MissedCalls {
    table: Table,
}

impl MissedCalls {
    /// The missed calls in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Adds a call to its extension's missed calls, and returns their number. The item expires at `kept_until`; the next missed call
    /// replaces this time. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn add(&self, call: &Call, kept_until: Timestamp) -> Result<u64, StoreError> {
        let added = AttributeValue::Ss(vec![call.call_id.key()]);
        let update = self
            .table
            .update(key(&call.extension))
            .update_expression("ADD calls :call SET expires_at = :until")
            .condition_expression("attribute_not_exists(calls) OR size(calls) < :most")
            .expression_attribute_values(":call", added)
            .expression_attribute_values(":until", expiry(kept_until))
            .expression_attribute_values(":most", number(MOST_COUNTED))
            .return_values(ReturnValue::AllNew);
        Ok(
            match conditional_write(update.send().await, "counting a missed call")? {
                ConditionalWrite::Written(saved) => {
                    let saved = saved.attributes.unwrap_or_default();
                    let calls = saved.get("calls").and_then(|calls| calls.as_ss().ok());
                    calls.map_or(1, |calls| {
                        u64::try_from(calls.len()).unwrap_or(MOST_COUNTED)
                    })
                }
                ConditionalWrite::ConditionFailed(_) => MOST_COUNTED,
            },
        )
    }

    /// The extension knows of its missed calls. They are not counted again.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn forget(&self, extension: &Extension) -> Result<(), StoreError> {
        let deleted = self.table.delete(key(extension)).send().await;
        deleted
            .map(drop)
            .map_err(StoreError::unavailable("resetting missed calls"))
    }
}

fn key(extension: &Extension) -> ItemKey {
    ItemKey::of_extension(extension, "MISSED")
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    async fn add(reply: ResponseTemplate) -> (Value, Result<u64, StoreError>) {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(reply).mount(&server).await;
        let missed = MissedCalls::new(testing::table(&server));
        let call = ringback_core::testing::a_call(NOW);
        let count = missed.add(&call, NOW).await;
        let [request] = testing::requests(&server).await.try_into().unwrap();
        (request.body_json().unwrap(), count)
    }

    #[tokio::test]
    async fn a_call_is_added_to_a_set_by_one_write() {
        let saved = json!({ "Attributes": { "calls": { "SS": ["a", "b", "c"] } } });
        let (request, count) = add(ResponseTemplate::new(200).set_body_json(saved)).await;
        assert_eq!(count.unwrap(), 3);
        assert_eq!(request["Key"]["sk"], json!({ "S": "MISSED" }));
        let values = &request["ExpressionAttributeValues"];
        assert_eq!(values[":call"]["SS"].as_array().map(Vec::len), Some(1));
        assert_eq!(values[":until"], json!({ "N": "1710417600" }));
    }

    #[tokio::test]
    async fn a_full_set_counts_as_the_most() {
        let (_, count) = add(testing::condition_failed()).await;
        assert_eq!(count.unwrap(), MOST_COUNTED);
    }
}
