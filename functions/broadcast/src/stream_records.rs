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

/// The call in an item, or `None` if the item is of another kind. A call that cannot be read is logged: its clients get no update.
fn call(item: Item) -> Option<Call> {
    // Only calls have a version. An alias of a call has the same keys as a call.
    let is_call = item.inner().contains_key("version");
    match serde_dynamo::from_item(item) {
        Ok(call) => Some(call),
        Err(error) => {
            if is_call {
                tracing::error!(%error, "call item cannot be read");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_core::call::CallStatus;

    #[test]
    fn the_example_event_has_a_change_of_a_call() {
        let event = include_str!("../../../events/broadcast-status.json");
        let event: StreamEvent = serde_json::from_str(event).unwrap();
        let changes = event.call_changes();
        let statuses: Vec<_> = changes
            .iter()
            .map(|change| {
                (
                    change.before.as_ref().map(|call| call.status),
                    change.after.status,
                )
            })
            .collect();
        assert_eq!(
            statuses,
            [(Some(CallStatus::MobileReady), CallStatus::InProgress)]
        );
    }
}
