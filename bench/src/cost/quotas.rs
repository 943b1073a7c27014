//! The share of AWS's default quotas that calls use in the busiest second, and what to do near a limit. Pure.

use super::model::{Usage, busiest_second};

/// A default quota.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Its name and unit.
    pub name: &'static str,
    /// Its default limit.
    pub limit: f64,
    /// How much of it this many calls a month use.
    pub used: fn(&Usage, f64) -> f64,
    /// What to do near the limit.
    pub remedy: &'static str,
    /// URL of the source.
    pub source: &'static str,
}

/// How long a schedule exists: until the end of the ring and of the connecting after it.
const SCHEDULE_SECONDS: f64 = 60.0;
/// The memory of a function, in GB.
const MEMORY_GB: f64 = 0.25;

/// The quotas that calls use.
pub const ALL: [Quota; 6] = [
    Quota {
        name: "API Gateway, requests per second over HTTP and WebSocket, and posts",
        limit: 10_000.0,
        used: |usage, calls| (usage.http_requests + usage.posts) * busiest_second(calls),
        remedy: "set `StatusAudience=participants`, so that an update goes to two clients instead of all; ask AWS for more; then use an account per region",
        source: "https://docs.aws.amazon.com/apigateway/latest/developerguide/limits.html",
    },
    Quota {
        name: "Lambda, concurrent executions",
        limit: 1_000.0,
        used: |usage, calls| usage.gb_seconds / MEMORY_GB * busiest_second(calls),
        remedy: "ask AWS for tens of thousands; reserve some for `call-response` and `call-timeout` against a flood of webhooks",
        source: "https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html",
    },
    Quota {
        name: "EventBridge Scheduler, schedules created per second (larger regions)",
        limit: 5_000.0,
        used: |usage, calls| usage.schedules * busiest_second(calls),
        remedy: "ask AWS for tens of thousands; without its schedule, a call gets a second message of the queue, and a log line says so",
        source: "https://docs.aws.amazon.com/scheduler/latest/UserGuide/scheduler-quotas.html",
    },
    Quota {
        name: "EventBridge Scheduler, schedules",
        limit: 10_000_000.0,
        used: |usage, calls| usage.schedules * busiest_second(calls) * SCHEDULE_SECONDS,
        remedy: "ask AWS for more; schedules are deleted when they fire or when their call ends",
        source: "https://docs.aws.amazon.com/scheduler/latest/UserGuide/scheduler-quotas.html",
    },
    Quota {
        name: "DynamoDB, write units per second of an on-demand table",
        limit: 40_000.0,
        used: |usage, calls| usage.write_units * busiest_second(calls),
        remedy: "ask AWS for more, and warm the table before a campaign (`WarmThroughput`); calls do not share items",
        source: "https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/ServiceQuotas.html",
    },
    Quota {
        name: "FCM, pushes per second of a project (600,000 per minute)",
        limit: 10_000.0,
        used: |usage, calls| usage.pushes * busiest_second(calls),
        remedy: "ask Google for more; after 429 a push is sent again while the call rings",
        source: "https://firebase.google.com/docs/cloud-messaging/throttling-and-quotas",
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_busiest_second_uses_a_quota() {
        let usage = Usage {
            http_requests: 5.0,
            posts: 5.0,
            gb_seconds: 0.05,
            ..Usage::default()
        };
        // 2.592 million calls a month are one per second on average and five in the busiest.
        let calls = 2_592_000.0;
        let of = |start: &str| {
            let quota = ALL.iter().find(|quota| quota.name.starts_with(start));
            quota.map(|quota| (quota.used)(&usage, calls))
        };
        assert_eq!(of("API Gateway"), Some(50.0));
        assert_eq!(of("Lambda"), Some(1.0));
    }
}
