//! The requests that one invocation of a function sent, and when.

use std::fmt;

use anyhow::{Context, Result};
use axum::http::Method;
use serde_json::Value;
use tokio::time::Instant;

use crate::recording_proxy::Request;

/// The requests of one invocation.
pub struct Timeline {
    /// The requests to AWS.
    pub aws: Vec<Request>,
    /// The requests to ARI.
    pub ari: Vec<Request>,
    /// The requests to FCM.
    pub push: Vec<Request>,
    /// The number of access token requests. Each precedes the pushes that use the token.
    pub access_tokens: usize,
}

/// A system with counted requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum System {
    /// DynamoDB.
    DynamoDb,
    /// The REST interface of Asterisk.
    Ari,
    /// FCM.
    Push,
}

impl System {
    /// All systems.
    pub const ALL: [Self; 3] = [Self::DynamoDb, Self::Ari, Self::Push];

    /// The name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::DynamoDb => "DynamoDB",
            Self::Ari => "ARI",
            Self::Push => "push",
        }
    }
}

/// The request that a person waits for.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The push that makes the phone ring.
    Push,
    /// The ARI request that calls the phone.
    Originate,
}

/// The number of requests to one system up to a goal, including the goal's own request.
#[derive(Clone, Copy, Debug)]
pub struct RequestCount {
    /// All requests until then, whether the goal depends on them or not.
    pub total: usize,
    /// The longest chain of requests that can depend on each other: each started after the previous one ended.
    pub sequential: usize,
}

impl Timeline {
    /// Counts the requests to `system` until the goal's request.
    pub fn until(&self, goal: Goal, system: System) -> Result<RequestCount> {
        let asked = self.asked_for(goal)?.began;
        let requests = self.of(system);
        let before = requests
            .iter()
            .filter(|request| request.began < asked)
            .count();
        let goals_own = usize::from(system == goal.system());
        let tokens = match (system, goal) {
            (System::Push, Goal::Push) => self.access_tokens,
            _ => 0,
        };
        Ok(RequestCount {
            total: before + tokens + goals_own,
            sequential: longest_chain(requests.iter().copied().filter_map(span), asked)
                + tokens
                + goals_own,
        })
    }

    /// Whether there are no requests.
    pub fn is_empty(&self) -> bool {
        let requests = [&self.aws, &self.ari, &self.push];
        requests.into_iter().all(Vec::is_empty) && self.access_tokens == 0
    }

    /// Whether a request lists all channels of the PBX.
    pub fn lists_channels(&self) -> bool {
        self.ari.iter().any(|request| {
            request.method == Method::GET && request.uri.path().trim_end_matches('/') == "/channels"
        })
    }

    /// Whether a request scans a table.
    pub fn scans(&self) -> bool {
        self.aws
            .iter()
            .any(|request| operation(request) == Some("Scan"))
    }

    /// Whether a request reads a call before the goal's request.
    pub fn reads_call_until(&self, goal: Goal) -> Result<bool> {
        let asked = self.asked_for(goal)?.began;
        Ok(self
            .aws
            .iter()
            .filter(|request| request.began <= asked)
            .any(reads_call))
    }

    fn asked_for(&self, goal: Goal) -> Result<&Request> {
        self.of(goal.system())
            .into_iter()
            .find(|request| goal.is(request))
            .with_context(|| format!("no {goal:?}"))
    }

    fn of(&self, system: System) -> Vec<&Request> {
        match system {
            System::DynamoDb => self
                .aws
                .iter()
                .filter(|request| operation(request).is_some())
                .collect(),
            System::Ari => self.ari.iter().collect(),
            System::Push => self.push.iter().collect(),
        }
    }
}

/// One line for each request: when it started and ended, in milliseconds since the first one, and what it was.
impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut requests: Vec<&Request> = System::ALL
            .into_iter()
            .flat_map(|system| self.of(system))
            .collect();
        requests.sort_by_key(|request| request.began);
        let first = requests.first().map(|request| request.began);
        let since = |moment: Instant| first.map_or(0, |first| (moment - first).as_millis());
        for request in requests {
            let ended = request.ended.map_or_else(
                || "still under way".to_owned(),
                |ended| since(ended).to_string(),
            );
            let what = operation(request).unwrap_or(request.method.as_str());
            let (began, path) = (since(request.began), request.uri.path());
            writeln!(f, "{began:>6} to {ended:<6} {what} {path}")?;
        }
        Ok(())
    }
}

impl Goal {
    const fn system(self) -> System {
        match self {
            Self::Push => System::Push,
            Self::Originate => System::Ari,
        }
    }

    fn is(self, request: &Request) -> bool {
        let path = request.uri.path();
        match self {
            Self::Push => json(request)["message"]["data"]["type"] == "incoming_call",
            Self::Originate => {
                request.method == Method::POST && path.starts_with("/channels/ringback-")
            }
        }
    }
}

/// The operation of a DynamoDB request.
fn operation(request: &Request) -> Option<&str> {
    let target = request.headers.get("x-amz-target")?.to_str().ok()?;
    target.strip_prefix("DynamoDB_20120810.")
}

fn reads_call(request: &Request) -> bool {
    let reads = matches!(
        operation(request),
        Some(
            "GetItem"
                | "BatchGetItem"
                | "TransactGetItems"
                | "Query"
                | "ExecuteStatement"
                | "BatchExecuteStatement"
        )
    );
    reads && String::from_utf8_lossy(&request.body).contains("\"CALL#")
}

fn json(request: &Request) -> Value {
    serde_json::from_slice(&request.body).unwrap_or_default()
}

/// The start and the end of a request.
type Span = (Instant, Instant);

fn span(request: &Request) -> Option<Span> {
    Some((request.began, request.ended?))
}

/// The length of the longest chain of requests in which each starts after the previous one ended, and the last one
/// ends before `goal`. Always taking the request that ends first gives the longest chain.
fn longest_chain(spans: impl Iterator<Item = Span>, goal: Instant) -> usize {
    let mut spans: Vec<Span> = spans.filter(|(_, ended)| *ended <= goal).collect();
    spans.sort_by_key(|(_, ended)| *ended);
    let mut free_from = None;
    let mut length = 0;
    for (began, ended) in spans {
        if free_from.is_none_or(|free_from| began >= free_from) {
            free_from = Some(ended);
            length += 1;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn overlapping_requests_count_as_one_in_sequence() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let chain = |spans: &[(u64, u64)]| {
            let spans = spans.iter().map(|(began, ended)| (at(*began), at(*ended)));
            longest_chain(spans, at(100))
        };
        assert_eq!(chain(&[]), 0);
        assert_eq!(chain(&[(0, 50), (1, 60), (2, 99)]), 1);
        assert_eq!(chain(&[(0, 90), (10, 20), (20, 30), (40, 50)]), 3);
        assert_eq!(chain(&[(0, 50), (60, 101)]), 1);
    }
}
