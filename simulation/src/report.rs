//! What happened in one seed, as text for people.

use std::fmt::Write as _;
use std::io;

use crate::run::{Outcome, simulate};
use crate::shrink::shrink;

/// A seed, run once more, with its timeline and the promises that it broke.
pub struct Report {
    /// The text.
    pub text: String,
    /// Whether it broke no promise.
    pub is_good: bool,
}

/// Runs the seed without the faults of these numbers, and says what happened.
///
/// # Errors
/// When tokio cannot start.
pub fn report(seed: u64, without: &[u32]) -> io::Result<Report> {
    let Outcome {
        violations,
        timeline,
        scenario,
        ..
    } = simulate(seed, without, true)?;
    let mut text = format!("{scenario}\n");
    for line in timeline {
        let _infallible = writeln!(text, "{line}");
    }
    for violation in &violations {
        let _infallible = writeln!(text, "{violation}");
    }
    if violations.is_empty() {
        text.push_str("No promise is broken.\n");
    }
    Ok(Report {
        text,
        is_good: violations.is_empty(),
    })
}

/// Shrinks a seed that breaks this promise, and says what happens then and how to run it again.
///
/// # Errors
/// When tokio cannot start.
pub fn explain(seed: u64, promise: &str) -> io::Result<String> {
    let without = shrink(seed, promise)?;
    let text = report(seed, &without)?.text;
    let numbers: Vec<String> = without.iter().map(ToString::to_string).collect();
    let without = if numbers.is_empty() {
        String::new()
    } else {
        format!(" --without {}", numbers.join(","))
    };
    Ok(format!(
        "seed {seed}, without the faults that the violation does not need:\n\n{text}\n\
         Reproduce it: make simulate ARGS='--seed {seed}{without}'\n"
    ))
}
