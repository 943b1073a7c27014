//! The world outside, as [`Switchboard`](crate::switchboard::Switchboard) needs it: each effect goes to the system
//! that can bring it about.

use std::borrow::Cow;

use crate::asterisk::{Asterisk, AsteriskError, Bridging};
use crate::call::{Effect, Event};
use crate::calls::StoreError;
use crate::clock::Timestamp;
use crate::devices::Device;
use crate::names::{ChannelId, Extension};
use crate::push::Pushes;
use crate::switchboard::{Job, Perform};
use crate::timeouts::{Timeouts, TimerError};

/// Asterisk, the push services, and the timers.
#[derive(Debug)]
pub struct Outside {
    asterisk: Asterisk,
    pushes: Pushes,
    timeouts: Timeouts,
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
}

impl Outside {
    /// The world through these three.
    #[must_use]
    pub const fn new(asterisk: Asterisk, pushes: Pushes, timeouts: Timeouts) -> Self {
        Self {
            asterisk,
            pushes,
            timeouts,
        }
    }

    async fn devices_for<'a>(&self, job: &'a Job<'_>) -> Result<Cow<'a, [Device]>, OutsideError> {
        match job.devices {
            Some(devices) => Ok(Cow::Borrowed(devices)),
            None => Ok(Cow::Owned(self.devices(&job.call.extension).await?)),
        }
    }

    async fn bridge(&self, job: &Job<'_>) -> Result<(), OutsideError> {
        let Some(caller_leg) = &job.call.caller_leg else {
            return Ok(());
        };
        let call_id = job.call.call_id;
        let bridging = self.asterisk.bridge(job.call, caller_leg, job.until);
        // Each request has its own timeout; the sum of them must leave time to answer.
        let time_left = job.until.since(Timestamp::now());
        let bridging = tokio::time::timeout(time_left, bridging).await;
        match bridging.unwrap_or(Err(AsteriskError::PhoneOffline))? {
            Bridging::UnderWay => tracing::info!(%call_id, "phone called"),
            Bridging::CallerGone => {
                tracing::info!(%call_id, "the caller left before the phone was called")
            }
        }
        Ok(())
    }
}

impl Perform for Outside {
    type Error = OutsideError;

    async fn devices(&self, extension: &Extension) -> Result<Vec<Device>, OutsideError> {
        Ok(self.pushes.devices().of(extension).await?)
    }

    async fn perform(&self, effect: &Effect, job: &Job<'_>) -> Result<Option<Event>, OutsideError> {
        let caller_leg = job.call.caller_leg.as_ref();
        match effect {
            Effect::Ring => {
                let devices = self.devices_for(job).await?;
                return Ok(Some(self.pushes.ring(job.call, &devices, job.until).await));
            }
            Effect::Cancel { reason, to } => {
                let devices = self.devices_for(job).await?;
                self.pushes
                    .cancel(job.call, &devices, *reason, to, job.until)
                    .await;
            }
            Effect::Bridge => self.bridge(job).await?,
            Effect::Busy => {
                if let Some(leg) = caller_leg {
                    self.asterisk.busy(leg).await?;
                }
            }
            Effect::HangUpCaller => {
                if let Some(leg) = caller_leg {
                    self.asterisk.hang_up(leg).await?;
                }
            }
            Effect::HangUpPhone => {
                self.asterisk
                    .hang_up(&ChannelId::of_phone(job.call.call_id))
                    .await?
            }
            Effect::ArmTimer(at) => self.timeouts.arm(job.call, *at, job.now).await?,
            Effect::DisarmTimer => {
                if let Err(error) = self.timeouts.disarm(job.call).await {
                    tracing::warn!(call_id = %job.call.call_id, %error, "timer not taken back");
                }
            }
            Effect::Settle(_) => {}
        }
        Ok(None)
    }
}
