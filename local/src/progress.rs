//! Prints the progress: a line when a step starts and ends, and a line every few seconds while it runs.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// How often a running step prints a line.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Prints lines with the time since the start.
#[derive(Debug, Clone, Copy)]
pub struct Progress {
    started_at: Instant,
}

impl Progress {
    /// Starts the clock.
    pub fn start() -> Self {
        Self {
            started_at: Instant::now(),
        }
    }

    /// Prints one line.
    pub fn say(&self, line: &str) {
        println!("[{:6.1}s] {line}", self.started_at.elapsed().as_secs_f64());
    }

    /// Runs a step. While it runs, prints the last line of its log at intervals.
    pub async fn step<T>(
        &self,
        name: &str,
        log: Option<PathBuf>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let started = Instant::now();
        self.say(&format!("{name} ..."));
        let mut work = std::pin::pin!(work);
        let outcome = loop {
            match tokio::time::timeout(HEARTBEAT, &mut work).await {
                Ok(outcome) => break outcome,
                Err(_) => self.say(&still_running(name, started, log.as_deref())),
            }
        };
        let took = started.elapsed().as_secs_f64();
        match outcome {
            Ok(value) => {
                self.say(&format!("{name}: done in {took:.1} s"));
                Ok(value)
            }
            Err(error) => {
                self.say(&format!("{name}: FAILED after {took:.1} s"));
                Err(error).with_context(|| format!("{name} failed"))
            }
        }
    }
}

fn still_running(name: &str, started: Instant, log: Option<&Path>) -> String {
    let now = log
        .and_then(last_line)
        .map_or_else(String::new, |line| format!(": {line}"));
    format!(
        "{name}, {:.0} s so far{now}",
        started.elapsed().as_secs_f64()
    )
}

fn last_line(log: &Path) -> Option<String> {
    let line = tail(log, 1).pop()?;
    Some(line.trim().chars().take(100).collect())
}

/// The last non-empty lines of a log.
pub fn tail(log: &Path, lines: usize) -> Vec<String> {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let mut found: Vec<String> = text
        .lines()
        .rev()
        .filter(|line| !line.trim().is_empty())
        .take(lines)
        .map(str::to_owned)
        .collect();
    found.reverse();
    found
}
