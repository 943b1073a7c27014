//! Timers: an SQS message that ends a ring on the second, and an EventBridge schedule that is there even if the
//! queue's path is broken. (A schedule alone has a precision of 60 s, so it cannot end a ring of 30 s.)
//!
//! Both bring `{"call_id": …}` to the function `call-timeout`. Whichever comes first acts. The queue brings it too what
//! replication has overwritten ([`Timeouts::tell_again`]).

pub mod replica;
#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_sdk_scheduler::error::SdkError;
use aws_sdk_scheduler::types::{
    ActionAfterCompletion, FlexibleTimeWindow, FlexibleTimeWindowMode, Target,
};
use futures::future::join;
use serde::{Deserialize, Serialize};

use crate::platform::config::{ConfigError, Environment};
use crate::platform::lazy_client::LazyClient;
use ringback_core::call::{Call, CallStatus, Event};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

/// What a timer brings to `call-timeout`.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// The call that is to be looked at.
    pub call_id: CallId,
    /// A version of it that replication has overwritten, and that is to be told again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overwritten: Option<Box<Call>>,
}

impl Timer {
    const fn of(call: &Call) -> Self {
        Self {
            call_id: call.call_id,
            overwritten: None,
        }
    }

    /// What has happened to the call when this comes.
    #[must_use]
    pub fn event(self) -> Event {
        self.overwritten
            .map_or(Event::TimerFired, Event::ReplicaOverwritten)
    }
}

/// SQS delays no message for longer.
const LONGEST_DELAY: Duration = Duration::from_secs(900);

/// The backstop fires this long after the last moment at which the ring, or the connecting after it, may end.
const BACKSTOP_AFTER: Duration = Duration::from_secs(5);

/// Why a timer could not be armed or taken back.
#[derive(Debug, thiserror::Error)]
#[error("{what} could not be reached")]
pub struct TimerError {
    what: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

const QUEUE: &str = "SQS";
const SCHEDULER: &str = "EventBridge Scheduler";

/// For `map_err`.
fn unreachable<E>(what: &'static str) -> impl FnOnce(E) -> TimerError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| TimerError {
        what,
        source: error.into(),
    }
}

/// The queue and the scheduler.
#[derive(Clone, Debug)]
pub struct Timeouts {
    queue: LazyClient<aws_sdk_sqs::Client>,
    queue_url: String,
    scheduler: LazyClient<aws_sdk_scheduler::Client>,
    schedule_group: String,
    scheduler_role_arn: String,
    function_arn: String,
}

impl Timeouts {
    /// `TIMEOUT_QUEUE_URL`, `SCHEDULE_GROUP`, `SCHEDULER_ROLE_ARN` and `TIMEOUT_FUNCTION_ARN`.
    ///
    /// # Errors
    /// When one of them is missing.
    pub fn from_environment(
        queue: impl Into<LazyClient<aws_sdk_sqs::Client>>,
        scheduler: impl Into<LazyClient<aws_sdk_scheduler::Client>>,
        environment: &Environment,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            queue: queue.into(),
            queue_url: environment.required("TIMEOUT_QUEUE_URL")?,
            scheduler: scheduler.into(),
            schedule_group: environment.required("SCHEDULE_GROUP")?,
            scheduler_role_arn: environment.required("SCHEDULER_ROLE_ARN")?,
            function_arn: environment.required("TIMEOUT_FUNCTION_ARN")?,
        })
    }

    /// Has the call looked at again at `at`. One of the two ways is enough, so one that fails is told and no error.
    ///
    /// # Errors
    /// When no way is left: nothing but the PBX's own limit would end this call.
    pub async fn arm(&self, call: &Call, at: Timestamp, now: Timestamp) -> Result<(), TimerError> {
        let delay = at.since(now);
        if delay > LONGEST_DELAY {
            return self.schedule_backstop(call, at).await;
        }
        let (on_time, backstop) = join(
            self.send_delayed(call, delay),
            self.schedule_backstop(call, at),
        )
        .await;
        for failure in [&on_time, &backstop]
            .into_iter()
            .filter_map(|result| result.as_ref().err())
        {
            tracing::error!(call_id = %call.call_id, error = %failure, cause = ?failure.source, "timer not armed");
        }
        on_time.or(backstop)
    }

    /// Has what this version of its call knew told again, now.
    ///
    /// # Errors
    /// When the queue cannot be reached.
    pub async fn tell_again(&self, overwritten: &Call) -> Result<(), TimerError> {
        let timer = Timer {
            overwritten: Some(Box::new(overwritten.clone())),
            ..Timer::of(overwritten)
        };
        self.send(&timer, 0).await
    }

    /// Takes a call's schedules back. A message on its way cannot be; it will find nothing to do.
    ///
    /// # Errors
    /// When the scheduler cannot be reached. Left alone, the schedule will find nothing to do either.
    pub async fn disarm(&self, call: &Call) -> Result<(), TimerError> {
        self.delete_schedule(call, Purpose::Ring).await?;
        if call.bridged_at.is_some() || call.is_to_number() {
            self.delete_schedule(call, Purpose::Talk).await?;
        }
        Ok(())
    }

    async fn send_delayed(&self, call: &Call, delay: Duration) -> Result<(), TimerError> {
        // Rounded up: a message that comes early would have to be sent again.
        let seconds = i32::try_from(delay.as_millis().div_ceil(1000)).unwrap_or(0);
        self.send(&Timer::of(call), seconds).await
    }

    async fn send(&self, timer: &Timer, delay_seconds: i32) -> Result<(), TimerError> {
        self.queue
            .send_message()
            .queue_url(&self.queue_url)
            .message_body(body(timer)?)
            .delay_seconds(delay_seconds)
            .send()
            .await
            .map_err(unreachable(QUEUE))?;
        Ok(())
    }

    async fn schedule_backstop(&self, call: &Call, at: Timestamp) -> Result<(), TimerError> {
        let (purpose, at) = match call.status {
            CallStatus::WaitingForMobile => {
                (Purpose::Ring, at + call.limits.connect + BACKSTOP_AFTER)
            }
            CallStatus::Initiated if at <= call.rings_until => (Purpose::Ring, at + BACKSTOP_AFTER),
            // Messages have an outbound call looked up, again and again; the schedule is there for when one is lost.
            CallStatus::Initiated | CallStatus::Ringing | CallStatus::InProgress
                if call.is_to_number() =>
            {
                (Purpose::Talk, call.deadline().unwrap_or(at))
            }
            CallStatus::InProgress => (Purpose::Talk, at),
            // The ring's backstop comes after this deadline too.
            CallStatus::MobileReady
            | CallStatus::Initiated
            | CallStatus::Ringing
            | CallStatus::Completed
            | CallStatus::Declined
            | CallStatus::TimedOut
            | CallStatus::Canceled
            | CallStatus::Failed => return Ok(()),
        };
        let target = Target::builder()
            .arn(&self.function_arn)
            .role_arn(&self.scheduler_role_arn)
            .input(body(&Timer::of(call))?)
            .build()
            .map_err(unreachable(SCHEDULER))?;
        let window = FlexibleTimeWindow::builder()
            .mode(FlexibleTimeWindowMode::Off)
            .build();
        let answer = self
            .scheduler
            .create_schedule()
            .name(name(call, purpose))
            .group_name(&self.schedule_group)
            .schedule_expression(format!("at({})", without_zone(at)))
            .flexible_time_window(window.map_err(unreachable(SCHEDULER))?)
            .target(target)
            .action_after_completion(ActionAfterCompletion::Delete)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(refused)) if refused.err().is_conflict_exception() => Ok(()),
            Err(error) => Err(unreachable(SCHEDULER)(error)),
        }
    }

    async fn delete_schedule(&self, call: &Call, purpose: Purpose) -> Result<(), TimerError> {
        let answer = self
            .scheduler
            .delete_schedule()
            .name(name(call, purpose))
            .group_name(&self.schedule_group)
            .send()
            .await;
        match answer {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(refused))
                if refused.err().is_resource_not_found_exception() =>
            {
                Ok(())
            }
            Err(error) => Err(unreachable(SCHEDULER)(error)),
        }
    }
}

/// What a schedule ends. Part of its name, so that the one for talking can be made while the one for ringing fires.
#[derive(Clone, Copy)]
enum Purpose {
    Ring,
    Talk,
}

fn name(call: &Call, purpose: Purpose) -> String {
    let purpose = match purpose {
        Purpose::Ring => "ring",
        Purpose::Talk => "talk",
    };
    format!("{}-{purpose}", call.call_id)
}

fn body(timer: &Timer) -> Result<String, TimerError> {
    serde_json::to_string(timer).map_err(unreachable(QUEUE))
}

/// `at()` takes UTC to the second, without a zone: `2026-11-21T08:00:00`.
fn without_zone(at: Timestamp) -> String {
    let whole_second = Timestamp::from_millis(at.as_secs_rounded_up() * 1000);
    whole_second.to_iso().trim_end_matches('Z').to_owned()
}
