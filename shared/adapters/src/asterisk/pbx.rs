//! One PBX: calls phones, ends legs, and looks up the state of both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use ringback_core::call::{Call, CallStatus, Event};
use ringback_core::ids::{CallId, ChannelId, PbxName, SipAccountName};
use ringback_core::timestamp::Timestamp;
use serde::Deserialize;

use super::ari_client::{AriClient, SYSTEM, expect_status, parse_json};
use super::error::AsteriskError;
use super::originate_request::OriginateRequest;
use crate::platform::clock;
use crate::telemetry::requests;

/// How often a failed request about a leg that is to end is retried, and the pause before each retry.
const LEG_RETRIES: usize = 2;
const LEG_RETRY_PAUSE: Duration = Duration::from_millis(300);

/// How often to check whether a phone has registered. ARI answers within a few milliseconds.
pub(super) const REGISTRATION_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long a PBX is skipped after it failed to say whether a phone is registered.
const SKIP_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// The reason of an ordinary hang-up, as ARI names it.
const NORMAL: &str = "normal";

/// What [`Pbx::bridge`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeOutcome {
    /// The phone is being called, since this request or an earlier one.
    Dialing,
    /// The caller's channel no longer exists, so the phone was not called, or does not ring any more.
    CallerGone,
}

/// What [`Pbx::send_busy`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BusyOutcome {
    /// The legs have ended.
    Ended,
    /// The legs are bridged, so they were not ended.
    IsBridged,
}

/// The state of the leg to a phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhoneLegState {
    /// The PBX has no such leg.
    None,
    /// The phone rings.
    Ringing,
    /// The phone has answered. The dialplan bridges it to the caller at that moment.
    Answered,
}

impl PhoneLegState {
    /// What this state of the phone's leg says about the bridge of `call`.
    #[must_use]
    pub fn bridge_event(self, call: &Call) -> Event {
        match self {
            Self::Answered => Event::Bridged,
            Self::Ringing => Event::NotBridged { rings: true },
            Self::None if call.status == CallStatus::InProgress => Event::BridgeEnded,
            Self::None => Event::NotBridged { rings: false },
        }
    }
}

/// One PBX.
#[derive(Debug)]
pub struct Pbx {
    name: PbxName,
    pub(super) ari: AriClient,
    /// In milliseconds since the Unix epoch.
    skipped_until: AtomicU64,
}

impl Pbx {
    pub(super) const fn new(name: PbxName, ari: AriClient) -> Self {
        Self {
            name,
            ari,
            skipped_until: AtomicU64::new(0),
        }
    }

    /// Its name in `ARI_URL`.
    #[must_use]
    pub const fn name(&self) -> &PbxName {
        &self.name
    }

    /// Calls `phone`. When it answers, the dialplan bridges it to the caller who waits on `caller_leg`.
    ///
    /// A phone that a push has woken registers with SIP seconds after its app has accepted. Until then, Asterisk replies
    /// "Allocation failed". So this waits for the phone to register, until `until` or the call's deadline.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn bridge(
        &self,
        call: &Call,
        phone: &SipAccountName,
        caller_leg: &ChannelId,
        until: Timestamp,
    ) -> Result<BridgeOutcome, AsteriskError> {
        let until = call
            .deadline()
            .map_or(until, |deadline| deadline.min(until));
        let request = OriginateRequest::to_phone(call, phone, caller_leg);
        while !self.originate(&request).await? {
            self.wait_for_registration(phone, until).await?;
            // The caller may have hung up during the wait. Do not ring the phone then.
            if !self.channel_exists(caller_leg).await? {
                return Ok(BridgeOutcome::CallerGone);
            }
        }
        // The call may have ended meanwhile, in the other region too. Asterisk knows it first, because the caller's leg ends before
        // the phone's.
        if self.channel_exists(caller_leg).await? {
            return Ok(BridgeOutcome::Dialing);
        }
        // A phone that has answered is bridged to a later leg of this caller, or the dialplan ends it.
        if self.phone_leg_state(call.call_id).await? == PhoneLegState::Ringing {
            let phone = ChannelId::of_phone(call.call_id);
            self.end_leg(&phone, NORMAL).await?;
        }
        Ok(BridgeOutcome::CallerGone)
    }

    /// Calls `phone`, with which an app starts a call. It then waits in the dialplan as every caller does.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub(super) async fn dial_caller(
        &self,
        call: &Call,
        phone: &SipAccountName,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        let request = OriginateRequest::to_calling_app(call, phone);
        while !self.originate(&request).await? {
            self.wait_for_registration(phone, until).await?;
        }
        Ok(())
    }

    /// The state of the leg to the call's phone.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn phone_leg_state(&self, call: CallId) -> Result<PhoneLegState, AsteriskError> {
        let state = self.channel_state(&ChannelId::of_phone(call)).await?;
        Ok(match state.as_deref() {
            None => PhoneLegState::None,
            Some("Up") => PhoneLegState::Answered,
            Some(_) => PhoneLegState::Ringing,
        })
    }

    /// Ends the legs of a call that was not answered, unless they are bridged. The caller hears busy: Asterisk rejects the
    /// unanswered INVITE with 486. A leg that no longer exists is no error.
    ///
    /// A caller who was answered in another call is left alone: two regions that cannot reach each other may store one caller as two
    /// calls.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn send_busy(&self, call: &Call) -> Result<BusyOutcome, AsteriskError> {
        let caller = call.caller_channel();
        let is_answered = match &caller {
            // The phone of a calling app answers before it waits, so the state of its leg says nothing.
            Some(leg) if call.kind.calling_app().is_none() => {
                Some(self.channel_state(leg).await?.as_deref() == Some("Up"))
            }
            _ => None,
        };
        if is_answered != Some(false)
            && self.phone_leg_state(call.call_id).await? == PhoneLegState::Answered
        {
            return Ok(BusyOutcome::IsBridged);
        }
        let caller = caller.filter(|_| is_answered != Some(true));
        self.end_legs(call, caller, "busy").await?;
        Ok(BusyOutcome::Ended)
    }

    /// Hangs up both legs of a call. A leg that no longer exists is no error.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn hang_up(&self, call: &Call) -> Result<(), AsteriskError> {
        self.end_legs(call, call.caller_channel(), NORMAL).await
    }

    /// Ends the caller's leg, and then the phone's: [`Pbx::bridge`] relies on this order.
    async fn end_legs(
        &self,
        call: &Call,
        caller: Option<ChannelId>,
        reason: &'static str,
    ) -> Result<(), AsteriskError> {
        let caller = match caller {
            Some(leg) => self.end_leg(&leg, reason).await,
            None => Ok(()),
        };
        if call.ready_at.is_some() {
            self.end_leg(&ChannelId::of_phone(call.call_id), NORMAL)
                .await?;
        }
        caller
    }

    /// Checks that the PBX has booted and accepts Ringback's password.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn ping(&self) -> Result<(), AsteriskError> {
        let doing = "checking its health";
        let ping = self.ari.request(doing, Method::GET, "/asterisk/ping", None);
        expect_status(&ping.await?, doing, &[StatusCode::OK])
    }

    #[cfg(test)]
    pub(super) async fn trusted_ca(&self) -> Option<String> {
        self.ari.trusted_ca().await
    }

    /// Whether this process takes the PBX for unreachable, because a request failed a moment ago.
    pub fn is_skipped(&self, now: Timestamp) -> bool {
        now.as_millis() < self.skipped_until.load(Ordering::Relaxed)
    }

    /// After a failure, skips this PBX for a while, so that later calls do not wait for it too. An extension without an
    /// endpoint is a fault of the configuration, not of the PBX.
    pub fn skip_after_failure<T>(&self, answer: &Result<T, AsteriskError>, now: Timestamp) {
        if let Err(error) = answer
            && !matches!(error, AsteriskError::NoSuchEndpoint)
        {
            tracing::warn!(pbx = %self.name, %error, seconds = SKIP_AFTER_FAILURE.as_secs(), "PBX failed; skipping it");
            let until = now + SKIP_AFTER_FAILURE;
            self.skipped_until
                .store(until.as_millis(), Ordering::Relaxed);
        }
    }

    /// Creates a leg. Returns `false` if the phone is not registered.
    ///
    /// The leg's id is made from the call's id, so a repeated request creates no second leg: Asterisk replies 409.
    async fn originate(&self, request: &OriginateRequest) -> Result<bool, AsteriskError> {
        let doing = "calling a phone";
        let path = format!("/channels/{}", request.channel);
        let reply = self
            .ari
            .request(doing, Method::POST, &path, Some(&request.body))
            .await?;
        match reply.status() {
            StatusCode::INTERNAL_SERVER_ERROR if is_allocation_failure(reply).await => Ok(false),
            StatusCode::OK | StatusCode::CONFLICT => Ok(true),
            status => Err(AsteriskError::Refused { doing, status }),
        }
    }

    async fn wait_for_registration(
        &self,
        phone: &SipAccountName,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        while clock::now() + REGISTRATION_POLL_INTERVAL < until {
            // Sleeps before the first check too: a phone may be online and still fail to be called, and the loop of
            // the caller of this function must not spin then.
            tokio::time::sleep(REGISTRATION_POLL_INTERVAL).await;
            if self.is_online(phone).await? {
                return Ok(());
            }
        }
        Err(AsteriskError::PhoneOffline)
    }

    pub(super) async fn is_online(&self, phone: &SipAccountName) -> Result<bool, AsteriskError> {
        let doing = "looking for the phone";
        let path = format!("/endpoints/PJSIP/{phone}");
        let reply = self.find(doing, &path).await?;
        let reply = reply.ok_or(AsteriskError::NoSuchEndpoint)?;
        let endpoint: Endpoint = parse_json(reply, doing).await?;
        Ok(endpoint.state == "online")
    }

    async fn channel_exists(&self, channel: &ChannelId) -> Result<bool, AsteriskError> {
        let doing = "looking for the caller";
        let path = format!("/channels/{channel}");
        Ok(self.find(doing, &path).await?.is_some())
    }

    /// GETs a resource. `None` if it does not exist.
    pub(super) async fn find(
        &self,
        doing: &'static str,
        path: &str,
    ) -> Result<Option<Response>, AsteriskError> {
        let reply = self.ari.request(doing, Method::GET, path, None).await?;
        if_found(reply, doing)
    }

    async fn end_leg(&self, leg: &ChannelId, reason: &'static str) -> Result<(), AsteriskError> {
        let doing = "ending a leg";
        let path = format!("/channels/{leg}?reason={reason}");
        let reply = self.request_with_retries(doing, Method::DELETE, &path);
        let done = [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND];
        expect_status(&reply.await?, doing, &done)
    }

    /// The state of a channel, in Asterisk's words. `None` if it does not exist.
    async fn channel_state(&self, channel: &ChannelId) -> Result<Option<String>, AsteriskError> {
        let doing = "looking for a leg";
        let path = format!("/channels/{channel}");
        let reply = self.request_with_retries(doing, Method::GET, &path).await?;
        let Some(reply) = if_found(reply, doing)? else {
            return Ok(None);
        };
        let channel: Channel = parse_json(reply, doing).await?;
        Ok(Some(channel.state))
    }

    /// A request about a leg that is to end. Retried here, because the next timer is far away and the caller waits.
    async fn request_with_retries(
        &self,
        doing: &'static str,
        method: Method,
        path: &str,
    ) -> Result<Response, AsteriskError> {
        let request = || self.ari.request(doing, method.clone(), path, None);
        let mut reply = request().await;
        for _ in 0..LEG_RETRIES {
            let Err(error) = &reply else { break };
            tokio::time::sleep(LEG_RETRY_PAUSE).await;
            requests::log_retry(SYSTEM, requests::error_chain(error));
            reply = request().await;
        }
        reply
    }
}

/// The reply to a GET. `None` if Asterisk has no such resource.
fn if_found(reply: Response, doing: &'static str) -> Result<Option<Response>, AsteriskError> {
    if reply.status() == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    expect_status(&reply, doing, &[StatusCode::OK])?;
    Ok(Some(reply))
}

#[derive(Deserialize)]
struct Endpoint {
    state: String,
}

#[derive(Deserialize)]
struct Channel {
    state: String,
}

#[derive(Deserialize)]
struct OriginateFailure {
    error: String,
}

/// Parses any bytes as an answer of ARI, for the fuzzers.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    let endpoint = serde_json::from_slice::<Endpoint>(body).map(|endpoint| endpoint.state);
    let failure = serde_json::from_slice::<OriginateFailure>(body).map(|failure| failure.error);
    let _parsed = (endpoint, failure);
}

/// Asterisk replies 500 with this text when the endpoint has no registered contact.
async fn is_allocation_failure(reply: Response) -> bool {
    reply
        .json::<OriginateFailure>()
        .await
        .is_ok_and(|failure| failure.error == "Allocation failed")
}
