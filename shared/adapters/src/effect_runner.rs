//! The world outside, as [`Switchboard`](crate::switchboard::Switchboard) needs it: each effect goes to the system
//! that can bring it about.

use crate::platform::clock;
use std::borrow::Cow;
use std::error::Error as _;

use crate::asterisk::{Asterisk, AsteriskError, Bridging, Calling, Pbx, PhoneLeg};
use crate::exotel::{Exotel, ExotelError};
use crate::push::Pushes;
use crate::store::calls::StoreError;
use crate::store::devices::Device;
use crate::switchboard::{EffectContext, Effects};
use crate::timers::{Timeouts, TimerError};
use ringback_core::call::CallStatus;
use ringback_core::call::{Call, Effect, EndReason, Event};
use ringback_core::ids::{ChannelId, Extension};
use ringback_core::timestamp::Timestamp;

/// Asterisk, the push services, the timers, and Exotel.
#[derive(Debug)]
pub struct EffectRunner {
    asterisk: Asterisk,
    pushes: Pushes,
    timeouts: Timeouts,
    exotel: Option<Exotel>,
}

/// Why an effect that somebody waits for was not brought about.
#[derive(Debug, thiserror::Error)]
pub enum OutsideError {
    /// A leg could not be brought up or taken down.
    #[error(transparent)]
    Asterisk(#[from] AsteriskError),
    /// The devices could not be looked up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No timer could be armed.
    #[error(transparent)]
    Timer(#[from] TimerError),
    /// This function has no account at Exotel.
    #[error("this function was not given an account at Exotel")]
    NoExotel,
}

impl EffectRunner {
    /// The world through these three. Outbound calls need [`EffectRunner::with_exotel`] too.
    #[must_use]
    pub const fn new(asterisk: Asterisk, pushes: Pushes, timeouts: Timeouts) -> Self {
        Self {
            asterisk,
            pushes,
            timeouts,
            exotel: None,
        }
    }

    /// The same with an account at Exotel, for the functions that place calls and look them up.
    #[must_use]
    pub fn with_exotel(self, exotel: Exotel) -> Self {
        Self {
            exotel: Some(exotel),
            ..self
        }
    }

    async fn devices_for<'a>(
        &self,
        job: &'a EffectContext<'_>,
    ) -> Result<Cow<'a, [Device]>, OutsideError> {
        match job.devices {
            Some(devices) => Ok(Cow::Borrowed(devices)),
            None => Ok(Cow::Owned(self.devices(&job.call.extension).await?)),
        }
    }

    async fn bridge(&self, job: &EffectContext<'_>) -> Result<Option<Event>, OutsideError> {
        let Some(caller_leg) = &job.call.caller_leg else {
            return Ok(None);
        };
        let Some(pbx) = self.asterisk.of(job.call)? else {
            return Ok(None);
        };
        let call_id = job.call.call_id;
        let bridging = pbx.bridge(job.call, caller_leg, job.until);
        // Each request has its own timeout; the sum of them must leave time to answer.
        let time_left = job.until.since(clock::now());
        let bridging = tokio::time::timeout(time_left, bridging).await;
        Ok(
            match bridging.unwrap_or(Err(AsteriskError::PhoneOffline))? {
                Bridging::UnderWay => {
                    tracing::info!(%call_id, "phone called");
                    Some(Event::PhoneDialed)
                }
                Bridging::CallerGone => {
                    tracing::info!(%call_id, "the caller left before the phone was called");
                    None
                }
            },
        )
    }

    /// The leg that ends the caller's part, if there may be one anywhere.
    fn callers_leg(&self, call: &Call) -> Result<Option<(&Pbx, ChannelId)>, AsteriskError> {
        Ok(self.asterisk.of(call)?.zip(call.caller_channel()))
    }

    /// The app that calls waits for the answer to its request, so its phone is not waited for as long as a woken one.
    async fn call_caller(&self, job: &EffectContext<'_>) -> Option<Event> {
        let caller = job.call.kind.calling_app()?;
        let calling = self.asterisk.call_caller(job.call, caller, job.until);
        let error = match calling.await {
            Ok(Calling::UnderWay) => return Some(Event::CallerPhoneDialed),
            Ok(Calling::Found(pbx)) => return Some(Event::CallerPhoneLocated(pbx)),
            Err(error) => error,
        };
        tracing::warn!(call_id = %job.call.call_id, %error, cause = ?error.source(), "the caller's own phone was not called");
        Some(Event::CallerUnreachable)
    }

    async fn place(&self, job: &EffectContext<'_>) -> Result<Option<Event>, OutsideError> {
        let exotel = self.exotel.as_ref().ok_or(OutsideError::NoExotel)?;
        let error = match exotel.place(job.call).await {
            Ok(placed) => {
                return Ok(Some(Event::ExotelProgress {
                    call_sid: placed.call_sid,
                    status: placed.status,
                }));
            }
            Err(error) => error,
        };
        tracing::warn!(call_id = %job.call.call_id, %error, cause = ?error.source(), "Exotel did not place the call");
        Ok(Some(why_not_placed(&error).map_or(
            Event::ExotelNoAnswer,
            Event::OutboundCallRejected,
        )))
    }

    async fn look_up(&self, job: &EffectContext<'_>) -> Result<Option<Event>, OutsideError> {
        let exotel = self.exotel.as_ref().ok_or(OutsideError::NoExotel)?;
        let Some(call_sid) = job.call.call_sid.clone() else {
            return Ok(None);
        };
        let progress = match exotel.details(&call_sid).await {
            Ok(details) => details.status,
            // Of a call that was answered, a wrong account or a slow register is likelier than that it never was.
            Err(ExotelError::NoSuchCall) if job.call.bridged_at.is_none() => {
                Some(CallStatus::Failed)
            }
            // It is looked up again.
            Err(error) => {
                tracing::warn!(call_id = %job.call.call_id, %error, cause = ?error.source(), "Exotel did not say how the call stands");
                None
            }
        };
        Ok(progress.map(|progress| Event::ExotelProgress {
            call_sid,
            status: progress,
        }))
    }
}

/// Why a call was not placed; `None` where it may have been.
const fn why_not_placed(error: &ExotelError) -> Option<EndReason> {
    Some(match error {
        ExotelError::Unknown(_) => return None,
        ExotelError::Refused { .. } | ExotelError::NoSuchCall => EndReason::ExotelRefused,
        ExotelError::NoBalance => EndReason::ExotelNoBalance,
        ExotelError::TooMany { .. } => EndReason::ExotelTooMany,
        ExotelError::Unavailable(_) => EndReason::ExotelUnavailable,
        ExotelError::Unauthorized
        | ExotelError::NotConfigured(_)
        | ExotelError::NoClient(_)
        | ExotelError::Secret(_) => EndReason::ExotelNotConfigured,
    })
}

impl Effects for EffectRunner {
    type Error = OutsideError;

    fn now(&self) -> Timestamp {
        clock::now()
    }

    async fn devices(&self, extension: &Extension) -> Result<Vec<Device>, OutsideError> {
        Ok(self.pushes.devices().of(extension).await?)
    }

    async fn prepare(&self, event: &Event) {
        match event {
            Event::CallerReported { .. } => self.pushes.get_ready().await,
            Event::Accepted { .. }
            | Event::Declined { .. }
            | Event::HungUp { .. }
            | Event::TimerFired => self.asterisk.get_ready().await,
            _ => {}
        }
    }

    async fn run(
        &self,
        effect: &Effect,
        job: &EffectContext<'_>,
    ) -> Result<Option<Event>, OutsideError> {
        match effect {
            Effect::SendPush => {
                let devices = self.devices_for(job).await?;
                return Ok(Some(self.pushes.ring(job.call, &devices, job.until).await));
            }
            Effect::CancelPush { reason, to } => {
                let devices = self.devices_for(job).await?;
                self.pushes
                    .cancel(job.call, &devices, *reason, to, job.until)
                    .await;
            }
            Effect::DialCallerPhone => return Ok(self.call_caller(job).await),
            Effect::CheckBridge => {
                let leg = match self.asterisk.of(job.call)? {
                    Some(pbx) => pbx.phone_of(job.call.call_id).await?,
                    None => PhoneLeg::None,
                };
                return Ok(Some(match leg {
                    PhoneLeg::Answered => Event::Bridged,
                    PhoneLeg::Rings => Event::NotBridged { rings: true },
                    PhoneLeg::None => Event::NotBridged { rings: false },
                }));
            }
            Effect::PlaceOutboundCall => return self.place(job).await,
            Effect::QueryExotel => return self.look_up(job).await,
            Effect::Bridge => return self.bridge(job).await,
            Effect::SendBusy => {
                if let Some((pbx, leg)) = self.callers_leg(job.call)? {
                    pbx.busy(&leg).await?;
                }
            }
            Effect::HangUpCaller => {
                if let Some((pbx, leg)) = self.callers_leg(job.call)? {
                    pbx.hang_up(&leg).await?;
                }
            }
            Effect::HangUpPhone => {
                if let Some(pbx) = self.asterisk.of(job.call)? {
                    pbx.hang_up(&ChannelId::of_phone(job.call.call_id)).await?;
                }
            }
            Effect::ArmTimer(at) => self.timeouts.arm(job.call, *at, job.now).await?,
            Effect::DisarmTimer => {
                if let Err(error) = self.timeouts.disarm(job.call).await {
                    tracing::warn!(call_id = %job.call.call_id, %error, "timer not taken back");
                }
            }
            Effect::MarkEffectsCompleted(_) => {}
        }
        Ok(None)
    }
}
