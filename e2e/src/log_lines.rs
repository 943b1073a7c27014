//! The logs of the deployed functions, read with the CloudWatch Logs API.
//!
//! <https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/>

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::fixture::Fixture;

/// The maximum number of events in one response.
const PAGE: usize = 10_000;

/// One log line.
#[derive(Clone, Debug)]
pub struct LogLine {
    /// The function that wrote it, by the name of its binary.
    pub function: String,
    /// The line as it was written.
    pub text: String,
    /// The line parsed as JSON; `null` if it is not JSON.
    pub json: Value,
}

impl LogLine {
    /// Parses a line of a function.
    pub fn of(function: &str, text: &str) -> Self {
        Self {
            function: function.to_owned(),
            text: text.to_owned(),
            json: serde_json::from_str(text).unwrap_or_default(),
        }
    }
}

/// Selects log lines.
pub struct LogQuery<'a> {
    /// A prefix of the function names.
    functions: &'a str,
    since: Option<OffsetDateTime>,
}

/// All lines of the functions with this prefix.
impl<'a> From<&'a str> for LogQuery<'a> {
    fn from(functions: &'a str) -> Self {
        Self {
            functions,
            since: None,
        }
    }
}

/// The lines that these functions wrote since a moment. After a run of all tests, the whole log is long.
impl<'a> From<(&'a str, OffsetDateTime)> for LogQuery<'a> {
    fn from((functions, since): (&'a str, OffsetDateTime)) -> Self {
        Self {
            functions,
            since: Some(since),
        }
    }
}

/// The selected lines, in order for each function.
pub async fn log_lines(fixture: &Fixture, query: impl Into<LogQuery<'_>>) -> Result<Vec<LogLine>> {
    let LogQuery { functions, since } = query.into();
    let since = since.map_or(0, |since| since.unix_timestamp() * 1000);
    let prefix = format!("/aws/lambda/{STACK_NAME}-");
    let mut lines = Vec::new();
    for group in groups(fixture, &format!("{prefix}{functions}")).await? {
        let function = group.trim_start_matches(&prefix);
        let events = events(fixture, &group, since).await?;
        lines.extend(events.iter().filter_map(|event| line(function, event)));
    }
    Ok(lines)
}

/// The names of the log groups with this prefix.
async fn groups(fixture: &Fixture, prefix: &str) -> Result<Vec<String>> {
    let mut question = json!({ "logGroupNamePrefix": prefix });
    let mut names = Vec::new();
    loop {
        let page = ask(fixture, "DescribeLogGroups", &question).await?;
        let groups = page["logGroups"].as_array().context("groups")?;
        let named = groups.iter().filter_map(|it| it["logGroupName"].as_str());
        names.extend(named.map(ToOwned::to_owned));
        question["nextToken"] = page["nextToken"].clone();
        if question["nextToken"].is_null() {
            return Ok(names);
        }
    }
}

/// All events of a log group since a moment, in milliseconds since the Unix epoch.
async fn events(fixture: &Fixture, group: &str, mut since: i64) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    loop {
        let question = json!({ "logGroupName": group, "startTime": since, "limit": PAGE });
        let mut page = ask(fixture, "FilterLogEvents", &question).await?;
        let events = page["events"].as_array_mut().context("events")?;
        let last = events.last().and_then(|event| event["timestamp"].as_i64());
        let (true, Some(last)) = (events.len() == PAGE, last) else {
            all.append(events);
            return Ok(all);
        };
        // The local AWS has no pagination. So ask again from the last timestamp of the page, and drop its events from
        // the page, because the page may not hold all of them.
        ensure!(
            last > since,
            "more than one page of events at one moment in {group}"
        );
        events.retain(|event| event["timestamp"] != last);
        all.append(events);
        since = last;
    }
}

/// The pauses before a request is repeated (6.2 s in all). The more lines the local AWS has, the longer it answers 500.
const PAUSES: [u64; 6] = [100, 200, 400, 800, 1_600, 3_100];

/// Sends a request to CloudWatch Logs. Retries server errors, as the AWS SDKs do: the local AWS answers 500 while a
/// function writes a line.
async fn ask(fixture: &Fixture, operation: &'static str, question: &Value) -> Result<Value> {
    let mut pauses = PAUSES.into_iter().map(Duration::from_millis);
    loop {
        let request = fixture
            .http
            .post(&fixture.stack.aws.endpoint)
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("Logs_20140328.{operation}"))
            .body(question.to_string());
        let answer = request.send().await?;
        if answer.status().is_server_error()
            && let Some(pause) = pauses.next()
        {
            tokio::time::sleep(pause).await;
            continue;
        }
        let answer = answer.error_for_status().context(operation)?;
        return Ok(answer.json().await?);
    }
}

fn line(function: &str, event: &Value) -> Option<LogLine> {
    let text = event["message"].as_str()?.trim_end();
    (!is_of_lambda(text)).then(|| LogLine::of(function, text))
}

/// Whether Lambda wrote this line about an invocation. On AWS, these lines are JSON, as the template requests.
fn is_of_lambda(text: &str) -> bool {
    ["START", "END", "REPORT"]
        .iter()
        .any(|word| text.starts_with(&format!("{word} RequestId: ")))
}
