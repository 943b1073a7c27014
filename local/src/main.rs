//! `ringback-local`: runs the local stack and places calls through it.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use ringback_local::cloud::region::RegionCount;
use ringback_local::settings::Settings;
use ringback_local::{events, release, run, sample_call};

/// Runs everything that Ringback needs on this machine
#[derive(Parser)]
#[command(name = "ringback-local", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start the stack and run until Ctrl-C
    Run,
    /// Start the stack in the background
    Up,
    /// Stop the stack
    Down,
    /// Start the stack in two regions and run until Ctrl-C
    Regions,
    /// Place one SIP call through the running stack and play the phone
    Call,
    /// Send an event of `events/` to its function with `sam local invoke`, on the running stack
    Invoke {
        /// The file's name without `.json`, such as `console-page`
        event: String,
    },
    /// Pack the programs beside this one into a release archive (`make dist` builds them first)
    Dist,
    /// Start a stack, run a command, stop the stack, and exit with the command's status
    TestEnv {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// The same with a stack in two regions
    TestRegions {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    match execute(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn execute(command: Command) -> Result<ExitCode> {
    let settings = Settings::from_environment();
    match command {
        Command::Run => run::in_foreground(&settings, RegionCount::One).await?,
        Command::Regions => run::in_foreground(&settings, RegionCount::Two).await?,
        Command::Up => run::up(&settings).await?,
        Command::Down => run::down(&settings).await?,
        Command::Call => sample_call::place(&settings).await?,
        Command::Invoke { event } => events::invoke::invoke(&settings, &event).await?,
        Command::Dist => {
            let program = std::env::current_exe()?;
            let built = program.parent().context("this program has no folder")?;
            let archive = release::create(&settings, built).await?;
            println!("{}", archive.display());
        }
        Command::TestEnv { command } => {
            return run_with_stack(&settings, RegionCount::One, &command).await;
        }
        Command::TestRegions { command } => {
            return run_with_stack(&settings, RegionCount::Two, &command).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn run_with_stack(
    settings: &Settings,
    regions: RegionCount,
    command: &[String],
) -> Result<ExitCode> {
    let code = run::run_with_stack(settings, regions, command).await?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
