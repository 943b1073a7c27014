//! The tables: what became of the calls, by fault, and what everybody noticed of it.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use ringback_local::settings::Settings;
use serde::{Deserialize, Serialize};

use crate::play::{End, Played};

/// One line of each table.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) fault: String,
    calls: usize,
    pub(crate) bridged: usize,
    pub(crate) busy: usize,
    pub(crate) gave_up: usize,
    pub(crate) lost: usize,
    /// Milliseconds until a caller was bridged or heard busy: the shortest and the longest.
    pub(crate) waits: Option<(u64, u64)>,
    /// The SIP codes of refusals.
    pub(crate) codes: BTreeSet<u16>,
    /// What apps were told, in the order in which a call has it.
    pub(crate) told: BTreeSet<String>,
    /// How often a call met the fault at most, and over how many milliseconds.
    pub(crate) met: (u32, u64),
}

impl Row {
    /// What became of these calls, of whom none may have waited longer than `promised`.
    pub(crate) fn of(fault: &str, played: &[Played], promised: Duration) -> Self {
        let is_lost = |it: &&Played| {
            it.end == End::Lost || it.counted() > promised || !it.problems.is_empty()
        };
        let count = |end| {
            let well = played.iter().filter(|it| it.end == end && !is_lost(it));
            well.count()
        };
        let waits = played.iter().filter(|it| it.end != End::GaveUp);
        let waits: Vec<u64> = waits.map(|it| millis(it.waited)).collect();
        let longest = |it: &&Played| (it.hits, it.hit_for);
        let met = played.iter().max_by_key(longest);
        Self {
            fault: fault.to_owned(),
            calls: played.len(),
            bridged: count(End::Bridged),
            busy: count(End::Busy),
            gave_up: count(End::GaveUp),
            lost: played.iter().filter(is_lost).count(),
            waits: waits.iter().min().copied().zip(waits.iter().max().copied()),
            codes: played.iter().filter_map(|it| it.story.sip).collect(),
            told: played.iter().filter_map(Played::told).collect(),
            met: met.map_or((0, 0), |it| (it.hits, millis(it.hit_for))),
        }
    }

    /// Keeps the line for the page.
    pub(crate) fn keep(&self) -> Result<()> {
        std::fs::create_dir_all(folder())?;
        let text = serde_json::to_vec(self)?;
        std::fs::write(file(&self.fault), text)?;
        Ok(())
    }
}

impl Played {
    /// What the app was told, as `accept_ready 502, 200`.
    fn told(&self) -> Option<String> {
        let of_apps = self.story.answers.iter().filter(|(what, _)| {
            !["passthru", "in-progress", "completed", "busy"].contains(&what.as_str())
        });
        let told: Vec<String> = of_apps
            .map(|(what, status)| match status {
                0 => format!("`{what}`"),
                status => format!("`{what}` {status}"),
            })
            .collect();
        (!told.is_empty()).then(|| told.join(", "))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

pub(crate) fn seconds(millis: u64) -> String {
    format!("{:.1}", Duration::from_millis(millis).as_secs_f64())
}

fn folder() -> PathBuf {
    Settings::from_environment().state("chaos")
}

pub(crate) fn file(fault: &str) -> PathBuf {
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

/// What became of the calls.
pub(crate) fn table(rows: &[Row]) -> String {
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
        // Into a string, which never fails.
        let _ = writeln!(
            table,
            "| {fault} | {calls} | {bridged} | {busy} | {gave_up} | {lost} | {longest} |"
        );
    }
    table
}
