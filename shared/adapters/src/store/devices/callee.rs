//! What decides whether an extension takes a call now: its items beside its devices, which the same query returns.
//!
//! Items: `sk` = `DO-NOT-DISTURB`, `until`: it takes no calls before this moment. `sk` = `DURING-CALL#{call id}`: it may talk in this call.
//! This one is only a hint, which is written after the call has changed: the call itself says whether the two still talk.

use std::cmp::Reverse;

use aws_sdk_dynamodb::types::AttributeValue;
use ringback_core::call::{Call, CallWaiting};
use ringback_core::ids::{CallId, Extension};
use ringback_core::timestamp::Timestamp;

use super::{Device, Devices, readable};
use crate::store::table::{Item, ItemKey, StoreError, expiry, extension_partition, millis, text};

const DO_NOT_DISTURB: &str = "DO-NOT-DISTURB";
const DURING_CALL: &str = "DURING-CALL#";

/// How many hints are read. A person normally talks in one call; a leftover hint stays until it expires.
const MOST_HINTS: usize = 5;

/// An extension that is called.
#[derive(Clone, Debug, Default)]
pub struct Callee {
    /// Its devices.
    pub devices: Vec<Device>,
    /// Until when it takes no calls. This moment may have passed.
    pub do_not_disturb_until: Option<Timestamp>,
    /// The calls in which it may talk, the last one first.
    pub during_calls: Vec<CallId>,
}

impl Callee {
    /// Whether it may have refused this call when the call was stored. Only the calls in which it may talk show whether it has.
    #[must_use]
    pub fn may_refuse(&self, call: &Call) -> bool {
        let until = self.do_not_disturb_until;
        until.is_some_and(|until| call.created_at < until)
            || self.other_calls(call).next().is_some()
    }

    /// The calls in which it may talk, if a conversation keeps it from taking `call`.
    pub fn other_calls(&self, call: &Call) -> impl Iterator<Item = CallId> {
        let counts = call.settings.call_waiting == CallWaiting::Busy;
        let others = self.during_calls.iter().copied();
        others.filter(move |id| counts && *id != call.call_id)
    }
}

impl Devices {
    /// An extension with its devices and with what decides whether it takes a call at `now`, in one query. What this version of the code
    /// cannot read is left out, so that the call rings.
    ///
    /// # Errors
    /// When the table cannot be read.
    pub async fn callee(
        &self,
        extension: &Extension,
        now: Timestamp,
    ) -> Result<Callee, StoreError> {
        let query = self
            .table
            .query()
            .key_condition_expression("pk = :pk AND begins_with(sk, :first)")
            .expression_attribute_values(":pk", text(extension_partition(extension)))
            // `DEVICE#`, `DO-NOT-DISTURB` and `DURING-CALL#`.
            .expression_attribute_values(":first", text("D"));
        let answer = query.send().await;
        let answer = answer.map_err(StoreError::unavailable("looking up a callee"))?;
        let mut callee = Callee::default();
        let mut hints = Vec::new();
        for item in answer.items.unwrap_or_default() {
            match item.get("sk").and_then(|key| key.as_s().ok()) {
                Some(key) if key == DO_NOT_DISTURB => {
                    callee.do_not_disturb_until = moment(&item, "until");
                }
                Some(key) if key.starts_with(DURING_CALL) => hints.extend(hint(&item, now)),
                _ => callee.devices.extend(readable(item)),
            }
        }
        hints.sort_by_key(|(expires_at, _)| Reverse(*expires_at));
        let last = hints.into_iter().take(MOST_HINTS);
        callee.during_calls = last.map(|(_, call)| call).collect();
        Ok(callee)
    }

    /// The extension takes no calls until this moment. `None`: it takes calls.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn set_do_not_disturb(
        &self,
        extension: &Extension,
        until: Option<Timestamp>,
    ) -> Result<(), StoreError> {
        let key = ItemKey::of_extension(extension, DO_NOT_DISTURB);
        let unavailable = "setting do-not-disturb";
        let Some(until) = until else {
            let deleted = self.table.delete(key).send().await;
            return deleted
                .map(drop)
                .map_err(StoreError::unavailable(unavailable));
        };
        let attributes = Item::from([
            ("until".to_owned(), millis(until)),
            ("expires_at".to_owned(), expiry(until)),
        ]);
        let put = self.table.put(key, attributes).send().await;
        put.map(drop).map_err(StoreError::unavailable(unavailable))
    }

    /// Writes the hints when a conversation begins, and deletes them when it ends, if the deployment refuses second calls. Repeating it
    /// changes nothing.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub async fn note_conversation(
        &self,
        before: Option<&Call>,
        after: &Call,
    ) -> Result<(), StoreError> {
        let Some(talks) = after.conversation_change(before) else {
            return Ok(());
        };
        for extension in after.participants() {
            let key = format!("{DURING_CALL}{}", after.call_id.key());
            let key = ItemKey::of_extension(extension, key);
            let noted = if talks {
                let attributes = Item::from([
                    ("call_id".to_owned(), text(after.call_id)),
                    ("expires_at".to_owned(), expiry(after.ends_by())),
                ]);
                let put = self.table.put(key, attributes).send().await;
                put.map(drop)
                    .map_err(StoreError::unavailable("noting a conversation"))
            } else {
                let deleted = self.table.delete(key).send().await;
                deleted
                    .map(drop)
                    .map_err(StoreError::unavailable("noting the end of a conversation"))
            };
            noted?;
        }
        Ok(())
    }
}

/// The call of a hint that has not expired, and when it does. DynamoDB deletes it up to days later.
fn hint(item: &Item, now: Timestamp) -> Option<(u64, CallId)> {
    let expires_at = item.get("expires_at").and_then(whole_number)?;
    let call = CallId::try_from(item.get("call_id")?.as_s().ok()?.as_str()).ok()?;
    (expires_at > now.as_secs_rounded_up()).then_some((expires_at, call))
}

fn moment(item: &Item, name: &str) -> Option<Timestamp> {
    item.get(name)
        .and_then(whole_number)
        .map(Timestamp::from_millis)
}

fn whole_number(value: &AttributeValue) -> Option<u64> {
    value.as_n().ok()?.parse().ok()
}
