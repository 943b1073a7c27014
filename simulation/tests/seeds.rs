//! Runs the kept seeds, and new ones for `SIMULATE_SECONDS` (5).

use std::time::{Duration, Instant};

use ringback::platform::clock;
use ringback::platform::config::Environment;
use ringback_simulation::{Violation, explain, simulate};

/// The kept seeds, one a line, each with what it shows.
const KEPT: &str = include_str!("../kept_seeds.txt");

/// The new seeds depend on the date. All machines run the same seeds on one day, so a failure shows on all of them.
const SEEDS_PER_DAY: u64 = 1_000_000_000;

fn violations(seed: u64) -> Vec<Violation> {
    simulate(seed, &[], false)
        .map(|outcome| outcome.violations)
        .unwrap_or_default()
}

/// Fails if something was found, with the timeline.
fn assert_good(seed: u64, found: &[Violation], shows: &str) {
    if let Some(violation) = found.first() {
        panic!(
            "{shows}: {}",
            explain(seed, violation.promise).unwrap_or_default()
        );
    }
}

#[test]
fn kept_seeds_break_no_promise() {
    let lines = KEPT.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let (seed, shows) = line.split_once(' ').unwrap_or((line, ""));
        let Ok(seed) = seed.parse() else {
            panic!("no seed: {line}")
        };
        assert_good(seed, &violations(seed), shows);
    }
}

#[test]
fn the_seeds_of_the_day_break_no_promise() {
    let seconds = Environment::of_process()
        .count("SIMULATE_SECONDS", 5)
        .unwrap();
    let time = Duration::from_secs(seconds.into());
    let day = clock::now().as_millis() / (24 * 60 * 60 * 1_000);
    let first = day * SEEDS_PER_DAY;
    let began = Instant::now();
    for seed in first.. {
        let found = violations(seed);
        assert_good(seed, &found, "a new seed breaks a promise");
        if began.elapsed() > time {
            println!("{} seeds from {first} on", seed - first + 1);
            return;
        }
    }
}

#[test]
fn a_seed_always_does_the_same() {
    for seed in 0..50 {
        let run = || {
            simulate(seed, &[], true)
                .map(|outcome| outcome.timeline)
                .unwrap_or_default()
        };
        assert_eq!(run(), run(), "seed {seed}");
    }
}
