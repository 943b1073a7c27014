//! Calls in DynamoDB, one item for each call.
//!
//! | `pk` | `sk` | item |
//! | --- | --- | --- |
//! | `CALL#{call id without its check field}` | `CALL` | the call, or `alias_of` another call |
//! | `CALLSID#{CallSid}` | `{extension}#{call id without its check field}` | a call with this CallSid. Exotel may call several
//! extensions at once, and each of them again |
//! | `CALLER#{number or anonymous}#FOR#{extension}` | `CORRELATION` | the call that holds this correlation key, `until` half a minute after its ring |
//! | `EXTENSION#{extension}` | `ALLOWANCE#{purpose}` | how many calls its apps may start, and whether they may wait for a call of the
//! other region: [`crate::store::allowance`] |
//!
//! The index `live-calls` has the active calls that apps started: `live_started_by`, `live_until`. The write that ends a call
//! removes both attributes. A call whose end is lost stops counting at `live_until`.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_dynamodb::types::{
    KeysAndAttributes, Put, ReturnValue, ReturnValuesOnConditionCheckFailure as OnFailure, Select,
    TransactWriteItem,
};
use ringback_core::call::{Call, ConditionalUpdate, CorrelationKey};
use ringback_core::ids::{CallId, CallSid, Extension};
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::timestamp::Timestamp;

use super::expressions::{Expressions, LIVE_STARTED_BY, LIVE_UNTIL, WRITER};
use super::{
    AllowanceRequest, AllowanceResult, CallStore, CorrelationClaim, CreateResult,
    PAUSES_FOR_REPLICATION, ReplicationWaitError, UpdateResult,
};
use crate::store::allowance::{Allowance, AllowanceError, Allowances, Purpose, TokenTaken};
use crate::store::table::{
    ConditionalWrite, Item, ItemKey, StoreError, Table, TransactionOutcome, conditional_write,
    millis, number, text, transaction_outcome,
};

const STORING: &str = "storing a call";
const READING: &str = "reading a call";
const SAVING: &str = "saving a change";
const READING_MANY: &str = "reading listed calls";

/// How often listed calls are read until all are there. The SDK pauses between attempts only if DynamoDB reads none at all.
const READS_OF_MANY: usize = 3;

/// Two reports of one call are written at the same moment, and DynamoDB may then accept neither (`TransactionConflict`).
const PAUSES_AFTER_CONFLICT: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(120),
];

/// How often the apps of an extension may wait for a call. A token comes back after 4 s and a wait lasts 3 s, so an extension has one
/// wait at a time in all processes together.
const WAITS_PER_MINUTE: u32 = 15;

/// The region that stored a call and whose timers continue it. The other region arms its own.
const REGION: &str = "region";

/// The index of active calls, by [`LIVE_STARTED_BY`] and [`LIVE_UNTIL`].
const LIVE_CALLS: &str = "live-calls";

/// Keeps calls in a DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoCallStore {
    table: Table,
    region: Option<String>,
}

impl DynamoCallStore {
    /// The calls in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self {
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

    /// The calls with these ids, as they are, in this order, in one request. Ids without a call are left out.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn find_all(&self, ids: &[CallId]) -> Result<Vec<Call>, StoreError> {
        let mut keys: Vec<Item> = ids
            .iter()
            .map(|id| call_item_key(*id).into_item())
            .collect();
        let mut found: HashMap<CallId, Call> = HashMap::new();
        // A throttled table answers with a part of the items.
        for _ in 0..READS_OF_MANY {
            if keys.is_empty() {
                break;
            }
            let requested = KeysAndAttributes::builder().set_keys(Some(keys));
            let requested = requested.consistent_read(true).build();
            let requested = requested.map_err(StoreError::unavailable(READING_MANY))?;
            let read = self.table.client().batch_get_item();
            let read = read
                .request_items(self.table.name(), requested)
                .send()
                .await;
            let answer = read.map_err(StoreError::unavailable(READING_MANY))?;
            let items = answer.responses.into_iter().flatten();
            for item in items.flat_map(|(_table, items)| items) {
                let call: Call =
                    serde_dynamo::from_item(item).map_err(StoreError::unreadable(READING_MANY))?;
                found.insert(call.call_id, call);
            }
            let left = answer.unprocessed_keys.into_iter().flatten();
            keys = left.flat_map(|(_table, left)| left.keys).collect();
        }
        if !keys.is_empty() {
            return Err(StoreError::Unavailable {
                doing: READING_MANY,
                source: "DynamoDB did not read all of them".into(),
            });
        }
        Ok(ids.iter().filter_map(|id| found.remove(id)).collect())
    }

    async fn create_alone(&self, call: &Call) -> Result<CreateResult, StoreError> {
        let writer = new_writer();
        let put = self
            .table
            .put(call_item_key(call.call_id), self.attributes(call)?)
            .item(WRITER, text(&writer))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        match conditional_write(put.send().await, STORING)? {
            ConditionalWrite::Written(_) => Ok(CreateResult::New),
            // The write succeeded, its answer was lost, and the client wrote again.
            ConditionalWrite::ConditionFailed(Some(existing)) if is_by(&existing, &writer) => {
                Ok(CreateResult::New)
            }
            ConditionalWrite::ConditionFailed(existing) => {
                self.existing(existing.unwrap_or_default()).await
            }
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
        let transaction = self.table.client().transact_write_items();
        let sent = transaction.set_transact_items(Some(writes.into())).send();
        let mut existing = match transaction_outcome(sent.await, STORING)? {
            TransactionOutcome::Written => return Ok(Some(CreateResult::New)),
            TransactionOutcome::Canceled(existing) => existing.into_iter(),
        };
        if let Some(call) = existing.next().flatten() {
            return self.existing(call).await.map(Some);
        }
        let claimed = existing.next().flatten();
        let holder = claimed.and_then(|item| id_in(&item, "call_id"));
        Ok(holder.map(CreateResult::KeyHeldBy))
    }

    async fn existing(&self, item: Item) -> Result<CreateResult, StoreError> {
        let call = self.call_in(item).await?;
        call.map(|call| CreateResult::Existing(Box::new(call)))
            .ok_or_else(|| conflict(STORING))
    }

    fn put_call(&self, call: &Call) -> Result<Put, StoreError> {
        let mut item = self.attributes(call)?;
        item.extend(call_item_key(call.call_id).into_item());
        Put::builder()
            .table_name(self.table.name())
            .set_item(Some(item))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .build()
            .map_err(StoreError::unavailable(STORING))
    }

    fn put_claim(&self, call: &Call, claim: &CorrelationClaim) -> Result<Put, StoreError> {
        Put::builder()
            .table_name(self.table.name())
            .set_item(Some(correlation_item_key(&claim.key).into_item()))
            .item("call_id", text(call.call_id))
            .item("until", millis(call.claims_caller_until()))
            .item("expires_at", number(call.expires_at))
            .condition_expression(
                "attribute_not_exists(pk) OR #until <= :now OR call_id IN (:this, :replaced)",
            )
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":now", millis(claim.now))
            .expression_attribute_values(":this", text(call.call_id))
            .expression_attribute_values(
                ":replaced",
                text(claim.instead_of.unwrap_or(call.call_id)),
            )
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .build()
            .map_err(StoreError::unavailable(STORING))
    }

    fn attributes(&self, call: &Call) -> Result<Item, StoreError> {
        let mut item: Item =
            serde_dynamo::to_item(call).map_err(StoreError::unreadable(STORING))?;
        if let Some(starter) = call.started_by() {
            item.insert(LIVE_STARTED_BY.to_owned(), text(starter));
            item.insert(LIVE_UNTIL.to_owned(), millis(call.ends_by()));
        }
        let region = self.region.as_ref().map(text);
        item.extend(region.map(|region| (REGION.to_owned(), region)));
        Ok(item)
    }

    async fn item(&self, key: ItemKey, doing: &'static str) -> Result<Option<Item>, StoreError> {
        let read = self.table.get(key).consistent_read(true).send();
        let answer = read.await.map_err(StoreError::unavailable(doing))?;
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
        let update = self
            .table
            .update(call_item_key(id))
            .update_expression(write.update)
            .condition_expression(write.condition)
            .set_expression_attribute_names(Some(write.names))
            .set_expression_attribute_values(Some(write.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        Ok(match conditional_write(update.send().await, SAVING)? {
            ConditionalWrite::Written(saved) => Ok(saved.attributes.unwrap_or_default()),
            ConditionalWrite::ConditionFailed(item) => Err(item),
        })
    }

    fn allowances(&self) -> Allowances {
        Allowances::new(self.table.clone())
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
        let (extension, call) = (&request.extension, call.key());
        let allowances = self.allowances();
        let taken = allowances.take(
            extension,
            request.purpose,
            request.allowance,
            Some(&call),
            now,
        );
        match taken.await {
            Ok(TokenTaken::Now) => Ok(AllowanceResult::Granted),
            Ok(TokenTaken::Before) => Ok(AllowanceResult::GrantedBefore),
            Err(AllowanceError::TooSoon(wait)) => Ok(AllowanceResult::Exhausted(wait)),
            Err(AllowanceError::Store(error)) => Err(error),
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
            let allowances = self.allowances();
            let waits = Allowance::per_minute(WAITS_PER_MINUTE, 1);
            let taken = allowances.take(extension, Purpose::Waits, waits, None, now);
            taken.await.map_err(|error| match error {
                AllowanceError::TooSoon(wait) => ReplicationWaitError::WaitsAlready(wait),
                AllowanceError::Store(error) => ReplicationWaitError::Store(error),
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
            .table
            .query()
            .index_name(LIVE_CALLS)
            .key_condition_expression(format!(
                "{LIVE_STARTED_BY} = :starter AND {LIVE_UNTIL} > :now"
            ))
            .expression_attribute_values(":starter", text(extension))
            .expression_attribute_values(":now", millis(now))
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

    async fn index_by_sid(&self, call: &Call) -> Result<(), StoreError> {
        let Some(sid) = &call.call_sid else {
            return Ok(());
        };
        let attributes = Item::from([
            ("call_id".to_owned(), text(call.call_id)),
            ("expires_at".to_owned(), number(call.expires_at)),
        ]);
        let sort = format!("{}#{}", call.extension, call.call_id.key());
        let key = ItemKey::new(format!("CALLSID#{sid}"), &sort);
        let put = self.table.put(key, attributes).send().await;
        let doing = "indexing a call by its CallSid";
        put.map(drop).map_err(StoreError::unavailable(doing))
    }

    async fn find_by_sid(
        &self,
        sid: &CallSid,
        extension: Option<&Extension>,
    ) -> Result<Vec<CallId>, StoreError> {
        let query = self.table.query().consistent_read(true);
        let query = query.expression_attribute_values(":sid", text(format!("CALLSID#{sid}")));
        let query = match extension {
            // No extension holds a `#`.
            Some(extension) => query
                .key_condition_expression("pk = :sid AND begins_with(sk, :extension)")
                .expression_attribute_values(":extension", text(format!("{extension}#"))),
            None => query.key_condition_expression("pk = :sid"),
        };
        let answer = query.send().await;
        let answer = answer.map_err(StoreError::unavailable("finding calls by their CallSid"))?;
        let items = answer.items.unwrap_or_default();
        Ok(items
            .iter()
            .filter_map(|item| id_in(item, "call_id"))
            .collect())
    }

    async fn add_alias(
        &self,
        alias: CallId,
        id: CallId,
        expires_at: u64,
    ) -> Result<bool, StoreError> {
        let attributes = Item::from([
            ("alias_of".to_owned(), text(id)),
            ("expires_at".to_owned(), number(expires_at)),
        ]);
        let put = self
            .table
            .put(call_item_key(alias), attributes)
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld);
        let doing = "storing an alias of a call";
        Ok(match conditional_write(put.send().await, doing)? {
            ConditionalWrite::Written(_) => true,
            ConditionalWrite::ConditionFailed(existing) => {
                existing.and_then(|item| alias_in(&item)) == Some(id)
            }
        })
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

fn call_item_key(id: CallId) -> ItemKey {
    ItemKey::new(format!("CALL#{}", id.key()), "CALL")
}

fn correlation_item_key(key: &CorrelationKey) -> ItemKey {
    let caller = key.caller.as_ref();
    let caller = caller.map_or(Caller::WITHHELD, PhoneNumber::as_str);
    ItemKey::new(
        format!("CALLER#{caller}#FOR#{}", key.extension),
        "CORRELATION",
    )
}

/// Short, because each write of a call stores one.
fn new_writer() -> String {
    format!("{:016x}", uuid::Uuid::new_v4().as_u64_pair().1)
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
    use crate::testing::{operation, requests};

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    /// A table that has the call from the third request on. The first two answers are empty.
    async fn lagging_table(call: &Call) -> (MockServer, DynamoCallStore) {
        let item = json!({
            "call_id": { "S": call.call_id }, "version": { "N": "1" }, "status": { "S": "waiting_for_mobile" },
            "extension": { "S": "1001" }, "kind": { "M": { "from_trunk": { "M": {} } } }, "call_type": { "S": "voice" },
            "created_at": { "N": "1710417600000" }, "rings_until": { "N": "1710417630000" },
            "settings": { "M": { "ring_ms": { "N": "30000" }, "connect_ms": { "N": "15000" }, "talk_ms": { "N": "1000" }, "check_ms": { "N": "1000" }, "kept_seconds": { "N": "604800" } } },
            "expires_at": { "N": "1710504000" },
        });
        let server = MockServer::start().await;
        let answer =
            |body| Mock::given(any()).respond_with(ResponseTemplate::new(200).set_body_json(body));
        answer(json!({})).up_to_n_times(2).mount(&server).await;
        answer(json!({ "Item": item })).mount(&server).await;
        let table = crate::testing::table(&server);
        (server, DynamoCallStore::new(table))
    }

    async fn find(
        store: &DynamoCallStore,
        call: &Call,
    ) -> Result<Option<Call>, ReplicationWaitError> {
        let look = || async { Ok(store.find(call.call_id).await?) };
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
