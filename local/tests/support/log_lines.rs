//! The deployed functions' logs, read by CloudWatch Logs' API.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/>

use anyhow::{Context, Result};
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::scene::Scene;

/// One line.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// The function that wrote it, by its binary's name.
    pub(crate) function: String,
    pub(crate) text: String,
    /// The same, parsed; `null` if it is no JSON.
    pub(crate) json: Value,
}

impl Line {
    pub(crate) fn of(function: &str, text: &str) -> Self {
        Self {
            function: function.to_owned(),
            text: text.to_owned(),
            json: serde_json::from_str(text).unwrap_or_default(),
        }
    }
}

/// Which lines are wanted.
pub(crate) struct Wanted<'a> {
    /// Of functions whose names begin like this.
    functions: &'a str,
    since: Option<OffsetDateTime>,
}

/// All of these functions.
impl<'a> From<&'a str> for Wanted<'a> {
    fn from(functions: &'a str) -> Self {
        Self {
            functions,
            since: None,
        }
    }
}

/// What these functions have written since then: a run of all tests leaves much to read.
impl<'a> From<(&'a str, OffsetDateTime)> for Wanted<'a> {
    fn from((functions, since): (&'a str, OffsetDateTime)) -> Self {
        Self {
            functions,
            since: Some(since),
        }
    }
}

/// The lines that are wanted, each function's in their order.
pub(crate) async fn log_lines(scene: &Scene, wanted: impl Into<Wanted<'_>>) -> Result<Vec<Line>> {
    let Wanted { functions, since } = wanted.into();
    let since = since.map_or(0, |since| since.unix_timestamp() * 1000);
    let prefix = format!("/aws/lambda/{STACK_NAME}-");
    let groups = Listing::of("DescribeLogGroups", "logGroups", "nextToken")
        .ask(
            scene,
            json!({ "logGroupNamePrefix": format!("{prefix}{functions}") }),
        )
        .await?;
    let mut lines = Vec::new();
    for group in groups {
        let name = group["logGroupName"].as_str().context("a group's name")?;
        let streams = Listing::of("DescribeLogStreams", "logStreams", "nextToken")
            .ask(scene, json!({ "logGroupName": name }))
            .await?;
        for stream in streams {
            let of_stream = json!({
                "logGroupName": name,
                "logStreamName": stream["logStreamName"],
                "startFromHead": true,
                "startTime": since,
            });
            let events = Listing::of("GetLogEvents", "events", "nextForwardToken")
                .ask(scene, of_stream)
                .await?;
            let function = name.trim_start_matches(&prefix);
            lines.extend(events.iter().filter_map(|event| line(function, event)));
        }
    }
    Ok(lines)
}

fn line(function: &str, event: &Value) -> Option<Line> {
    let text = event["message"].as_str()?.trim_end();
    (!is_of_lambda(text)).then(|| Line::of(function, text))
}

/// Whether Lambda itself says where an invocation begins and ends. On AWS it does so in JSON, as the template asks.
fn is_of_lambda(text: &str) -> bool {
    ["START", "END", "REPORT"]
        .iter()
        .any(|word| text.starts_with(&format!("{word} RequestId: ")))
}

/// An operation that answers page by page.
struct Listing {
    operation: &'static str,
    items: &'static str,
    next: &'static str,
}

impl Listing {
    const fn of(operation: &'static str, items: &'static str, next: &'static str) -> Self {
        Self {
            operation,
            items,
            next,
        }
    }

    /// All items. The last page names no next one, or, of a stream, itself.
    async fn ask(&self, scene: &Scene, mut question: Value) -> Result<Vec<Value>> {
        let mut all = Vec::new();
        loop {
            let page = scene
                .http
                .post(&scene.stack.aws.endpoint)
                .header("content-type", "application/x-amz-json-1.1")
                .header("x-amz-target", format!("Logs_20140328.{}", self.operation))
                .body(question.to_string())
                .send()
                .await?
                .error_for_status()
                .context(self.operation)?
                .json::<Value>()
                .await?;
            let items = page[self.items].as_array().cloned().unwrap_or_default();
            let next = page[self.next].clone();
            let last = items.is_empty() || next.is_null() || next == question["nextToken"];
            all.extend(items);
            if last {
                return Ok(all);
            }
            question["nextToken"] = next;
        }
    }
}
