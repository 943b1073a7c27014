//! One PBX: calls phones, ends legs, and looks up the state of both.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use ringback_core::call::{ABANDONED_AFTER, Call, CallStatus, EndReason, Event, Rejection};
use ringback_core::ids::{CallId, ChannelId, PbxName, SipAccountName};
use ringback_core::timestamp::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use super::ari_client::{AriClient, SYSTEM, expect_status, parse_json};
use super::called_phone::CalledPhone;
use super::error::AsteriskError;
use super::originate_request::OriginateRequest;
use crate::platform::clock;
use crate::telemetry::requests;

/// How often a failed request about a leg that is to end is retried, and the pause before each retry.
const LEG_RETRIES: usize = 2;
const LEG_RETRY_PAUSE: Duration = Duration::from_millis(300);

/// How often to check whether a phone has registered. ARI answers within a few milliseconds.
pub(super) const REGISTRATION_POLL_INTERVAL: Duration = Duration::from_millis(200);

/// How long one process watches a phone that does not ring. The timers of a call that waits for its phone are as far apart.
const WATCHED_FOR: Duration = ABANDONED_AFTER;

/// How often to look at a leg whose phone has not answered its INVITE.
const LEG_POLL_INTERVAL: Duration = Duration::from_millis(300);

/// How long a PBX is skipped after it failed to say whether a phone is registered.
const SKIP_AFTER_FAILURE: Duration = Duration::from_secs(10);

/// What a request does that ends a leg, for errors.
const ENDING: &str = "ending a leg";

/// The reason of an ordinary hang-up, as ARI names it.
const NORMAL: &str = "normal";

/// The reason for a leg of which the phone must show no missed call: Asterisk's CANCEL then has `Reason: SIP;cause=200` and
/// `Q.850;cause=26` (RFC 3326). Asterisk has none for a call that was declined elsewhere.
const ANSWERED_ELSEWHERE: &str = "answered_elsewhere";

/// What [`Pbx::bridge`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BridgeOutcome {
    /// The phone is being called, since this request or an earlier one.
    Dialing,
    /// The caller's channel no longer exists, so the phone was not called, or does not ring any more.
    CallerGone,
    /// The phone has left the address at which it is called, and has registered again.
    PhoneMoved,
    /// The phone is being called, but has not reacted to its INVITE.
    PhoneSilent,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
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
    /// "Allocation failed". So this waits for the phone to register, until `until` or the call's deadline. Then it watches a
    /// phone that does not ring: the phone may have left the address that it registered last.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn bridge(
        &self,
        call: &Call,
        phone: &CalledPhone,
        caller_leg: &ChannelId,
        until: Timestamp,
    ) -> Result<BridgeOutcome, AsteriskError> {
        let until = call
            .deadline()
            .map_or(until, |deadline| deadline.min(until));
        // At most one leg at a time may ring the phone.
        if self.end_earlier_legs(call).await? == PhoneLegState::Answered {
            return Ok(BridgeOutcome::Dialing);
        }
        let request = OriginateRequest::to_phone(call, phone, caller_leg);
        while !self.dial(&request).await? {
            self.wait_for_registration(&request, until).await?;
            // The caller may have hung up during the wait. Do not ring the phone then.
            if !self.channel_exists(caller_leg).await? {
                return Ok(BridgeOutcome::CallerGone);
            }
            // Another process may have dialed the phone meanwhile, and found that it had moved.
            let next = ChannelId::of_phone(call.call_id, call.phone_attempt + 1);
            if self.channel_exists(&next).await? {
                return Ok(BridgeOutcome::Dialing);
            }
        }
        // A process that waited for the phone may have dialed it in the same moment, as an earlier attempt.
        if self.end_earlier_legs(call).await? == PhoneLegState::Answered {
            return Ok(BridgeOutcome::Dialing);
        }
        self.watch_phone(&request.channel, until).await
    }

    /// Ends the legs of earlier attempts, unless the phone has answered one. Normally they have ended.
    async fn end_earlier_legs(&self, call: &Call) -> Result<PhoneLegState, AsteriskError> {
        for leg in call.phone_channels().skip(1) {
            if self.end_unanswered_leg(&leg).await? == PhoneLegState::Answered {
                return Ok(PhoneLegState::Answered);
            }
        }
        Ok(PhoneLegState::None)
    }

    /// Ends a leg, unless the phone has answered it. Returns what is left of it.
    ///
    /// If the reply to the request that ends it is lost, this looks at the leg again: the other region may have dialed the phone
    /// with the same id since, and the phone may have answered.
    async fn end_unanswered_leg(&self, leg: &ChannelId) -> Result<PhoneLegState, AsteriskError> {
        let path = end_path(leg, ANSWERED_ELSEWHERE);
        let mut retries = 0;
        loop {
            let state = self.leg_state(leg).await?;
            if state != PhoneLegState::Ringing {
                return Ok(state);
            }
            match self.ari.request(ENDING, Method::DELETE, &path, None).await {
                Err(error) if retries < LEG_RETRIES => pause_before_retry(&error).await,
                reply => return expect_ended(&reply?).map(|()| PhoneLegState::None),
            }
            retries += 1;
        }
    }

    /// Waits until the phone rings, or has moved. At most until `until` or for [`WATCHED_FOR`]: the app waits for an answer meanwhile.
    ///
    /// Asterisk repeats an INVITE at its first address, even if the phone registers at another one. A phone that gets its
    /// INVITE answers at once, and its leg then rings, so more than one look is for phones that are gone or slow.
    ///
    /// The call may have ended before its phone was dialed, in the other region too. Asterisk knows it first, because the caller's leg
    /// ends before the phone's.
    async fn watch_phone(
        &self,
        leg: &ChannelId,
        until: Timestamp,
    ) -> Result<BridgeOutcome, AsteriskError> {
        let until = until.min(clock::now() + WATCHED_FOR);
        let mut first_expiry = None;
        loop {
            let Some(progress) = self.leg_progress(leg).await? else {
                return Ok(BridgeOutcome::Dialing);
            };
            if progress.lacks_caller() {
                self.end_leg(leg, NORMAL).await?;
                return Ok(BridgeOutcome::CallerGone);
            }
            if !progress.is_unanswered() {
                return Ok(BridgeOutcome::Dialing);
            }
            let first_expiry = *first_expiry.get_or_insert(progress.contact_expires_at);
            if progress.has_moved(first_expiry) {
                return Ok(BridgeOutcome::PhoneMoved);
            }
            if clock::now() + LEG_POLL_INTERVAL >= until {
                return Ok(BridgeOutcome::PhoneSilent);
            }
            tokio::time::sleep(LEG_POLL_INTERVAL).await;
        }
    }

    /// Calls `phone`, with which an app starts a call. It then waits in the dialplan as every caller does.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub(super) async fn dial_caller(
        &self,
        call: &Call,
        phone: &CalledPhone,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        let request = OriginateRequest::to_calling_app(call, phone);
        while !self.dial(&request).await? {
            self.wait_for_registration(&request, until).await?;
        }
        Ok(())
    }

    /// The state of the legs to the call's phone: that of the one which has come furthest. A leg that only the other region knows of
    /// counts if it is bridged.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn phone_leg_state(&self, call: &Call) -> Result<PhoneLegState, AsteriskError> {
        let mut furthest = PhoneLegState::None;
        for leg in call.phone_channels_of_both_regions() {
            match self.leg_state(&leg).await? {
                PhoneLegState::None => {}
                PhoneLegState::Ringing => furthest = PhoneLegState::Ringing,
                PhoneLegState::Answered => return Ok(PhoneLegState::Answered),
            }
        }
        if let Some(caller) = call.caller_channel()
            && self.bridged_call(&caller).await? == Some(call.call_id)
        {
            return Ok(PhoneLegState::Answered);
        }
        Ok(furthest)
    }

    /// The call whose phone is bridged to this caller.
    async fn bridged_call(&self, caller: &ChannelId) -> Result<Option<CallId>, AsteriskError> {
        let doing = "looking for the caller's bridge";
        let path = format!("/channels/{caller}/variable?variable={BRIDGED_LEG}");
        let reply = self.request_with_retries(doing, Method::GET, &path).await?;
        let Some(reply) = if_found(reply, doing)? else {
            return Ok(None);
        };
        let variable: Variable = parse_json(reply, doing).await?;
        let phone = ChannelId::try_from(variable.value.as_str()).ok();
        Ok(phone
            .and_then(|phone| phone.phone_of())
            .map(|(call, _)| call))
    }

    async fn leg_state(&self, leg: &ChannelId) -> Result<PhoneLegState, AsteriskError> {
        let state = self.channel_state(leg).await?;
        Ok(match state.as_deref() {
            None => PhoneLegState::None,
            Some("Up") => PhoneLegState::Answered,
            Some(_) => PhoneLegState::Ringing,
        })
    }

    /// Ends the legs of a call that was not answered, unless they are bridged. The caller hears busy: Asterisk rejects the
    /// unanswered INVITE with 486 or 480 ([`Call::rejection`]). A leg that no longer exists is no error.
    ///
    /// A caller who was answered in another call is left alone: two regions that cannot reach each other may store one caller as two
    /// calls.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn send_busy(&self, call: &Call) -> Result<BusyOutcome, AsteriskError> {
        let caller = call.caller_channel();
        let trunk_leg = caller
            .as_ref()
            .filter(|_| call.kind.calling_app().is_none());
        let (is_answered, is_bridged) = match trunk_leg {
            // Only bridging answers this leg.
            Some(leg) => {
                let is_answered = self.channel_state(leg).await?.as_deref() == Some("Up");
                let is_bridged = is_answered && self.bridged_call(leg).await? == Some(call.call_id);
                (is_answered, is_bridged)
            }
            // The phone of a calling app answers before it waits, so the state of its leg says nothing.
            None => {
                let phone = self.phone_leg_state(call).await?;
                (false, phone == PhoneLegState::Answered)
            }
        };
        if is_bridged {
            return Ok(BusyOutcome::IsBridged);
        }
        let reason = match call.rejection() {
            Rejection::TemporarilyUnavailable if trunk_leg.is_some() => "no_answer",
            Rejection::TemporarilyUnavailable | Rejection::BusyHere => "busy",
        };
        let caller = caller.filter(|_| !is_answered);
        self.end_legs(call, caller, reason).await?;
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
            for leg in call.phone_channels() {
                self.end_leg(&leg, reason_at_phone(call)).await?;
            }
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
    pub(super) fn is_skipped(&self, now: Timestamp) -> bool {
        now.as_millis() < self.skipped_until.load(Ordering::Relaxed)
    }

    /// After a failure, skips this PBX for a while, so that later calls do not wait for it too. An extension without an
    /// endpoint is a fault of the configuration, not of the PBX.
    pub(super) fn skip_after_failure<T>(&self, answer: &Result<T, AsteriskError>, now: Timestamp) {
        if let Err(error) = answer
            && !matches!(error, AsteriskError::NoSuchEndpoint)
        {
            tracing::warn!(pbx = %self.name, %error, seconds = SKIP_AFTER_FAILURE.as_secs(), "PBX failed; skipping it");
            let until = now + SKIP_AFTER_FAILURE;
            self.skipped_until
                .store(until.as_millis(), Ordering::Relaxed);
        }
    }

    /// Calls a phone. Returns `false` if it is not registered.
    ///
    /// Asterisk refuses to call a phone that has not answered its last OPTIONS request, and does not send another one when the phone
    /// registers again at the same address, but up to 10 s later. So this calls it at its address then.
    ///
    /// A phone that may use WebRTC is always called at its address, which shows what it uses.
    async fn dial(&self, request: &OriginateRequest) -> Result<bool, AsteriskError> {
        let CalledPhone {
            account,
            transports,
        } = &request.phone;
        let transports = transports.filter(|transports| transports.websocket);
        if transports.is_none() && self.originate(&request.channel, &request.body).await? {
            return Ok(true);
        }
        let Some(contact) = self.contact(account).await? else {
            return Ok(false);
        };
        let endpoint = match transports {
            Some(transports) => transports.endpoint(account, &contact),
            None if self.has_transport_to(account, &contact).await? => Some(account.to_string()),
            None => None,
        };
        match endpoint {
            Some(endpoint) => {
                let request = request.at(&endpoint, &contact);
                self.originate(&request.channel, &request.body).await
            }
            None => Ok(false),
        }
    }

    /// Whether the endpoint may be called at this address. Asterisk accepts a REGISTER over any transport, but an encrypted endpoint is
    /// called over TLS only.
    async fn has_transport_to(
        &self,
        endpoint: &SipAccountName,
        contact: &str,
    ) -> Result<bool, AsteriskError> {
        let doing = "looking for the phone's transport";
        let path = format!("/asterisk/config/dynamic/res_pjsip/endpoint/{endpoint}");
        let reply = self.find(doing, &path).await?;
        let reply = reply.ok_or(AsteriskError::NoSuchEndpoint)?;
        let endpoint: Vec<ConfigField> = parse_json(reply, doing).await?;
        let needs_tls = endpoint
            .iter()
            .any(|field| field.attribute == "transport" && !field.value.is_empty());
        Ok(!needs_tls || contact.to_ascii_lowercase().contains(";transport=tls"))
    }

    /// Creates a leg. Returns `false` if Asterisk knows no address of the phone at which it can be reached.
    ///
    /// The leg's id is made from the call's id, so a repeated request creates no second leg: Asterisk replies 409.
    pub(super) async fn originate(
        &self,
        channel: &ChannelId,
        body: &Value,
    ) -> Result<bool, AsteriskError> {
        let doing = "calling a phone";
        let path = format!("/channels/{channel}");
        let reply = self.ari.request(doing, Method::POST, &path, Some(body));
        let reply = reply.await?;
        match reply.status() {
            StatusCode::INTERNAL_SERVER_ERROR if is_allocation_failure(reply).await => Ok(false),
            StatusCode::OK | StatusCode::CONFLICT => Ok(true),
            status => Err(AsteriskError::Refused { doing, status }),
        }
    }

    async fn wait_for_registration(
        &self,
        request: &OriginateRequest,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        while clock::now() + REGISTRATION_POLL_INTERVAL < until {
            // Sleeps before the first check too: a phone may be online and still fail to be called, and the loop of
            // the caller of this function must not spin then.
            tokio::time::sleep(REGISTRATION_POLL_INTERVAL).await;
            if self.contact(&request.phone.account).await?.is_some() {
                return Ok(());
            }
        }
        Err(AsteriskError::PhoneOffline)
    }

    pub(super) async fn is_online(&self, phone: &CalledPhone) -> Result<bool, AsteriskError> {
        let doing = "looking for the phone";
        let path = format!("/endpoints/PJSIP/{}", phone.account);
        let reply = self.find(doing, &path).await?;
        let reply = reply.ok_or(AsteriskError::NoSuchEndpoint)?;
        let endpoint: Endpoint = parse_json(reply, doing).await?;
        Ok(endpoint.state == "online")
    }

    /// The address that the phone has registered, as a SIP URI.
    async fn contact(&self, account: &SipAccountName) -> Result<Option<String>, AsteriskError> {
        let doing = "looking for the phone's address";
        let path = format!("/asterisk/config/dynamic/res_pjsip/aor/{account}");
        let reply = self.find(doing, &path).await?;
        let reply = reply.ok_or(AsteriskError::NoSuchEndpoint)?;
        let aor: Vec<ConfigField> = parse_json(reply, doing).await?;
        let contacts = aor.into_iter().filter(|field| field.attribute == "contact");
        Ok(contacts
            .map(|field| field.value)
            .find(|contact| !contact.is_empty()))
    }

    /// How far the leg to a phone has come. `None` if it does not exist.
    async fn leg_progress(&self, leg: &ChannelId) -> Result<Option<LegProgress>, AsteriskError> {
        let doing = "watching a leg";
        let path = format!("/channels/{leg}/variable?variable={LEG_PROGRESS}");
        let reply = self.request_with_retries(doing, Method::GET, &path).await?;
        let Some(reply) = if_found(reply, doing)? else {
            return Ok(None);
        };
        let variable: Variable = parse_json(reply, doing).await?;
        Ok(LegProgress::parse(&variable.value))
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
        let path = end_path(leg, reason);
        let reply = self.request_with_retries(ENDING, Method::DELETE, &path);
        expect_ended(&reply.await?)
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
            pause_before_retry(error).await;
            reply = request().await;
        }
        reply
    }
}

async fn pause_before_retry(error: &AsteriskError) {
    tokio::time::sleep(LEG_RETRY_PAUSE).await;
    requests::log_retry(SYSTEM, requests::error_chain(error));
}

fn end_path(leg: &ChannelId, reason: &str) -> String {
    format!("/channels/{leg}?reason={reason}")
}

fn expect_ended(reply: &Response) -> Result<(), AsteriskError> {
    let done = [StatusCode::NO_CONTENT, StatusCode::NOT_FOUND];
    expect_status(reply, ENDING, &done)
}

/// Why the leg to the phone of an ended call ends.
fn reason_at_phone(call: &Call) -> &'static str {
    match call.end_reason() {
        Some(EndReason::AnsweredElsewhere | EndReason::DeclinedElsewhere) => ANSWERED_ELSEWHERE,
        _ => NORMAL,
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

/// The phone's leg that is bridged to a caller's, which the dialplan notes: `EVAL(${SHARED(RINGBACK_BRIDGED)})`, percent-encoded. Empty
/// if there is none.
const BRIDGED_LEG: &str = "EVAL%28%24%7BSHARED%28RINGBACK_BRIDGED%29%7D%29";

/// The expression of [`LegProgress`], percent-encoded, as the proxy in front of ARI lets it pass.
///
/// `EVAL(${CHANNEL(state)} ${CHANNEL_EXISTS(${CALLER_CHANNEL})} ${CHANNEL(pjsip,target_uri)} ${PJSIP_CONTACT(${PJSIP_AOR(${RINGBACK_PHONE},contact)},uri)}
/// ${PJSIP_CONTACT(${PJSIP_AOR(${RINGBACK_PHONE},contact)},expiration_time)})`
const LEG_PROGRESS: &str = "EVAL%28%24%7BCHANNEL%28state%29%7D%20%24%7BCHANNEL_EXISTS%28%24%7BCALLER_CHANNEL%7D%29%7D%20\
%24%7BCHANNEL%28pjsip%2Ctarget_uri%29%7D%20\
%24%7BPJSIP_CONTACT%28%24%7BPJSIP_AOR%28%24%7BRINGBACK_PHONE%7D%2Ccontact%29%7D%2Curi%29%7D%20\
%24%7BPJSIP_CONTACT%28%24%7BPJSIP_AOR%28%24%7BRINGBACK_PHONE%7D%2Ccontact%29%7D%2Cexpiration_time%29%7D%29";

/// How far the leg to a phone has come, whether its caller still waits, and where the phone is.
struct LegProgress {
    state: String,
    caller_exists: bool,
    /// Where the INVITE goes, as a SIP URI.
    target: String,
    /// Where the phone is registered. `None` if it is not.
    contact: Option<String>,
    /// When the registration expires, in seconds since the Unix epoch. Each REGISTER changes it.
    contact_expires_at: Option<u64>,
}

impl LegProgress {
    /// Parses the value of [`LEG_PROGRESS`]. `None` for a leg that has just ended.
    fn parse(value: &str) -> Option<Self> {
        let mut fields = value.split(' ').map(str::to_owned);
        Some(Self {
            state: fields.next()?,
            caller_exists: fields.next()? == "1",
            target: fields.next().filter(|target| !target.is_empty())?,
            contact: fields.next().filter(|contact| !contact.is_empty()),
            contact_expires_at: fields.next().and_then(|seconds| seconds.parse().ok()),
        })
    }

    /// Whether the phone has not reacted to its INVITE.
    fn is_unanswered(&self) -> bool {
        self.state == "Down"
    }

    /// Whether the phone may ring for a caller who has gone. A phone that has answered is bridged, or the dialplan ends its leg.
    fn lacks_caller(&self) -> bool {
        !self.caller_exists && self.state != "Up"
    }

    /// Whether the phone is registered at another address than that of the INVITE, or has registered again since the first look.
    fn has_moved(&self, first_expiry: Option<u64>) -> bool {
        let is_elsewhere = |contact: &String| *contact != self.target;
        self.contact.as_ref().is_some_and(is_elsewhere) || self.contact_expires_at > first_expiry
    }
}

#[derive(Deserialize)]
struct ConfigField {
    attribute: String,
    value: String,
}

#[derive(Deserialize)]
pub(super) struct Variable {
    pub(super) value: String,
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
    let fields = serde_json::from_slice::<Vec<ConfigField>>(body).map(|fields| fields.len());
    let variable = serde_json::from_slice::<Variable>(body)
        .map(|variable| LegProgress::parse(&variable.value).is_some_and(|leg| leg.has_moved(None)));
    let _parsed = (endpoint, failure, fields, variable);
}

/// Asterisk replies 500 with this text when the endpoint has no registered contact.
async fn is_allocation_failure(reply: Response) -> bool {
    reply
        .json::<OriginateFailure>()
        .await
        .is_ok_and(|failure| failure.error == "Allocation failed")
}
