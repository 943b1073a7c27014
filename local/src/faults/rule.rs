//! What can be made to happen, to which requests, and what is known of them.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// A system around the functions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum System {
    /// The local AWS: `DynamoDB`, SQS, the scheduler, secrets, SNS, and the connections of the WebSocket API.
    Aws,
    /// ARI.
    Pbx,
    /// FCM, and the endpoint that grants access to it.
    Fcm,
    /// Exotel's API.
    Exotel,
}

impl System {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Aws, Self::Pbx, Self::Fcm, Self::Exotel];
}

/// How the line to a system is. A change breaks the connections that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// As it should be.
    Open,
    /// Nobody listens.
    Refused,
    /// Connections are taken, and nothing is ever said on them.
    Silent,
    /// The certificate has expired (ARI).
    Expired,
}

/// What happens to requests, of those that it is meant for.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// The requests to this system,
    pub system: System,
    /// that are this operation (its beginning is enough),
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    /// come from this function,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// and belong to this play.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub play: Option<String>,
    /// Not to the first so many.
    #[serde(default)]
    pub skip: u32,
    /// To so many; to all, unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub times: Option<u32>,
    /// To one in so many (by chance); to each, unless it is said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub one_in: Option<u32>,
    /// What happens.
    pub fault: Fault,
}

/// What happens to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is answered with this, and not handed on.
    Answer {
        /// HTTP status.
        status: u16,
        /// Headers.
        #[serde(default)]
        headers: BTreeMap<String, String>,
        /// The body.
        #[serde(default)]
        body: String,
    },
    /// It is taken, and nothing more is heard.
    Silence,
    /// It is handed on this much later.
    Delay {
        /// Milliseconds.
        ms: u64,
    },
    /// It is handed on, and its answer is lost with the connection.
    LoseAnswer,
    /// It is handed on twice. The second answer counts.
    Twice,
    /// The function that asks is ended.
    Kill(Moment),
}

/// When a function is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Moment {
    /// Before the request has reached the system.
    Before,
    /// When the system has done what was asked, and the function does not know.
    After,
}

/// One request of a play: the `nth` time that this function asked for this.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Step {
    /// Whom it asked.
    pub system: System,
    /// The function.
    pub function: String,
    /// What it asked for.
    pub operation: String,
    /// From 0.
    pub nth: u32,
}

/// A rule as it stands.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// What was asked for.
    pub rule: Rule,
    /// How many requests it was meant for, those that were skipped among them.
    pub met: u32,
    /// How many it happened to.
    pub hits: u32,
    /// When it happened for the first time and for the last, in milliseconds since the Unix epoch.
    pub between: Option<(i64, i64)>,
}

/// What is known of a play.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Play {
    /// What its requests are known by.
    pub marks: BTreeSet<String>,
    /// Its requests, in the order in which they came.
    pub steps: Vec<Step>,
}
