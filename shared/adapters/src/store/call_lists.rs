//! The list of an extension's recent calls.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `CALL#{start of the call, epoch ms}#{call id without its check field}`, `call_id`. A call
//! between two extensions has an item for each. The item names the call and has nothing else of it, so it is written once, beside the
//! table's stream, and never changes. A copy of the call would be written again with each change, in each region. Both regions write the
//! same item: either may be lost before it has.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use ringback_core::call::Call;
use ringback_core::ids::{BadName, CallId, Extension};

use crate::store::table::{Item, ItemKey, StoreError, Table, extension_partition, number, text};

/// The prefix of the sort keys.
const PREFIX: &str = "CALL#";

/// The lists of calls in the table.
#[derive(Clone, Debug)]
pub struct CallLists {
    table: Table,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallListPage {
    /// The calls, the newest first.
    pub call_ids: Vec<CallId>,
    /// Where the next page begins. `None` if there is none.
    pub next: Option<ListPosition>,
}

/// A place in a list: after this call. Clients get it as a token, with no meaning to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListPosition(String);

impl ListPosition {
    /// The position as it is in a sort key.
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl CallLists {
    /// The lists in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Adds a call to the lists of its extensions. Repeating it changes nothing.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn add(&self, call: &Call) -> Result<(), StoreError> {
        for extension in call.participants() {
            let attributes = Item::from([
                ("call_id".to_owned(), text(call.call_id)),
                ("expires_at".to_owned(), number(call.expires_at)),
            ]);
            let put = self
                .table
                .put(key(extension, &position_of(call)), attributes);
            put.send()
                .await
                .map_err(StoreError::unavailable("adding a call to a list"))?;
        }
        Ok(())
    }

    /// The extension's calls after `after`, in one query.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn page(
        &self,
        extension: &Extension,
        limit: usize,
        after: Option<&ListPosition>,
    ) -> Result<CallListPage, StoreError> {
        // One more than the page shows whether there is another page.
        let at_most = i32::try_from(limit).unwrap_or(i32::MAX).saturating_add(1);
        let query = self
            .table
            .query()
            .key_condition_expression("pk = :pk AND begins_with(sk, :call)")
            .expression_attribute_values(":pk", text(extension_partition(extension)))
            .expression_attribute_values(":call", text(PREFIX))
            .scan_index_forward(false)
            .limit(at_most)
            .set_exclusive_start_key(after.map(|after| key(extension, after).into_item()));
        let answer = query.send().await;
        let answer = answer.map_err(StoreError::unavailable("listing calls"))?;
        let mut items = answer.items.unwrap_or_default();
        let has_more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| has_more).and_then(position_in);
        let call_ids = items.iter().filter_map(call_id_in).collect();
        Ok(CallListPage { call_ids, next })
    }
}

fn key(extension: &Extension, position: &ListPosition) -> ItemKey {
    ItemKey::of_extension(extension, format!("{PREFIX}{}", position.0))
}

/// Calls that began in the same millisecond are ordered by their ids.
pub(super) fn position_of(call: &Call) -> ListPosition {
    let began = call.created_at.as_millis();
    ListPosition(format!("{began:013}#{}", call.call_id.key()))
}

fn position_in(item: &Item) -> Option<ListPosition> {
    let key = item.get("sk")?.as_s().ok()?;
    key.strip_prefix(PREFIX)
        .map(|position| ListPosition(position.to_owned()))
}

pub(super) fn call_id_in(item: &Item) -> Option<CallId> {
    CallId::try_from(item.get("call_id")?.as_s().ok()?.as_str()).ok()
}

/// The token.
impl fmt::Display for ListPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64.encode(&self.0))
    }
}

impl TryFrom<&str> for ListPosition {
    type Error = BadName;

    fn try_from(token: &str) -> Result<Self, BadName> {
        let decoded = BASE64.decode(token).ok();
        let position = decoded.and_then(|bytes| String::from_utf8(bytes).ok());
        let is_position = |position: &String| {
            let parts = position.split_once('#');
            parts.is_some_and(|(began, call)| {
                let is_time = began.len() == 13 && began.bytes().all(|it| it.is_ascii_digit());
                let is_id = |it: u8| it.is_ascii_hexdigit() || it == b'-';
                is_time && call.len() == KEY_LENGTH && call.bytes().all(is_id)
            })
        };
        position.filter(is_position).map(Self).ok_or(BadName {
            what: "next",
            rule: "must be the next of an earlier answer",
        })
    }
}

/// The length of a call's id without its check field.
const KEY_LENGTH: usize = 36 - 2 * CallId::CHECK_LENGTH;

#[cfg(test)]
mod tests {
    use ringback_core::testing::a_call;
    use ringback_core::timestamp::Timestamp;
    use serde_json::{Value, json};
    use wiremock::matchers::any;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn call_at(millis: u64) -> Call {
        a_call(Timestamp::from_millis(NOW.as_millis() + millis))
    }

    /// The list in a table that answers a query with these calls.
    async fn lists_with(calls: &[Call]) -> (MockServer, CallLists) {
        let items: Vec<Value> = calls.iter().map(item).collect();
        let server = MockServer::start().await;
        Mock::given(any())
            .respond_with(ResponseTemplate::new(200).set_body_json(json!({ "Items": items })))
            .mount(&server)
            .await;
        let lists = CallLists::new(testing::table(&server));
        (server, lists)
    }

    fn item(call: &Call) -> Value {
        let position = position_of(call).0;
        json!({
            "pk": { "S": "EXTENSION#1001" },
            "sk": { "S": format!("CALL#{position}") },
            "call_id": { "S": call.call_id },
        })
    }

    #[tokio::test]
    async fn a_page_is_one_query_and_its_token_continues_after_its_last_call() {
        let calls = [call_at(2), call_at(1), call_at(0)];
        let (server, lists) = lists_with(&calls).await;
        let extension = &calls[0].extension;
        let page = lists.page(extension, 2, None).await.unwrap();
        assert_eq!(page.call_ids, [calls[0].call_id, calls[1].call_id]);
        let token = page.next.unwrap().to_string();
        let next = ListPosition::try_from(token.as_str()).unwrap();
        assert_eq!(next, position_of(&calls[1]));

        lists.page(extension, 3, Some(&next)).await.unwrap();
        let [first, second] = testing::requests(&server).await.try_into().unwrap();
        let [first, second] = [first, second].map(|it| it.body_json::<Value>().unwrap());
        assert_eq!(first["ExclusiveStartKey"], Value::Null);
        assert_eq!(first["ScanIndexForward"], false);
        assert_eq!(first["Limit"], 3);
        assert_eq!(second["ExclusiveStartKey"]["sk"], item(&calls[1])["sk"]);
    }

    #[tokio::test]
    async fn the_last_page_has_no_next() {
        let calls = [call_at(1), call_at(0)];
        let (_server, lists) = lists_with(&calls).await;
        let page = lists.page(&calls[0].extension, 2, None).await.unwrap();
        assert_eq!((page.call_ids.len(), page.next), (2, None));
    }

    #[test]
    fn a_token_that_this_api_did_not_make_is_rejected() {
        let forged = |text: &str| BASE64.encode(text);
        let id = call_at(0).call_id.key();
        for token in [
            String::new(),
            "next".to_owned(),
            forged("DEVICE#pixel"),
            forged(&format!("1#{id}")),
            forged(&format!("1710417600000#{id}#more")),
            forged(&format!("171041760000x#{id}")),
        ] {
            assert!(ListPosition::try_from(token.as_str()).is_err(), "{token}");
        }
        let made = forged(&format!("1710417600000#{id}"));
        assert!(ListPosition::try_from(made.as_str()).is_ok());
    }

    proptest::proptest! {
        #[test]
        fn a_later_call_comes_first(one in 0_u64..u64::MAX >> 24, other in 0_u64..u64::MAX >> 24) {
            let [one, other] = [one, other].map(|at| (at, position_of(&a_call(Timestamp::from_millis(at))).0));
            proptest::prop_assert!(one.0 == other.0 || (one.0 < other.0) == (one.1 < other.1));
        }

        #[test]
        fn any_text_is_a_position_or_an_error(token in ".{0,80}") {
            let _ = ListPosition::try_from(token.as_str());
        }
    }
}
