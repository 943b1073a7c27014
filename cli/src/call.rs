//! `ringback call`: what happened to a call, the recent calls of an extension, and all calls as they happen.

use std::time::Duration;

use clap::Subcommand;
use ringback::platform::clock;
use secrecy::SecretString;
use serde_json::{Value, json};

use crate::api::{Api, encoded};
use crate::deployment::Deployment;
use crate::duration;
use crate::failure::Result;
use crate::output::{Output, columns};
use crate::tail;
use crate::token::{self, Claims, Role};
use crate::words;

/// The most calls that the API lists at once, and how many it lists by default.
const PAGE: usize = 100;
const NEWEST: usize = 20;

#[derive(Subcommand, Debug)]
pub(crate) enum CallCommand {
    /// Show the history of one call, and why it ended
    #[command(after_help = "Example:\n  ringback call show 0193512d-7f1c-8a10-b3c5-2f9d6c1e4a77")]
    Show {
        /// The id of the call, or Exotel's CallSid
        id: String,
    },
    /// List the recent calls of an extension, the newest first
    #[command(after_help = "Example:\n  ringback call list --extension 1001 --since 1h")]
    List {
        /// The extension
        #[arg(long)]
        extension: String,
        /// Only the calls that began within this time; without it, the newest 20
        #[arg(long, value_name = "DURATION", value_parser = duration::parse)]
        since: Option<Duration>,
    },
    /// Show calls as they happen, until Ctrl-C
    #[command(
        after_help = "A lost connection is made again. With --json, each update is one line.\n\nExample:\n  ringback call tail --extension 1001"
    )]
    Tail {
        /// Only the calls of this extension
        #[arg(long)]
        extension: Option<String>,
    },
}

/// Runs `ringback call`.
pub(crate) async fn run(
    deployment: &Deployment,
    given: Option<&SecretString>,
    command: CallCommand,
    output: Output,
) -> Result<()> {
    let api = async || {
        let claims = Claims::of_role(Role::Operator);
        let token = token::for_command(deployment, given, claims).await?;
        Api::new(deployment, token)
    };
    match command {
        CallCommand::Show { id } => show(&api().await?, &id, output).await,
        CallCommand::List { extension, since } => {
            list(&api().await?, &extension, since, output).await
        }
        CallCommand::Tail { extension } => {
            tail::run(deployment, given, extension.as_deref(), output).await
        }
    }
}

async fn show(api: &Api, id: &str, output: Output) -> Result<()> {
    let call = api.read(&format!("/api/calls/{}", encoded(id))).await?;
    output.print(&call, &story(&call))
}

async fn list(api: &Api, extension: &str, since: Option<Duration>, output: Output) -> Result<()> {
    let limit = if since.is_some() { PAGE } else { NEWEST };
    let earliest = since.map(|since| clock::now().before(since));
    let mut calls = Vec::new();
    let add = |page: &Value| {
        for call in page["calls"].as_array().into_iter().flatten() {
            let begin = words::time(&call["created_at"]);
            if earliest.is_some_and(|earliest| begin.is_some_and(|begin| begin < earliest)) {
                return false;
            }
            calls.push(call.clone());
        }
        earliest.is_some()
    };
    let extension = encoded(extension);
    let path = format!("/api/calls?extension={extension}&limit={limit}");
    api.read_pages(&path, add).await?;
    if calls.is_empty() {
        output.note("There is no such call.");
    }
    let rows = calls.iter().map(row).collect();
    let heading = ["BEGIN", "CALL", "FROM", "TO", "STATUS", "TALKED", "REASON"];
    output.print_table(&json!({ "calls": calls }), heading, rows)
}

fn text<'a>(call: &'a Value, field: &str) -> &'a str {
    call[field].as_str().unwrap_or("-")
}

fn row(call: &Value) -> [String; 7] {
    let begin = words::time(&call["created_at"]);
    let reason = call["reason"].as_str().map(words::reason);
    [
        begin.map(words::utc).unwrap_or_default(),
        text(call, "call_id").to_owned(),
        text(call, "caller_number").to_owned(),
        callee(call).to_owned(),
        words::status(text(call, "status")),
        talked(call).unwrap_or_else(|| "-".to_owned()),
        reason.unwrap_or_default(),
    ]
}

/// The telephone number that was called, or else the extension.
fn callee(call: &Value) -> &str {
    call["to"]
        .as_str()
        .unwrap_or_else(|| text(call, "extension"))
}

/// How long both sides have talked.
fn talked(call: &Value) -> Option<String> {
    let bridged = words::time(&call["bridged_at"])?;
    let end = words::time(&call["ended_at"]).unwrap_or_else(clock::now);
    Some(words::clock(bridged, end))
}

/// The story of a call: its parties, its history, and its end.
pub(crate) fn story(call: &Value) -> String {
    let begin = words::time(&call["created_at"]).unwrap_or_else(clock::now);
    let name = call["caller_name"].as_str();
    let name = name.map_or_else(String::new, |name| format!("{name}, "));
    let title = format!(
        "Call {}\n{} call from {name}{} to {}, {}",
        text(call, "call_id"),
        text(call, "call_type"),
        text(call, "caller_number"),
        callee(call),
        words::utc(begin),
    );
    let history = call["history"].as_array().into_iter().flatten();
    let mut lines: Vec<(_, String)> = history
        .filter_map(|line| {
            let at = words::time(&line["at"])?;
            Some((
                at,
                words::event(line["event"].as_str()?, line["by"].as_str()),
            ))
        })
        .collect();
    // Two regions may have added to the history at the same time.
    lines.sort_by_key(|(at, _)| *at);
    let lines = lines
        .into_iter()
        .map(|(at, words)| [words::elapsed(begin, at), words]);
    let lines = columns(lines.collect());
    let talked = talked(call).map_or_else(String::new, |time| format!(" after {time} of talking"));
    let end = match (call["reason"].as_str(), words::time(&call["ended_at"])) {
        (Some(reason), _) => format!("Ended{talked}: {}.", words::reason(reason)),
        (None, Some(_)) => format!("Ended{talked}: {}.", words::status(text(call, "status"))),
        (None, None) => format!("Now: {}.", words::status(text(call, "status"))),
    };
    format!("{title}\n\n{lines}\n\n{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_story_says_who_what_when_and_why() {
        let call = json!({
            "call_id": "id", "status": "completed", "extension": "1001", "to": null, "caller_number": "+919876543210",
            "caller_name": "Asha", "call_type": "voice", "created_at": 1_732_175_943_000_u64,
            "bridged_at": 1_732_175_947_000_u64, "ended_at": 1_732_176_012_000_u64, "reason": "caller_hung_up",
            "history": [
                { "at": 1_732_175_943_000_u64, "event": "ring" },
                { "at": 1_732_175_947_000_u64, "event": "bridged" },
                { "at": 1_732_175_945_250_u64, "event": "accept_ready", "by": "1001/pixel" },
            ],
        });
        assert_eq!(
            story(&call),
            "Call id\n\
             voice call from Asha, +919876543210 to 1001, 2024-11-21 07:59:03Z\n\
             \n\
             +0.00 s  the call begins\n\
             +2.25 s  an app accepts and is ready (1001/pixel)\n\
             +4.00 s  the legs are bridged: both sides talk\n\
             \n\
             Ended after 1:05 of talking: the caller hung up."
        );
        let ringing = json!({ "status": "waiting_for_mobile", "created_at": 1_732_175_943_000_u64, "to": "+911" });
        assert!(story(&ringing).ends_with("Now: ringing."));
    }
}
