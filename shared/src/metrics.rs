//! What is counted and timed, for CloudWatch: lines in the log, in its embedded metric format.
//!
//! How calls go is read off the changes of their items ([`Measured::of_change`]) by the function that reads the table's stream: once
//! for each change, whoever made it, and off the way of the call. What no item knows is counted where it happens.
//!
//! | metric | unit | by | |
//! | --- | --- | --- | --- |
//! | `total_calls` | count | `direction` | calls stored (S1) |
//! | `successful_calls` | count | `direction` | calls whose two sides talked (S1) |
//! | `background_launches` | count | | phones that took longer than 5 s to be ready, as one that sleeps does (S1) |
//! | `average_ready_time` | ms | | from the call's storing until its phone was ready (S1); every percentile of it, too |
//! | `time_to_push` | ms | | from the call's storing until the last push had been taken |
//! | `time_to_bridge` | ms | | from the phone's being ready until the two talked |
//! | `calls_ended` | count | `outcome` | calls that are over, by how |
//! | `bridge_failures` | count | | phones that were ready and never talked, for want of a leg |
//! | `push_failures` | count | | calls of which no push went out, although there is a device |
//! | `push_results` | count | `service`, `result` | pushes, by what became of them |
//! | `clients_told`, `telling_time` | count, ms | | clients sent to for one change of a call, and how long that took |
//! | `cold_starts` | count | `function` | processes begun |

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_histogram, histogram};
use metrics_cloudwatch_embedded::{Builder, Collector};

use crate::call::{Call, Status, Why};
use crate::clock::Timestamp;

const NAMESPACE: &str = "Ringback";

/// A phone that takes longer to be ready was asleep (S1: `readyDuration > 5000`).
const LAUNCHED_AFTER: Duration = Duration::from_secs(5);

static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();

/// Begins to collect, and counts this process as begun.
pub(crate) fn begin(function: String) {
    let begun = Builder::new().cloudwatch_namespace(NAMESPACE).init();
    match begun {
        Ok(collector) => {
            let _first = COLLECTOR.set(collector);
        }
        Err(error) => tracing::warn!(%error, "no metrics are collected"),
    }
    for name in [
        "average_ready_time",
        "time_to_push",
        "time_to_bridge",
        "telling_time",
    ] {
        describe_histogram!(name, Unit::Milliseconds, "");
    }
    counter!("cold_starts", "function" => function).increment(1);
}

/// Writes what has been collected since into the log: at the end of each invocation, for the process may be frozen after it.
pub fn flush() {
    let written = COLLECTOR
        .get()
        .map(|collector| collector.flush(std::io::stdout()));
    if let Some(Err(error)) = written {
        tracing::warn!(%error, "metrics were not written");
    }
}

/// What a change of a call says, to be recorded once it has been dealt with.
#[derive(Debug)]
pub struct Measured(Vec<Metric>);

impl Measured {
    /// Counts and times what this change says.
    #[must_use]
    pub fn of_change(before: Option<&Call>, after: &Call) -> Self {
        Self(measured(before, after))
    }

    /// Records it.
    pub fn record(self) {
        for metric in self.0 {
            metric.record();
        }
    }
}

/// A push that went out, or did not.
pub(crate) fn pushed(service: &'static str, result: &'static str) {
    counter!("push_results", "service" => service, "result" => result).increment(1);
}

/// A change of a call was told to so many clients.
pub fn told(clients: u64, took: Duration) {
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 clients")]
    histogram!("clients_told").record(clients as f64);
    histogram!("telling_time").record(millis(took));
}

#[derive(Clone, Debug, PartialEq)]
enum Metric {
    Count(&'static str),
    CountBy(&'static str, &'static str, &'static str),
    Took(&'static str, Duration),
}

impl Metric {
    fn record(&self) {
        match self {
            Self::Count(name) => counter!(*name).increment(1),
            Self::CountBy(name, dimension, value) => {
                counter!(*name, *dimension => *value).increment(1);
            }
            Self::Took(name, duration) => histogram!(*name).record(millis(*duration)),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn measured(before: Option<&Call>, after: &Call) -> Vec<Metric> {
    let mut metrics = Vec::new();
    let by_direction = |name| Metric::CountBy(name, "direction", direction(after));
    if before.is_none() {
        metrics.push(by_direction("total_calls"));
    }
    if let Some(pushed_at) = newly(before, after, pushed_at) {
        metrics.push(Metric::Took(
            "time_to_push",
            pushed_at.since(after.created_at),
        ));
    }
    if let Some(ready_at) = newly(before, after, |call| call.ready_at) {
        let took = ready_at.since(after.created_at);
        metrics.push(Metric::Took("average_ready_time", took));
        metrics.extend((took > LAUNCHED_AFTER).then_some(Metric::Count("background_launches")));
    }
    if let Some(bridged_at) = newly(before, after, |call| call.bridged_at) {
        metrics.push(by_direction("successful_calls"));
        let took = after.ready_at.map(|ready_at| bridged_at.since(ready_at));
        metrics.extend(took.map(|took| Metric::Took("time_to_bridge", took)));
    }
    if newly(before, after, |call| call.ended_at).is_some() {
        metrics.push(Metric::CountBy(
            "calls_ended",
            "outcome",
            after.status.as_str(),
        ));
        metrics.extend(failure(after).map(Metric::Count));
    }
    metrics
}

/// What this change has brought.
fn newly<T>(before: Option<&Call>, after: &Call, what: impl Fn(&Call) -> Option<T>) -> Option<T> {
    match before.and_then(&what) {
        Some(_) => None,
        None => what(after),
    }
}

fn pushed_at(call: &Call) -> Option<Timestamp> {
    call.rang.as_ref()?;
    let rang = call.history.iter().find(|line| line.event == "rang");
    rang.map(|line| line.at)
}

const fn direction(call: &Call) -> &'static str {
    if call.is_outbound() {
        "outbound"
    } else if call.caller.extension.is_some() {
        "between_apps"
    } else {
        "inbound"
    }
}

const fn failure(call: &Call) -> Option<&'static str> {
    match (call.status, call.why) {
        (Status::Failed, Some(Why::NotConnected | Why::PhoneUnreachable)) => {
            Some("bridge_failures")
        }
        (Status::Failed, Some(Why::PushFailed)) => Some("push_failures"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::call::{Decision, Event, Party, Readiness, decide};
    use crate::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn at(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    /// What is measured of each of these events, from the call's storing on.
    fn life(events: &[(u64, Event)]) -> Vec<Vec<Metric>> {
        let mut call = a_call(NOW);
        let mut all = vec![measured(None, &call)];
        for (after, event) in events {
            if let Decision::Advance { change, .. } = decide(&call, event, at(*after)) {
                let next = call.apply(&change);
                all.push(measured(Some(&call), &next));
                call = next;
            }
        }
        all
    }

    fn rang() -> Event {
        let device = crate::names::DeviceId::try_from("phone").unwrap();
        Event::Rang {
            devices: [device].into(),
            finished_at: at(1),
        }
    }

    fn accepted() -> Event {
        let by = Party {
            extension: a_call(NOW).extension,
            device: None,
        };
        let readiness = Readiness::Woken;
        Event::Accepted { by, readiness }
    }

    fn hung_up() -> Event {
        Event::CallerLeft {
            leg: None,
            answered: true,
            by: crate::call::Side::Caller,
        }
    }

    #[test]
    fn a_call_that_is_answered_is_counted_once_at_each_turn() {
        let story = life(&[
            (1, rang()),
            (7, accepted()),
            (7, accepted()),
            (9, Event::Bridged),
            (9, Event::Bridged),
            (60, hung_up()),
            (61, Event::TimerFired),
        ]);
        let story: Vec<Metric> = story.into_iter().flatten().collect();
        let seconds = Duration::from_secs;
        let expected = [
            Metric::CountBy("total_calls", "direction", "inbound"),
            Metric::Took("time_to_push", seconds(1)),
            Metric::Took("average_ready_time", seconds(7)),
            Metric::Count("background_launches"),
            Metric::CountBy("successful_calls", "direction", "inbound"),
            Metric::Took("time_to_bridge", seconds(2)),
            Metric::CountBy("calls_ended", "outcome", "completed"),
        ];
        assert_eq!(story, expected);
    }

    #[test]
    fn an_app_that_was_awake_is_not_counted_as_launched() {
        let story = life(&[(5, accepted())]);
        assert!(
            !story
                .concat()
                .contains(&Metric::Count("background_launches"))
        );
    }

    #[test]
    fn what_failed_is_counted_by_what_failed() {
        let story = life(&[(0, Event::NobodyRang(Why::PushFailed))]).concat();
        assert!(story.contains(&Metric::Count("push_failures")), "{story:?}");
        let story = life(&[
            (0, accepted()),
            (60, Event::TimerFired),
            (60, Event::NotBridged),
        ]);
        assert!(
            story.concat().contains(&Metric::Count("bridge_failures")),
            "{story:?}"
        );
    }
}
