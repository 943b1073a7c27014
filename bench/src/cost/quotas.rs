//! What of AWS's default quotas calls take in their busiest second, and what to do where that is too much. Pure.

use super::model::{Use, busiest_second};

/// A quota, as it is without having been raised.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Which.
    pub what: &'static str,
    /// How much.
    pub most: f64,
    /// How much of it so many calls a month take.
    pub taken: fn(&Use, f64) -> f64,
    /// What to do.
    pub remedy: &'static str,
    /// Where it is said.
    pub source: &'static str,
}

/// How long an open schedule stands: the ring, and the connecting after it.
const SCHEDULE_STANDS_SECONDS: f64 = 60.0;
/// Lambda's memory of a function, in GB.
const MEMORY_GB: f64 = 0.25;

/// The quotas that calls meet, in no order.
pub const ALL: [Quota; 6] = [
    Quota {
        what: "API Gateway, requests a second, HTTP and WebSocket and posts together",
        most: 10_000.0,
        taken: |taken, calls| (taken.http_requests + taken.posts) * busiest_second(calls),
        remedy: "have it raised; before that `StatusAudience=participants`, so that a change is posted to two clients and not to all; then an account for each region's PBXs",
        source: "https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html",
    },
    Quota {
        what: "Lambda, executions at a time",
        most: 1_000.0,
        taken: |taken, calls| taken.gb_seconds / MEMORY_GB * busiest_second(calls),
        remedy: "have it raised, to tens of thousands; reserve some for `call-response` and `call-timeout`, so that a flood of webhooks cannot take them",
        source: "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html",
    },
    Quota {
        what: "EventBridge Scheduler, schedules made a second (the larger regions)",
        most: 5_000.0,
        taken: |taken, calls| taken.schedules * busiest_second(calls),
        remedy: "have it raised, to tens of thousands; refused, the queue's message ends the ring alone, and the log says so",
        source: "https://docs.aws.amazon.com/scheduler/latest/UserGuide/scheduler-quotas.html",
    },
    Quota {
        what: "EventBridge Scheduler, schedules that stand",
        most: 10_000_000.0,
        taken: |taken, calls| taken.schedules * busiest_second(calls) * SCHEDULE_STANDS_SECONDS,
        remedy: "they delete themselves, and are taken back when a call is over; have it raised",
        source: "https://docs.aws.amazon.com/scheduler/latest/UserGuide/scheduler-quotas.html",
    },
    Quota {
        what: "DynamoDB, write units a second of a table on demand",
        most: 40_000.0,
        taken: |taken, calls| taken.write_units * busiest_second(calls),
        remedy: "have it raised, and warm the table before a campaign (`WarmThroughput`); no item is written by more than one call",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html",
    },
    Quota {
        what: "FCM, pushes a second of a project (600,000 a minute)",
        most: 10_000.0,
        taken: |taken, calls| taken.pushes * busiest_second(calls),
        remedy: "ask Google for more; 429 is tried again within the ring",
        source: "https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_taken_by_the_busiest_second() {
        let taken = Use {
            http_requests: 5.0,
            posts: 5.0,
            gb_seconds: 0.05,
            ..Use::default()
        };
        // 2.592 million calls a month are one a second, five in the busiest.
        let calls = 2_592_000.0;
        let of = |start: &str| {
            let quota = ALL.iter().find(|quota| quota.what.starts_with(start));
            quota.map(|quota| (quota.taken)(&taken, calls))
        };
        assert_eq!(of("API Gateway"), Some(50.0));
        assert_eq!(of("Lambda"), Some(1.0));
    }
}
