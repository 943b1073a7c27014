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
    "the primary region is lost, and refuses connections",
    "the primary region is lost, and takes connections and says nothing",
];

/// One row of each table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Row {
    pub fault: String,
    pub calls: usize,
    pub bridged: usize,
    pub busy: usize,
    pub gave_up: usize,
    pub lost: usize,
    /// The shortest and the longest time in milliseconds until a caller was bridged or heard busy.
    pub waits: Option<(u64, u64)>,
    /// The SIP status codes of rejected calls.
    pub codes: BTreeSet<u16>,
    /// What the apps received, for example `accept_ready 502, 200`.
    pub told: BTreeSet<String>,
    /// The maximum number of times that a call met the fault, and over how many milliseconds.
    pub met: (u32, u64),
    /// How many calls were repeated because Asterisk itself crashed.
    pub crashes: u32,
}

impl Row {
    /// Saves the row for the page.
    pub fn keep(&self) -> Result<()> {
        std::fs::create_dir_all(folder())?;
        let text = serde_json::to_vec(self)?;
        std::fs::write(file(&self.fault), text)?;
        Ok(())
    }

    /// Loads a saved row.
    pub fn kept(fault: &str) -> Result<Self> {
        let text =
            std::fs::read(file(fault)).with_context(|| format!("no test has told of {fault:?}"))?;
        Ok(serde_json::from_slice(&text)?)
    }
}

pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

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
pub fn table(rows: &[Row]) -> String {
    let mut table = "| fault | calls | bridged | busy in time | given up by the caller | lost | longest wait |\n\
        | --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        .to_owned();
    for row in rows {
        let Row {
            fault,
            calls,
            bridged,
            busy,
            gave_up,
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
            "| {fault} | {calls} | {bridged} | {busy} | {gave_up} | {lost} | {longest} |"
        );
    }
    table
}
