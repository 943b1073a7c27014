//! The price of calls, calculated from the usage of one call. Pure.

use super::prices::{
    HTTP_REQUEST, LAMBDA_GB_SECOND, LAMBDA_REQUEST, LOGGED_GB, Price, READ_UNIT, RENDER_STANDARD,
    RENDER_STARTER, SCHEDULE_FIRED, SECRET_FETCHED, SECRET_MONTH, SQS_REQUEST, WEBSOCKET_MESSAGE,
    WEBSOCKET_MINUTE, WRITE_UNIT,
};

/// The average usage of a call, by what AWS charges for.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Invocations of functions.
    pub invocations: f64,
    /// Memory in GB times duration in seconds.
    pub gb_seconds: f64,
    /// Requests to the HTTP API.
    pub http_requests: f64,
    /// Messages posted to clients.
    pub posts: f64,
    /// DynamoDB write request units.
    pub write_units: f64,
    /// DynamoDB read request units.
    pub read_units: f64,
    /// Requests to the queue: to send, to receive, to delete.
    pub queue_requests: f64,
    /// Schedules created. Most are deleted before they fire.
    pub schedules: f64,
    /// Bytes logged.
    pub logged: f64,
    /// Pushes.
    pub pushes: f64,
}

impl Usage {
    /// The average of two kinds of call: `share` of the calls have this usage, the others have `other`.
    #[must_use]
    pub fn mixed(self, share: f64, other: Self) -> Self {
        let mix = |one: f64, other: f64| one * share + other * (1.0 - share);
        Self {
            invocations: mix(self.invocations, other.invocations),
            gb_seconds: mix(self.gb_seconds, other.gb_seconds),
            http_requests: mix(self.http_requests, other.http_requests),
            posts: mix(self.posts, other.posts),
            write_units: mix(self.write_units, other.write_units),
            read_units: mix(self.read_units, other.read_units),
            queue_requests: mix(self.queue_requests, other.queue_requests),
            schedules: mix(self.schedules, other.schedules),
            logged: mix(self.logged, other.logged),
            pushes: mix(self.pushes, other.pushes),
        }
    }
}

/// Assumptions.
pub mod assumed {
    /// Share of calls that are answered. The others time out.
    pub const ANSWERED: f64 = 0.7;
    /// Share of invocations that start a process, which fetches its secrets.
    pub const COLD: f64 = 0.01;
    /// Secrets that a process fetches.
    pub const SECRETS_FETCHED: f64 = 3.0;
    /// Secrets of a deployment.
    pub const SECRETS: f64 = 5.0;
    /// Clients that are always connected.
    pub const WATCHING: f64 = 1.0;
    /// Share of schedules that fire.
    pub const SCHEDULES_FIRED: f64 = 0.001;
    /// Calls in the busiest second, relative to an average second.
    pub const PEAK: f64 = 5.0;
    /// Share of a server's core that may be in use at the peak.
    pub const BUSY: f64 = 0.6;
    /// Requests of Lambda's five pollers of the queue in a month, one per 20 s each.
    pub const IDLE_POLLS: f64 = 5.0 * 3.0 * 60.0 * 24.0 * 30.0;
    /// Seconds of a month.
    pub const MONTH_SECONDS: f64 = 30.0 * 86_400.0;
    /// Minutes of a month.
    pub const MONTH_MINUTES: f64 = MONTH_SECONDS / 60.0;
}

/// A line of the bill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BillLine {
    /// What AWS charges for.
    pub item: &'static str,
    /// Dollars per call.
    pub each: f64,
    /// Dollars per month, even without calls.
    pub monthly: f64,
}

impl BillLine {
    /// Dollars for a month with this many calls.
    #[must_use]
    pub fn dollars(self, calls: f64) -> f64 {
        self.each * calls + self.monthly
    }
}

/// The bill for calls with this average usage.
#[must_use]
pub fn bill(usage: &Usage) -> Vec<BillLine> {
    let for_each = |count: f64, price: Price| count * price.each();
    let line = |item, each, monthly| BillLine {
        item,
        each,
        monthly,
    };
    let fetched = usage.invocations * assumed::COLD * assumed::SECRETS_FETCHED;
    let watching = assumed::WATCHING * assumed::MONTH_MINUTES;
    vec![
        line(
            "Lambda: invocations",
            for_each(usage.invocations, LAMBDA_REQUEST),
            0.0,
        ),
        line(
            "Lambda: duration",
            for_each(usage.gb_seconds, LAMBDA_GB_SECOND),
            0.0,
        ),
        line(
            "API Gateway: HTTP",
            for_each(usage.http_requests, HTTP_REQUEST),
            0.0,
        ),
        line(
            "API Gateway: WebSocket",
            for_each(usage.posts, WEBSOCKET_MESSAGE),
            for_each(watching, WEBSOCKET_MINUTE),
        ),
        line(
            "DynamoDB: writes",
            for_each(usage.write_units, WRITE_UNIT),
            0.0,
        ),
        line(
            "DynamoDB: reads",
            for_each(usage.read_units, READ_UNIT),
            0.0,
        ),
        line(
            "SQS",
            for_each(usage.queue_requests, SQS_REQUEST),
            for_each(assumed::IDLE_POLLS, SQS_REQUEST),
        ),
        line(
            "EventBridge Scheduler",
            for_each(usage.schedules * assumed::SCHEDULES_FIRED, SCHEDULE_FIRED),
            0.0,
        ),
        line(
            "Secrets Manager",
            for_each(fetched, SECRET_FETCHED),
            for_each(assumed::SECRETS, SECRET_MONTH),
        ),
        line(
            "CloudWatch Logs",
            for_each(usage.logged / 1e9, LOGGED_GB),
            0.0,
        ),
    ]
}

/// Calls in the busiest second of a month with this many calls.
#[must_use]
pub fn busiest_second(calls: f64) -> f64 {
    calls / assumed::MONTH_SECONDS * assumed::PEAK
}

/// The Express servers for this many calls: one on standby, and as many as the busiest second needs. They keep calls in memory;
/// the figure leaves out what sharing that state would cost.
#[must_use]
pub fn servers(calls: f64, cpu_seconds_each: f64) -> Servers {
    let cores = busiest_second(calls) * cpu_seconds_each / assumed::BUSY;
    if cores <= 0.5 {
        return Servers {
            count: 2,
            dollars: 2.0 * RENDER_STARTER.dollars,
        };
    }
    let busy = cores.ceil();
    Servers {
        count: busy as u64 + 1,
        dollars: (busy + 1.0) * RENDER_STANDARD.dollars,
    }
}

/// The number of calls a month that cost this many dollars.
#[must_use]
pub fn calls_for(bill: &[BillLine], dollars: f64) -> f64 {
    let each: f64 = bill.iter().map(|line| line.each).sum();
    let monthly: f64 = bill.iter().map(|line| line.monthly).sum();
    ((dollars - monthly) / each).max(0.0)
}

/// Always-on servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Servers {
    /// Their number.
    pub count: u64,
    /// Dollars a month.
    pub dollars: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9 * right.abs().max(1.0)
    }

    #[test]
    fn a_million_calls_cost_a_million_times_one_call() {
        let usage = Usage {
            invocations: 10.0,
            gb_seconds: 0.5,
            http_requests: 5.0,
            posts: 4.0,
            write_units: 8.0,
            read_units: 2.0,
            queue_requests: 6.0,
            schedules: 1.0,
            logged: 3_000.0,
            pushes: 1.0,
        };
        let bill = bill(&usage);
        let of = |item: &str| {
            bill.iter()
                .find(|line| line.item == item)
                .map(|line| line.dollars(1e6))
        };
        for (item, dollars) in [
            ("Lambda: invocations", 2.0),
            ("Lambda: duration", 6.6667),
            ("API Gateway: HTTP", 5.0),
            ("API Gateway: WebSocket", 4.0 + 43_200.0 * 0.25e-6),
            ("DynamoDB: writes", 5.0),
            ("DynamoDB: reads", 0.25),
            ("SQS", 2.4 + 648_000.0 * 0.4e-6),
            ("EventBridge Scheduler", 0.001),
            ("Secrets Manager", 1.5 + 2.0),
            ("CloudWatch Logs", 1.5),
        ] {
            let found = of(item);
            assert!(
                found.is_some_and(|found| close(found, dollars)),
                "{item}: {found:?}"
            );
        }
    }

    #[test]
    fn without_calls_only_monthly_prices_count() {
        let idle: f64 = bill(&Usage::default())
            .iter()
            .map(|line| line.dollars(0.0))
            .sum();
        assert!(idle > 2.0 && idle < 2.4, "{idle}");
    }

    #[test]
    fn two_servers_are_enough_for_half_a_core() {
        assert_eq!(servers(1_000.0, 0.002).count, 2);
        assert_eq!(servers(1_000.0, 0.002).dollars, 14.0);
        let many = servers(1e9, 0.002);
        // 1e9 calls a month are 1,929 in the busiest second: 6.4 cores at 60 %.
        assert_eq!((many.count, many.dollars), (8, 200.0));
    }

    #[test]
    fn the_bill_for_calls_for_a_sum_is_that_sum() {
        let bill = bill(&Usage {
            invocations: 15.0,
            ..Usage::default()
        });
        let calls = calls_for(&bill, 14.0);
        let dollars: f64 = bill.iter().map(|line| line.dollars(calls)).sum();
        assert!(close(dollars, 14.0), "{dollars}");
    }

    #[test]
    fn mixed_usage_is_weighted() {
        let one = Usage {
            invocations: 10.0,
            ..Usage::default()
        };
        let other = Usage {
            invocations: 5.0,
            ..Usage::default()
        };
        assert!(close(one.mixed(0.7, other).invocations, 8.5));
    }
}
