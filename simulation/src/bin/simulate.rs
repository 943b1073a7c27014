//! Runs seeds until one breaks a promise, for so many minutes; or one seed, with its timeline.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use ringback_simulation::{shrink, simulate};

#[derive(Parser)]
struct Arguments {
    /// Run this seed, and show what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave out the faults of these numbers.
    #[arg(long, value_delimiter = ',')]
    without: Vec<u32>,
    /// Run new seeds for so many minutes.
    #[arg(long, default_value_t = 1.0)]
    minutes: f64,
    /// The first of the new seeds. By default, it depends on the time.
    #[arg(long)]
    first: Option<u64>,
    /// Run so many seeds at most.
    #[arg(long, default_value_t = u64::MAX)]
    seeds: u64,
    /// Go on after a violation, and count what is found.
    #[arg(long)]
    count: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = match arguments.seed {
        Some(seed) => show(seed, &arguments.without),
        None => search(&arguments),
    };
    run.unwrap_or_else(|error| {
        eprintln!("{error}");
        ExitCode::FAILURE
    })
}

/// Shows what happens in one seed.
fn show(seed: u64, without: &[u32]) -> std::io::Result<ExitCode> {
    let outcome = simulate(seed, without, true)?;
    println!("{}", outcome.scenario);
    for line in &outcome.timeline {
        println!("{line}");
    }
    for violation in &outcome.violations {
        println!(
            "BROKEN at {} ms: {} ({})",
            violation.at, violation.promise, violation.details
        );
    }
    Ok(if outcome.violations.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn search(arguments: &Arguments) -> std::io::Result<ExitCode> {
    let began = Instant::now();
    let clock = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let by_clock = clock.map_or(0, |time| time.as_secs() * 1_000_000);
    let first = arguments.first.unwrap_or(by_clock);
    let time = Duration::from_secs_f64(arguments.minutes * 60.0);
    let mut found: BTreeMap<&str, (Vec<u64>, u64)> = BTreeMap::new();
    let (mut seeds, mut calls, mut faults) = (0_u64, 0_usize, 0);
    while began.elapsed() < time && seeds < arguments.seeds {
        let seed = first + seeds;
        seeds += 1;
        let outcome = simulate(seed, &[], false)?;
        calls += outcome.calls;
        faults += outcome.faults.len() + outcome.planned.len();
        for violation in &outcome.violations {
            let entry = found.entry(violation.promise).or_default();
            entry.1 += 1;
            if entry.0.len() < 5 && entry.0.last() != Some(&seed) {
                entry.0.push(seed);
            }
        }
        if let (Some(violation), false) = (outcome.violations.first(), arguments.count) {
            let promise = violation.promise;
            println!(
                "seed {seed} breaks a promise after {:.1} s: {promise}",
                began.elapsed().as_secs_f64()
            );
            let without = shrink(seed, promise)?;
            let list: Vec<String> = without.iter().map(ToString::to_string).collect();
            let list = if list.is_empty() {
                String::new()
            } else {
                format!(" --without {}", list.join(","))
            };
            show(seed, &without)?;
            println!(
                "reproduce: cargo run -p ringback-simulation --bin simulate -- --seed {seed}{list}"
            );
            return Ok(ExitCode::FAILURE);
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let rate = calls as f64 / began.elapsed().as_secs_f64();
    println!(
        "{calls} calls in {seeds} runs with {faults} faults, {rate:.0} calls a second, from seed {first} on"
    );
    for (promise, (seeds, times)) in &found {
        println!("BROKEN {times} times, first by the seeds {seeds:?}: {promise}");
    }
    Ok(if found.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
