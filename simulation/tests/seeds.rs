//! Runs the kept seeds, and new ones for `SIMULATE_SECONDS` (5).

use std::time::{Duration, Instant};

use ringback::platform::clock;
use ringback::platform::config::Environment;
use ringback_simulation::{Violation, explain, simulate};

/// The kept seeds, one a line, each with what it shows.
const KEPT: &str = include_str!("../kept_seeds.txt");

/// Promises that the present rules break, with a seed. A rule that is mended leaves this list, and its seed goes to the kept ones.
const OPEN: [(&str, u64); 9] = [
    ("a call ends when its caller has gone", 16_685),
    ("a call that was bridged ends as completed", 2_076),
    ("clients get each status once and in order", 1_564),
    ("every call comes to an end", 12_062),
    ("every caller is bridged or refused in time", 5_515),
    ("every device that rang is silenced", 2_539),
    ("no effect stays pending", 1_291),
    ("nobody who talks is cut off", 1_022),
    ("two phone legs at once", 10_770),
];

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
fn new_seeds_break_no_promise_but_the_open_ones() {
    let seconds = Environment::of_process()
        .count("SIMULATE_SECONDS", 5)
        .unwrap();
    let time = Duration::from_secs(seconds.into());
    let first = clock::now().as_millis() * 1_000;
    let began = Instant::now();
    for seed in first.. {
        let is_open = |found: &Violation| OPEN.iter().any(|(promise, _)| *promise == found.promise);
        let found: Vec<Violation> = violations(seed)
            .into_iter()
            .filter(|found| !is_open(found))
            .collect();
        assert_good(seed, &found, "a new seed breaks a promise");
        if began.elapsed() > time {
            println!("{} seeds from {first} on", seed - first + 1);
            return;
        }
    }
}

/// An open promise that its seed no longer breaks is mended, or the seed has changed its meaning: the list must be kept true.
#[test]
fn open_promises_are_still_broken() {
    for (promise, seed) in OPEN {
        let found = violations(seed);
        assert!(
            found.iter().any(|found| found.promise == promise),
            "{promise} holds in {seed}: {found:?}"
        );
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
