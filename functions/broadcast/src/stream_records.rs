//! The records of the table's stream, and the changes of calls in them.

use ringback::store::calls::stored_in;
use ringback_core::call::Call;
use serde::Deserialize;
use serde_dynamo::Item;

/// A batch of the stream, as Lambda delivers it.
#[derive(Deserialize)]
pub(crate) struct StreamEvent {
    #[serde(rename = "Records")]
    records: Vec<StreamRecord>,
}

#[derive(Deserialize)]
struct StreamRecord {
    dynamodb: ItemChange,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ItemChange {
    sequence_number: String,
    #[serde(default)]
    new_image: Option<Item>,
    #[serde(default)]
    old_image: Option<Item>,
}

/// A call that was stored or changed.
pub(crate) struct CallChange {
    pub(crate) sequence_number: String,
    /// `None` for a new call.
    pub(crate) before: Option<Call>,
    pub(crate) after: Call,
    /// The region that first stored the call, where there are two.
    pub(crate) stored_in: Option<String>,
}

impl StreamEvent {
    /// The changes of calls, in the order of the stream. Items of other kinds and deleted calls are skipped.
    pub(crate) fn call_changes(self) -> Vec<CallChange> {
        let records = self.records.into_iter();
        records
            .filter_map(|record| record.dynamodb.into_call_change())
            .collect()
    }
}

impl ItemChange {
    fn into_call_change(self) -> Option<CallChange> {
        let new_item = self.new_image?;
        Some(CallChange {
            sequence_number: self.sequence_number,
            stored_in: stored_in(&new_item),
            before: self.old_image.and_then(call),
            after: call(new_item)?,
        })
    }
}

/// The call in an item, or `None` if the item is of another kind.
fn call(item: Item) -> Option<Call> {
    serde_dynamo::from_item(item).ok()
}
