//! The faults, the rules that apply them, and what the proxies report back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A system that the functions use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// The local AWS: `DynamoDB`, SQS, EventBridge Scheduler, Secrets Manager, SNS, and the WebSocket connections API.
    Aws,
    /// Asterisk's REST interface (ARI).
    Pbx,
    /// FCM, and Google's token endpoint.
    Fcm,
    /// Exotel's API.
    Exotel,
}

impl System {
    /// All systems.
    pub const ALL: [Self; 4] = [Self::Aws, Self::Pbx, Self::Fcm, Self::Exotel];
}

/// The state of the link to a system. A change closes all open connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    /// Works normally.
    Open,
    /// Connections are refused.
    Refused,
    /// Connections are accepted but get no answer.
    Silent,
    /// The TLS certificate has expired (ARI only).
    Expired,
}

/// A fault, and the requests that it applies to.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Only requests to this system.
    pub system: System,
    /// Only operations that start with this. All if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// Only requests of this function. All if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Only requests of this test call. All if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub test_call: Option<String>,
    /// Skips this many matching requests first.
    #[serde(default)]
    pub skip: u32,
    /// Applies to this many requests. No limit if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// Applies to one in this many requests, at random. To each if not set.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_in: Option<u32>,
    /// The fault.
    pub fault: Fault,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// Gets this answer and is not forwarded.
    Answer {
        /// The HTTP status.
        status: u16,
        /// The headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// Gets no answer, and is not forwarded.
    Silence,
    /// Is forwarded later.
    Delay {
        /// The delay in milliseconds.
        ms: u64,
    },
    /// Is forwarded, but the connection is closed before the answer.
    LoseAnswer,
    /// Is forwarded twice. The function gets the second answer.
    Twice,
    /// The function that sends it is killed.
    Kill(KillPoint),
}

/// When a function is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KillPoint {
    /// Before the request is forwarded.
    Before,
    /// After the system has processed the request, before the function gets the answer.
    After,
}

/// One request of a test call.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RequestStep {
    /// The system.
    pub system: System,
    /// The function.
    pub function: String,
    /// The operation.
    pub operation: String,
    /// How many times the function has sent this operation before.
    pub nth: u32,
}

/// A rule and its counters.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RuleStatus {
    /// The rule.
    pub rule: Rule,
    /// How many requests matched, including skipped ones.
    pub matched: u32,
    /// How many requests got the fault.
    pub applied: u32,
    /// The times of the first and the last fault, in milliseconds since the Unix epoch.
    pub first_and_last_ms: Option<(i64, i64)>,
}

/// A test call and its recorded requests.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct TestCall {
    /// The strings that identify its requests.
    pub marks: BTreeSet<String>,
    /// Its requests in the order of arrival.
    pub steps: Vec<RequestStep>,
}
