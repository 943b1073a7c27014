//! Runs seeds on all cores until one breaks a promise, for so many minutes; or one seed, with its timeline.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use ringback::platform::clock;
use ringback_simulation::{Outcome, explain, report, simulate};

#[derive(Parser)]
struct Arguments {
    /// Run this seed, and show what happens.
    #[arg(long)]
    seed: Option<u64>,
    /// Leave out the faults of these numbers.
    #[arg(long, value_delimiter = ',', requires = "seed")]
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
    /// Continue after a violation, and count what is found.
    #[arg(long)]
    count: bool,
    /// Ignore that this promise is broken. May be repeated.
    #[arg(long, value_name = "PROMISE")]
    ignore: Vec<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let run = match arguments.seed {
        Some(seed) => show(seed, &arguments.without),
        None => search(&arguments),
    };
    match run {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("the simulation cannot run: {error}");
            ExitCode::from(2)
        }
    }
}

/// Shows what happens in one seed. Returns whether it breaks no promise.
fn show(seed: u64, without: &[u32]) -> io::Result<bool> {
    let report = report(seed, without)?;
    print!("{}", report.text);
    Ok(report.is_good)
}

const REPORTS_EVERY: Duration = Duration::from_secs(30);

/// New seeds. Threads take the next one in turn, so all seeds before the first one that breaks a promise are run to their end.
struct Search<'a> {
    arguments: &'a Arguments,
    first: u64,
    began: Instant,
    next: AtomicU64,
    is_over: AtomicBool,
    tally: Mutex<Tally>,
}

#[derive(Default)]
struct Tally {
    calls: usize,
    faults: usize,
    reports: u32,
    broken: BTreeMap<&'static str, Broken>,
}

/// A promise that was broken.
#[derive(Default)]
struct Broken {
    times: u64,
    seeds: BTreeSet<u64>,
}

/// Returns whether no promise is broken.
fn search(arguments: &Arguments) -> io::Result<bool> {
    let search = Search {
        arguments,
        first: arguments
            .first
            .unwrap_or_else(|| clock::now().as_millis() * 1_000),
        began: Instant::now(),
        next: AtomicU64::new(0),
        is_over: AtomicBool::new(false),
        tally: Mutex::default(),
    };
    thread::scope(|scope| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(|| search.run())).collect();
        let ended = threads.into_iter().map(|thread| {
            let crashed = |_| Err(io::Error::other("a thread has panicked"));
            thread.join().unwrap_or_else(crashed)
        });
        ended.collect::<io::Result<Vec<()>>>()
    })?;
    search.report()
}

impl Search<'_> {
    fn run(&self) -> io::Result<()> {
        let time = Duration::from_secs_f64(self.arguments.minutes * 60.0);
        while self.began.elapsed() < time && !self.is_over.load(Relaxed) {
            let number = self.next.fetch_add(1, Relaxed);
            if number >= self.arguments.seeds {
                break;
            }
            let seed = self.first + number;
            self.add(seed, &simulate(seed, &[], false)?);
        }
        Ok(())
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, seed: u64, outcome: &Outcome) {
        let mut tally = self.tally();
        tally.calls += outcome.calls;
        tally.faults += outcome.faults.len() + outcome.planned.len();
        let is_ignored = |promise| self.arguments.ignore.iter().any(|known| known == promise);
        for violation in &outcome.violations {
            if !is_ignored(violation.promise) {
                let broken = tally.broken.entry(violation.promise).or_default();
                broken.times += 1;
                if broken.seeds.insert(seed) {
                    // A long run that is ended early must not lose what it has found.
                    println!("found at seed {seed}: {}", violation.promise);
                }
                self.is_over.fetch_or(!self.arguments.count, Relaxed);
            }
        }
        if self.began.elapsed() >= REPORTS_EVERY * (tally.reports + 1) {
            tally.reports += 1;
            println!("{}", self.progress(&tally));
        }
    }

    fn progress(&self, tally: &Tally) -> String {
        let Tally { calls, faults, .. } = tally;
        let seconds = self.began.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let rate = *calls as f64 / seconds;
        let first = self.first;
        format!(
            "{seconds:.1} s: {calls} calls with {faults} faults, {rate:.0} calls per second, from seed {first} on"
        )
    }

    fn report(&self) -> io::Result<bool> {
        let tally = self.tally();
        println!("{}", self.progress(&tally));
        let first = |broken: &Broken| broken.seeds.first().copied().unwrap_or(0);
        for (promise, broken) in &tally.broken {
            let (times, seed) = (broken.times, first(broken));
            println!("seed {seed} breaks a promise ({times} in all): {promise}");
        }
        let broken = tally.broken.iter();
        let earliest = broken.min_by_key(|(_, broken)| first(broken));
        if let (Some((promise, broken)), false) = (earliest, self.arguments.count) {
            print!("{}", explain(first(broken), promise)?);
        }
        Ok(tally.broken.is_empty())
    }
}
