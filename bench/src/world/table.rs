//! A table in memory that answers as DynamoDB does to what the functions ask, and counts what DynamoDB would charge.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use super::expression::{Placeholders, holds, projected, updated};
use super::units::{Item, read_units, size, write_units};

/// Partition and sort key.
type Key = (String, String);

/// Request units, by DynamoDB's rules.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Units {
    /// Read request units: half a one where a read may be a little old.
    pub read: f64,
    /// Write request units.
    pub written: f64,
}

impl AddAssign for Units {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.written += other.written;
    }
}

/// How a request was answered.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) body: Value,
    pub(super) units: Units,
}

/// The table, its items shared where they are the same.
#[derive(Clone, Debug, Default)]
pub struct Table {
    items: BTreeMap<Key, Arc<Item>>,
    /// Key and sort key of the index `connections`, and the item's key.
    connections: BTreeMap<Key, Key>,
    changes: Vec<Change>,
}

/// An item before and after a write, as the table's stream shows it.
#[derive(Clone, Debug)]
pub struct Change {
    /// `None` where there was none.
    pub before: Option<Arc<Item>>,
    /// `None` where there is none any more.
    pub after: Option<Arc<Item>>,
}

impl Table {
    /// Puts an item there, whatever was there before.
    ///
    /// # Errors
    /// When it has no key.
    pub fn put(&mut self, item: impl Into<Arc<Item>>) -> Result<()> {
        let item = item.into();
        self.put_at(key_in(&item)?, item);
        Ok(())
    }

    /// Puts an item under another key than it names, so that a million may share one.
    pub fn put_at(&mut self, key: Key, item: Arc<Item>) {
        if let Some(audience) = text(&item, "audience") {
            let place = (audience.to_owned(), key.1.clone());
            self.connections.insert(place, key.clone());
        }
        self.items.insert(key, item);
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Item>> {
        let item = self.items.remove(key)?;
        if let Some(audience) = text(&item, "audience") {
            self.connections
                .remove(&(audience.to_owned(), key.1.clone()));
        }
        Some(item)
    }

    /// The items whose partition's key begins so.
    pub fn partitions<'a>(&'a self, start: &'a str) -> impl Iterator<Item = &'a Item> {
        let from = (start.to_owned(), String::new());
        let items = self.items.range(from..);
        items
            .take_while(move |((pk, _), _)| pk.starts_with(start))
            .map(|(_, item)| &**item)
    }

    /// How many items there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(super) fn answer(&mut self, operation: &str, request: &Value) -> Result<Reply> {
        match operation {
            "GetItem" => self.get(request),
            "PutItem" | "UpdateItem" | "DeleteItem" => self.write(operation, request),
            "TransactWriteItems" => self.transact(request),
            "Query" => self.query(request),
            other => bail!("{other} is not played here"),
        }
    }

    fn get(&self, request: &Value) -> Result<Reply> {
        let item = self.items.get(&key_of(&request["Key"])?);
        let bytes = item.map_or(0, |item| size(item));
        let units = Units {
            read: read_units(bytes, is_consistent(request)),
            written: 0.0,
        };
        let body = match item {
            Some(item) => json!({ "Item": projected(request, item) }),
            None => json!({}),
        };
        Ok(ok(body, units))
    }

    fn write(&mut self, operation: &str, request: &Value) -> Result<Reply> {
        let planned = self.plan(operation, request)?;
        let units = Units {
            read: 0.0,
            written: planned.units,
        };
        if !planned.holds {
            return Ok(Reply {
                status: 400,
                body: refused(request, planned.before.as_deref()),
                units,
            });
        }
        let mut body = json!({});
        let before = planned.before.clone();
        let after = planned.after.clone();
        self.carry_out(planned);
        let wanted = match request["ReturnValues"].as_str() {
            Some("ALL_NEW") => after,
            Some("ALL_OLD") => before,
            _ => None,
        };
        if let Some(item) = wanted {
            body["Attributes"] = Value::Object((*item).clone());
        }
        Ok(ok(body, units))
    }

    fn transact(&mut self, request: &Value) -> Result<Reply> {
        let writes = request["TransactItems"].as_array().context("no items")?;
        let mut planned = Vec::new();
        for write in writes {
            let (kind, write) = write
                .as_object()
                .and_then(|write| write.iter().next())
                .context("an empty write")?;
            let operation = match kind.as_str() {
                "Put" => "PutItem",
                "Update" => "UpdateItem",
                "Delete" => "DeleteItem",
                other => bail!("{other} is not played here"),
            };
            planned.push((self.plan(operation, write)?, write));
        }
        // A transaction is written twice: to prepare, and to commit.
        let written: f64 = planned.iter().map(|(plan, _)| plan.units * 2.0).sum();
        let units = Units { read: 0.0, written };
        if planned.iter().all(|(plan, _)| plan.holds) {
            for (plan, _) in planned {
                self.carry_out(plan);
            }
            return Ok(ok(json!({}), units));
        }
        let reasons: Vec<Value> = planned
            .iter()
            .map(|(plan, write)| reason(plan, write))
            .collect();
        let body = json!({
            "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
            "CancellationReasons": reasons,
        });
        Ok(Reply {
            status: 400,
            body,
            units,
        })
    }

    fn plan(&self, operation: &str, request: &Value) -> Result<Plan> {
        let key = match operation {
            "PutItem" => key_of(&request["Item"])?,
            _ => key_of(&request["Key"])?,
        };
        let before = self.items.get(&key).cloned();
        let placeholders = Placeholders { request };
        let holds = match request["ConditionExpression"].as_str() {
            Some(condition) => holds(condition, placeholders, before.as_deref())?,
            None => true,
        };
        let after = match operation {
            _ if !holds => None,
            "PutItem" => request["Item"].as_object().cloned(),
            "UpdateItem" => {
                let key = request["Key"].as_object().context("no key")?;
                let standing = before.as_deref().unwrap_or(key);
                let update = request["UpdateExpression"].as_str().context("no update")?;
                Some(updated(update, placeholders, standing)?)
            }
            _ => None,
        };
        let bytes = before.as_deref().map_or(0, size);
        let bytes = bytes.max(after.as_ref().map_or(0, size));
        // Both indexes keep keys only: one unit for each entry that is written or deleted.
        let index_entries = ["audience", "live_started_by"]
            .into_iter()
            .filter(|attribute| {
                let is_in = |item: &Item| item.contains_key(*attribute);
                before.as_deref().is_some_and(is_in) != after.as_ref().is_some_and(is_in)
            });
        let index_units = if holds { index_entries.count() } else { 0 };
        Ok(Plan {
            key,
            holds,
            before,
            after: after.map(Arc::new),
            units: write_units(bytes) + f64::from(u8::try_from(index_units)?),
        })
    }

    fn carry_out(&mut self, plan: Plan) {
        let before = self.remove(&plan.key);
        if let Some(item) = plan.after.clone() {
            self.put_at(plan.key, item);
        }
        let after = plan.after;
        self.changes.push(Change { before, after });
    }

    /// The changes since this was last asked for, as the table's stream shows them.
    pub fn changes(&mut self) -> Vec<Change> {
        std::mem::take(&mut self.changes)
    }

    fn query(&self, request: &Value) -> Result<Reply> {
        let by_index = request["IndexName"].is_string();
        let condition = request["KeyConditionExpression"]
            .as_str()
            .context("no key condition")?;
        let placeholders = Placeholders { request };
        let after = &request["ExclusiveStartKey"];
        let after = after.is_object().then(|| key_of(after)).transpose()?;
        // The index is in the order of its own sort key, which is the second half.
        let is_before = |key: &Key, after: &Key| match by_index {
            true => key.1 <= after.1,
            false => key <= after,
        };
        let limit = request["Limit"].as_u64().unwrap_or(u64::MAX);
        let mut found = Vec::new();
        let mut bytes = 0;
        let mut last = None;
        for (key, item) in self.partition_of(request, by_index)? {
            if after.as_ref().is_some_and(|after| is_before(&key, after)) {
                continue;
            }
            if !holds(condition, placeholders, Some(item))? {
                continue;
            }
            if u64::try_from(found.len())? == limit {
                last = found.last().map(keys_alone);
                break;
            }
            bytes += if by_index {
                size(&keys_alone(item))
            } else {
                size(item)
            };
            found.push(projected(request, item));
        }
        let units = Units {
            read: read_units(bytes, is_consistent(request)),
            written: 0.0,
        };
        let mut body = json!({ "Count": found.len(), "ScannedCount": found.len(), "Items": found });
        if let Some(last) = last {
            body["LastEvaluatedKey"] = Value::Object(last);
        }
        Ok(ok(body, units))
    }

    /// Only the partition that the query names is looked at, as in DynamoDB; all of its keys are equal to one value.
    fn partition_of<'a>(
        &'a self,
        request: &Value,
        by_index: bool,
    ) -> Result<Box<dyn Iterator<Item = (Key, &'a Item)> + 'a>> {
        let partition = partition_in(request)?;
        let from = (partition.clone(), String::new());
        if by_index {
            let places = self.connections.range(from..);
            let places = places.take_while(move |((audience, _), _)| *audience == partition);
            return Ok(Box::new(places.filter_map(|(_, key)| {
                Some((key.clone(), &**self.items.get(key)?))
            })));
        }
        let items = self.items.range(from..);
        let items = items.take_while(move |((pk, _), _)| *pk == partition);
        Ok(Box::new(items.map(|(key, item)| (key.clone(), &**item))))
    }
}

/// A write, before it is known whether all of its transaction go through.
struct Plan {
    key: Key,
    holds: bool,
    before: Option<Arc<Item>>,
    after: Option<Arc<Item>>,
    units: f64,
}

fn ok(body: Value, units: Units) -> Reply {
    Reply {
        status: 200,
        body,
        units,
    }
}

fn returns_old(request: &Value) -> bool {
    request["ReturnValuesOnConditionCheckFailure"] == "ALL_OLD"
}

fn refused(request: &Value, standing: Option<&Item>) -> Value {
    let mut body = json!({
        "__type": "com.amazonaws.dynamodb.v20120810#ConditionalCheckFailedException",
        "message": "The conditional request failed",
    });
    if let Some(item) = standing.filter(|_| returns_old(request)) {
        body["Item"] = Value::Object(item.clone());
    }
    body
}

fn reason(plan: &Plan, write: &Value) -> Value {
    if plan.holds {
        return json!({ "Code": "None" });
    }
    let mut reason = json!({ "Code": "ConditionalCheckFailed" });
    if let Some(item) = plan.before.as_deref().filter(|_| returns_old(write)) {
        reason["Item"] = Value::Object(item.clone());
    }
    reason
}

fn is_consistent(request: &Value) -> bool {
    request["ConsistentRead"] == true
}

fn text<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.get(name)?["S"].as_str()
}

fn key_in(item: &Item) -> Result<Key> {
    let part = |name| text(item, name).with_context(|| format!("no {name}"));
    Ok((part("pk")?.to_owned(), part("sk")?.to_owned()))
}

fn key_of(item: &Value) -> Result<Key> {
    key_in(item.as_object().context("no item")?)
}

fn keys_alone(item: &Item) -> Item {
    let keys = ["pk", "sk", "audience"].into_iter();
    keys.filter_map(|name| Some((name.to_owned(), item.get(name)?.clone())))
        .collect()
}

/// The value that the partition's key has to equal: each query of the functions names it first.
fn partition_in(request: &Value) -> Result<String> {
    let condition = request["KeyConditionExpression"]
        .as_str()
        .unwrap_or_default();
    let value = condition
        .split_whitespace()
        .find(|word| word.starts_with(':'))
        .context("no partition")?;
    let partition = &request["ExpressionAttributeValues"][value]["S"];
    Ok(partition.as_str().context("no partition")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(pk: &str, sk: &str) -> Value {
        json!({
            "Item": { "pk": { "S": pk }, "sk": { "S": sk } },
            "ConditionExpression": "attribute_not_exists(pk)",
            "ReturnValuesOnConditionCheckFailure": "ALL_OLD",
        })
    }

    #[test]
    fn a_refused_write_changes_nothing_and_shows_what_stands_there() -> Result<()> {
        let mut table = Table::default();
        assert_eq!(table.answer("PutItem", &put("CALL#1", "CALL"))?.status, 200);
        let refused = table.answer("PutItem", &put("CALL#1", "CALL"))?;
        assert_eq!(refused.status, 400);
        assert_eq!(refused.body["Item"]["pk"]["S"], "CALL#1");
        assert_eq!(table.len(), 1);
        Ok(())
    }

    #[test]
    fn a_transaction_is_all_or_nothing_and_costs_double() -> Result<()> {
        let mut table = Table::default();
        let both = |first: &str| json!({ "TransactItems": [{ "Put": put(first, "CALL") }, { "Put": put("CALLER#1", "MEETING") }] });
        let stored = table.answer("TransactWriteItems", &both("CALL#1"))?;
        assert_eq!((stored.status, stored.units.written), (200, 4.0));
        let cancelled = table.answer("TransactWriteItems", &both("CALL#2"))?;
        assert_eq!(cancelled.body["CancellationReasons"][0]["Code"], "None");
        assert_eq!(
            cancelled.body["CancellationReasons"][1]["Code"],
            "ConditionalCheckFailed"
        );
        assert_eq!(table.len(), 2);
        Ok(())
    }

    #[test]
    fn a_query_reads_one_partition_page_by_page() -> Result<()> {
        let mut table = Table::default();
        for (pk, sk) in [
            ("A", "DEVICE#1"),
            ("A", "DEVICE#2"),
            ("A", "X"),
            ("B", "DEVICE#3"),
        ] {
            table.answer("PutItem", &put(pk, sk))?;
        }
        let mut query = json!({
            "KeyConditionExpression": "pk = :pk AND begins_with(sk, :start)", "Limit": 1,
            "ExpressionAttributeValues": { ":pk": { "S": "A" }, ":start": { "S": "DEVICE#" } },
        });
        let first = table.answer("Query", &query)?;
        assert_eq!(
            (first.body["Count"].as_u64(), first.units.read),
            (Some(1), 0.5)
        );
        query["ExclusiveStartKey"] = first.body["LastEvaluatedKey"].clone();
        let second = table.answer("Query", &query)?;
        assert_eq!(second.body["Items"][0]["sk"]["S"], "DEVICE#2");
        assert!(second.body["LastEvaluatedKey"].is_null());
        Ok(())
    }

    #[test]
    fn connections_are_found_by_the_index() -> Result<()> {
        let mut table = Table::default();
        let connected = json!({ "Item": {
            "pk": { "S": "EXTENSION#1001" }, "sk": { "S": "CONNECTION#r#1" }, "audience": { "S": "everyone#r#3" },
        } });
        assert_eq!(table.answer("PutItem", &connected)?.units.written, 2.0);
        let query = json!({
            "IndexName": "connections", "KeyConditionExpression": "audience = :a",
            "ExpressionAttributeValues": { ":a": { "S": "everyone#r#3" } },
        });
        assert_eq!(table.answer("Query", &query)?.body["Count"], 1);
        Ok(())
    }

    #[test]
    fn the_index_is_read_page_by_page_in_its_own_order() -> Result<()> {
        let mut table = Table::default();
        // The later a connection, the earlier its extension.
        for number in 0..9 {
            let connected = json!({ "Item": {
                "pk": { "S": format!("EXTENSION#{}", 9 - number) }, "sk": { "S": format!("CONNECTION#r#{number}") },
                "audience": { "S": "everyone#r#3" },
            } });
            table.answer("PutItem", &connected)?;
        }
        let mut query = json!({
            "IndexName": "connections", "KeyConditionExpression": "audience = :a", "Limit": 2,
            "ExpressionAttributeValues": { ":a": { "S": "everyone#r#3" } },
        });
        let mut found = 0;
        loop {
            let page = table.answer("Query", &query)?.body;
            found += page["Count"].as_u64().unwrap_or_default();
            if page["LastEvaluatedKey"].is_null() {
                assert_eq!(found, 9);
                return Ok(());
            }
            query["ExclusiveStartKey"] = page["LastEvaluatedKey"].clone();
        }
    }
}
