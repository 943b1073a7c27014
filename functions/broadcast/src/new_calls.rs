//! New calls that may be refused. A connected app rings for an update that says `ringing`, so it must not get one for a call that another
//! process is about to refuse.

use std::time::Duration;

use ringback::platform::clock;
use ringback::store::StoreError;
use ringback::store::calls::{CallStore, DynamoCallStore};
use ringback::store::devices::Devices;
use ringback_core::call::CallStatus;

use crate::stream_records::CallChange;

/// The process that stores a call asks its callee for at most a second. The stream shows the call somewhat later.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(600),
];

/// Looks whether new calls ring.
pub(crate) struct NewCalls {
    pub(crate) calls: DynamoCallStore,
    pub(crate) devices: Devices,
}

impl NewCalls {
    /// Whether this change is a new call that is refused by now.
    pub(crate) async fn is_refused(&self, change: &CallChange) -> Result<bool, StoreError> {
        let call = &change.after;
        if change.before.is_some() || call.status != CallStatus::WaitingForMobile {
            return Ok(false);
        }
        let callee = self.devices.callee(&call.extension, clock::now()).await?;
        if !callee.may_refuse(call) {
            return Ok(false);
        }
        let mut pauses = PAUSES.into_iter();
        loop {
            let current = self.calls.find(call.call_id).await?;
            match (current, pauses.next()) {
                (Some(current), Some(pause)) if !current.has_callees_answer() => {
                    tokio::time::sleep(pause).await;
                }
                (current, _) => return Ok(current.is_some_and(|call| call.refusal().is_some())),
            }
        }
    }
}
