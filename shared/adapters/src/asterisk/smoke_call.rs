//! The test call of `ringback smoke`: a PBX calls itself, and its INVITE arrives as one of the trunk.

use ringback_core::ids::{CallSid, ChannelId};
use serde_json::json;

use super::error::AsteriskError;
use super::pbx::Pbx;

/// The extension that is called. Its phone is the endpoint of the same name, with which the PBX calls itself (`asterisk/pjsip.conf`).
pub const SMOKE_EXTENSION: &str = "ringback-smoke";

/// The number that is dialled: the only one in the dialplan's context of this endpoint, and no telephone's number.
pub const SMOKE_NUMBER: &str = "000000";

/// How long the caller waits, in seconds: longer than any deployment lets a phone ring.
const WAIT_SECONDS: u32 = 150;

impl Pbx {
    /// Dials the test's number at the PBX itself. The INVITE carries `sid`, as that of Exotel's trunk carries its CallSid.
    ///
    /// # Errors
    /// [`AsteriskError::NoSuchEndpoint`] when the PBX has no endpoint for this call. Others when it fails.
    pub async fn call_itself(&self, sid: &CallSid) -> Result<(), AsteriskError> {
        let body = json!({
            "endpoint": format!("PJSIP/{SMOKE_NUMBER}@{SMOKE_EXTENSION}"),
            "context": SMOKE_EXTENSION,
            "extension": "caller",
            "priority": 1,
            "timeout": WAIT_SECONDS,
            "callerId": format!("\"Ringback smoke\" <{SMOKE_NUMBER}>"),
            "variables": { "PJSIP_HEADER(add,X-Exotel-CallSid)": sid },
        });
        let channel = ChannelId::of_smoke_caller(sid);
        match self.originate(&channel, &body).await? {
            true => Ok(()),
            false => Err(AsteriskError::NoSuchEndpoint),
        }
    }
}
