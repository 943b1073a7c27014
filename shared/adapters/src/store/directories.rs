//! Two directories: dialled number → extension, and extension → its person's telephone number. Admins write them, calls read them. The
//! audit trail has every change, written in the same transaction.
//!
//! Items: `pk` = `NUMBERS`, `sk` = number, `extension`; `pk` = `EXTENSIONS`, `sk` = extension, `number`; `pk` = `AUDIT`, `sk` =
//! `{epoch ms}#{random}`, a [`Change`]. Each directory is one partition, so that a query lists it in order. A call reads one item of it; a
//! partition answers 6,000 such reads per second, several times what the routes of calls let through.

use std::time::Duration;

use aws_sdk_dynamodb::types::{Delete, Put, TransactWriteItem};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::store::table::{
    Item, ItemKey, StoreError, Table, TransactionOutcome, expiry, text, transaction_outcome,
};
use ringback_core::ids::{BadName, Extension};
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;

const AUDIT: &str = "AUDIT";

/// How long the audit trail has a change: 400 days, so that a yearly review sees the whole year.
const AUDIT_KEPT_FOR: Duration = Duration::from_secs(400 * 24 * 60 * 60);

/// How many entries a page has.
const PAGE: usize = 100;

/// One of the two directories.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Directory {
    /// Dialled number → extension.
    Numbers,
    /// Extension → its person's telephone number, which Exotel calls first when the app calls a telephone.
    Extensions,
}

impl Directory {
    const fn partition(self) -> &'static str {
        match self {
            Self::Numbers => "NUMBERS",
            Self::Extensions => "EXTENSIONS",
        }
    }

    /// The name of an entry's key.
    #[must_use]
    pub const fn key_name(self) -> &'static str {
        match self {
            Self::Numbers => "number",
            Self::Extensions => "extension",
        }
    }

    /// The name of an entry's value.
    #[must_use]
    pub const fn value_name(self) -> &'static str {
        match self {
            Self::Numbers => "extension",
            Self::Extensions => "number",
        }
    }
}

/// Which entry of which directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryKey {
    /// The route of a dialled number.
    Number(PhoneNumber),
    /// The telephone number of an extension.
    Extension(Extension),
}

impl EntryKey {
    /// Its directory.
    #[must_use]
    pub const fn directory(&self) -> Directory {
        match self {
            Self::Number(_) => Directory::Numbers,
            Self::Extension(_) => Directory::Extensions,
        }
    }

    /// The number or the extension.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Number(number) => number.as_str(),
            Self::Extension(extension) => extension.as_str(),
        }
    }

    /// The key of its item.
    #[must_use]
    pub fn item_key(&self) -> ItemKey {
        ItemKey::new(self.directory().partition(), self.as_str())
    }
}

/// The strong `ETag` of an entry with this value. It is made from the value alone, so a value written in the other region has another
/// one, and an entry that was written by hand has one too.
#[must_use]
pub fn etag(value: &str) -> String {
    let hash = Sha256::digest(value);
    format!("\"{}\"", BASE64.encode(&hash[..12]))
}

/// A change of one entry, as the audit trail keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// When.
    pub at: Timestamp,
    /// Who: the subject of the admin's token.
    pub by: String,
    /// The directory.
    pub directory: Directory,
    /// The key of the entry.
    pub key: String,
    /// The value before. `None`: there was no entry.
    pub before: Option<String>,
    /// The value after. `None`: the entry is deleted.
    pub after: Option<String>,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries, in order.
    pub entries: Vec<T>,
    /// Where the next page begins. `None` if there is none.
    pub next: Option<Position>,
}

/// A place in a list: after the item with this sort key. Clients get it as a token, with no meaning to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position(String);

impl Position {
    /// The token.
    #[must_use]
    pub fn token(&self) -> String {
        BASE64.encode(&self.0)
    }
}

impl TryFrom<&str> for Position {
    type Error = BadName;

    fn try_from(token: &str) -> Result<Self, BadName> {
        let decoded = BASE64.decode(token).ok();
        let key = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let is_key = |key: &String| (1..=128).contains(&key.len());
        key.filter(is_key).map(Self).ok_or(BadName {
            what: "next",
            rule: "must be the next of an earlier answer",
        })
    }
}

/// The two directories and their audit trail in the table.
#[derive(Clone, Debug)]
pub struct Directories {
    table: Table,
}

impl Directories {
    /// The directories in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// The value of an entry, as it is after all earlier changes in this region.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn find(&self, key: &EntryKey) -> Result<Option<String>, StoreError> {
        let read = self.table.get(key.item_key()).consistent_read(true).send();
        let answer = read.await;
        let answer = answer.map_err(StoreError::unavailable("looking up an entry"))?;
        let item = answer.item.unwrap_or_default();
        Ok(text_in(&item, key.directory().value_name()))
    }

    /// The keys and values of a directory after `after`, in one query.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn page(
        &self,
        directory: Directory,
        after: Option<&Position>,
    ) -> Result<Page<(String, String)>, StoreError> {
        let entry = |item| {
            let value = text_in(&item, directory.value_name())?;
            Some((text_in(&item, "sk")?, value))
        };
        self.list(directory.partition(), true, after, entry).await
    }

    /// The changes after `after`, the newest first, in one query.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn changes(&self, after: Option<&Position>) -> Result<Page<Change>, StoreError> {
        let change = |item| serde_dynamo::from_item(item).ok();
        self.list(AUDIT, false, after, change).await
    }

    async fn list<T>(
        &self,
        partition: &str,
        is_forward: bool,
        after: Option<&Position>,
        read: impl Fn(Item) -> Option<T>,
    ) -> Result<Page<T>, StoreError> {
        let start = after.map(|after| ItemKey::new(partition, &after.0).into_item());
        let query = self
            .table
            .query()
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", text(partition))
            .scan_index_forward(is_forward)
            // One more than the page shows whether there is another page.
            .limit(i32::try_from(PAGE).unwrap_or(i32::MAX).saturating_add(1))
            .set_exclusive_start_key(start);
        let answer = query.send().await;
        let answer = answer.map_err(StoreError::unavailable("listing a directory"))?;
        let mut items = answer.items.unwrap_or_default();
        let has_more = items.len() > PAGE;
        items.truncate(PAGE);
        let last = items.last().filter(|_| has_more);
        Ok(Page {
            next: last.and_then(|item| text_in(item, "sk")).map(Position),
            entries: items.into_iter().filter_map(read).collect(),
        })
    }

    /// Writes the value after the change, and the change into the audit trail: both or neither. Returns `false`, and writes nothing, if
    /// the entry does not have the value before the change, or another transaction is writing it.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn apply(&self, key: &EntryKey, change: &Change) -> Result<bool, StoreError> {
        let doing = "changing an entry";
        let writes = [self.write_entry(key, change)?, self.write_audit(change)?];
        // If the answer is lost, the SDK repeats the transaction with the same token, and DynamoDB runs it once.
        let transaction = self.table.client().transact_write_items();
        let sent = transaction.set_transact_items(Some(writes.into())).send();
        Ok(transaction_outcome(sent.await, doing)? == TransactionOutcome::Written)
    }

    fn write_entry(
        &self,
        key: &EntryKey,
        change: &Change,
    ) -> Result<TransactWriteItem, StoreError> {
        let (table, value_name) = (self.table.name(), key.directory().value_name());
        let (condition, before) = match &change.before {
            None => ("attribute_not_exists(pk)", None),
            Some(before) => ("#value = :before", Some(text(before))),
        };
        let names = before
            .is_some()
            .then(|| [("#value".to_owned(), value_name.to_owned())].into());
        let values = before.map(|before| [(":before".to_owned(), before)].into());
        let item_key = key.item_key().into_item();
        let write = TransactWriteItem::builder();
        let unavailable = StoreError::unavailable("changing an entry");
        Ok(match &change.after {
            Some(after) => {
                let put = Put::builder()
                    .table_name(table)
                    .set_item(Some(item_key))
                    .item(value_name, text(after))
                    .condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build();
                write.put(put.map_err(unavailable)?)
            }
            None => {
                let delete = Delete::builder()
                    .table_name(table)
                    .set_key(Some(item_key))
                    .condition_expression(condition)
                    .set_expression_attribute_names(names)
                    .set_expression_attribute_values(values)
                    .build();
                write.delete(delete.map_err(unavailable)?)
            }
        }
        .build())
    }

    fn write_audit(&self, change: &Change) -> Result<TransactWriteItem, StoreError> {
        let doing = "writing the audit trail";
        let item: Item = serde_dynamo::to_item(change).map_err(StoreError::unreadable(doing))?;
        let at = change.at.as_millis();
        let key = ItemKey::new(AUDIT, format!("{at:013}#{}", Uuid::new_v4().simple()));
        let put = Put::builder()
            .table_name(self.table.name())
            .set_item(Some(item.into_iter().chain(key.into_item()).collect()))
            .item("expires_at", expiry(change.at + AUDIT_KEPT_FOR))
            .build()
            .map_err(StoreError::unavailable(doing))?;
        Ok(TransactWriteItem::builder().put(put).build())
    }
}

pub(super) fn text_in(item: &Item, attribute: &str) -> Option<String> {
    item.get(attribute)?.as_s().ok().cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    async fn directories(answer: ResponseTemplate) -> (MockServer, Directories) {
        let server = MockServer::start().await;
        Mock::given(any()).respond_with(answer).mount(&server).await;
        let directories = Directories::new(testing::table(&server));
        (server, directories)
    }

    async fn only_request(server: &MockServer) -> Value {
        let [request] = testing::requests(server).await.try_into().unwrap();
        request.body_json().unwrap()
    }

    fn change(before: Option<&str>, after: Option<&str>) -> (EntryKey, Change) {
        let number = PhoneNumber::parse("+918047491899", "IN").unwrap();
        let change = Change {
            at: NOW,
            by: "priya".to_owned(),
            directory: Directory::Numbers,
            key: number.to_string(),
            before: before.map(str::to_owned),
            after: after.map(str::to_owned),
        };
        (EntryKey::Number(number), change)
    }

    #[tokio::test]
    async fn a_change_and_its_audit_are_one_transaction_on_the_value_before() {
        for (before, after, kind, condition) in [
            (None, Some("1001"), "Put", "attribute_not_exists(pk)"),
            (Some("1001"), Some("1002"), "Put", "#value = :before"),
            (Some("1002"), None, "Delete", "#value = :before"),
        ] {
            let (server, directories) = directories(ResponseTemplate::new(200)).await;
            let (key, change) = change(before, after);
            assert!(directories.apply(&key, &change).await.unwrap());
            let request = only_request(&server).await;
            assert!(request["ClientRequestToken"].is_string());
            let [entry, audit] = &*request["TransactItems"].as_array().unwrap().clone() else {
                panic!("{request}");
            };
            let write = &entry[kind];
            assert_eq!(write["ConditionExpression"], condition);
            let expected = before.map_or(Value::Null, |it| json!({ "S": it }));
            assert_eq!(write["ExpressionAttributeValues"][":before"], expected);
            let audit = &audit["Put"]["Item"];
            assert_eq!(
                (&audit["pk"]["S"], &audit["by"]["S"]),
                (&"AUDIT".into(), &"priya".into())
            );
            let kept_until = NOW.as_secs_rounded_up() + 400 * 24 * 60 * 60;
            assert_eq!(audit["expires_at"]["N"], kept_until.to_string());
        }
    }

    #[tokio::test]
    async fn a_canceled_transaction_writes_nothing() {
        let error = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
        let answer = ResponseTemplate::new(400).set_body_json(json!({ "__type": error }));
        let (_server, directories) = directories(answer).await;
        let (key, change) = change(None, Some("1001"));
        assert!(!directories.apply(&key, &change).await.unwrap());
    }

    #[tokio::test]
    async fn a_page_is_one_query_and_its_token_continues_after_its_last_entry() {
        let item = |number: usize| json!({ "sk": { "S": format!("+91804749{number:04}") }, "extension": { "S": "1001" } });
        let items: Vec<Value> = (0..=PAGE).map(item).collect();
        let found = ResponseTemplate::new(200).set_body_json(json!({ "Items": items }));
        let (server, directories) = directories(found).await;
        let page = directories.page(Directory::Numbers, None).await.unwrap();
        assert_eq!(page.entries.len(), PAGE);
        assert_eq!(
            page.entries[1],
            ("+918047490001".to_owned(), "1001".to_owned())
        );
        let next = Position::try_from(page.next.unwrap().token().as_str()).unwrap();
        directories
            .page(Directory::Numbers, Some(&next))
            .await
            .unwrap();
        let [first, second] = testing::requests(&server).await.try_into().unwrap();
        let [first, second] = [first, second].map(|it| it.body_json::<Value>().unwrap());
        assert_eq!(first["ExclusiveStartKey"], Value::Null);
        let start = json!({ "pk": { "S": "NUMBERS" }, "sk": { "S": "+918047490099" } });
        assert_eq!(second["ExclusiveStartKey"], start);
    }

    #[tokio::test]
    async fn changes_are_read_as_they_were_written_the_newest_first() {
        let (_, change) = change(Some("1001"), None);
        let item = json!({
            "pk": { "S": "AUDIT" }, "sk": { "S": "1710417600000#x" }, "expires_at": { "N": "1" },
            "at": { "N": "1710417600000" }, "by": { "S": "priya" }, "directory": { "S": "numbers" },
            "key": { "S": "+918047491899" }, "before": { "S": "1001" }, "after": { "NULL": true },
        });
        let found = ResponseTemplate::new(200).set_body_json(json!({ "Items": [item] }));
        let (server, directories) = directories(found).await;
        let page = directories.changes(None).await.unwrap();
        assert_eq!((page.entries, page.next), (vec![change], None));
        assert_eq!(only_request(&server).await["ScanIndexForward"], false);
    }

    #[test]
    fn an_etag_is_strong_and_differs_with_the_value() {
        assert!(etag("1001").starts_with('"') && etag("1001").ends_with('"'));
        assert_ne!(etag("1001"), etag("1002"));
    }

    #[test]
    fn a_token_that_no_answer_had_is_rejected() {
        for token in [
            "",
            "é",
            "a",
            &BASE64.encode("x".repeat(129)),
            &BASE64.encode([0xff]),
        ] {
            assert!(Position::try_from(token).is_err(), "{token}");
        }
    }
}
