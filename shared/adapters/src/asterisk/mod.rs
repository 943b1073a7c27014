//! Asterisk: Ringback calls phones and ends legs through ARI, and receives the reports of the dialplan.
//!
//! The dialplan (`asterisk/extensions.conf`) does the bridging: when the phone answers, its leg runs `Bridge()` on the
//! caller's channel. Ringback never lists the channels of a PBX.
//!
//! There may be several PBXs, which know nothing of each other. A call is on the PBX that has the caller's leg
//! ([`Call::pbx`]), and the phone is called there. If an app starts a call, its own phone is called first, on the PBX at
//! which it is registered.
//!
//! ARI: <https://docs.asterisk.org/Latest_API/API_Documentation/Asterisk_REST_Interface/Channels_REST_API/>

mod ari_client;
mod called_phone;
pub mod dialplan_report;
mod error;
mod examination;
mod originate_request;
mod pbx;
mod pbx_list;
mod sip_account;
mod sip_servers;
mod smoke_call;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use reqwest::StatusCode;
use ringback_core::call::{Call, CallStatus};
use ringback_core::ids::PbxName;
use ringback_core::timestamp::Timestamp;

use crate::platform::clock;
use crate::platform::secrets::{AriCredentials, Secret};
use ari_client::{AriAccess, AriClient};
use pbx::REGISTRATION_POLL_INTERVAL;

pub use called_phone::{CalledPhone, PhoneTransports};
pub use error::AsteriskError;
pub use examination::{DIALPLAN_CONTEXTS, DialplanNotes, HookAnswer};
#[cfg(any(test, feature = "testing"))]
pub(crate) use pbx::read_any_answer;
pub use pbx::{BridgeOutcome, BusyOutcome, Pbx, PhoneLegState};
pub use pbx_list::PbxList;
pub use sip_servers::{SipServer, SipServers};
pub use smoke_call::{SMOKE_EXTENSION, SMOKE_NUMBER};

/// How long to wait until the phone of an app that starts a call registers. Such an app is awake, so this is shorter than
/// for a phone that a push has to wake.
const REGISTRATION_WAIT: Duration = Duration::from_secs(5);

/// How long a PBX may take to say whether a phone is registered, while another PBX might have it. ARI answers within a few
/// milliseconds; a first connection takes three round trips.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(1);

/// What [`Asterisk::dial_caller`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialCallerOutcome {
    /// The phone is being called, since this request or an earlier one.
    Dialing,
    /// The phone is registered at this PBX and has not been called yet. The call has to record the PBX first.
    RegisteredAt(PbxName),
}

/// The state of a PBX.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PbxHealth {
    /// It has booted and accepts Ringback's password.
    Ok,
    /// It does not answer, or has not booted yet.
    Unreachable,
    /// It does not accept Ringback's password.
    Refused,
}

impl PbxHealth {
    /// The word in the answer of `/health`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
        }
    }
}

/// All PBXs of the deployment.
#[derive(Debug)]
pub struct Asterisk {
    pbxs: Vec<Pbx>,
    access: Arc<AriAccess>,
}

impl Asterisk {
    /// The PBXs of this list. They share one user, password and certificate authority.
    #[must_use]
    pub fn new(list: PbxList, secret: Secret<AriCredentials>) -> Self {
        let access = Arc::new(AriAccess::new(secret));
        let pbx = |(name, url)| Pbx::new(name, AriClient::new(url, Arc::clone(&access)));
        Self {
            pbxs: list.into_iter().map(pbx).collect(),
            access,
        }
    }

    /// Fetches the secret that the first request needs.
    pub async fn get_ready(&self) {
        self.access.get_ready().await;
    }

    /// All PBXs.
    #[must_use]
    pub fn pbxs(&self) -> &[Pbx] {
        &self.pbxs
    }

    /// The PBX that the call is on. `None` while the call may still be on any of several.
    ///
    /// # Errors
    /// [`AsteriskError::NotListed`] when the call is on a PBX that is not listed.
    pub fn pbx_of(&self, call: &Call) -> Result<Option<&Pbx>, AsteriskError> {
        if let Some(name) = &call.pbx {
            let pbx = self.pbxs.iter().find(|pbx| pbx.name() == name);
            return pbx
                .map(Some)
                .ok_or_else(|| AsteriskError::NotListed(name.clone()));
        }
        // A caller's leg without the name of its PBX was stored while there was only one PBX.
        let is_first = self.pbxs.len() == 1 || call.caller_leg.is_some();
        Ok(self.pbxs.first().filter(|_| is_first))
    }

    /// The state of the leg to the phone. A region may learn that two people talk before it learns on which PBX: then all are asked.
    ///
    /// # Errors
    /// When a PBX fails.
    pub async fn phone_leg_state(&self, call: &Call) -> Result<PhoneLegState, AsteriskError> {
        let pbxs = match self.pbx_of(call)? {
            Some(pbx) => std::slice::from_ref(pbx),
            None if call.status == CallStatus::InProgress => self.pbxs(),
            None => &[],
        };
        let legs = try_join_all(pbxs.iter().map(|pbx| pbx.phone_leg_state(call))).await?;
        Ok(legs.into_iter().max().unwrap_or(PhoneLegState::None))
    }

    /// Calls `phone`, with which an app starts a call, so that it waits in the dialplan as every caller does. While
    /// the call may be on any of several PBXs, only finds the PBX at which the phone is registered.
    ///
    /// Waits for the phone to register until `until`, and for [`REGISTRATION_WAIT`] at most.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn dial_caller(
        &self,
        call: &Call,
        phone: &CalledPhone,
        until: Timestamp,
    ) -> Result<DialCallerOutcome, AsteriskError> {
        let until = until.min(clock::now() + REGISTRATION_WAIT);
        match self.pbx_of(call)? {
            Some(pbx) => pbx
                .dial_caller(call, phone, until)
                .await
                .map(|()| DialCallerOutcome::Dialing),
            None => self
                .find_registration(phone, until)
                .await
                .map(DialCallerOutcome::RegisteredAt),
        }
    }

    /// The state of each PBX. A PBX that takes longer than `timeout` to answer is unreachable.
    pub async fn health(&self, timeout: Duration) -> Vec<(&PbxName, PbxHealth)> {
        let checks = self.pbxs.iter().map(async |pbx| {
            let health = match tokio::time::timeout(timeout, pbx.ping()).await {
                Ok(Ok(())) => PbxHealth::Ok,
                Ok(Err(AsteriskError::Refused { status, .. })) if rejects_credentials(status) => {
                    PbxHealth::Refused
                }
                Ok(Err(_)) | Err(_) => PbxHealth::Unreachable,
            };
            (pbx.name(), health)
        });
        join_all(checks).await
    }

    /// The first PBX of the list at which the phone is registered. Polls until one reports it, or until `until`.
    async fn find_registration(
        &self,
        phone: &CalledPhone,
        until: Timestamp,
    ) -> Result<PbxName, AsteriskError> {
        loop {
            let answers = self.query_registration(phone).await;
            let online = answers
                .iter()
                .find(|(_, online)| matches!(online, Ok(true)));
            if let Some((pbx, _)) = online {
                return Ok(pbx.name().clone());
            }
            if clock::now() + REGISTRATION_POLL_INTERVAL >= until {
                return Err(not_registered(answers));
            }
            tokio::time::sleep(REGISTRATION_POLL_INTERVAL).await;
        }
    }

    /// Asks all PBXs at once whether the phone is registered. Skips those that failed recently, unless all of them did: one
    /// may have recovered.
    async fn query_registration(
        &self,
        phone: &CalledPhone,
    ) -> Vec<(&Pbx, Result<bool, AsteriskError>)> {
        let now = clock::now();
        let mut candidates: Vec<&Pbx> = self.pbxs.iter().collect();
        if candidates.iter().any(|pbx| !pbx.is_skipped(now)) {
            candidates.retain(|pbx| !pbx.is_skipped(now));
        }
        let queries = candidates.into_iter().map(async |pbx| {
            let online = tokio::time::timeout(LOOKUP_TIMEOUT, pbx.is_online(phone)).await;
            let online = online.unwrap_or(Err(AsteriskError::Silent("looking for the phone")));
            pbx.skip_after_failure(&online, clock::now());
            (pbx, online)
        });
        join_all(queries).await
    }
}

/// The error for a phone that no PBX reports as registered. One PBX that says "offline" outweighs the others' errors.
fn not_registered(answers: Vec<(&Pbx, Result<bool, AsteriskError>)>) -> AsteriskError {
    let mut last_error = AsteriskError::PhoneOffline;
    for (_, online) in answers {
        match online {
            Ok(_) => return AsteriskError::PhoneOffline,
            Err(error) => last_error = error,
        }
    }
    last_error
}

const fn rejects_credentials(status: StatusCode) -> bool {
    matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}
