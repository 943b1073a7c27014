//! Calls in DynamoDB, one item a call.
//!
//! | `pk` | `sk` | what |
//! | --- | --- | --- |
//! | `CALL#{call id without its check field}` | `CALL` | the call, or `alias_of` another |
//! | `CALLER#{number or anonymous}#FOR#{extension}` | `MEETING` | the call that is met there, `until` its ring is over |
//! | `EXTENSION#{extension}` | `ALLOWANCE#{purpose}` | how many calls its apps may start, and whether they may wait for a call of
//! the other region: [`crate::store::allowance`] |
//!
//! The index `live-calls` has the active calls that apps started: `live_started_by`, `live_until`. The write that ends a call
//! removes both. A call whose end is lost stops counting at `live_until`.

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
use serde::Serialize;

use super::{
    Allowed, Calls, CorrelationClaim, CorrelationKey, Created, ReplicationWaitError, Saved,
    Starter, StoreError,
};
use crate::store::allowance::{Allowance, AllowanceError, Allowances, Purpose, TokenTaken};
use crate::store::table::Table;
use ringback_core::call::{Call, Change, Condition, ConditionalUpdate, Set};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::timestamp::Timestamp;

type Item = HashMap<String, AttributeValue>;

const STORING: &str = "storing a call";

/// Two witnesses of one call write at the same moment, and DynamoDB may then serve neither (`TransactionConflict`).
const PAUSES_AFTER_CONFLICT: [Duration; 3] = [
    Duration::from_millis(10),
    Duration::from_millis(40),
    Duration::from_millis(120),
];

/// After which pauses a call is looked for again that another region may have stored: its replication takes a second or so
/// (3 s in all).
const PAUSES_FOR_REPLICATION: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(600),
    Duration::from_millis(800),
    Duration::from_millis(900),
];

/// How often an extension's apps may wait for a call. A token comes back after 4 s, and a wait lasts 3 s, so an extension has
/// one wait at a time in all processes together.
const WAITS_PER_MINUTE: u32 = 15;

/// Calls in a DynamoDB table.
#[derive(Clone, Debug)]
pub struct DynamoCalls {
    client: Client,
    table: String,
    region: Option<String>,
}

impl DynamoCalls {
    /// The calls in this table.
    #[must_use]
    pub const fn new(client: Client, table: String) -> Self {
        Self {
            client,
            table,
            region: None,
        }
    }

    /// The same in one of two regions whose tables are replicated: a call says where it was stored, and one that is not
    /// here may be waited for, up to 3 s.
    #[must_use]
    pub fn replicated_in(self, region: String) -> Self {
        Self {
            region: Some(region),
            ..self
        }
    }

    async fn create_alone(&self, call: &Call) -> Result<Created, StoreError> {
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
        match answer.map_err(refused_put) {
            Ok(_) => Ok(Created::New),
            // The write went through, its answer was lost, and the client wrote again.
            Err(Ok(Some(standing))) if is_by(&standing, &writer) => Ok(Created::New),
            Err(Ok(standing)) => self.known(standing.unwrap_or_default()).await,
            Err(Err(error)) => Err(StoreError::unavailable(STORING)(error)),
        }
    }

    /// Stores the call together with its claim to its place, both or neither. `None`: another transaction was under
    /// way on one of the two, and nothing was written.
    async fn create_and_claim(
        &self,
        call: &Call,
        meeting: &CorrelationClaim,
    ) -> Result<Option<Created>, StoreError> {
        let writes = [self.put_call(call)?, self.put_claim(call, meeting)?]
            .map(|put| TransactWriteItem::builder().put(put).build());
        let answer = self
            .client
            .transact_write_items()
            .set_transact_items(Some(writes.into()))
            .send()
            .await;
        let mut reasons = match answer.map_err(cancellation) {
            Ok(_) => return Ok(Some(Created::New)),
            Err(Ok(reasons)) => reasons.into_iter(),
            Err(Err(error)) => return Err(StoreError::unavailable(STORING)(error)),
        };
        if let Some(standing) = reasons.next().and_then(standing_item) {
            return self.known(standing).await.map(Some);
        }
        let claimed = reasons.next().and_then(standing_item);
        Ok(claimed
            .and_then(|item| id_in(&item, "call_id"))
            .map(Created::Meets))
    }

    async fn known(&self, standing: Item) -> Result<Created, StoreError> {
        let call = self.call_in(standing).await?;
        call.map(|call| Created::Known(Box::new(call)))
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

    fn put_claim(&self, call: &Call, meeting: &CorrelationClaim) -> Result<Put, StoreError> {
        let id = call.call_id.to_string();
        let replaced = meeting.instead_of.unwrap_or(call.call_id).to_string();
        Put::builder()
            .table_name(&self.table)
            .set_item(Some(place_key(&meeting.place)))
            .item("call_id", AttributeValue::S(id.clone()))
            .item("until", number(call.rings_until.as_millis()))
            .item("expires_at", number(call.expires_at))
            .condition_expression(
                "attribute_not_exists(pk) OR #until <= :now OR call_id IN (:this, :replaced)",
            )
            .expression_attribute_names("#until", "until")
            .expression_attribute_values(":now", number(meeting.now.as_millis()))
            .expression_attribute_values(":this", AttributeValue::S(id))
            .expression_attribute_values(":replaced", AttributeValue::S(replaced))
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .build()
            .map_err(StoreError::unavailable(STORING))
    }

    fn new_item(&self, call: &Call) -> Result<Item, StoreError> {
        let mut item: Item =
            serde_dynamo::to_item(call).map_err(StoreError::unreadable(STORING))?;
        item.extend(call_key(call.call_id));
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

    /// Reads a call out of an item; an alias is followed.
    async fn call_in(&self, item: Item) -> Result<Option<Call>, StoreError> {
        let doing = "reading a call";
        let Some(id) = alias_in(&item) else {
            return serde_dynamo::from_item(item)
                .map(Some)
                .map_err(StoreError::unreadable(doing));
        };
        match self.item(call_key(id), doing).await? {
            Some(item) => serde_dynamo::from_item(item)
                .map(Some)
                .map_err(StoreError::unreadable(doing)),
            None => Ok(None),
        }
    }

    /// One conditional write. `Err` of an item: the condition failed, and this is what stands there.
    async fn update(
        &self,
        id: CallId,
        attempt: &ConditionalUpdate,
        writer: &str,
    ) -> Result<Result<Item, Option<Item>>, StoreError> {
        let doing = "saving a change";
        let write = Expressions::of(attempt, writer).map_err(StoreError::unreadable(doing))?;
        let answer = self
            .client
            .update_item()
            .table_name(&self.table)
            .set_key(Some(call_key(id)))
            .update_expression(write.update)
            .condition_expression(write.condition)
            .set_expression_attribute_names(Some(write.names))
            .set_expression_attribute_values(Some(write.values))
            .return_values(ReturnValue::AllNew)
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match answer {
            Ok(saved) => Ok(Ok(saved.attributes.unwrap_or_default())),
            Err(error) => match refused_item(error) {
                Ok(item) => Ok(Err(item)),
                Err(error) => Err(StoreError::unavailable(doing)(error)),
            },
        }
    }
}

impl Calls for DynamoCalls {
    async fn create(
        &self,
        call: &Call,
        meeting: Option<&CorrelationClaim>,
    ) -> Result<Created, StoreError> {
        let Some(meeting) = meeting else {
            return self.create_alone(call).await;
        };
        for pause in PAUSES_AFTER_CONFLICT {
            match self.create_and_claim(call, meeting).await? {
                Some(created) => return Ok(created),
                None => tokio::time::sleep(pause).await,
            }
        }
        self.create_and_claim(call, meeting)
            .await?
            .ok_or_else(|| conflict(STORING))
    }

    async fn allow(
        &self,
        call: CallId,
        starter: &Starter,
        now: Timestamp,
    ) -> Result<Allowed, StoreError> {
        let allowances = Allowances::new(Table::new(self.client.clone(), self.table.clone()));
        let (extension, call) = (&starter.extension, call.key());
        let taken = allowances.take(
            extension,
            starter.purpose,
            starter.allowance,
            Some(&call),
            now,
        );
        match taken.await {
            Ok(TokenTaken::Now) => Ok(Allowed::Now),
            Ok(TokenTaken::Before) => Ok(Allowed::Before),
            Err(AllowanceError::TooSoon(wait)) => Ok(Allowed::TooSoon(wait)),
            Err(AllowanceError::Store(error)) => Err(error),
        }
    }

    async fn attempt(&self, id: CallId, attempt: &ConditionalUpdate) -> Result<Saved, StoreError> {
        let writer = new_writer();
        let mut answer = self.update(id, attempt, &writer).await?;
        if let Err(Some(item)) = &answer
            && let Some(meant) = alias_in(item)
        {
            answer = self.update(meant, attempt, &writer).await?;
        }
        match answer {
            Ok(item) => {
                let call = serde_dynamo::from_item(item)
                    .map_err(StoreError::unreadable("saving a change"))?;
                Ok(Saved::As(call))
            }
            Err(Some(item)) => {
                // The write went through, its answer was lost, and the client wrote again.
                let is_ours = is_by(&item, &writer);
                Ok(match self.call_in(item).await? {
                    Some(call) if is_ours => Saved::As(call),
                    call => Saved::Not(call),
                })
            }
            Err(None) => Ok(Saved::Not(None)),
        }
    }

    async fn pauses(
        &self,
        asker: Option<&Extension>,
        now: Timestamp,
    ) -> Result<&'static [Duration], ReplicationWaitError> {
        if self.region.is_none() {
            return Ok(&[]);
        }
        if let Some(asker) = asker {
            let allowances = Allowances::new(Table::new(self.client.clone(), self.table.clone()));
            let waits = Allowance::per_minute(WAITS_PER_MINUTE, 1);
            let taken = allowances.take(asker, Purpose::Waits, waits, None, now);
            taken.await.map_err(|refused| match refused {
                AllowanceError::TooSoon(wait) => ReplicationWaitError::WaitsAlready(wait),
                AllowanceError::Store(error) => ReplicationWaitError::Store(error),
            })?;
        }
        Ok(&PAUSES_FOR_REPLICATION)
    }

    async fn live(
        &self,
        starter: &Extension,
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
            .expression_attribute_values(":starter", AttributeValue::S(starter.to_string()))
            .expression_attribute_values(":now", number(now.as_millis()))
            .select(Select::Count)
            .limit(i32::try_from(at_most).unwrap_or(i32::MAX))
            .send()
            .await
            .map_err(StoreError::unavailable("counting an extension's calls"))?;
        Ok(u32::try_from(answer.count).unwrap_or(0))
    }

    async fn find(&self, id: CallId) -> Result<Option<Call>, StoreError> {
        let doing = "reading a call";
        match self.item(call_key(id), doing).await? {
            Some(item) => self.call_in(item).await,
            None => Ok(None),
        }
    }

    async fn met_at(&self, place: &CorrelationKey) -> Result<Option<CallId>, StoreError> {
        let claim = self
            .item(place_key(place), "looking for a caller's call")
            .await?;
        Ok(claim.and_then(|item| id_in(&item, "call_id")))
    }

    async fn alias(&self, alias: CallId, id: CallId, expires_at: u64) -> Result<bool, StoreError> {
        let answer = self
            .client
            .put_item()
            .table_name(&self.table)
            .set_item(Some(call_key(alias)))
            .item("alias_of", AttributeValue::S(id.to_string()))
            .item("expires_at", number(expires_at))
            .condition_expression("attribute_not_exists(pk)")
            .return_values_on_condition_check_failure(OnFailure::AllOld)
            .send()
            .await;
        match answer.map_err(refused_put) {
            Ok(_) => Ok(true),
            Err(Ok(standing)) => Ok(standing.and_then(|item| alias_in(&item)) == Some(id)),
            Err(Err(error)) => Err(StoreError::unavailable("storing a second name of a call")(
                error,
            )),
        }
    }
}

fn call_key(id: CallId) -> Item {
    key(format!("CALL#{}", id.key()), "CALL")
}

fn place_key(place: &CorrelationKey) -> Item {
    let caller = place
        .caller
        .as_ref()
        .map_or(Caller::WITHHELD, PhoneNumber::as_str);
    key(
        format!("CALLER#{caller}#FOR#{}", place.extension),
        "MEETING",
    )
}

fn key(pk: String, sk: &str) -> Item {
    Item::from([
        ("pk".to_owned(), AttributeValue::S(pk)),
        ("sk".to_owned(), AttributeValue::S(sk.to_owned())),
    ])
}

fn number(value: u64) -> AttributeValue {
    AttributeValue::N(value.to_string())
}

/// The region that stored a call, and whose timers look after it. The other region sets its own.
const REGION: &str = "region";

/// The region that stored the call in this item, as a stream shows it, where there are two.
#[must_use]
pub fn stored_in(item: &serde_dynamo::Item) -> Option<String> {
    match item.inner().get(REGION)? {
        serde_dynamo::AttributeValue::S(region) => Some(region.clone()),
        _ => None,
    }
}

/// The index of active calls, by the extension that started them and by their time limit.
const LIVE_CALLS: &str = "live-calls";
const LIVE_STARTED_BY: &str = "live_started_by";
const LIVE_UNTIL: &str = "live_until";

/// Who wrote an item last: drawn anew for each write, so that a write which is sent again is told from a rival's that
/// says the same in the same millisecond.
const WRITER: &str = "writer";

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

/// An [`ConditionalUpdate`] in DynamoDB's expressions.
struct Expressions {
    update: String,
    condition: String,
    names: HashMap<String, String>,
    values: Item,
}

impl Expressions {
    fn of(attempt: &ConditionalUpdate, writer: &str) -> Result<Self, serde_dynamo::Error> {
        let mut this = Self {
            update: String::new(),
            condition: "attribute_exists(pk) AND attribute_not_exists(alias_of)".to_owned(),
            names: HashMap::new(),
            values: Item::new(),
        };
        for check in &attempt.checks {
            this.require(check)?;
        }
        this.update = this.update_of(&attempt.change, writer)?;
        Ok(this)
    }

    fn require(&mut self, check: &Condition) -> Result<(), serde_dynamo::Error> {
        let term = match check {
            Condition::VersionIs(version) => self.compare("version", "=", version)?,
            Condition::StatusIs(status) => self.compare("status", "=", status)?,
            Condition::ExtensionIs(extension) => self.compare("extension", "=", extension)?,
            Condition::RingsAfter(moment) => self.compare("rings_until", ">", moment)?,
            Condition::RingOverAt(moment) => self.compare("rings_until", "<=", moment)?,
            Condition::CallerIsNotApp => {
                let (caller, extension) = (self.name("caller"), self.name("extension"));
                format!("attribute_not_exists({caller}.{extension})")
            }
            Condition::CallerIsAppWithoutLeg => {
                let (caller, extension) = (self.name("caller"), self.name("extension"));
                let leg = self.name("caller_leg");
                format!("attribute_exists({caller}.{extension}) AND attribute_not_exists({leg})")
            }
            Condition::IsOutbound(outbound) => {
                let function = if *outbound {
                    "attribute_exists"
                } else {
                    "attribute_not_exists"
                };
                format!("{function}({})", self.name("to"))
            }
            Condition::CallSidIs(sid) => self.compare("call_sid", "=", sid)?,
            Condition::EffectsPendingSince(moment) => {
                self.compare("effects_pending_since", "=", moment)?
            }
            Condition::CallerLegMayBe(leg) => {
                let channel = self.can_be("caller_leg", &leg.channel)?;
                format!("{channel} AND {}", self.can_be("pbx", &leg.pbx)?)
            }
            Condition::PbxMayBe(pbx) => self.can_be("pbx", pbx)?,
            Condition::PbxUnknown => format!("attribute_not_exists({})", self.name("pbx")),
            Condition::NobodyDeclined => {
                format!("attribute_not_exists({})", self.name("declined_by"))
            }
            Condition::PushNotRecorded => format!("attribute_not_exists({})", self.name("rang")),
            Condition::PushedOnlyTo(device) => self.compare("rang", "=", &[device])?,
        };
        self.condition.push_str(" AND ");
        self.condition.push_str(&term);
        Ok(())
    }

    fn update_of(&mut self, change: &Change, writer: &str) -> Result<String, serde_dynamo::Error> {
        let mut sets = vec![self.compare(WRITER, "=", &writer)?];
        let mut removes = Vec::new();
        for set in &change.sets {
            match set {
                Set::Status(status) => sets.push(self.compare("status", "=", status)?),
                Set::AnsweredBy(answerer) => {
                    sets.push(self.compare("answered_by", "=", answerer)?)
                }
                Set::ReadyAt(moment) => sets.push(self.compare("ready_at", "=", moment)?),
                Set::BridgedAt(moment) => sets.push(self.compare("bridged_at", "=", moment)?),
                Set::Ended(moment, why) => {
                    sets.push(self.compare("ended_at", "=", moment)?);
                    sets.push(self.compare("end_reason", "=", why)?);
                    sets.push(self.compare("expires_at", "=", &Set::expiry_after(*moment))?);
                    removes.extend([LIVE_STARTED_BY, LIVE_UNTIL].map(|live| self.name(live)));
                }
                Set::CallerLeg(channel) => sets.push(self.compare("caller_leg", "=", channel)?),
                Set::Pbx(pbx) => sets.push(self.compare("pbx", "=", pbx)?),
                Set::CallSid(sid) => sets.push(self.compare("call_sid", "=", sid)?),
                Set::CheckedAt(moment) => sets.push(self.compare("checked_at", "=", moment)?),
                Set::Stream(state) => sets.push(self.compare("stream", "=", state)?),
                Set::PushedTo(devices) => sets.push(self.compare("rang", "=", devices)?),
                Set::DeclinedBy(devices) => sets.push(self.compare("declined_by", "=", devices)?),
                Set::EffectsPendingSince(moment) => {
                    sets.push(self.compare("effects_pending_since", "=", moment)?)
                }
                Set::NoEffectsPending => removes.push(self.name("effects_pending_since")),
            }
        }
        let (history, line) = (self.name("history"), self.value(&[&change.entry])?);
        sets.push(format!("{history} = list_append({history}, {line})"));
        let (version, one) = (self.name("version"), self.value(&1)?);
        sets.push(format!("{version} = {version} + {one}"));
        let mut update = format!("SET {}", sets.join(", "));
        if !removes.is_empty() {
            update.push_str(&format!(" REMOVE {}", removes.join(", ")));
        }
        Ok(update)
    }

    /// The attribute is missing, or has this value.
    fn can_be(
        &mut self,
        attribute: &str,
        value: &impl Serialize,
    ) -> Result<String, serde_dynamo::Error> {
        let (name, same) = (self.name(attribute), self.compare(attribute, "=", value)?);
        Ok(format!("(attribute_not_exists({name}) OR {same})"))
    }

    /// `attribute operator value`, which is a comparison in a condition and, with `=`, an assignment in an update.
    fn compare(
        &mut self,
        attribute: &str,
        operator: &str,
        value: &impl Serialize,
    ) -> Result<String, serde_dynamo::Error> {
        let (name, value) = (self.name(attribute), self.value(value)?);
        Ok(format!("{name} {operator} {value}"))
    }

    fn name(&mut self, attribute: &str) -> String {
        let name = format!("#{attribute}");
        self.names.insert(name.clone(), attribute.to_owned());
        name
    }

    fn value(&mut self, value: &impl Serialize) -> Result<String, serde_dynamo::Error> {
        let name = format!(":v{}", self.values.len());
        self.values
            .insert(name.clone(), serde_dynamo::to_attribute_value(value)?);
        Ok(name)
    }
}

/// The item that made a condition fail, or the error if it was another one.
fn refused_item(
    error: SdkError<UpdateItemError>,
) -> Result<Option<Item>, Box<SdkError<UpdateItemError>>> {
    match error {
        SdkError::ServiceError(ref service) => match service.err() {
            UpdateItemError::ConditionalCheckFailedException(refused) => Ok(refused.item.clone()),
            _ => Err(Box::new(error)),
        },
        other => Err(Box::new(other)),
    }
}

/// [`refused_item`], for a put.
fn refused_put(error: SdkError<PutItemError>) -> Result<Option<Item>, Box<SdkError<PutItemError>>> {
    match error {
        SdkError::ServiceError(ref service) => match service.err() {
            PutItemError::ConditionalCheckFailedException(refused) => Ok(refused.item.clone()),
            _ => Err(Box::new(error)),
        },
        other => Err(Box::new(other)),
    }
}

/// Why a transaction was cancelled, write by write, or the error if it was another one.
fn cancellation(
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

/// The item that stood in the way of one write of a transaction.
fn standing_item(reason: CancellationReason) -> Option<Item> {
    let failed = reason.code.as_deref() == Some("ConditionalCheckFailed");
    reason.item.filter(|_| failed)
}

/// Two witnesses wrote at the same moment and DynamoDB served neither.
fn conflict(doing: &'static str) -> StoreError {
    StoreError::Unavailable {
        doing,
        source: "the transaction met another one".into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::store::calls::find_once_there;
    use crate::testing::{aws, operation, requests};
    use ringback_core::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    /// A table to which the call comes when it has been asked for twice in vain.
    async fn lagging(
        not_yet: ResponseTemplate,
        there: ResponseTemplate,
    ) -> (MockServer, DynamoCalls) {
        let server = MockServer::start().await;
        let not_yet = Mock::given(wiremock::matchers::any()).respond_with(not_yet);
        not_yet.up_to_n_times(2).mount(&server).await;
        let there = Mock::given(wiremock::matchers::any()).respond_with(there);
        there.mount(&server).await;
        let client = aws_sdk_dynamodb::Client::new(&aws(&server));
        (server, DynamoCalls::new(client, "calls".to_owned()))
    }

    fn there(call: &Call, name: &str) -> ResponseTemplate {
        let item = json!({
            "call_id": { "S": call.call_id }, "version": { "N": "1" }, "status": { "S": "waiting_for_mobile" },
            "extension": { "S": "1001" }, "caller": { "M": {} }, "call_type": { "S": "voice" },
            "created_at": { "N": "1710417600000" }, "rings_until": { "N": "1710417630000" },
            "limits": { "M": { "ring_ms": { "N": "30000" }, "connect_ms": { "N": "15000" }, "talk_ms": { "N": "1000" } } },
            "expires_at": { "N": "1710504000" },
        });
        ResponseTemplate::new(200).set_body_json(json!({ name: item }))
    }

    #[tokio::test]
    async fn a_call_of_the_other_region_is_waited_for() {
        let call = a_call(NOW);
        // The first answer is for the call, the second for the token, which is granted.
        let nothing = ResponseTemplate::new(200).set_body_json(json!({}));
        let (server, calls) = lagging(nothing, there(&call, "Item")).await;
        let calls = calls.replicated_in("ap-south-1".to_owned());
        let found = find_once_there(&calls, call.call_id, &call.extension, NOW).await;
        assert_eq!(found.unwrap().unwrap().call_id, call.call_id);
        let asked = requests(&server).await;
        let asked: Vec<&str> = asked.iter().map(operation).collect();
        assert_eq!(asked, ["GetItem", "UpdateItem", "GetItem"]);
        // The PBX and timers need no token.
        assert_eq!(
            calls.pauses(None, NOW).await.unwrap(),
            PAUSES_FOR_REPLICATION
        );
        assert_eq!(requests(&server).await.len(), 3);
    }

    #[tokio::test]
    async fn an_extension_that_waits_for_a_call_already_does_not_wait_for_another() {
        let call = a_call(NOW);
        let nothing = ResponseTemplate::new(200).set_body_json(json!({}));
        let (server, calls) = lagging(nothing, there(&call, "Item")).await;
        let last_taken = (NOW + Duration::from_secs(4)).as_millis().to_string();
        let refused = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
            "Item": { "full_at": { "N": last_taken } },
        });
        Mock::given(wiremock::matchers::header(
            "x-amz-target",
            "DynamoDB_20120810.UpdateItem",
        ))
        .respond_with(ResponseTemplate::new(400).set_body_json(refused))
        .with_priority(1)
        .mount(&server)
        .await;
        let calls = calls.replicated_in("ap-south-1".to_owned());
        let refused = find_once_there(&calls, call.call_id, &call.extension, NOW).await;
        let Err(ReplicationWaitError::WaitsAlready(wait)) = refused else {
            panic!("{refused:?}")
        };
        assert_eq!(wait, Duration::from_secs(4));
        assert_eq!(requests(&server).await.len(), 2);
    }

    #[tokio::test]
    async fn where_there_is_one_region_nobody_waits() {
        let call = a_call(NOW);
        let nothing = ResponseTemplate::new(200).set_body_json(json!({}));
        let (server, calls) = lagging(nothing, there(&call, "Item")).await;
        let found = find_once_there(&calls, call.call_id, &call.extension, NOW).await;
        assert_eq!(found.unwrap(), None);
        assert_eq!(requests(&server).await.len(), 1);
    }
}
