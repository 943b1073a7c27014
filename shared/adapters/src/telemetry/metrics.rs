//! What is counted and timed, for CloudWatch: lines in the log, in its embedded metric format.
//!
//! How calls go is read off the changes of their items ([`Measured::of_change`]) by the function that reads the table's stream: once
//! for each change, whoever made it, and off the way of the call. What no item knows is counted where it happens.
//!
//! [`ALL`] is every metric that there is. `docs/operations.md` says what each means; the template's dashboard and alarms
//! may name no other. Each value of a dimension is a metric of its own to CloudWatch, and is paid for as one.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, histogram};
use metrics_cloudwatch_embedded::{Builder, Collector};

use crate::platform::config::Environment;
use ringback_core::call::{Call, CallStatus, EndReason};
use ringback_core::timestamp::Timestamp;

/// A metric, as CloudWatch knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// What its values are.
    pub unit: In,
    /// What its values are kept apart by.
    pub dimensions: &'static [&'static str],
}

/// What a metric's values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum In {
    /// How many.
    Count,
    /// How long.
    Milliseconds,
}

impl In {
    /// As CloudWatch spells it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Count => "Count",
            Self::Milliseconds => "Milliseconds",
        }
    }

    const fn unit(self) -> Unit {
        match self {
            Self::Count => Unit::Count,
            Self::Milliseconds => Unit::Milliseconds,
        }
    }
}

impl Metric {
    const fn count(name: &'static str) -> Self {
        Self::new(name, In::Count, &[])
    }

    const fn time(name: &'static str) -> Self {
        Self::new(name, In::Milliseconds, &[])
    }

    const fn new(name: &'static str, unit: In, dimensions: &'static [&'static str]) -> Self {
        Self {
            name,
            unit,
            dimensions,
        }
    }

    const fn by(self, dimensions: &'static [&'static str]) -> Self {
        Self::new(self.name, self.unit, dimensions)
    }
}

/// Calls stored (S1).
pub const TOTAL_CALLS: Metric = Metric::count("total_calls");
/// Calls to telephone numbers that apps have started. Each is paid for.
pub const PHONE_CALLS: Metric = Metric::count("phone_calls");
/// Calls that an app was not allowed to start, by the rule that says so.
pub const CALLS_REFUSED: Metric = Metric::count("calls_refused").by(&["rule"]);
/// Calls whose two sides talked (S1).
pub const SUCCESSFUL_CALLS: Metric = Metric::count("successful_calls");
/// Phones that took longer than 5 s to be ready, as one that sleeps does (S1).
pub const BACKGROUND_LAUNCHES: Metric = Metric::count("background_launches");
/// From the call's storing until its phone was ready (S1); every percentile of it, too.
pub const AVERAGE_READY_TIME: Metric = Metric::time("average_ready_time");
/// From the call's storing until the last push had been taken.
pub const TIME_TO_PUSH: Metric = Metric::time("time_to_push");
/// From the phone's being ready until the two talked.
pub const TIME_TO_BRIDGE: Metric = Metric::time("time_to_bridge");
/// Calls that are over, by how.
pub const CALLS_ENDED: Metric = Metric::count("calls_ended").by(&["outcome"]);
/// Phones that were ready and never talked, for want of a leg.
pub const BRIDGE_FAILURES: Metric = Metric::count("bridge_failures");
/// Calls of which no push went out, although there is a device.
pub const PUSH_FAILURES: Metric = Metric::count("push_failures");
/// Pushes, by what became of them.
pub const PUSH_RESULTS: Metric = Metric::count("push_results").by(&["service", "result"]);
/// Clients sent to for one change of a call.
pub const CLIENTS_TOLD: Metric = Metric::count("clients_told");
/// Changes of calls of which some clients without a part in the call were not told, for want of posts or time.
pub const UPDATES_DROPPED: Metric = Metric::count("updates_dropped");
/// How long sending to them took.
pub const TELLING_TIME: Metric = Metric::time("telling_time");
/// Requests to another system that had to be sent again.
pub const RETRIES: Metric = Metric::count("retries").by(&["system"]);
/// Processes begun.
pub const COLD_STARTS: Metric = Metric::count("cold_starts");

/// Every metric that there is.
pub const ALL: [Metric; 17] = [
    TOTAL_CALLS,
    PHONE_CALLS,
    CALLS_REFUSED,
    SUCCESSFUL_CALLS,
    BACKGROUND_LAUNCHES,
    AVERAGE_READY_TIME,
    TIME_TO_PUSH,
    TIME_TO_BRIDGE,
    CALLS_ENDED,
    BRIDGE_FAILURES,
    PUSH_FAILURES,
    PUSH_RESULTS,
    CLIENTS_TOLD,
    UPDATES_DROPPED,
    TELLING_TIME,
    RETRIES,
    COLD_STARTS,
];

/// A phone that takes longer to be ready was asleep (S1: `readyDuration > 5000`).
const LAUNCHED_AFTER: Duration = Duration::from_secs(5);

static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();

/// Begins to collect, for the namespace `METRICS_NAMESPACE` (`Ringback`, if that is not set), and counts this process as begun.
pub(crate) fn begin(environment: &Environment) {
    let namespace = environment.optional("METRICS_NAMESPACE");
    let namespace = namespace.unwrap_or_else(|| "Ringback".to_owned());
    match Builder::new().cloudwatch_namespace(namespace).init() {
        Ok(collector) => {
            let _first = COLLECTOR.set(collector);
        }
        Err(error) => tracing::warn!(%error, "no metrics are collected"),
    }
    for metric in ALL {
        // To the collector a counter's unit is the same as a histogram's.
        describe_counter!(metric.name, metric.unit.unit(), "");
    }
    counter!(COLD_STARTS.name).increment(1);
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
pub struct Measured(Vec<Measurement>);

impl Measured {
    /// Counts and times what this change says.
    #[must_use]
    pub fn of_change(before: Option<&Call>, after: &Call) -> Self {
        Self(measured(before, after))
    }

    /// Records it.
    pub fn record(self) {
        for measurement in self.0 {
            measurement.record();
        }
    }
}

/// A push that went out, or did not.
pub(crate) fn pushed(service: &'static str, result: &'static str) {
    counter!(PUSH_RESULTS.name, "service" => service, "result" => result).increment(1);
}

/// An app was not allowed to start a call, by this rule.
pub fn call_refused(rule: &'static str) {
    counter!(CALLS_REFUSED.name, "rule" => rule).increment(1);
}

/// A request to another system is sent again.
pub(crate) fn retried(system: impl Into<metrics::SharedString>) {
    counter!(RETRIES.name, "system" => system.into()).increment(1);
}

/// A change of a call was told to so many clients; or to some of them only.
pub fn told(clients: u64, took: Duration, dropped: bool) {
    #[expect(clippy::cast_precision_loss, reason = "nobody has 2^53 clients")]
    histogram!(CLIENTS_TOLD.name).record(clients as f64);
    histogram!(UPDATES_DROPPED.name).record(f64::from(u8::from(dropped)));
    histogram!(TELLING_TIME.name).record(millis(took));
}

#[derive(Clone, Debug, PartialEq)]
enum Measurement {
    One(Metric),
    Ended(CallStatus),
    Took(Metric, Duration),
}

impl Measurement {
    fn record(&self) {
        match self {
            Self::One(metric) => counter!(metric.name).increment(1),
            Self::Ended(status) => {
                counter!(CALLS_ENDED.name, "outcome" => status.as_str()).increment(1);
            }
            Self::Took(metric, duration) => histogram!(metric.name).record(millis(*duration)),
        }
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

fn measured(before: Option<&Call>, after: &Call) -> Vec<Measurement> {
    use Measurement::{Ended, One, Took};
    let mut measured = Vec::new();
    if before.is_none() {
        measured.push(One(TOTAL_CALLS));
        measured.extend(after.is_to_number().then_some(One(PHONE_CALLS)));
    }
    if let Some(pushed_at) = newly(before, after, pushed_at) {
        measured.push(Took(TIME_TO_PUSH, pushed_at.since(after.created_at)));
    }
    if let Some(ready_at) = newly(before, after, |call| call.ready_at) {
        let took = ready_at.since(after.created_at);
        measured.push(Took(AVERAGE_READY_TIME, took));
        measured.extend((took > LAUNCHED_AFTER).then_some(One(BACKGROUND_LAUNCHES)));
    }
    if let Some(bridged_at) = newly(before, after, |call| call.bridged_at) {
        measured.push(One(SUCCESSFUL_CALLS));
        let took = after.ready_at.map(|ready_at| bridged_at.since(ready_at));
        measured.extend(took.map(|took| Took(TIME_TO_BRIDGE, took)));
    }
    if newly(before, after, |call| call.ended_at()).is_some() {
        measured.push(Ended(after.status));
        measured.extend(failure(after).map(One));
    }
    measured
}

/// What this change has brought.
fn newly<T>(before: Option<&Call>, after: &Call, what: impl Fn(&Call) -> Option<T>) -> Option<T> {
    match before.and_then(&what) {
        Some(_) => None,
        None => what(after),
    }
}

fn pushed_at(call: &Call) -> Option<Timestamp> {
    call.pushed.as_ref().map(|pushed| pushed.at)
}

fn failure(call: &Call) -> Option<Metric> {
    match (call.status, call.end_reason()) {
        (CallStatus::Failed, Some(EndReason::NotConnected | EndReason::PhoneUnreachable)) => {
            Some(BRIDGE_FAILURES)
        }
        (CallStatus::Failed, Some(EndReason::PushFailed)) => Some(PUSH_FAILURES),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_core::call::{CallParty, Decision, Event, Readiness, decide};
    use ringback_core::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn at(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    /// What is measured of each of these events, from the call's storing on.
    fn life(events: &[(u64, Event)]) -> Vec<Vec<Measurement>> {
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
        let device = ringback_core::ids::DeviceId::try_from("phone").unwrap();
        Event::PushSent {
            devices: [device].into(),
            finished_at: at(1),
        }
    }

    fn accepted() -> Event {
        let by = CallParty {
            extension: a_call(NOW).extension,
            device: None,
        };
        let readiness = Readiness::Woken;
        Event::Accepted { by, readiness }
    }

    fn hung_up() -> Event {
        Event::CallerLegEnded {
            leg: None,
            answered: true,
            by: ringback_core::call::CallSide::Caller,
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
        let story: Vec<Measurement> = story.into_iter().flatten().collect();
        let seconds = Duration::from_secs;
        let expected = [
            Measurement::One(TOTAL_CALLS),
            Measurement::Took(TIME_TO_PUSH, seconds(1)),
            Measurement::Took(AVERAGE_READY_TIME, seconds(7)),
            Measurement::One(BACKGROUND_LAUNCHES),
            Measurement::One(SUCCESSFUL_CALLS),
            Measurement::Took(TIME_TO_BRIDGE, seconds(2)),
            Measurement::Ended(CallStatus::Completed),
        ];
        assert_eq!(story, expected);
    }

    #[test]
    fn an_app_that_was_awake_is_not_counted_as_launched() {
        let story = life(&[(5, accepted())]);
        assert!(
            !story
                .concat()
                .contains(&Measurement::One(BACKGROUND_LAUNCHES))
        );
    }

    #[test]
    fn what_failed_is_counted_by_what_failed() {
        let story = life(&[(0, Event::PushNotSent(EndReason::PushFailed))]).concat();
        assert!(
            story.contains(&Measurement::One(PUSH_FAILURES)),
            "{story:?}"
        );
        let story = life(&[
            (0, accepted()),
            (60, Event::TimerFired),
            (60, Event::NotBridged { rings: false }),
        ]);
        assert!(
            story.concat().contains(&Measurement::One(BRIDGE_FAILURES)),
            "{story:?}"
        );
    }

    /// The rows of the page's table: name, unit, dimensions.
    fn documented() -> Vec<(String, String, Vec<String>)> {
        let page = include_str!("../../../../docs/operations.md");
        let rows = page
            .lines()
            .skip_while(|line| !line.starts_with("| metric |"));
        let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
        rows.map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let dimensions = cells[3].split(',').map(|name| name.trim().replace('`', ""));
            (
                cells[1].replace('`', ""),
                cells[2].to_owned(),
                dimensions.filter(|name| !name.is_empty()).collect(),
            )
        })
        .collect()
    }

    #[test]
    fn the_page_names_every_metric_and_no_other() {
        let mut written = ALL.map(|metric| {
            (
                metric.name.to_owned(),
                metric.unit.as_str().to_owned(),
                metric
                    .dimensions
                    .iter()
                    .map(|name| (*name).to_owned())
                    .collect(),
            )
        });
        let mut documented = documented();
        written.sort();
        documented.sort();
        assert_eq!(documented, written);
    }
}
