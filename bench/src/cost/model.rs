//! What calls cost, reckoned from what one of them takes. Pure.

use super::prices::{
    HTTP_REQUEST, LAMBDA_GB_SECOND, LAMBDA_REQUEST, LOGGED_GB, Price, READ_UNIT, RENDER_STANDARD,
    RENDER_STARTER, SCHEDULE_FIRED, SECRET_FETCHED, SECRET_MONTH, SQS_REQUEST, WEBSOCKET_MESSAGE,
    WEBSOCKET_MINUTE, WRITE_UNIT,
};

/// What a call takes of each thing that is paid for, on average.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Use {
    /// Invocations of functions.
    pub invocations: f64,
    /// Of memory, for a time.
    pub gb_seconds: f64,
    /// Requests to the HTTP API.
    pub http_requests: f64,
    /// Messages posted to clients.
    pub posts: f64,
    /// DynamoDB's write request units.
    pub write_units: f64,
    /// DynamoDB's read request units.
    pub read_units: f64,
    /// Requests to the queue: to send, to receive, to delete.
    pub queue_requests: f64,
    /// Schedules made. They are taken back before they fire, but for a few.
    pub schedules: f64,
    /// Bytes logged.
    pub logged: f64,
    /// Pushes.
    pub pushes: f64,
}

impl Use {
    /// Of so many calls in a hundred this, of the others that.
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

/// What is assumed, beside what is counted.
pub mod assumed {
    /// Of the calls that are answered. The others ring out.
    pub const ANSWERED: f64 = 0.7;
    /// Of the invocations, those that start a process, which fetches its secrets.
    pub const COLD: f64 = 0.01;
    /// Secrets that a process fetches.
    pub const SECRETS_FETCHED: f64 = 3.0;
    /// Secrets of a deployment.
    pub const SECRETS: f64 = 5.0;
    /// Operators who watch all calls, all the time.
    pub const WATCHING: f64 = 1.0;
    /// What Lambda itself logs of an invocation (its start and its report, as JSON), in bytes.
    pub const LOGGED_BY_LAMBDA: f64 = 700.0;
    /// Schedules that fire before they are taken back, of a thousand.
    pub const SCHEDULES_FIRED: f64 = 0.001;
    /// How much busier the busiest second is than an average one.
    pub const PEAK: f64 = 5.0;
    /// How busy a server's core may be at the peak.
    pub const BUSY: f64 = 0.6;
    /// What the pollers of an empty queue ask in a month: five, each every 20 s.
    pub const IDLE_POLLS: f64 = 5.0 * 3.0 * 60.0 * 24.0 * 30.0;
    /// Seconds and minutes of a month.
    pub const MONTH_SECONDS: f64 = 30.0 * 86_400.0;
    /// Minutes of a month.
    pub const MONTH_MINUTES: f64 = MONTH_SECONDS / 60.0;
}

/// A line of the bill.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// What for.
    pub what: &'static str,
    /// Dollars for each call.
    pub each: f64,
    /// Dollars for each month, calls or none.
    pub monthly: f64,
}

impl Line {
    /// Dollars for a month with so many calls.
    #[must_use]
    pub fn of(self, calls: f64) -> f64 {
        self.each * calls + self.monthly
    }
}

/// The bill of calls that take this.
#[must_use]
pub fn bill(taken: &Use) -> Vec<Line> {
    let for_each = |count: f64, price: Price| count * price.each();
    let line = |what, each, monthly| Line {
        what,
        each,
        monthly,
    };
    let fetched = taken.invocations * assumed::COLD * assumed::SECRETS_FETCHED;
    let logged = taken.logged + taken.invocations * assumed::LOGGED_BY_LAMBDA;
    let watching = assumed::WATCHING * assumed::MONTH_MINUTES;
    vec![
        line(
            "Lambda: invocations",
            for_each(taken.invocations, LAMBDA_REQUEST),
            0.0,
        ),
        line(
            "Lambda: duration",
            for_each(taken.gb_seconds, LAMBDA_GB_SECOND),
            0.0,
        ),
        line(
            "API Gateway: HTTP",
            for_each(taken.http_requests, HTTP_REQUEST),
            0.0,
        ),
        line(
            "API Gateway: WebSocket",
            for_each(taken.posts, WEBSOCKET_MESSAGE),
            for_each(watching, WEBSOCKET_MINUTE),
        ),
        line(
            "DynamoDB: writes",
            for_each(taken.write_units, WRITE_UNIT),
            0.0,
        ),
        line(
            "DynamoDB: reads",
            for_each(taken.read_units, READ_UNIT),
            0.0,
        ),
        line(
            "SQS",
            for_each(taken.queue_requests, SQS_REQUEST),
            for_each(assumed::IDLE_POLLS, SQS_REQUEST),
        ),
        line(
            "EventBridge Scheduler",
            for_each(taken.schedules * assumed::SCHEDULES_FIRED, SCHEDULE_FIRED),
            0.0,
        ),
        line(
            "Secrets Manager",
            for_each(fetched, SECRET_FETCHED),
            for_each(assumed::SECRETS, SECRET_MONTH),
        ),
        line("CloudWatch Logs", for_each(logged / 1e9, LOGGED_GB), 0.0),
    ]
}

/// The busiest second of a month with so many calls, in calls.
#[must_use]
pub fn busiest_second(calls: f64) -> f64 {
    calls / assumed::MONTH_SECONDS * assumed::PEAK
}

/// What the seed's deployment costs: two servers, of which one waits, if a core does for the busiest second. Beyond that, as many
/// as are needed, and one to wait; their state is in memory, so what they would have to share it by is not in this figure.
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

/// How many calls a month cost as much as this: from there on they cost more.
#[must_use]
pub fn calls_for(bill: &[Line], dollars: f64) -> f64 {
    let each: f64 = bill.iter().map(|line| line.each).sum();
    let monthly: f64 = bill.iter().map(|line| line.monthly).sum();
    ((dollars - monthly) / each).max(0.0)
}

/// Always-on servers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Servers {
    /// How many.
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
    fn a_million_calls_cost_a_million_times_what_one_takes() {
        let taken = Use {
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
        let bill = bill(&taken);
        let of = |what: &str| {
            bill.iter()
                .find(|line| line.what == what)
                .map(|line| line.of(1e6))
        };
        for (what, dollars) in [
            ("Lambda: invocations", 2.0),
            ("Lambda: duration", 6.6667),
            ("API Gateway: HTTP", 5.0),
            ("API Gateway: WebSocket", 4.0 + 43_200.0 * 0.25e-6),
            ("DynamoDB: writes", 5.0),
            ("DynamoDB: reads", 0.25),
            ("SQS", 2.4 + 648_000.0 * 0.4e-6),
            ("EventBridge Scheduler", 0.001),
            ("Secrets Manager", 1.5 + 2.0),
            ("CloudWatch Logs", 5.0),
        ] {
            let found = of(what);
            assert!(
                found.is_some_and(|found| close(found, dollars)),
                "{what}: {found:?}"
            );
        }
    }

    #[test]
    fn without_calls_only_what_is_kept_costs() {
        let idle: f64 = bill(&Use::default()).iter().map(|line| line.of(0.0)).sum();
        assert!(idle > 2.0 && idle < 2.4, "{idle}");
    }

    #[test]
    fn servers_are_two_until_a_core_is_too_few() {
        assert_eq!(servers(1_000.0, 0.002).count, 2);
        assert_eq!(servers(1_000.0, 0.002).dollars, 14.0);
        let many = servers(1e9, 0.002);
        // 1e9 calls a month are 1,929 in the busiest second: 6.4 cores at 60 %.
        assert_eq!((many.count, many.dollars), (8, 200.0));
    }

    #[test]
    fn the_calls_for_a_sum_cost_that_sum() {
        let bill = bill(&Use {
            invocations: 15.0,
            ..Use::default()
        });
        let calls = calls_for(&bill, 14.0);
        let dollars: f64 = bill.iter().map(|line| line.of(calls)).sum();
        assert!(close(dollars, 14.0), "{dollars}");
    }

    #[test]
    fn a_mixture_lies_between() {
        let one = Use {
            invocations: 10.0,
            ..Use::default()
        };
        let other = Use {
            invocations: 5.0,
            ..Use::default()
        };
        assert!(close(one.mixed(0.7, other).invocations, 8.5));
    }
}
