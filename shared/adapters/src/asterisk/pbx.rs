//! One Asterisk, in telephony's words.

use crate::platform::clock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;

use super::AsteriskError;
use super::ari::{Ari, SYSTEM, expect, read};
use super::leg::NewLeg;
use crate::telemetry::requests;
use ringback_core::call::Call;
use ringback_core::ids::{CallId, ChannelId, Extension, PbxName};
use ringback_core::timestamp::Timestamp;

/// How often, and after which pause, taking a leg down is tried again.
const TRIES_MORE: usize = 2;
const PAUSE: Duration = Duration::from_millis(300);

/// How often a phone that has not registered yet is looked for. ARI answers in a few milliseconds.
pub(super) const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(200);

/// How long a PBX is passed over that is of no use.
const PASSED_OVER_FOR: Duration = Duration::from_secs(10);

/// How a request to join the legs ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bridging {
    /// The phone is being called, now or since an earlier request.
    UnderWay,
    /// The caller's channel is gone, so the phone was left alone.
    CallerGone,
}

/// How far the leg to a phone has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PhoneLeg {
    /// There is none.
    None,
    /// It rings.
    Rings,
    /// It has been answered, which is when the dialplan joins it to the caller.
    Answered,
}

/// One Asterisk.
#[derive(Debug)]
pub struct Pbx {
    name: PbxName,
    ari: Ari,
    /// In milliseconds since the Unix epoch.
    passed_over_until: AtomicU64,
}

impl Pbx {
    pub(super) const fn new(name: PbxName, ari: Ari) -> Self {
        Self {
            name,
            ari,
            passed_over_until: AtomicU64::new(0),
        }
    }

    /// What it is called.
    #[must_use]
    pub const fn name(&self) -> &PbxName {
        &self.name
    }

    /// Calls the phone, to be joined to the caller who waits on `caller_leg`.
    ///
    /// A phone that is woken registers with SIP only seconds after its app has accepted; until then Asterisk says
    /// "Allocation failed". So the phone is waited for, until `until` or the call's deadline.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn bridge(
        &self,
        call: &Call,
        caller_leg: &ChannelId,
        until: Timestamp,
    ) -> Result<Bridging, AsteriskError> {
        let until = call
            .deadline()
            .map_or(until, |deadline| deadline.min(until));
        let leg = NewLeg::of_phone(call, caller_leg);
        while !self.originate(&leg).await? {
            self.wait_for_phone(&call.extension, until).await?;
            // Seconds have passed: a phone must not ring for a caller who has gone.
            if !self.channel_exists(caller_leg).await? {
                return Ok(Bridging::CallerGone);
            }
        }
        Ok(Bridging::UnderWay)
    }

    /// Calls the own phone of `caller`, an app that calls another, so that it waits as any caller does.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub(super) async fn call_caller(
        &self,
        call: &Call,
        caller: &Extension,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        let leg = NewLeg::of_app_caller(call, caller);
        while !self.originate(&leg).await? {
            self.wait_for_phone(caller, until).await?;
        }
        Ok(())
    }

    /// How far the call's phone has come.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn phone_of(&self, call: CallId) -> Result<PhoneLeg, AsteriskError> {
        let doing = "looking for the phone's leg";
        let path = format!("/channels/{}", ChannelId::of_phone(call));
        let Some(answer) = self.look(doing, &path).await? else {
            return Ok(PhoneLeg::None);
        };
        let channel: Channel = read(answer, doing).await?;
        Ok(match channel.state.as_str() {
            "Up" => PhoneLeg::Answered,
            _ => PhoneLeg::Rings,
        })
    }

    /// Lets the caller on this channel hear busy: Asterisk refuses the unanswered INVITE with 486. A channel that is
    /// gone is no error.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn busy(&self, caller_leg: &ChannelId) -> Result<(), AsteriskError> {
        self.take_down(caller_leg, "busy").await
    }

    /// Ends a leg. One that is gone is no error.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn hang_up(&self, leg: &ChannelId) -> Result<(), AsteriskError> {
        self.take_down(leg, "normal").await
    }

    /// Whether Asterisk is there, has booted, and knows our password.
    ///
    /// # Errors
    /// See [`AsteriskError`].
    pub async fn ping(&self) -> Result<(), AsteriskError> {
        let doing = "asking whether it is there";
        let answer = self
            .ari
            .ask(doing, Method::GET, "/asterisk/ping", None)
            .await?;
        expect(&answer, doing, &[StatusCode::OK])
    }

    #[cfg(test)]
    pub(super) async fn trusts(&self) -> Option<String> {
        self.ari.trusts().await
    }

    pub(super) fn is_passed_over(&self, now: Timestamp) -> bool {
        now.as_millis() < self.passed_over_until.load(Ordering::Relaxed)
    }

    /// Later calls do not wait for what did not answer this one, or did not let us in.
    pub(super) fn pass_over_if_dead<T>(&self, answer: &Result<T, AsteriskError>, now: Timestamp) {
        if let Err(error) = answer
            && !matches!(error, AsteriskError::NoSuchEndpoint)
        {
            tracing::warn!(pbx = %self.name, %error, "a PBX is of no use, and is passed over for a while");
            let until = now + PASSED_OVER_FOR;
            self.passed_over_until
                .store(until.as_millis(), Ordering::Relaxed);
        }
    }

    /// Asks for a leg. `false`: the phone is not registered. The leg's id is made from the call's, so that however
    /// often this is asked, there is one leg at most at a time.
    async fn originate(&self, leg: &NewLeg) -> Result<bool, AsteriskError> {
        let doing = "calling a phone";
        let path = format!("/channels/{}", leg.channel);
        let answer = self
            .ari
            .ask(doing, Method::POST, &path, Some(&leg.body))
            .await?;
        match answer.status() {
            StatusCode::INTERNAL_SERVER_ERROR if allocation_failed(answer).await => Ok(false),
            StatusCode::OK | StatusCode::CONFLICT => Ok(true),
            status => Err(AsteriskError::Refused { doing, status }),
        }
    }

    /// Pauses before every look, so that a phone which is online and still cannot be called is not called at once
    /// again, and again, for ever.
    async fn wait_for_phone(
        &self,
        extension: &Extension,
        until: Timestamp,
    ) -> Result<(), AsteriskError> {
        while clock::now() + LOOK_AGAIN_AFTER < until {
            tokio::time::sleep(LOOK_AGAIN_AFTER).await;
            if self.is_online(extension).await? {
                return Ok(());
            }
        }
        Err(AsteriskError::PhoneOffline)
    }

    pub(super) async fn is_online(&self, extension: &Extension) -> Result<bool, AsteriskError> {
        let doing = "looking for the phone";
        let path = format!("/endpoints/PJSIP/{extension}");
        let answer = self.look(doing, &path).await?;
        let answer = answer.ok_or(AsteriskError::NoSuchEndpoint)?;
        let endpoint: Endpoint = read(answer, doing).await?;
        Ok(endpoint.state == "online")
    }

    async fn channel_exists(&self, channel: &ChannelId) -> Result<bool, AsteriskError> {
        let doing = "looking for the caller";
        let path = format!("/channels/{channel}");
        Ok(self.look(doing, &path).await?.is_some())
    }

    /// What Asterisk says of something, if there is such a thing.
    async fn look(
        &self,
        doing: &'static str,
        path: &str,
    ) -> Result<Option<Response>, AsteriskError> {
        let answer = self.ari.ask(doing, Method::GET, path, None).await?;
        if answer.status() == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        expect(&answer, doing, &[StatusCode::OK])?;
        Ok(Some(answer))
    }

    async fn take_down(&self, leg: &ChannelId, reason: &'static str) -> Result<(), AsteriskError> {
        let doing = "taking a leg down";
        let path = format!("/channels/{leg}?reason={reason}");
        let mut answer = self.ari.ask(doing, Method::DELETE, &path, None).await;
        // A caller who should hear busy now would wait for the next timer otherwise, which is far.
        for _ in 0..TRIES_MORE {
            let Err(error) = &answer else { break };
            tokio::time::sleep(PAUSE).await;
            requests::log_retry(SYSTEM, requests::error_chain(error));
            answer = self.ari.ask(doing, Method::DELETE, &path, None).await;
        }
        let answer = answer?;
        expect(
            &answer,
            doing,
            &[StatusCode::NO_CONTENT, StatusCode::NOT_FOUND],
        )
    }
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
struct Refusal {
    error: String,
}

/// Reads what may be an answer of ARI's.
#[cfg(any(test, feature = "testing"))]
pub(crate) fn read_any_answer(body: &[u8]) {
    let endpoint = serde_json::from_slice::<Endpoint>(body).map(|endpoint| endpoint.state);
    let refusal = serde_json::from_slice::<Refusal>(body).map(|refusal| refusal.error);
    let _read = (endpoint, refusal);
}

async fn allocation_failed(answer: Response) -> bool {
    answer
        .json::<Refusal>()
        .await
        .is_ok_and(|refusal| refusal.error == "Allocation failed")
}
