//! Metrics for CloudWatch, written as log lines in its embedded metric format.
//!
//! The function that reads the table's stream counts and times calls from the changes of their items ([`CallMetrics`]): once for
//! each change, independent of the function that made it, and without delay for the call. What an item does not show is counted where it happens.
//!
//! [`ALL`] lists every metric. `docs/operations.md` explains each of them; the template's dashboard and alarms may use no other.
//! CloudWatch counts and bills each value of a dimension as a metric.

use std::sync::OnceLock;
use std::time::Duration;

use metrics::{Unit, counter, describe_counter, histogram};
use metrics_cloudwatch_embedded::{Builder, Collector};

use crate::platform::config::Environment;
use ringback_core::call::{Call, CallStatus, EndReason, PushPlatform};
use ringback_core::timestamp::Timestamp;

/// A metric in CloudWatch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name.
    pub name: &'static str,
    /// The unit of its values.
    pub unit: MetricUnit,
    /// The names of its dimensions.
    pub dimensions: &'static [&'static str],
}

/// The unit of a metric's values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MetricUnit {
    /// A number of things.
    Count,
    /// A duration.
    Milliseconds,
}

impl MetricUnit {
    /// CloudWatch's name of the unit.
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
        Self::new(name, MetricUnit::Count, &[])
    }

    const fn time(name: &'static str) -> Self {
        Self::new(name, MetricUnit::Milliseconds, &[])
    }

    const fn new(
        name: &'static str,
        unit: MetricUnit,
        dimensions: &'static [&'static str],
    ) -> Self {
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

/// New calls.
pub const TOTAL_CALLS: Metric = Metric::count("total_calls");
/// Calls to telephone numbers that apps have started. Each costs money.
pub const PHONE_CALLS: Metric = Metric::count("phone_calls");
/// Calls that an app was not allowed to start, by rule.
pub const CALLS_REFUSED: Metric = Metric::count("calls_refused").by(&["rule"]);
/// Calls in which both sides were connected.
pub const SUCCESSFUL_CALLS: Metric = Metric::count("successful_calls");
/// Calls in which the phone needed more than 5 s to be ready, as an app does that is started in the background.
pub const BACKGROUND_LAUNCHES: Metric = Metric::count("background_launches");
/// The time from a new call until its phone was ready. CloudWatch also shows its percentiles.
pub const AVERAGE_READY_TIME: Metric = Metric::time("average_ready_time");
/// The time from a new call until the push services had accepted the last push.
pub const TIME_TO_PUSH: Metric = Metric::time("time_to_push");
/// The time from a push until its device reported that it rings, by the platform of the push.
pub const TIME_TO_RING: Metric = Metric::time("time_to_ring").by(&["platform"]);
/// Devices that had reported that they ring and have not done so for their last 20 pushes.
pub const DEVICES_SILENT: Metric = Metric::count("devices_silent");
/// The time from the phone being ready until both sides were connected.
pub const TIME_TO_BRIDGE: Metric = Metric::time("time_to_bridge");
/// Ended calls, by their final status.
pub const CALLS_ENDED: Metric = Metric::count("calls_ended").by(&["outcome"]);
/// Counts of [`CALLS_ENDED`] that are taken back, by the status that was counted: replication has brought a version of the call that
/// has not ended, or has ended otherwise. Its right end is counted too.
pub const CALLS_CORRECTED: Metric = Metric::count("calls_corrected").by(&["outcome"]);
/// Calls in which the phone was ready but was never connected to the caller.
pub const BRIDGE_FAILURES: Metric = Metric::count("bridge_failures");
/// Calls for which no push was sent, although there is a device.
pub const PUSH_FAILURES: Metric = Metric::count("push_failures");
/// PushSender, by service and result.
pub const PUSH_RESULTS: Metric = Metric::count("push_results").by(&["service", "result"]);
/// Clients that got the last status update of a call.
pub const CLIENTS_NOTIFIED: Metric = Metric::count("clients_notified");
/// Changes of calls with a status update that did not reach all clients outside the call, for lack of message budget or time.
pub const UPDATES_DROPPED: Metric = Metric::count("updates_dropped");
/// How long sending the last status update of a call to all clients took.
pub const NOTIFY_TIME: Metric = Metric::time("notify_time");
/// Requests to another system that were sent again.
pub const RETRIES: Metric = Metric::count("retries").by(&["system"]);
/// Started processes.
pub const COLD_STARTS: Metric = Metric::count("cold_starts");

/// Every metric.
pub const ALL: [Metric; 20] = [
    TOTAL_CALLS,
    PHONE_CALLS,
    CALLS_REFUSED,
    SUCCESSFUL_CALLS,
    BACKGROUND_LAUNCHES,
    AVERAGE_READY_TIME,
    TIME_TO_PUSH,
    TIME_TO_RING,
    DEVICES_SILENT,
    TIME_TO_BRIDGE,
    CALLS_ENDED,
    CALLS_CORRECTED,
    BRIDGE_FAILURES,
    PUSH_FAILURES,
    PUSH_RESULTS,
    CLIENTS_NOTIFIED,
    UPDATES_DROPPED,
    NOTIFY_TIME,
    RETRIES,
    COLD_STARTS,
];

/// An app that needs longer to be ready was started in the background (docs/origin.md).
const LAUNCHED_AFTER: Duration = Duration::from_secs(5);

static COLLECTOR: OnceLock<&'static Collector> = OnceLock::new();

/// Starts the collector for the namespace `METRICS_NAMESPACE` (default: `Ringback`), and counts a cold start.
pub(crate) fn start(environment: &Environment) {
    let namespace = environment.optional("METRICS_NAMESPACE");
    let namespace = namespace.unwrap_or_else(|| "Ringback".to_owned());
    match Builder::new().cloudwatch_namespace(namespace).init() {
        Ok(collector) => {
            let _first = COLLECTOR.set(collector);
        }
        Err(error) => tracing::warn!(%error, "metrics not available"),
    }
    for metric in ALL {
        // The collector keeps one unit for each name, of counters and histograms.
        describe_counter!(metric.name, metric.unit.unit(), "");
    }
    counter!(COLD_STARTS.name).increment(1);
}

/// Writes the collected metrics into the log. Lambda may freeze the process after an invocation, so each invocation ends with this.
pub fn flush() {
    let written = COLLECTOR
        .get()
        .map(|collector| collector.flush(std::io::stdout()));
    if let Some(Err(error)) = written {
        tracing::warn!(%error, "metrics not written");
    }
}

/// The metrics of one change of a call. They are recorded after the change has been processed, so that a failed batch, which the
/// stream repeats, does not count twice.
#[derive(Debug)]
pub struct CallMetrics(Vec<Measurement>);

impl CallMetrics {
    /// The metrics of this change.
    #[must_use]
    pub fn of_change(before: Option<&Call>, after: &Call) -> Self {
        Self(measured(before, after))
    }

    /// Each of them.
    #[must_use]
    pub fn measurements(&self) -> &[Measurement] {
        &self.0
    }

    /// Records them.
    pub fn record(self) {
        for measurement in self.0 {
            measurement.record();
        }
    }
}

/// Whether this region counts a call that was stored in `stored_in`. Both regions see every change, so only the region that stored
/// the call counts it. Each region counts a call without a region.
#[must_use]
pub fn is_counted_in(region: &str, stored_in: Option<&str>) -> bool {
    stored_in.is_none_or(|stored_in| stored_in == region)
}

/// Counts a push, sent or failed.
pub(crate) fn pushed(service: &'static str, result: &'static str) {
    counter!(PUSH_RESULTS.name, "service" => service, "result" => result).increment(1);
}

/// Counts a call that this rule forbids.
pub fn call_refused(rule: &'static str) {
    counter!(CALLS_REFUSED.name, "rule" => rule).increment(1);
}

/// Counts a device that has missed 20 pushes in a row.
pub fn device_silent() {
    counter!(DEVICES_SILENT.name).increment(1);
}

/// Counts a request to another system that is sent again.
pub(crate) fn retried(system: impl Into<metrics::SharedString>) {
    counter!(RETRIES.name, "system" => system.into()).increment(1);
}

/// Counts a status update. `last`: the clients that got it, and how long that took, if it is the last one of its call: one sample for each
/// call is enough. `dropped` says that it did not reach all clients outside the call.
pub fn status_update_sent(last: Option<(u64, Duration)>, dropped: bool) {
    if let Some((clients, took)) = last {
        #[expect(
            clippy::cast_precision_loss,
            reason = "there are fewer than 2^53 clients"
        )]
        histogram!(CLIENTS_NOTIFIED.name).record(clients as f64);
        histogram!(NOTIFY_TIME.name).record(millis(took));
    }
    // A metric without values would be missing on the dashboard.
    if last.is_some() || dropped {
        histogram!(UPDATES_DROPPED.name).record(f64::from(u8::from(dropped)));
    }
}

/// One thing that a change of a call adds to a metric.
#[derive(Clone, Debug, PartialEq)]
pub enum Measurement {
    /// One more.
    Count(Metric),
    /// The call has ended.
    EndedAs(CallStatus),
    /// The call was counted as ended like this, which is wrong.
    NotEndedAs(CallStatus),
    /// Something took this long.
    Time(Metric, Duration),
    /// A device rang this long after its push.
    TimeToRing(PushPlatform, Duration),
}

impl Measurement {
    fn record(&self) {
        match self {
            Self::Count(metric) => counter!(metric.name).increment(1),
            Self::EndedAs(status) => {
                counter!(CALLS_ENDED.name, "outcome" => status.as_str()).increment(1);
            }
            Self::NotEndedAs(status) => {
                counter!(CALLS_CORRECTED.name, "outcome" => status.as_str()).increment(1);
            }
            Self::Time(metric, duration) => histogram!(metric.name).record(millis(*duration)),
            Self::TimeToRing(platform, duration) => {
                histogram!(TIME_TO_RING.name, "platform" => platform.as_str())
                    .record(millis(*duration));
            }
        }
    }
}

/// Whole milliseconds.
fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1000.0).round()
}

fn measured(before: Option<&Call>, after: &Call) -> Vec<Measurement> {
    use Measurement::{Count, EndedAs, NotEndedAs, Time, TimeToRing};
    let mut measured = Vec::new();
    if before.is_none() {
        measured.push(Count(TOTAL_CALLS));
        measured.extend(after.is_to_number().then_some(Count(PHONE_CALLS)));
    }
    // What happens before a call is answered or ends is measured then, all in one line of the log.
    if let Some(pushed_at) = newly(before, after, |call| pushed_at(settled(call)?)) {
        measured.push(Time(TIME_TO_PUSH, pushed_at.since(after.created_at)));
    }
    let is_known = |device| before.is_some_and(|call| call.ring_receipts.contains_key(device));
    for (device, receipt) in &after.ring_receipts {
        if !is_known(device) {
            measured.push(TimeToRing(receipt.platform, receipt.time_to_ring()));
        }
    }
    if let Some(ready_at) = newly(before, after, |call| settled(call)?.ready_at) {
        let took = ready_at.since(after.created_at);
        measured.push(Time(AVERAGE_READY_TIME, took));
        measured.extend((took > LAUNCHED_AFTER).then_some(Count(BACKGROUND_LAUNCHES)));
    }
    if let Some(bridged_at) = newly(before, after, |call| call.bridged_at) {
        measured.push(Count(SUCCESSFUL_CALLS));
        let took = after.ready_at.map(|ready_at| bridged_at.since(ready_at));
        measured.extend(took.map(|took| Time(TIME_TO_BRIDGE, took)));
    }
    let counted = before.and_then(ended_as);
    if counted != ended_as(after) {
        measured.extend(counted.map(NotEndedAs));
        measured.extend(ended_as(after).map(EndedAs));
    }
    if newly(before, after, |call| call.ended_at()).is_some() {
        measured.extend(failure(after).map(Count));
    }
    measured
}

/// The call, if it was answered or has ended.
fn settled(call: &Call) -> Option<&Call> {
    (call.bridged_at.is_some() || call.status.is_final()).then_some(call)
}

fn ended_as(call: &Call) -> Option<CallStatus> {
    call.status.is_final().then_some(call.status)
}

/// A value that this change has set.
fn newly<T>(before: Option<&Call>, after: &Call, what: impl Fn(&Call) -> Option<T>) -> Option<T> {
    match before.and_then(&what) {
        Some(_) => None,
        None => what(after),
    }
}

fn pushed_at(call: &Call) -> Option<Timestamp> {
    let pushed = call.pushed.as_ref();
    let sent = pushed.filter(|pushed| !pushed.devices.is_empty());
    sent.map(|pushed| pushed.at)
}

fn failure(call: &Call) -> Option<Metric> {
    match (call.status, call.end_reason()) {
        (CallStatus::Failed, Some(EndReason::NotConnected | EndReason::PhoneUnreachable)) => {
            Some(BRIDGE_FAILURES)
        }
        (CallStatus::Failed, Some(EndReason::PushFailed)) => Some(PUSH_FAILURES),
        // It rang on, because a later push could have succeeded.
        (CallStatus::TimedOut | CallStatus::Canceled, _) if !call.pushed.as_ref()?.reach_any() => {
            Some(PUSH_FAILURES)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringback_core::call::{
        CallParty, Decision, Event, PushedDevices, Readiness, RingReceipt, decide,
    };
    use ringback_core::testing::a_call;

    const NOW: Timestamp = Timestamp::from_millis(1_710_417_600_000);

    fn at(seconds: u64) -> Timestamp {
        NOW + Duration::from_secs(seconds)
    }

    /// The measurements of a new call and then of each of these events.
    fn measure(events: &[(u64, Event)]) -> Vec<Vec<Measurement>> {
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
        Event::PushSent(PushedDevices {
            devices: [device].into(),
            are_all: true,
            retry_at: None,
            earlier: [].into(),
            clients: 0,
            at: at(1),
        })
    }

    fn rings(device: &str, platform: PushPlatform, after: u64) -> Event {
        let by = CallParty {
            extension: a_call(NOW).extension,
            device: ringback_core::ids::DeviceId::try_from(device).ok(),
        };
        let receipt = RingReceipt {
            at: at(after),
            pushed_at: NOW,
            platform,
        };
        Event::DeviceRings { by, receipt }
    }

    #[test]
    fn each_device_that_rings_is_measured_once() {
        let measurements = measure(&[
            (1, rings("phone", PushPlatform::Fcm, 1)),
            (2, rings("phone", PushPlatform::Fcm, 2)),
            (3, rings("tablet", PushPlatform::ApnsVoip, 3)),
        ]);
        let rang =
            |platform, seconds| Measurement::TimeToRing(platform, Duration::from_secs(seconds));
        assert_eq!(
            measurements[1..].concat(),
            [rang(PushPlatform::Fcm, 1), rang(PushPlatform::ApnsVoip, 3)]
        );
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
    fn an_answered_call_is_counted_once() {
        let measurements = measure(&[
            (1, rang()),
            (7, accepted()),
            (7, accepted()),
            (9, Event::Bridged),
            (9, Event::Bridged),
            (60, hung_up()),
            (61, Event::TimerFired),
        ]);
        let measurements: Vec<_> = measurements
            .into_iter()
            .filter(|it| !it.is_empty())
            .collect();
        let seconds = Duration::from_secs;
        let expected = [
            vec![Measurement::Count(TOTAL_CALLS)],
            vec![
                Measurement::Time(TIME_TO_PUSH, seconds(1)),
                Measurement::Time(AVERAGE_READY_TIME, seconds(7)),
                Measurement::Count(BACKGROUND_LAUNCHES),
                Measurement::Count(SUCCESSFUL_CALLS),
                Measurement::Time(TIME_TO_BRIDGE, seconds(2)),
            ],
            vec![Measurement::EndedAs(CallStatus::Completed)],
        ];
        assert_eq!(measurements, expected);
    }

    #[test]
    fn a_running_app_is_not_counted_as_launched() {
        let measurements = measure(&[(5, accepted()), (6, Event::Bridged)]).concat();
        assert!(measurements.contains(&Measurement::Time(
            AVERAGE_READY_TIME,
            Duration::from_secs(5)
        )));
        assert!(!measurements.contains(&Measurement::Count(BACKGROUND_LAUNCHES)));
    }

    #[test]
    fn failures_are_counted_by_their_cause() {
        let delayed = Event::PushSent(PushedDevices {
            devices: [].into(),
            are_all: false,
            at: at(1),
            retry_at: None,
            earlier: [].into(),
            clients: 0,
        });
        for unpushed in [
            vec![(0, Event::PushNotSent(EndReason::PushFailed))],
            vec![(1, delayed), (30, Event::TimerFired)],
        ] {
            let measurements = measure(&unpushed).concat();
            assert!(
                measurements.contains(&Measurement::Count(PUSH_FAILURES)),
                "{measurements:?}"
            );
        }
        let unanswered = measure(&[(1, rang()), (30, Event::TimerFired)]).concat();
        assert!(!unanswered.contains(&Measurement::Count(PUSH_FAILURES)));
        let measurements = measure(&[
            (0, accepted()),
            (60, Event::TimerFired),
            (60, Event::NotBridged { rings: false }),
        ]);
        assert!(
            measurements
                .concat()
                .contains(&Measurement::Count(BRIDGE_FAILURES)),
            "{measurements:?}"
        );
    }

    /// The region's timer ended the call. Replication brings a version that still rings, and then the conversation.
    #[test]
    fn an_end_that_replication_corrects_is_taken_back() {
        let ringing = a_call(NOW);
        let (mut timed_out, mut completed) = (ringing.clone(), ringing.clone());
        timed_out.status = CallStatus::TimedOut;
        completed.status = CallStatus::Completed;
        let ended = Measurement::EndedAs;
        let taken_back = Measurement::NotEndedAs(CallStatus::TimedOut);
        for (before, after, expected) in [
            (&ringing, &timed_out, vec![ended(CallStatus::TimedOut)]),
            (&timed_out, &ringing, vec![taken_back.clone()]),
            (
                &timed_out,
                &completed,
                vec![taken_back, ended(CallStatus::Completed)],
            ),
            (&completed, &completed, Vec::new()),
        ] {
            assert_eq!(measured(Some(before), after), expected);
        }
    }

    /// The rows of the table in docs/operations.md: name, unit, dimensions.
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
    fn the_operations_page_lists_every_metric_and_no_other() {
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
