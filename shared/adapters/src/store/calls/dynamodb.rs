//! Calls in DynamoDB, one item for each call.
//!
//! | `pk` | `sk` | item |
//! | --- | --- | --- |
//! | `CALL#{call id without its check field}` | `CALL` | the call, or `alias_of` another call |
//! | `CALLER#{number or anonymous}#FOR#{extension}` | `CORRELATION` | the call that holds this correlation key, `until` its ring ends |
//! | `EXTENSION#{extension}` | `ALLOWANCE#{purpose}` | how many calls its apps may start, and whether they may wait for a call of the
//! other region: [`crate::store::allowance`] |
//!
//! The index `live-calls` has the active calls that apps started: `live_started_by`, `live_until`. The write that ends a call
//! removes both attributes. A call whose end is lost stops counting at `live_until`.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::put_item::PutItemError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use aws_sdk_dynamodb::types::{
    AttributeValue, CancellationReason, Put, ReturnValue,
    ReturnValuesOnConditionCheckFailure as OnFailure, Select, TransactWriteItem,
};
use ringback_core::call::{Call, ConditionalUpdate, CorrelationKey};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::timestamp::Timestamp;

use super::expressions::Expressions;
use super::{
    AllowanceRequest, AllowanceResult, CallStore, CorrelationClaim, CreateResult,
    ReplicationWaitError, UpdateResult,
};
use crate::store::StoreError;
use crate::store::allowance::{Allowance, Allowances, Purpose, Refused, Taken};

type Item = HashMap<String, AttributeValue>;

const STORING: &str = "storing a call";
const READING: &str = "reading a call";
const SAVING: &str = "saving a change";

/// Two reports of one call are written at the same moment, and DynamoDB may then accept neither (`TransactionConflict`).
const PAUSES_AFTER_CONFLICT: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(120),
];

/// The pauses after which to look again for a call that the other region may have stored (3 s in all). Replication takes about a
/// second.
const PAUSES_FOR_REPLICATION: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(600),
    Duration::from_millis(800),
    Duration::from_millis(900),
];

/// How often the apps of an extension may wait for a call. A token comes back after 4 s and a wait lasts 3 s, so an extension has one
/// wait at a time in all processes together.
const WAITS_PER_MINUTE: u32 = 15;

/// The region that stored a call and whose timers continue it. The other region arms its own.
const REGION: &str = "region";

/// The index of active calls, by the extension that started them and by their time limit.
const LIVE_CALLS: &str = "live-calls";
pub(super) const LIVE_STARTED_BY: &str = "live_started_by";
pub(super) const LIVE_UNTIL: &str = "live_until";

/// Who wrote an item last: a new value for each write. It tells a write that the client sent again from a concurrent one with the
/// same content in the same millisecond.
pub(super) const WRITER: &str = "writer";

/// Keeps calls in a DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoCallStore {
    client: Client,
    table: String,
    region: Option<String>,
}

impl DynamoCallStore {
    /// The calls in this table.
    #[must_use]
    pub const fn new(client: Client, table: String) -> Self {
        Self {
            client,
            table,
            region: None,
        }
    }

    /// The same in one of two regions whose tables are replicated: each call records the region that stored it, and a call that is
    /// not here may be waited for, up to 3 s.
    #[must_use]
    pub fn replicated_in(self, region: String) -> Self {
        Self {
            region: Some(region),
            ..self
        }
    }

    async fn create_alone(&self, call: &Call) -> Result<CreateResult, StoreError> {
        let writer = new_writer();
        let answer = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(self.new_item(call)?))
            .item(WRITER, AttributeValue::S(writer.clone()))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match answer.map_err(existing_item_of_put) {
            Ok(_) => Ok(CreateResult::New),
            // The write succeeded, its answer was lost, and the client wrote again.
            Err(Ok(Some(existing))) if is_by(&existing, &writer) => Ok(CreateResult::New),
            Err(Ok(existing)) => self.existing(existing.unwrap_or_default()).await,
            Err(Err(error)) => Err(StoreError::unavailable(STORING)(error)),
        }
    }

    /// Stores the call together with its claim, both or neither. `None`: another transaction was writing one of the two items, and
    /// nothing was stored.
    async fn create_and_claim(
        &self,
        call: &Call,
        claim: &CorrelationClaim,
    ) -> Result<Option<CreateResult>, StoreError> {
        let writes = [self.put_call(call)?, self.put_claim(call, claim)?]
            .map(|put| TransactWriteItem::builder().put(put).build());
        let answer = self
            .client
            .transact_write_items()
            .set_transact_items(Some(writes.into()))
            .send()
            .await;
        let mut reasons = match answer.map_err(cancellation_reasons) {
            Ok(_) => return Ok(Some(CreateResult::New)),
            Err(Ok(reasons)) => reasons.into_iter(),
            Err(Err(error)) => return Err(StoreError::unavailable(STORING)(error)),
        };
        if let Some(existing) = reasons.next().and_then(existing_item) {
            return self.existing(existing).await.map(Some);
        }
        let claimed = reasons.next().and_then(existing_item);
        let holder = claimed.and_then(|item| id_in(&item, "call_id"));
        Ok(holder.map(CreateResult::KeyHeldBy))
    }

    async fn existing(&self, item: Item) -> Result<CreateResult, StoreError> {
        let call = self.call_in(item).await?;
        call.map(|call| CreateResult::Existing(Box::new(call)))
            .ok_or_else(|| conflict(STORING))
    }

    fn put_call(&self, call: &Call) -> Result<Put, StoreError> {
        Put::builder()
            .table_name(&self.table)
            .set_item(Some(self.new_item(call)?))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .build()
            .map_err(StoreError::unavailable(STORING))
    }

    fn put_claim(&self, call: &Call, claim: &CorrelationClaim) -> Result<Put, StoreError> {
        let id = call.call_id.to_string();
        let replaced = claim.instead_of.unwrap_or(call.call_id).to_string();
        Put::builder()
            .table_name(&self.table)
            .set_item(Some(correlation_item_key(&claim.key)))
            .item("call_id", AttributeValue::S(id.clone()))
            .item("until", number(call.rings_until.as_millis()))
            .item("expires_at", number(call.expires_at))
            .condition_expression(
                "attribute_not_exists(pk) OR #until <= :now OR call_id IN (:this, :replaced)",
            )
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":now", number(claim.now.as_millis()))
            .expression_attribute_values(":this", AttributeValue::S(id))
            .expression_attribute_values(":replaced", AttributeValue::S(replaced))
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .build()
            .map_err(StoreError::unavailable(STORING))
    }

    fn new_item(&self, call: &Call) -> Result<Item, StoreError> {
        let mut item: Item =
            serde_dynamo::to_item(call).map_err(StoreError::unreadable(STORING))?;
        item.extend(call_item_key(call.call_id));
        if let Some(starter) = call.started_by() {
            let starter = AttributeValue::S(starter.to_string());
            item.insert(LIVE_STARTED_BY.to_owned(), starter);
            item.insert(LIVE_UNTIL.to_owned(), number(call.ends_by().as_millis()));
        }
        let region = self.region.clone().map(AttributeValue::S);
        item.extend(region.map(|region| (REGION.to_owned(), region)));
        Ok(item)
    }

    async fn item(&self, key: Item, doing: &'static str) -> Result<Option<Item>, StoreError> {
        let answer = self
            .client
            .get_item()
            .table_name(&self.table)
            .set_key(Some(key))
            .consistent_read(true)
            .send()
            .await
            .map_err(StoreError::unavailable(doing))?;
        Ok(answer.item)
    }

    /// Reads a call from its item. An alias is followed.
    async fn call_in(&self, item: Item) -> Result<Option<Call>, StoreError> {
        let item = match alias_in(&item) {
            Some(id) => self.item(call_item_key(id), READING).await?,
            None => Some(item),
        };
        let call = item.map(serde_dynamo::from_item).transpose();
        call.map_err(StoreError::unreadable(READING))
    }

    /// One conditional write. `Err` of an item: the condition failed, and this is the item.
    async fn write(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
        writer: &str,
    ) -> Result<Result<Item, Option<Item>>, StoreError> {
        let write = Expressions::of(update, writer).map_err(StoreError::unreadable(SAVING))?;
        let answer = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(call_item_key(id)))
            .update_expression(write.update)
            .condition_expression(write.condition)
            .set_expression_attribute_names(Some(write.names))
            .set_expression_attribute_values(Some(write.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match answer.map_err(existing_item_of_update) {
            Ok(saved) => Ok(Ok(saved.attributes.unwrap_or_default())),
            Err(Ok(item)) => Ok(Err(item)),
            Err(Err(error)) => Err(StoreError::unavailable(SAVING)(error)),
        }
    }
}

impl CallStore for DynamoCallStore {
    async fn create(
        &self,
        call: &Call,
        claim: Option<&CorrelationClaim>,
    ) -> Result<CreateResult, StoreError> {
        let Some(claim) = claim else {
            return self.create_alone(call).await;
        };
        for pause in PAUSES_AFTER_CONFLICT {
            match self.create_and_claim(call, claim).await? {
                Some(created) => return Ok(created),
                None => tokio::time::sleep(pause).await,
            }
        }
        self.create_and_claim(call, claim)
            .await?
            .ok_or_else(|| conflict(STORING))
    }

    async fn take_allowance(
        &self,
        call: CallId,
        request: &AllowanceRequest,
        now: Timestamp,
    ) -> Result<AllowanceResult, StoreError> {
        let allowances = Allowances::new(self.client.clone(), self.table.clone());
        let (extension, call) = (&request.extension, call.key());
        let taken = allowances.take(
            extension,
            request.purpose,
            request.allowance,
            Some(&call),
            now,
        );
        match taken.await {
            Ok(Taken::Now) => Ok(AllowanceResult::Granted),
            Ok(Taken::Before) => Ok(AllowanceResult::GrantedBefore),
            Err(Refused::TooSoon(wait)) => Ok(AllowanceResult::Exhausted(wait)),
            Err(Refused::Store(error)) => Err(error),
        }
    }

    async fn update(
        &self,
        id: CallId,
        update: &ConditionalUpdate,
    ) -> Result<UpdateResult, StoreError> {
        let writer = new_writer();
        let mut answer = self.write(id, update, &writer).await?;
        if let Err(Some(item)) = &answer
            && let Some(meant) = alias_in(item)
        {
            answer = self.write(meant, update, &writer).await?;
        }
        match answer {
            Ok(item) => {
                let call = serde_dynamo::from_item(item).map_err(StoreError::unreadable(SAVING))?;
                Ok(UpdateResult::Saved(call))
            }
            Err(Some(item)) => {
                // The write succeeded, its answer was lost, and the client wrote again.
                let is_ours = is_by(&item, &writer);
                Ok(match self.call_in(item).await? {
                    Some(call) if is_ours => UpdateResult::Saved(call),
                    call => UpdateResult::Rejected(call),
                })
            }
            Err(None) => Ok(UpdateResult::Rejected(None)),
        }
    }

    async fn replication_pauses(
        &self,
        extension: Option<&Extension>,
        now: Timestamp,
    ) -> Result<&'static [Duration], ReplicationWaitError> {
        if self.region.is_none() {
            return Ok(&[]);
        }
        if let Some(extension) = extension {
            let allowances = Allowances::new(self.client.clone(), self.table.clone());
            let waits = Allowance::per_minute(WAITS_PER_MINUTE, 1);
            let taken = allowances.take(extension, Purpose::Waits, waits, None, now);
            taken.await.map_err(|refused| match refused {
                Refused::TooSoon(wait) => ReplicationWaitError::WaitsAlready(wait),
                Refused::Store(error) => ReplicationWaitError::Store(error),
            })?;
        }
        Ok(&PAUSES_FOR_REPLICATION)
    }

    async fn count_live(
        &self,
        extension: &Extension,
        at_most: u32,
        now: Timestamp,
    ) -> Result<u32, StoreError> {
        let answer = self
            .client
            .query()
            .table_name(&self.table)
            .index_name(LIVE_CALLS)
            .key_condition_expression(format!(
                "{LIVE_STARTED_BY} = :starter AND {LIVE_UNTIL} > :now"
            ))
            .expression_attribute_values(":starter", AttributeValue::S(extension.to_string()))
            .expression_attribute_values(":now", number(now.as_millis()))
            .select(Select::Count)
            .limit(i32::try_from(at_most).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(StoreError::unavailable("counting an extension's calls"))?;
        Ok(u32::try_from(answer.count).unwrap_or(0))
    }

    async fn find(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        match self.item(call_item_key(id), READING).await? {
            Some(item) => self.call_in(item).await,
            None => Ok(None),
        }
    }

    async fn find_by_correlation_key(
        &self,
        key: &CorrelationKey,
    ) -> Result<Option<CallId>, StoreError> {
        let doing = "reading a correlation key";
        let claim = self.item(correlation_item_key(key), doing).await?;
        Ok(claim.and_then(|item| id_in(&item, "call_id")))
    }

    async fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        expires_at: u64,
    ) -> Result<bool, StoreError> {
        let answer = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(call_item_key(alias)))
            .item("alias_of", AttributeValue::S(id.to_string()))
            .item("expires_at", number(expires_at))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match answer.map_err(existing_item_of_put) {
            Ok(_) => Ok(true),
            Err(Ok(existing)) => Ok(existing.and_then(|item| alias_in(&item)) == Some(id)),
            Err(Err(error)) => Err(StoreError::unavailable("storing an alias of a call")(error)),
        }
    }
}

/// The region that stored the call in this item of a stream, if there are two regions.
#[must_use]
pub fn stored_in(item: &serde_dynamo::Item) -> Option<String> {
    match item.inner().get(REGION)? {
        serde_dynamo::AttributeValue::S(region) => Some(region.clone()),
        _ => None,
    }
}

fn call_item_key(id: CallId) -> Item {
    item_key(format!("CALL#{}", id.key()), "CALL")
}

fn correlation_item_key(key: &CorrelationKey) -> Item {
    let caller = key.caller.as_ref();
    let caller = caller.map_or(Caller::WITHHELD, PhoneNumber::as_str);
    item_key(
        format!("CALLER#{caller}#FOR#{}", key.extension),
        "CORRELATION",
    )
}

fn item_key(pk: String, sk: &str) -> Item {
    Item::from([
        ("pk".to_owned(), AttributeValue::S(pk)),
        ("sk".to_owned(), AttributeValue::S(sk.to_owned())),
    ])
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

fn new_writer() -> String {
    uuid::Uuid::now_v7().to_string()
}

fn is_by(item: &Item, writer: &str) -> bool {
    let last = item.get(WRITER).and_then(|value| value.as_s().ok());
    last.is_some_and(|last| last == writer)
}

fn alias_in(item: &Item) -> Option<CallId> {
    id_in(item, "alias_of")
}

fn id_in(item: &Item, attribute: &str) -> Option<CallId> {
    let text = item.get(attribute)?.as_s().ok()?;
    CallId::try_from(text.as_str()).ok()
}

/// The item that made the condition of an update fail, or the error if it was another one.
fn existing_item_of_update(
    error: SdkError<UpdateItemError>,
) -> Result<Option<Item>, Box<SdkError<UpdateItemError>>> {
    match error {
        SdkError::ServiceError(ref service) => match service.err() {
            UpdateItemError::ConditionalCheckFailedException(failed) => Ok(failed.item.clone()),
            _ => Err(Box::new(error)),
        },
        other => Err(Box::new(other)),
    }
}

/// The item that made the condition of a put fail, or the error if it was another one.
fn existing_item_of_put(
    error: SdkError<PutItemError>,
) -> Result<Option<Item>, Box<SdkError<PutItemError>>> {
    match error {
        SdkError::ServiceError(ref service) => match service.err() {
            PutItemError::ConditionalCheckFailedException(failed) => Ok(failed.item.clone()),
            _ => Err(Box::new(error)),
        },
        other => Err(Box::new(other)),
    }
}

/// Why a transaction was cancelled, write by write, or the error if it was another one.
fn cancellation_reasons(
    error: SdkError<TransactWriteItemsError>,
) -> Result<Vec<CancellationReason>, Box<SdkError<TransactWriteItemsError>>> {
    match error {
        SdkError::ServiceError(ref service) => match service.err() {
            TransactWriteItemsError::TransactionCanceledException(cancelled) => {
                Ok(cancelled.cancellation_reasons.clone().unwrap_or_default())
            }
            _ => Err(Box::new(error)),
        },
        other => Err(Box::new(other)),
    }
}

/// The item that made the condition of one write of a transaction fail.
fn existing_item(reason: CancellationReason) -> Option<Item> {
    let failed = reason.code.as_deref() == Some("ConditionalCheckFailed");
    reason.item.filter(|_| failed)
}

/// Two reports were written at the same moment, and DynamoDB accepted neither.
fn conflict(doing: &'static str) -> StoreError {
    StoreError::Unavailable {
        doing,
        source: "the transaction conflicted with another one".into(),
    }
}

#[cfg(test)]
mod tests {
    use ringback_core::testing::a_call;
    use serde_json::json;
    use wiremock::matchers::{any, header};
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::store::calls::find_when_replicated;
    use crate::testing::{aws, operation, requests};

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    /// A table that has the call from the third request on. The first two answers are empty.
    async fn lagging_table(call: &Call) -> (MockServer, DynamoCallStore) {
        let item = json!({
            "call_id": { "S": call.call_id }, "version": { "N": "1" }, "status": { "S": "waiting_for_mobile" },
            "extension": { "S": "1001" }, "kind": { "M": { "from_trunk": { "M": {} } } }, "call_type": { "S": "voice" },
            "created_at": { "N": "1710417600000" }, "rings_until": { "N": "1710417630000" },
            "limits": { "M": { "ring_ms": { "N": "30000" }, "connect_ms": { "N": "15000" }, "talk_ms": { "N": "1000" }, "check_ms": { "N": "1000" } } },
            "expires_at": { "N": "1710504000" },
        });
        let server = MockServer::start().await;
        let answer =
            |body| Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(body));
        answer(json!({})).up_to_n_times(2).mount(&server).await;
        answer(json!({ "Item": item })).mount(&server).await;
        let client = Client::new(&aws(&server));
        (server, DynamoCallStore::new(client, "calls".to_owned()))
    }

    async fn find(
        store: &DynamoCallStore,
        call: &Call,
    ) -> Result<Option<Call>, ReplicationWaitError> {
        let look = async || Ok(store.find(call.call_id).await?);
        find_when_replicated(store, Some(&call.extension), NOW, look).await
    }

    #[tokio::test]
    async fn a_find_waits_for_a_call_of_the_other_region() {
        let call = a_call(NOW);
        let (server, store) = lagging_table(&call).await;
        let store = store.replicated_in("ap-south-1".to_owned());
        let found = find(&store, &call).await.unwrap().unwrap();
        assert_eq!(found.call_id, call.call_id);
        let sent = requests(&server).await;
        let operations: Vec<&str> = sent.iter().map(operation).collect();
        assert_eq!(operations, ["GetItem", "UpdateItem", "GetItem"]);
        // Reports of the PBX and timers wait without a token.
        let pauses = store.replication_pauses(None, NOW).await.unwrap();
        assert_eq!(pauses, PAUSES_FOR_REPLICATION);
        assert_eq!(requests(&server).await.len(), 3);
    }

    #[tokio::test]
    async fn an_extension_waits_for_one_call_at_a_time() {
        let call = a_call(NOW);
        let (server, store) = lagging_table(&call).await;
        let full_at = (NOW + Duration::from_secs(4)).as_millis().to_string();
        let no_token = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "Item": { "full_at": { "N": full_at } },
        });
        Mock::given(header("x-amz-target", "DynamoDB_20120810.UpdateItem"))
            .respond_with(ResponseTemplate::new(400).set_body_json(no_token))
            .with_priority(1)
            .mount(&server)
            .await;
        let store = store.replicated_in("ap-south-1".to_owned());
        let result = find(&store, &call).await;
        let Err(ReplicationWaitError::WaitsAlready(wait)) = result else {
            panic!("{result:?}")
        };
        assert_eq!(wait, Duration::from_secs(4));
        assert_eq!(requests(&server).await.len(), 2);
    }

    #[tokio::test]
    async fn a_find_does_not_wait_in_a_single_region() {
        let call = a_call(NOW);
        let (server, store) = lagging_table(&call).await;
        assert_eq!(find(&store, &call).await.unwrap(), None);
        assert_eq!(requests(&server).await.len(), 1);
    }
}
