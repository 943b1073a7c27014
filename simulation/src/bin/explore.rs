//! Explores scopes: every interleaving of one call with at most one fault.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use ringback_simulation::exhaustive::{Scope, explore};

#[derive(Parser)]
struct Arguments {
    /// The scopes to explore. All by default.
    scopes: Vec<String>,
    /// Allow so many faults in a run, instead of as many as the scope says.
    #[arg(long)]
    faults: Option<u8>,
    /// Stop a scope after about so many states.
    #[arg(long, default_value_t = 30_000_000)]
    states: usize,
    /// Show the shortest timeline of each broken promise that contains this text.
    #[arg(long)]
    show: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut scopes = Vec::new();
    for name in &arguments.scopes {
        let Some(scope) = Scope::named(name) else {
            let known: Vec<&str> = Scope::all().iter().map(|scope| scope.name).collect();
            eprintln!("no scope {name:?}; the scopes are {}", known.join(", "));
            return ExitCode::FAILURE;
        };
        scopes.push(scope);
    }
    if scopes.is_empty() {
        scopes = Scope::all().to_vec();
    }
    let mut is_broken = false;
    for mut scope in scopes {
        scope.faults = arguments.faults.unwrap_or(scope.faults);
        match explore_one(scope, &arguments) {
            Ok(broken) => is_broken |= broken,
            Err(error) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        }
    }
    if is_broken {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    }
}

fn explore_one(scope: Scope, arguments: &Arguments) -> Result<bool, Box<dyn std::error::Error>> {
    let began = Instant::now();
    let explored = explore(scope, arguments.states)?;
    println!(
        "{}, {} faults: {} states, {} steps, {} ends, depth {}, {:.1} s{}",
        scope.name,
        scope.faults,
        explored.states,
        explored.steps,
        explored.ends,
        explored.depth,
        began.elapsed().as_secs_f64(),
        if explored.is_cut_off { ", CUT OFF" } else { "" },
    );
    for finding in &explored.findings {
        println!(
            "  BROKEN after {} steps: {}",
            finding.timeline.len(),
            finding.promise
        );
        let is_shown = |text: &String| finding.promise.contains(text.as_str());
        if arguments.show.as_ref().is_some_and(is_shown) {
            for line in &finding.timeline {
                println!("    {line}");
            }
            println!(
                "  reproduce: local/tools/run.sh explore {} --show '{}'",
                scope.name, finding.promise
            );
        }
    }
    Ok(!explored.findings.is_empty())
}
