//! Devices that have stopped reporting that they ring: their pushes are probably blocked.
//!
//! Item: `pk` = `EXTENSION#{extension}`, `sk` = `RINGING#{device_id}`, `missed` = how many pushes in a row the device has left
//! without a report, `call` = the last call that was counted. A device that never reports has no item.
//!
//! Calls are counted when they have ended, beside the table's stream. A call then costs one small read, and a write only for a device
//! that did not report, or did so again after a pause. A counter that each push increments and each report resets would cost two
//! writes for each device that rings, one of them while the call is set up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ringback_core::call::Call;
use ringback_core::ids::{DeviceId, Extension};
use serde::Deserialize;

use crate::platform::clock;
use crate::store::table::{
    ConditionalWrite, ItemKey, StoreError, Table, conditional_write, expiry, extension_partition,
    number, text,
};

/// A device is silent after this many pushes in a row without a report.
pub const SILENT_AFTER: u64 = 20;

/// Kept after the last write. A device that always reports is written again once in this time.
const KEPT_FOR: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// The devices that report that they ring, in the table.
#[derive(Clone, Debug)]
pub struct RingReports {
    table: Table,
}

/// What is known of a device.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Count {
    missed: u64,
    call: String,
}

impl RingReports {
    /// The reports in this table.
    #[must_use]
    pub const fn new(table: Table) -> Self {
        Self { table }
    }

    /// Counts a call that has ended. Returns the devices that are silent from this call on.
    ///
    /// # Errors
    /// When the table cannot be read or written.
    pub async fn count(&self, call: &Call) -> Result<Vec<DeviceId>, StoreError> {
        let pushed = call.pushed.iter().flat_map(|pushed| &pushed.devices);
        let devices: BTreeSet<&DeviceId> = pushed.chain(call.ring_receipts.keys()).collect();
        if devices.is_empty() {
            return Ok(Vec::new());
        }
        let known = self.of(&call.extension).await?;
        let mut silent = Vec::new();
        for device in devices {
            let before = known.get(device);
            let Some(missed) = missed_after(before, call, device) else {
                continue;
            };
            let is_written = self.write(call, device, before, missed).await?;
            if is_written && missed == SILENT_AFTER {
                silent.push(device.clone());
            }
        }
        Ok(silent)
    }

    async fn of(&self, extension: &Extension) -> Result<BTreeMap<DeviceId, Count>, StoreError> {
        let doing = "reading which devices report";
        let query = self
            .table
            .query()
            .key_condition_expression("pk = :pk AND begins_with(sk, :ringing)")
            .expression_attribute_values(":pk", text(extension_partition(extension)))
            .expression_attribute_values(":ringing", text("RINGING#"));
        let answer = query.send().await;
        let answer = answer.map_err(StoreError::unavailable(doing))?;
        let items = answer.items.unwrap_or_default().into_iter();
        let counts = items.filter_map(|item| {
            let sk = item.get("sk")?.as_s().ok()?.strip_prefix("RINGING#")?;
            let device = DeviceId::try_from(sk).ok()?;
            Some((device, serde_dynamo::from_item(item).ok()?))
        });
        Ok(counts.collect())
    }

    /// Writes a count, unless another process has counted a call meanwhile. Returns whether it was written.
    async fn write(
        &self,
        call: &Call,
        device: &DeviceId,
        before: Option<&Count>,
        missed: u64,
    ) -> Result<bool, StoreError> {
        let (extension, until) = (&call.extension, clock::now() + KEPT_FOR);
        let key = ItemKey::of_extension(extension, format!("RINGING#{device}"));
        let update = self
            .table
            .update(key)
            .update_expression("SET missed = :missed, #call = :call, expires_at = :until")
            .expression_attribute_names("#call", "call")
            .expression_attribute_values(":missed", number(missed))
            .expression_attribute_values(":call", text(call.call_id.key()))
            .expression_attribute_values(":until", expiry(until));
        let update = match before {
            None => update.condition_expression("attribute_not_exists(pk)"),
            Some(before) => update
                .condition_expression("missed = :before AND #call = :last")
                .expression_attribute_values(":before", number(before.missed))
                .expression_attribute_values(":last", text(&before.call)),
        };
        let written = conditional_write(update.send().await, "counting a push without a report")?;
        Ok(matches!(written, ConditionalWrite::Written(_)))
    }
}

/// How many pushes in a row the device has missed with this call. `None` if that does not change, or the device never reports.
fn missed_after(before: Option<&Count>, call: &Call, device: &DeviceId) -> Option<u64> {
    let reports = call.ring_receipts.contains_key(device);
    match before {
        None => reports.then_some(0),
        Some(count) if reports => (count.missed > 0).then_some(0),
        // The stream may deliver a change twice.
        Some(count) if count.call == call.call_id.key() => None,
        Some(count) => Some(count.missed + 1),
    }
}

#[cfg(test)]
mod tests {
    use ringback_core::call::{PushPlatform, PushedDevices, RingReceipt};
    use ringback_core::ids::CallId;
    use ringback_core::testing::a_call;
    use ringback_core::timestamp::Timestamp;
    use serde_json::{Value, json};
    use wiremock::matchers::header;
    use wiremock::{Mock, MockServer, ResponseTemplate};

    use super::*;
    use crate::testing;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn device(name: &str) -> DeviceId {
        DeviceId::try_from(name).unwrap()
    }

    /// A call that rang on a phone, which reported it or did not.
    fn rang_on_phone(reports: bool) -> Call {
        let mut call = a_call(NOW);
        call.call_id = CallId::fresh();
        call.pushed = Some(PushedDevices {
            devices: [device("phone")].into(),
            are_all: true,
            at: NOW,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
        });
        let receipt = RingReceipt {
            at: NOW,
            pushed_at: NOW,
            platform: PushPlatform::Fcm,
        };
        call.ring_receipts = reports
            .then(|| (device("phone"), receipt))
            .into_iter()
            .collect();
        call
    }

    /// The count after each of these calls, beginning with a phone that is unknown.
    fn counts(reports: &[bool]) -> Vec<Option<u64>> {
        let mut known: Option<Count> = None;
        let mut counts = Vec::new();
        for reports in reports {
            let call = rang_on_phone(*reports);
            // Each change is delivered twice.
            for _ in 0..2 {
                if let Some(missed) = missed_after(known.as_ref(), &call, &device("phone")) {
                    let call = call.call_id.key();
                    known = Some(Count { missed, call });
                }
            }
            counts.push(known.as_ref().map(|count| count.missed));
        }
        counts
    }

    #[test]
    fn pushes_without_a_report_are_counted_once_the_device_has_reported() {
        let (reported, missed) = (true, false);
        assert_eq!(
            counts(&[missed, reported, reported, missed, missed, reported, missed]),
            [None, Some(0), Some(0), Some(1), Some(2), Some(0), Some(1)]
        );
    }

    /// The table with one phone that has missed this many pushes.
    async fn table_with(missed: Option<u64>) -> (MockServer, RingReports) {
        let server = MockServer::start().await;
        let item = |missed: u64| {
            json!({ "pk": { "S": "EXTENSION#1001" }, "sk": { "S": "RINGING#phone" },
                "missed": { "N": missed.to_string() }, "call": { "S": "another" } })
        };
        let items: Vec<Value> = missed.map(item).into_iter().collect();
        for (operation, answer) in [
            ("Query", json!({ "Items": items })),
            ("UpdateItem", json!({})),
        ] {
            let target = format!("DynamoDB_20120810.{operation}");
            Mock::given(header("x-amz-target", target.as_str()))
                .respond_with(ResponseTemplate::new(200).set_body_json(answer))
                .mount(&server)
                .await;
        }
        let client = aws_sdk_dynamodb::Client::new(&testing::aws(&server));
        (server, RingReports::new(Table::new(client, "calls")))
    }

    #[tokio::test]
    async fn a_device_is_silent_from_its_twentieth_missed_push_on() {
        for (missed, reports, is_silent, writes) in [
            (None, false, false, 0),
            (None, true, false, 1),
            (Some(0), true, false, 0),
            (Some(18), false, false, 1),
            (Some(19), false, true, 1),
            (Some(19), true, false, 1),
            (Some(20), false, false, 1),
        ] {
            let (server, ring_reports) = table_with(missed).await;
            let silent = ring_reports.count(&rang_on_phone(reports)).await.unwrap();
            let expected = is_silent.then(|| device("phone"));
            assert_eq!(silent, expected.into_iter().collect::<Vec<_>>());
            let requests = testing::requests(&server).await;
            let updates = requests
                .iter()
                .filter(|request| testing::operation(request) == "UpdateItem");
            assert_eq!(updates.count(), writes, "{missed:?} {reports}");
        }
    }
}
