//! The DynamoDB table: its client, its name, its keys, and the recognition of failed conditions.

use std::collections::HashMap;
use std::sync::Arc;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::delete_item::DeleteItemError;
use aws_sdk_dynamodb::operation::delete_item::builders::DeleteItemFluentBuilder;
use aws_sdk_dynamodb::operation::get_item::builders::GetItemFluentBuilder;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::put_item::builders::PutItemFluentBuilder;
use aws_sdk_dynamodb::operation::query::builders::QueryFluentBuilder;
use aws_sdk_dynamodb::operation::transact_write_items::{
    TransactWriteItemsError, TransactWriteItemsOutput,
};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::operation::update_item::builders::UpdateItemFluentBuilder;
use aws_sdk_dynamodb::types::error::ConditionalCheckFailedException;
use aws_sdk_dynamodb::types::{AttributeValue, CancellationReason};

use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;

/// An item, or its key, by attribute name.
pub type Item = HashMap<String, AttributeValue>;

/// The one table that all kinds of items share. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Table {
    client: Client,
    name: Arc<str>,
}

/// The key of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ItemKey {
    pk: String,
    sk: String,
}

impl ItemKey {
    /// The key of these partition and sort keys.
    pub fn new(pk: impl Into<String>, sk: impl Into<String>) -> Self {
        Self {
            pk: pk.into(),
            sk: sk.into(),
        }
    }

    /// The key of an item of this extension.
    pub fn of_extension(extension: &Extension, sk: impl Into<String>) -> Self {
        Self::new(extension_partition(extension), sk)
    }

    /// The key's attributes, `pk` and `sk`.
    #[must_use]
    pub fn into_item(self) -> Item {
        Item::from([
            ("pk".to_owned(), AttributeValue::S(self.pk)),
            ("sk".to_owned(), AttributeValue::S(self.sk)),
        ])
    }
}

/// The partition key of an extension's items.
#[must_use]
pub fn extension_partition(extension: &Extension) -> String {
    format!("EXTENSION#{extension}")
}

impl Table {
    /// The table of this name, reached through this client.
    pub fn new(client: Client, name: impl Into<Arc<str>>) -> Self {
        Self {
            client,
            name: name.into(),
        }
    }

    /// The client, for transactions. All other requests begin with one of the methods below.
    #[must_use]
    pub const fn client(&self) -> &Client {
        &self.client
    }

    /// The table's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Begins a `GetItem`.
    #[must_use]
    pub fn get(&self, key: ItemKey) -> GetItemFluentBuilder {
        let get = self.client.get_item().table_name(self.name());
        get.set_key(Some(key.into_item()))
    }

    /// Begins a `PutItem` of `attributes` under this key.
    #[must_use]
    pub fn put(&self, key: ItemKey, attributes: Item) -> PutItemFluentBuilder {
        let mut item = attributes;
        item.extend(key.into_item());
        let put = self.client.put_item().table_name(self.name());
        put.set_item(Some(item))
    }

    /// Begins an `UpdateItem`.
    #[must_use]
    pub fn update(&self, key: ItemKey) -> UpdateItemFluentBuilder {
        let update = self.client.update_item().table_name(self.name());
        update.set_key(Some(key.into_item()))
    }

    /// Begins a `DeleteItem`.
    #[must_use]
    pub fn delete(&self, key: ItemKey) -> DeleteItemFluentBuilder {
        let delete = self.client.delete_item().table_name(self.name());
        delete.set_key(Some(key.into_item()))
    }

    /// Begins a `Query`.
    #[must_use]
    pub fn query(&self) -> QueryFluentBuilder {
        self.client.query().table_name(self.name())
    }

    /// Whether the table answers a read at all. The item that it reads does not exist.
    pub async fn is_reachable(&self) -> bool {
        let read = self.get(ItemKey::new("HEALTH", "HEALTH"));
        read.send().await.is_ok()
    }
}

/// A text attribute.
pub fn text(value: impl ToString) -> AttributeValue {
    AttributeValue::S(value.to_string())
}

/// A number attribute.
#[must_use]
pub fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// A point in time, in milliseconds since the Unix epoch.
#[must_use]
pub fn millis(moment: Timestamp) -> AttributeValue {
    number(moment.as_millis())
}

/// `expires_at`: after this time, DynamoDB deletes the item. Its unit is seconds since the Unix epoch.
#[must_use]
pub fn expiry(moment: Timestamp) -> AttributeValue {
    number(moment.as_secs_rounded_up())
}

/// What a conditional write did.
#[derive(Debug)]
pub enum ConditionalWrite<T> {
    /// The condition held. This is DynamoDB's answer.
    Written(T),
    /// The condition failed and nothing was written. This is the current item, if it exists and the request returns it with
    /// `ReturnValuesOnConditionCheckFailure`.
    ConditionFailed(Option<Item>),
}

impl<T> ConditionalWrite<T> {
    /// Whether the condition held.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        matches!(self, Self::Written(_))
    }
}

/// What a transaction of conditional writes did.
#[derive(Debug, PartialEq)]
pub enum TransactionOutcome {
    /// All conditions held.
    Written,
    /// Nothing was written. For each write, in their order: the item that made its condition fail. All are `None` when another
    /// transaction on one of the items was in progress (`TransactionConflict`).
    Canceled(Vec<Option<Item>>),
}

/// An SDK error that says when a condition failed.
pub trait ConditionalWriteError:
    ProvideErrorMetadata + std::error::Error + Send + Sync + 'static
{
    /// The failed condition, if that is the error.
    fn failed_condition(&self) -> Option<&ConditionalCheckFailedException>;
}

macro_rules! conditional_write_error {
    ($($error:ident),*) => {
        $(impl ConditionalWriteError for $error {
            fn failed_condition(&self) -> Option<&ConditionalCheckFailedException> {
                match self {
                    Self::ConditionalCheckFailedException(failed) => Some(failed),
                    _ => None,
                }
            }
        })*
    };
}

conditional_write_error!(PutItemError, UpdateItemError, DeleteItemError);

/// Distinguishes a failed condition from a table that did not answer. `doing` names the operation for the error.
///
/// # Errors
/// [`StoreError::Unavailable`] for every error but a failed condition.
pub fn conditional_write<T, E: ConditionalWriteError>(
    sent: Result<T, SdkError<E>>,
    doing: &'static str,
) -> Result<ConditionalWrite<T>, StoreError> {
    match sent {
        Ok(answer) => Ok(ConditionalWrite::Written(answer)),
        Err(error) => match error.as_service_error().and_then(E::failed_condition) {
            Some(failed) => Ok(ConditionalWrite::ConditionFailed(failed.item.clone())),
            None => Err(StoreError::unavailable(doing)(error)),
        },
    }
}

/// The same for a transaction.
///
/// # Errors
/// [`StoreError::Unavailable`] for every error but a canceled transaction.
pub fn transaction_outcome(
    sent: Result<TransactWriteItemsOutput, SdkError<TransactWriteItemsError>>,
    doing: &'static str,
) -> Result<TransactionOutcome, StoreError> {
    let error = match sent {
        Ok(_) => return Ok(TransactionOutcome::Written),
        Err(error) => error,
    };
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(canceled)) => {
            let reasons = canceled.cancellation_reasons().iter();
            Ok(TransactionOutcome::Canceled(
                reasons.map(failed_on).collect(),
            ))
        }
        _ => Err(StoreError::unavailable(doing)(error)),
    }
}

/// The item that made one write of a transaction fail. DynamoDB gives an item for other reasons, too.
fn failed_on(reason: &CancellationReason) -> Option<Item> {
    let is_condition = reason.code() == Some("ConditionalCheckFailed");
    reason.item().filter(|_| is_condition).cloned()
}

/// Why the table could not answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The table did not answer, or not in time. Trying again may help.
    #[error("while {doing}: the table could not be reached")]
    Unavailable {
        /// The operation.
        doing: &'static str,
        /// The SDK's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This code cannot read an item, or cannot write a value as an item.
    #[error("while {doing}: an item has an unexpected shape")]
    Unreadable {
        /// The operation.
        doing: &'static str,
        /// The attribute at fault.
        #[source]
        source: serde_dynamo::Error,
    },
}

impl StoreError {
    /// For `map_err`: adds the operation to the SDK's error.
    pub(crate) fn unavailable<E>(doing: &'static str) -> impl FnOnce(E) -> Self
    where
        E: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        move |source| Self::Unavailable {
            doing,
            source: source.into(),
        }
    }

    /// For `map_err`: adds the operation to an error of reading or making an item.
    pub(crate) fn unreadable(doing: &'static str) -> impl FnOnce(serde_dynamo::Error) -> Self {
        move |source| Self::Unreadable { doing, source }
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::types::{Put, TransactWriteItem};
    use serde_json::json;
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    async fn table(answer: ResponseTemplate) -> (MockServer, Table) {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let table = testing::table(&server);
        (server, table)
    }

    fn key() -> ItemKey {
        ItemKey::new("CALL#1", "CALL")
    }

    fn failed_with_item() -> ResponseTemplate {
        testing::condition_failed_on(&json!({ "version": { "N": "7" } }))
    }

    #[tokio::test]
    async fn a_failed_condition_is_recognized_for_every_kind_of_write() {
        let (_server, table) = table(failed_with_item()).await;
        let outcomes = [
            conditional_write(table.put(key(), Item::new()).send().await, "putting")
                .map(|write| matches!(write, ConditionalWrite::ConditionFailed(Some(_)))),
            conditional_write(table.update(key()).send().await, "updating")
                .map(|write| matches!(write, ConditionalWrite::ConditionFailed(Some(_)))),
            conditional_write(table.delete(key()).send().await, "deleting")
                .map(|write| matches!(write, ConditionalWrite::ConditionFailed(Some(_)))),
        ];
        for failed in outcomes {
            assert!(failed.unwrap());
        }
    }

    #[tokio::test]
    async fn any_other_error_is_an_unavailable_table() {
        let (_server, table) = table(ResponseTemplate::new(500)).await;
        let sent = table.update(key()).send().await;
        let error = conditional_write(sent, "updating").unwrap_err();
        assert!(matches!(
            error,
            StoreError::Unavailable {
                doing: "updating",
                ..
            }
        ));
        assert!(!table.is_reachable().await);
    }

    #[tokio::test]
    async fn a_write_names_the_table_and_the_key() {
        let (server, table) = table(ResponseTemplate::new(200).set_body_json(json!({}))).await;
        let attributes = Item::from([("version".to_owned(), number(1))]);
        let sent = table.put(key(), attributes).send().await;
        assert!(conditional_write(sent, "putting").unwrap().is_written());
        let request: serde_json::Value = testing::requests(&server).await[0].body_json().unwrap();
        let item =
            json!({ "pk": { "S": "CALL#1" }, "sk": { "S": "CALL" }, "version": { "N": "1" } });
        assert_eq!(
            (&request["Item"], &request["TableName"]),
            (&item, &"calls".into())
        );
    }

    #[tokio::test]
    async fn a_canceled_transaction_gives_the_item_behind_each_failed_condition() {
        let canceled = |first: &str| {
            let item = json!({ "version": { "N": "7" } });
            ResponseTemplate::new(400).set_body_json(json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "message": "Transaction cancelled",
                "CancellationReasons": [{ "Code": first, "Item": item }, { "Code": "None" }],
            }))
        };
        let standing = Item::from([("version".to_owned(), number(7))]);
        for (code, first) in [
            ("ConditionalCheckFailed", Some(standing)),
            ("TransactionConflict", None),
        ] {
            let (_server, table) = table(canceled(code)).await;
            let put = Put::builder()
                .table_name(table.name())
                .set_item(Some(key().into_item()));
            let write = TransactWriteItem::builder()
                .put(put.build().unwrap())
                .build();
            let sent = table
                .client()
                .transact_write_items()
                .transact_items(write)
                .send()
                .await;
            let outcome = transaction_outcome(sent, "storing").unwrap();
            assert_eq!(
                outcome,
                TransactionOutcome::Canceled(vec![first, None]),
                "{code}"
            );
        }
    }
}
