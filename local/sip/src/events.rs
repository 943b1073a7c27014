use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

use crate::{CallStage, Error};

/// The time of an event, on the monotonic clock and on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventTime {
    /// For measuring durations.
    pub instant: Instant,
    /// For display, and for comparing with logs.
    pub wall: SystemTime,
}

impl EventTime {
    #[allow(clippy::disallowed_methods, reason = "the time of a real SIP event")]
    pub(crate) fn now() -> Self {
        Self {
            instant: Instant::now(),
            wall: SystemTime::now(),
        }
    }

    /// The time from `earlier` to this, or zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.instant.saturating_duration_since(earlier.instant)
    }
}

/// A stage, and when the call reached it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallEvent {
    /// The stage.
    pub stage: CallStage,
    /// The time.
    pub at: EventTime,
}

/// The events of a call, oldest first. Reading and waiting consume nothing, so both can be repeated.
#[derive(Debug, Clone)]
pub struct CallEvents(watch::Receiver<Vec<CallEvent>>);

/// Writes the events.
#[derive(Debug, Clone)]
pub(crate) struct EventLog(watch::Sender<Vec<CallEvent>>);

impl EventLog {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(Vec::new()))
    }

    pub(crate) fn events(&self) -> CallEvents {
        CallEvents(self.0.subscribe())
    }

    /// Logs a stage once, and nothing after a final stage. SIP may send 180 twice, and a rejection also ends the
    /// dialog.
    pub(crate) fn log(&self, stage: CallStage) {
        self.0.send_if_modified(|events| {
            let over = events.iter().any(|event| event.stage.is_final());
            let known = events.iter().any(|event| event.stage == stage);
            if over || known {
                return false;
            }
            events.push(CallEvent {
                stage,
                at: EventTime::now(),
            });
            true
        });
    }
}

impl CallEvents {
    /// All events so far.
    pub fn all(&self) -> Vec<CallEvent> {
        self.0.borrow().clone()
    }

    /// Whether the call has ended or was rejected.
    pub fn is_over(&self) -> bool {
        self.0.borrow().iter().any(|event| event.stage.is_final())
    }

    /// Waits for the event after the first `known` ones. `None` when the call is over and has no more events.
    pub async fn after(&self, known: usize) -> Option<CallEvent> {
        let mut receiver = self.0.clone();
        let events = receiver
            .wait_for(|events| events.len() > known || events.iter().any(|e| e.stage.is_final()))
            .await
            .ok()?;
        events.get(known).cloned()
    }

    /// Waits for a stage that `accepts` accepts. Returns at once if the call has already reached it.
    pub async fn wait_for(
        &self,
        expected: &'static str,
        within: Duration,
        accepts: impl Fn(&CallStage) -> bool,
    ) -> Result<CallEvent, Error> {
        let mut receiver = self.0.clone();
        let reached = tokio::time::timeout(within, async {
            receiver
                .wait_for(|events| {
                    events
                        .iter()
                        .any(|e| accepts(&e.stage) || e.stage.is_final())
                })
                .await
                .map(|events| events.clone())
        })
        .await;
        let events = match reached {
            Ok(Ok(events)) => events,
            Ok(Err(_)) => return Err(Error::Stopped),
            Err(_) => {
                return Err(Error::TimedOut {
                    expected,
                    waited: within,
                    seen: stages(&self.all()),
                });
            }
        };
        match events.iter().find(|event| accepts(&event.stage)) {
            Some(event) => Ok(event.clone()),
            None => Err(Error::UnexpectedOutcome {
                expected,
                seen: stages(&events),
            }),
        }
    }
}

fn stages(events: &[CallEvent]) -> Vec<CallStage> {
    events.iter().map(|event| event.stage.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_millis(20);

    fn is_answered(stage: &CallStage) -> bool {
        *stage == CallStage::Answered
    }

    #[tokio::test]
    async fn an_earlier_event_is_found() {
        let log = EventLog::new();
        log.log(CallStage::Ringing { code: 180 });
        log.log(CallStage::Answered);
        let event = log.events().wait_for("200", SOON, is_answered).await;
        assert_eq!(event.ok().map(|e| e.stage), Some(CallStage::Answered));
    }

    #[tokio::test]
    async fn waiting_ends_when_the_call_is_rejected() {
        let log = EventLog::new();
        log.log(CallStage::Rejected {
            code: 486,
            reason: "Busy Here".into(),
        });
        let hour = Duration::from_secs(3600);
        let result = log.events().wait_for("200", hour, is_answered).await;
        assert!(matches!(result, Err(Error::UnexpectedOutcome { .. })));
    }

    #[tokio::test]
    async fn waiting_ends_at_the_timeout() {
        let log = EventLog::new();
        let result = log.events().wait_for("200", SOON, is_answered).await;
        assert!(matches!(result, Err(Error::TimedOut { .. })));
    }

    #[tokio::test]
    async fn repeated_events_and_events_after_the_end_are_not_logged() {
        let log = EventLog::new();
        log.log(CallStage::Ringing { code: 180 });
        log.log(CallStage::Ringing { code: 180 });
        log.log(CallStage::Ended { by_remote: true });
        log.log(CallStage::Ended { by_remote: false });
        assert_eq!(log.events().all().len(), 2);
    }
}
