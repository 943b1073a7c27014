//! Creates and deletes the timers of calls. The rules for them are in `ringback_core::call`: when a timer fires
//! (`Effect::ArmTimer`), and which schedule stands behind it (`stream_action` for the ring, `Call::backstop` for the
//! conversation).

#[cfg(test)]
mod tests;

use std::time::Duration;

use aws_sdk_scheduler::error::SdkError;
use aws_sdk_scheduler::types::{
    ActionAfterCompletion, FlexibleTimeWindow, FlexibleTimeWindowMode, Target,
};
use futures::future::join;

use super::timer_message::TimerMessage;
use crate::platform::config::{ConfigError, Environment};
use crate::platform::lazy_client::LazyClient;
use ringback_core::call::{Backstop, BackstopPhase, Call, StreamAction};
use ringback_core::ids::CallId;
use ringback_core::timestamp::Timestamp;

/// The longest delay of an SQS message
/// (<https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessage.html>).
const MAX_MESSAGE_DELAY: Duration = Duration::from_secs(900);

const QUEUE: &str = "SQS";
const SCHEDULER: &str = "EventBridge Scheduler";

/// Why a timer could not be armed or deleted.
#[derive(Debug, thiserror::Error)]
#[error("{service} did not accept a timer request")]
pub struct TimerError {
    service: &'static str,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// For `map_err`.
fn request_failed<E>(service: &'static str) -> impl FnOnce(E) -> TimerError
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| TimerError {
        service,
        source: error.into(),
    }
}

/// The queue and the scheduler that fire the timers of calls.
#[derive(Clone, Debug)]
pub struct CallTimers {
    queue: LazyClient<aws_sdk_sqs::Client>,
    queue_url: String,
    scheduler: LazyClient<aws_sdk_scheduler::Client>,
    schedule_group: String,
    scheduler_role_arn: String,
    function_arn: String,
}

impl CallTimers {
    /// Reads `TIMEOUT_QUEUE_URL`, `SCHEDULE_GROUP`, `SCHEDULER_ROLE_ARN` and `TIMEOUT_FUNCTION_ARN`.
    ///
    /// # Errors
    /// When a variable is missing.
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

    /// Arms the timer of a call for `at`, and creates its backstop if it gets one. `backstop` is `None` where the table's
    /// stream creates the backstop, or has created it.
    ///
    /// A live call has a schedule, from here or from the stream, so a rejected message is only logged. An ended call has
    /// none: its message must be accepted.
    ///
    /// # Errors
    /// When no message and no schedule fires for the call. Repeating it is safe.
    pub async fn arm(
        &self,
        call: &Call,
        at: Timestamp,
        now: Timestamp,
        backstop: Option<Backstop>,
    ) -> Result<(), TimerError> {
        let (call_id, has_ended) = (call.call_id, call.status.is_final());
        let schedule = async {
            match backstop {
                Some(backstop) => self.create_schedule(call_id, backstop).await,
                None => Ok(()),
            }
        };
        let delay = at.since(now);
        if delay > MAX_MESSAGE_DELAY {
            return schedule.await;
        }
        let (message, schedule) = join(self.send_delayed(call_id, delay), schedule).await;
        let failures = [&message, &schedule].into_iter();
        for failure in failures.filter_map(|result| result.as_ref().err()) {
            tracing::warn!(%call_id, error = %failure, cause = ?failure.source, "timer not armed");
        }
        if has_ended {
            return message;
        }
        message.or(schedule)
    }

    /// Does what a change of a call, read from the table's stream, requires in this region.
    ///
    /// # Errors
    /// When a timer could not be armed, or the queue did not take the message. Repeating it is safe.
    pub async fn perform(
        &self,
        action: &StreamAction<'_>,
        now: Timestamp,
    ) -> Result<(), TimerError> {
        match action {
            StreamAction::CreateBackstop { call, backstop } => {
                self.create_backstop(call.call_id, *backstop, now).await
            }
            StreamAction::ArmTimer { call, at, backstop } => {
                self.arm(call, *at, now, Some(*backstop)).await
            }
            StreamAction::Merge(overwritten) => {
                let (call_id, status) = (overwritten.call_id, overwritten.status.as_str());
                tracing::warn!(%call_id, status, "replication overwrote a newer version of the call; merging it back");
                self.send(&TimerMessage::merge(overwritten), 0).await
            }
        }
    }

    /// Deletes the schedules of a call. Its messages cannot be deleted; `call-timeout` ignores them.
    ///
    /// # Errors
    /// When the scheduler did not delete a schedule. That is harmless: `call-timeout` ignores it when it fires.
    pub async fn disarm(&self, call: &Call) -> Result<(), TimerError> {
        for phase in call.backstop_phases() {
            self.delete_schedule(call.call_id, *phase).await?;
        }
        Ok(())
    }

    async fn send_delayed(&self, call: CallId, delay: Duration) -> Result<(), TimerError> {
        // Rounded up: `call-timeout` would have to send a message again that arrives early.
        let seconds = i32::try_from(delay.as_millis().div_ceil(1000)).unwrap_or(0);
        self.send(&TimerMessage::check(call), seconds).await
    }

    async fn send(&self, message: &TimerMessage, delay_seconds: i32) -> Result<(), TimerError> {
        self.queue
            .send_message()
            .queue_url(&self.queue_url)
            .message_body(to_json(message)?)
            .delay_seconds(delay_seconds)
            .send()
            .await
            .map_err(request_failed(QUEUE))?;
        Ok(())
    }

    /// Creates a schedule, or sends a delayed message if the scheduler rejects the schedule.
    async fn create_backstop(
        &self,
        call: CallId,
        backstop: Backstop,
        now: Timestamp,
    ) -> Result<(), TimerError> {
        let delay = backstop.at.since(now);
        // AWS does not document what the scheduler does with a time in the past.
        if !delay.is_zero() {
            let Err(error) = self.create_schedule(call, backstop).await else {
                return Ok(());
            };
            tracing::warn!(call_id = %call, %error, cause = ?error.source, "schedule not created; sending a delayed message");
        }
        self.send_delayed(call, delay).await
    }

    async fn create_schedule(&self, call: CallId, backstop: Backstop) -> Result<(), TimerError> {
        let target = Target::builder()
            .arn(&self.function_arn)
            .role_arn(&self.scheduler_role_arn)
            .input(to_json(&TimerMessage::check(call))?)
            .build()
            .map_err(request_failed(SCHEDULER))?;
        let window = FlexibleTimeWindow::builder()
            .mode(FlexibleTimeWindowMode::Off)
            .build()
            .map_err(request_failed(SCHEDULER))?;
        let reply = self
            .scheduler
            .create_schedule()
            .name(schedule_name(call, backstop.phase))
            .group_name(&self.schedule_group)
            .schedule_expression(format!("at({})", scheduler_time(backstop.at)))
            .flexible_time_window(window)
            .target(target)
            .action_after_completion(ActionAfterCompletion::Delete)
            .send()
            .await;
        match reply {
            Ok(_) => Ok(()),
            // An earlier attempt created it.
            Err(SdkError::ServiceError(error)) if error.err().is_conflict_exception() => Ok(()),
            Err(error) => Err(request_failed(SCHEDULER)(error)),
        }
    }

    async fn delete_schedule(&self, call: CallId, phase: BackstopPhase) -> Result<(), TimerError> {
        let reply = self
            .scheduler
            .delete_schedule()
            .name(schedule_name(call, phase))
            .group_name(&self.schedule_group)
            .send()
            .await;
        match reply {
            Ok(_) => Ok(()),
            Err(SdkError::ServiceError(error)) if error.err().is_resource_not_found_exception() => {
                Ok(())
            }
            Err(error) => Err(request_failed(SCHEDULER)(error)),
        }
    }
}

fn schedule_name(call: CallId, phase: BackstopPhase) -> String {
    format!("{call}-{}", phase.as_str())
}

fn to_json(message: &TimerMessage) -> Result<String, TimerError> {
    serde_json::to_string(message).map_err(request_failed(QUEUE))
}

/// The scheduler's `at()` expression takes whole seconds in UTC, without a time zone: `2026-11-21T08:00:00`.
fn scheduler_time(at: Timestamp) -> String {
    let whole_second = Timestamp::from_millis(at.as_secs_rounded_up() * 1000);
    whole_second.to_iso().trim_end_matches('Z').to_owned()
}
