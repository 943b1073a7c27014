//! The answers of the DynamoDB stand-in.
//!
//! The stand-in keeps items by key and evaluates no expressions. It answers the few kinds of request that the functions send:
//!
//! | request | answer |
//! | --- | --- |
//! | `GetItem` | the item |
//! | `Query` | the items of one partition, or of one partition of an index |
//! | `PutItem`, `TransactWriteItems` | stored, unless the condition is `attribute_not_exists(pk)` and the key exists |
//! | `UpdateItem` with `ALL_NEW` | the call after the update, unless it differs in a value that the condition names |
//! | `UpdateItem` without it | a counter, which always succeeds |
//! | `DeleteItem` | deleted |
//!
//! Checks of time and of absence always hold, because the bench sends each event when it is due. Any other request, such as
//! `Scan`, gets an error that makes the function and so the bench fail.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::units::{Item, RequestUnits, size};

/// Partition and sort key.
type Key = (String, String);

/// The partition keys of the two indexes. Both indexes project keys only.
const INDEX_KEYS: [&str; 2] = ["audience", "live_started_by"];

/// An answer of the DynamoDB stand-in.
#[derive(Debug)]
pub(super) struct ItemAnswer {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) units: RequestUnits,
}

/// The items that the stand-in answers with. A clone shares them.
#[derive(Clone, Debug, Default)]
pub struct StoredItems {
    /// Items by key, and index entries by the index's partition key and the item's sort key.
    items: BTreeMap<Key, Arc<Item>>,
    changes: Vec<ItemChange>,
}

/// An item before and after a write, as the table's stream shows it.
#[derive(Clone, Debug)]
pub struct ItemChange {
    /// `None` if the write created the item.
    pub before: Option<Arc<Item>>,
    /// `None` if the write deleted the item.
    pub after: Option<Arc<Item>>,
}

impl StoredItems {
    /// Stores an item, replacing the one with the same key.
    ///
    /// # Errors
    /// When the item has no key.
    pub fn put(&mut self, item: Item) -> Result<()> {
        self.put_at(key_in(&item)?, Arc::new(item));
        Ok(())
    }

    /// Stores an item under another key than the one in it, so that a million items can share one body.
    pub fn put_at(&mut self, key: Key, item: Arc<Item>) {
        for partition in index_partitions(&item) {
            let entry = Arc::new(keys_alone(&item));
            self.items.insert((partition, key.1.clone()), entry);
        }
        self.items.insert(key, item);
    }

    /// The changes since the last call of this method.
    pub fn take_changes(&mut self) -> Vec<ItemChange> {
        std::mem::take(&mut self.changes)
    }

    pub(super) fn answer(&mut self, operation: &str, request: &Value) -> Result<ItemAnswer> {
        match operation {
            "GetItem" => self.get(request),
            "Query" => self.query(request),
            // These are counters. The bench does not need their values.
            "UpdateItem" if !request["ReturnValues"].is_string() => {
                Ok(ok(json!({}), RequestUnits::of_write(0)))
            }
            "PutItem" | "UpdateItem" | "DeleteItem" => self.write(operation, request),
            "TransactWriteItems" => self.transact(request),
            other => bail!("the stand-in does not answer {other}"),
        }
    }

    fn get(&self, request: &Value) -> Result<ItemAnswer> {
        let item = self.items.get(&key_of(&request["Key"])?);
        let bytes = item.map_or(0, |item| size(item));
        let body = item.map_or_else(|| json!({}), |item| json!({ "Item": &**item }));
        let units = RequestUnits::of_read(bytes, is_consistent(request));
        Ok(ok(body, units))
    }

    /// The key condition is `KEY = :value`, or that with ` AND begins_with(sk, :value)`.
    fn query(&self, request: &Value) -> Result<ItemAnswer> {
        let text_of = |word: &str| request["ExpressionAttributeValues"][word]["S"].as_str();
        let condition = request["KeyConditionExpression"].as_str();
        let condition = condition.context("no key condition")?;
        let (partition, prefix) = condition
            .split_once(" AND begins_with(sk, ")
            .unwrap_or((condition, ""));
        let partition = partition
            .split_once(" = ")
            .and_then(|(_, word)| text_of(word));
        let partition = partition.with_context(|| format!("no partition in {condition}"))?;
        let prefix = text_of(prefix.trim_end_matches(')')).unwrap_or_default();
        let from = match request["ExclusiveStartKey"]["sk"]["S"].as_str() {
            Some(last) => Bound::Excluded((partition.to_owned(), last.to_owned())),
            None => Bound::Included((partition.to_owned(), prefix.to_owned())),
        };
        let limit = request["Limit"].as_u64().unwrap_or(u64::MAX);
        let limit = usize::try_from(limit)?;
        let found: Vec<&Item> = self
            .items
            .range((from, Bound::Unbounded))
            .take_while(|((pk, sk), _)| pk == partition && sk.starts_with(prefix))
            .map(|(_, item)| &**item)
            .take(limit)
            .collect();
        let bytes = found.iter().map(|item| size(item)).sum();
        let shown: Vec<Item> = found.iter().map(|item| projected(request, item)).collect();
        let mut body = json!({ "Count": found.len(), "ScannedCount": found.len(), "Items": shown });
        // DynamoDB stops at the limit and does not look whether another item follows.
        if let Some(last) = found.last().filter(|_| found.len() == limit) {
            body["LastEvaluatedKey"] = Value::Object(keys_alone(last));
        }
        Ok(ok(
            body,
            RequestUnits::of_read(bytes, is_consistent(request)),
        ))
    }

    fn write(&mut self, operation: &str, request: &Value) -> Result<ItemAnswer> {
        let planned = self.plan(operation, request)?;
        let units = planned.units;
        if planned.is_refused {
            let mut body = json!({
                "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
                "message": "The conditional request failed",
            });
            show_standing_item(&mut body, &planned, request);
            return Ok(ItemAnswer {
                status: 400,
                body,
                units,
            });
        }
        let shown = match request["ReturnValues"].as_str() {
            Some("ALL_NEW") => planned.after.clone(),
            Some("ALL_OLD") => planned.before.clone(),
            _ => None,
        };
        let shown = shown.map_or_else(|| json!({}), |item| json!({ "Attributes": &*item }));
        self.carry_out(planned);
        Ok(ok(shown, units))
    }

    fn transact(&mut self, request: &Value) -> Result<ItemAnswer> {
        let writes = request["TransactItems"].as_array().context("no items")?;
        let mut planned = Vec::new();
        for write in writes {
            let put = &write["Put"];
            ensure!(put.is_object(), "the stand-in puts only: {write}");
            planned.push((self.plan("PutItem", put)?, put));
        }
        // DynamoDB charges a transaction twice: once to prepare it and once to commit it.
        let written = planned.iter().map(|(plan, _)| plan.units.written * 2.0);
        let units = RequestUnits {
            read: 0.0,
            written: written.sum(),
        };
        if planned.iter().any(|(plan, _)| plan.is_refused) {
            let reasons: Vec<Value> = planned
                .iter()
                .map(|(plan, put)| reason(plan, put))
                .collect();
            let body = json!({
                "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
                "CancellationReasons": reasons,
            });
            return Ok(ItemAnswer {
                status: 400,
                body,
                units,
            });
        }
        for (plan, _) in planned {
            self.carry_out(plan);
        }
        Ok(ok(json!({}), units))
    }

    fn plan(&self, operation: &str, request: &Value) -> Result<PlannedWrite> {
        let key = match operation {
            "PutItem" => key_of(&request["Item"])?,
            _ => key_of(&request["Key"])?,
        };
        let before = self.items.get(&key).cloned();
        let (is_refused, after) = match (operation, before.as_deref()) {
            ("PutItem", before) => {
                let is_new_only = request["ConditionExpression"] == "attribute_not_exists(pk)";
                let item = request["Item"].as_object().cloned();
                (is_new_only && before.is_some(), item)
            }
            ("UpdateItem", None) => {
                let condition = request["ConditionExpression"].as_str().unwrap_or_default();
                let new = request["Key"].as_object().context("no key")?;
                match condition.contains("attribute_exists(pk)") {
                    true => (true, None),
                    false => (false, Some(updated(request, new)?)),
                }
            }
            ("UpdateItem", Some(before)) => {
                (differs(request, before)?, Some(updated(request, before)?))
            }
            _ => (false, None),
        };
        let after = after.filter(|_| !is_refused).map(Arc::new);
        let bytes = [&before, &after].map(|item| item.as_deref().map_or(0, size));
        let mut units = RequestUnits::of_write(bytes.into_iter().max().unwrap_or_default());
        if !is_refused {
            units.written += index_writes(before.as_deref(), after.as_deref());
        }
        Ok(PlannedWrite {
            key,
            is_refused,
            before,
            after,
            units,
        })
    }

    fn carry_out(&mut self, write: PlannedWrite) {
        for partition in write.before.iter().flat_map(|item| index_partitions(item)) {
            self.items.remove(&(partition, write.key.1.clone()));
        }
        match write.after.clone() {
            Some(item) => self.put_at(write.key, item),
            None => drop(self.items.remove(&write.key)),
        }
        self.changes.push(ItemChange {
            before: write.before,
            after: write.after,
        });
    }
}

/// A write with a known outcome, before it is carried out.
struct PlannedWrite {
    key: Key,
    is_refused: bool,
    before: Option<Arc<Item>>,
    after: Option<Arc<Item>>,
    units: RequestUnits,
}

/// Whether the item differs in a value that the condition requires (`#name = :value`): of the checks of a call's update, only
/// those of status, version and pending effects fail in the calls that the bench makes.
fn differs(request: &Value, item: &Item) -> Result<bool> {
    let condition = request["ConditionExpression"].as_str().unwrap_or_default();
    let mut differs = false;
    for term in condition.split(" AND ") {
        let (name, value) = term.split_once(" = ").unwrap_or_default();
        match request["ExpressionAttributeNames"][name].as_str() {
            Some(name) => {
                differs |= item.get(name) != request["ExpressionAttributeValues"].get(value);
            }
            // An unknown form of such a check would be taken to hold, and make the figures wrong.
            None => ensure!(
                !["#status", "#version"]
                    .iter()
                    .any(|name| term.contains(name)),
                "the stand-in does not know the check {term}"
            ),
        }
    }
    Ok(differs)
}

/// The item after the update: `ADD set :texts SET a = :value, b = list_append(b, :value), c = c + :value REMOVE d, e`.
fn updated(request: &Value, before: &Item) -> Result<Item> {
    let name_of = |word| attribute_name(request, word).to_owned();
    let update = request["UpdateExpression"].as_str().context("no update")?;
    let (sets, removes) = update.split_once(" REMOVE ").unwrap_or((update, ""));
    let (adds, sets) = sets.split_once("SET ").context("no SET clause")?;
    let mut after = before.clone();
    if let Some((name, word)) = adds.strip_prefix("ADD ").and_then(|it| it.split_once(' ')) {
        let name = name_of(name);
        let added = &request["ExpressionAttributeValues"][word.trim()]["SS"];
        let known = after.get(&name).map(|set| &set["SS"]);
        let texts = [known, Some(added)].into_iter().flatten();
        let union: BTreeSet<&str> = texts
            .filter_map(Value::as_array)
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        let union = json!({ "SS": union });
        after.insert(name, union);
    }
    for (name, value) in assignments(sets) {
        let name = name_of(name);
        let value = new_value(request, value, before)
            .with_context(|| format!("the stand-in cannot set {name} to {value}"))?;
        after.insert(name, value);
    }
    for name in removes.split(", ") {
        after.remove(&name_of(name));
    }
    Ok(after)
}

/// Splits `a = x, b = f(y, z)` into pairs of name and value.
fn assignments(sets: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = sets.split(" = ").collect();
    let last = parts.len().saturating_sub(2);
    let pairs = parts.windows(2).enumerate();
    pairs
        .filter_map(|(index, pair)| {
            let [left, right] = pair else { return None };
            let (_, name) = left.rsplit_once(", ").unwrap_or(("", left));
            let (value, _) = match index == last {
                true => (*right, ""),
                false => right.rsplit_once(", ")?,
            };
            Some((name, value))
        })
        .collect()
}

/// The name of an attribute that an expression names by itself or by a placeholder.
fn attribute_name<'a>(request: &'a Value, word: &'a str) -> &'a str {
    let name = request["ExpressionAttributeNames"][word].as_str();
    name.unwrap_or(word)
}

fn new_value(request: &Value, expression: &str, before: &Item) -> Option<Value> {
    // An attribute, or one in a map: `#settings.#kept_seconds`.
    let at = |path: &str| {
        let mut names = path.split('.').map(|word| attribute_name(request, word));
        let first = before.get(names.next()?)?;
        names.try_fold(first, |value, name| value["M"].get(name))
    };
    let value_of = |word: &str| request["ExpressionAttributeValues"].get(word);
    if let Some(operands) = expression.strip_prefix("list_append(") {
        let (path, word) = operands.strip_suffix(')')?.split_once(", ")?;
        let mut list = at(path)?["L"].as_array()?.clone();
        list.extend(value_of(word)?["L"].as_array()?.iter().cloned());
        return Some(json!({ "L": list }));
    }
    if let Some((path, word)) = expression.split_once(" + ") {
        let number = |value: &Value| value["N"].as_str()?.parse::<i64>().ok();
        let sum = number(at(path)?)? + number(value_of(word)?)?;
        return Some(json!({ "N": sum.to_string() }));
    }
    value_of(expression).cloned()
}

fn index_partitions(item: &Item) -> impl Iterator<Item = String> {
    let keys = INDEX_KEYS.into_iter();
    keys.filter_map(|key| Some(item.get(key)?["S"].as_str()?.to_owned()))
}

/// One unit for each index entry that a write creates or deletes.
fn index_writes(before: Option<&Item>, after: Option<&Item>) -> f64 {
    let is_in = |item: Option<&Item>, key| item.is_some_and(|item| item.contains_key(key));
    let written = INDEX_KEYS.map(|key| is_in(before, key) != is_in(after, key));
    written
        .map(|is_written| f64::from(u8::from(is_written)))
        .iter()
        .sum()
}

fn ok(body: Value, units: RequestUnits) -> ItemAnswer {
    ItemAnswer {
        status: 200,
        body,
        units,
    }
}

fn show_standing_item(answer: &mut Value, plan: &PlannedWrite, request: &Value) {
    let is_wanted = request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD";
    if let Some(item) = plan.before.as_deref().filter(|_| is_wanted) {
        answer["Item"] = json!(item);
    }
}

/// Why a transaction was cancelled, for one of its writes.
fn reason(plan: &PlannedWrite, put: &Value) -> Value {
    if !plan.is_refused {
        return json!({ "Code": "None" });
    }
    let mut reason = json!({ "Code": "ConditionalCheckFailed" });
    show_standing_item(&mut reason, plan, put);
    reason
}

fn is_consistent(request: &Value) -> bool {
    request["ConsistentRead"] == true
}

fn key_in(item: &Item) -> Result<Key> {
    let part = |name: &str| {
        let text = item.get(name).and_then(|value| value["S"].as_str());
        text.map(str::to_owned)
            .with_context(|| format!("no {name}"))
    };
    Ok((part("pk")?, part("sk")?))
}

fn key_of(item: &Value) -> Result<Key> {
    key_in(item.as_object().context("no item")?)
}

fn only(item: &Item, names: impl Iterator<Item = impl AsRef<str>>) -> Item {
    let found = names.filter_map(|name| item.get_key_value(name.as_ref()));
    found
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

fn keys_alone(item: &Item) -> Item {
    only(item, ["pk", "sk"].iter().chain(&INDEX_KEYS))
}

/// The attributes that the request asks for: all, if it names none.
fn projected(request: &Value, item: &Item) -> Item {
    match request["ProjectionExpression"].as_str() {
        Some(names) => only(item, names.split(", ")),
        None => item.clone(),
    }
}

#[cfg(test)]
mod tests;
