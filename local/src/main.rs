//! `ringback-local`: runs the local stack and places calls through it.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use ringback_local::cloud::region::Extent;
use ringback_local::settings::Settings;
use ringback_local::{call, run};

/// Runs everything that Ringback needs on this machine
#[derive(Parser)]
#[command(name = "ringback-local", version)]
struct Arguments {
    #[command(subcommand)]
    command: Order,
}

#[derive(Subcommand)]
enum Order {
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
    match carry_out(Arguments::parse().command).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn carry_out(order: Order) -> Result<ExitCode> {
    let settings = Settings::from_environment();
    match order {
        Order::Run => run::in_foreground(&settings, Extent::OneRegion).await?,
        Order::Regions => run::in_foreground(&settings, Extent::TwoRegions).await?,
        Order::Up => run::up(&settings).await?,
        Order::Down => run::down(&settings).await?,
        Order::Call => call::place(&settings).await?,
        Order::TestEnv { command } => {
            return around(&settings, Extent::OneRegion, &command).await;
        }
        Order::TestRegions { command } => {
            return around(&settings, Extent::TwoRegions, &command).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn around(settings: &Settings, extent: Extent, command: &[String]) -> Result<ExitCode> {
    let code = run::around(settings, extent, command).await?;
    Ok(u8::try_from(code).map_or(ExitCode::FAILURE, ExitCode::from))
}
