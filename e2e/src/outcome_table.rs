//! The results of calls with one fault: a row of the tables in `docs/promises.md`. Each test saves its rows until
//! `make chaos` writes the page.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use ringback_local::settings::Settings;
use serde::{Deserialize, Serialize};

/// The faults that `tests/regions` covers: the primary region is lost in one of two ways.
pub const REGION_LOST: [&str; 2] = [
    "the primary region is lost and refuses connections",
    "the primary region is lost and accepts connections without answering",
];

/// One row of each table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OutcomeRow {
    /// The fault.
    pub fault: String,
    /// The number of calls.
    pub calls: usize,
    /// Calls in which the parties heard each other.
    pub bridged: usize,
    /// Calls that were rejected in time.
    pub busy: usize,
    /// Calls in which the caller hung up first.
    pub abandoned: usize,
    /// Calls that broke a promise.
    pub lost: usize,
    /// The shortest and the longest time in milliseconds until a caller was bridged or heard busy.
    pub waits: Option<(u64, u64)>,
    /// The SIP status codes of rejected calls.
    pub codes: BTreeSet<u16>,
    /// What the apps received, for example `accept_ready 502, 200`.
    pub app_results: BTreeSet<String>,
    /// The maximum number of times that a call met the fault, and over how many milliseconds.
    pub occurrences: (u32, u64),
    /// How many calls were repeated because Asterisk itself crashed.
    pub crashes: u32,
}

impl OutcomeRow {
    /// Saves the row for the page.
    pub fn save(&self) -> Result<()> {
        std::fs::create_dir_all(folder())?;
        let text = serde_json::to_vec(self)?;
        std::fs::write(file(&self.fault), text)?;
        Ok(())
    }

    /// Loads a saved row.
    pub fn load(fault: &str) -> Result<Self> {
        let text = std::fs::read(file(fault))
            .with_context(|| format!("no test has saved a row for {fault:?}"))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// A duration in milliseconds.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Milliseconds as seconds with one decimal.
pub fn seconds(millis: u64) -> String {
    format!("{:.1}", Duration::from_millis(millis).as_secs_f64())
}

fn folder() -> PathBuf {
    Settings::from_environment().state("chaos")
}

fn file(fault: &str) -> PathBuf {
    let letters = fault.chars();
    let name: String = letters
        .map(|letter| {
            if letter.is_ascii_alphanumeric() {
                letter
            } else {
                '-'
            }
        })
        .collect();
    folder().join(format!("{name}.json"))
}

/// The first table of the page: how the calls ended.
pub fn table(rows: &[OutcomeRow]) -> String {
    let mut table = "| fault | calls | bridged | busy in time | abandoned by the caller | lost | longest wait |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for row in rows {
        let OutcomeRow {
            fault,
            calls,
            bridged,
            busy,
            abandoned,
            lost,
            waits,
            ..
        } = row;
        let longest = waits.map_or_else(
            || "-".to_owned(),
            |(_, most)| format!("{} s", seconds(most)),
        );
        // Writing into a string cannot fail.
        let _ = writeln!(
            table,
            "| {fault} | {calls} | {bridged} | {busy} | {abandoned} | {lost} | {longest} |"
        );
    }
    table
}
