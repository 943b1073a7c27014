//! Starts, runs and stops the whole stack: in the foreground (`run`), in the background (`up`, `down`), or around
//! another command (`test-env`).
//!
//! `lock` allows one stack per checkout, `assembly` starts its parts (`deployment` those in the cloud), `description` writes their addresses, and
//! `keyboard` places calls on a key press.

mod assembly;
mod deployment;
mod lock;
mod description;
mod keyboard;
mod parameters;

use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};

use crate::cloud::region::RegionCount;
use crate::progress::{Progress, tail};
use crate::settings::Settings;
use crate::stack::Stack;
use crate::tools::make_dir;
use assembly::start;
use lock::{lock, clear_leftovers, holder, stop_holder};
use description::summary;

/// `run` and `regions`: runs until Ctrl-C or SIGTERM.
pub async fn in_foreground(settings: &Settings, regions: RegionCount) -> Result<()> {
    let lock = lock(settings).await?;
    let outcome = hold(settings, regions).await;
    lock.give_up(settings);
    outcome
}

async fn hold(settings: &Settings, regions: RegionCount) -> Result<()> {
    let progress = Progress::start();
    let mut running = tokio::select! {
        running = start(settings, progress, regions) => running?,
        () = asked_to_stop() => {
            progress.say("stopped before it was ready");
            clear_leftovers(settings).await;
            return Ok(());
        }
    };
    progress.say("ready");
    print!("{}", summary(&running.description));
    let outcome = tokio::select! {
        () = asked_to_stop() => Ok(()),
        error = running.first_end() => Err(error),
        () = keyboard::place_calls(settings) => Ok(()),
    };
    running.stop(settings, progress).await;
    outcome
}

/// `up`: starts the stack in the background, and returns when it is ready or has failed.
pub async fn up(settings: &Settings) -> Result<()> {
    if holder(settings).running().is_some() {
        println!("already running:");
        print!("{}", summary(&Stack::load(&settings.state_dir())?));
        return Ok(());
    }
    make_dir(&settings.state_dir())?;
    // A description that a killed stack left must not be mistaken for the new one.
    Stack::remove(&settings.state_dir());
    let log = settings.state("stack.log");
    let mut child = start_in_background(&log)?;
    tokio::select! {
        outcome = wait_until_ready(settings, &mut child, &log) => outcome,
        () = asked_to_stop() => {
            stop_holder(settings).await?;
            bail!("stopped before it was ready")
        }
    }
}

/// Starts `run` with its output in `log`.
fn start_in_background(log: &Path) -> Result<Child> {
    let out = File::create(log).with_context(|| format!("could not create {}", log.display()))?;
    Command::new(std::env::current_exe()?)
        .arg("run")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        // Its own process group, so that Ctrl-C in the terminal does not stop it.
        .process_group(0)
        .spawn()
        .context("could not start the stack in the background")
}

/// Prints the log of the background process until it is ready.
async fn wait_until_ready(settings: &Settings, child: &mut Child, log: &Path) -> Result<()> {
    let mut shown = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        shown = show_new(log, shown);
        if let Some(status) = child.try_wait()? {
            show_new(log, shown);
            bail!(
                "the stack did not start ({status}); all of it is in {}",
                log.display()
            );
        }
        if Stack::load(&settings.state_dir()).is_ok() {
            // The summary is printed right after the description is written.
            tokio::time::sleep(Duration::from_millis(200)).await;
            show_new(log, shown);
            return Ok(());
        }
    }
}

/// Prints the new lines of a log. Returns the number of lines.
fn show_new(log: &Path, shown: usize) -> usize {
    let lines = tail(log, usize::MAX);
    for line in &lines[shown.min(lines.len())..] {
        println!("{line}");
    }
    lines.len()
}

/// `down`: stops the running stack, and the processes that a killed stack left behind.
pub async fn down(settings: &Settings) -> Result<()> {
    let was_running = stop_holder(settings).await?;
    let leftovers = clear_leftovers(settings).await;
    match (was_running, leftovers.is_empty()) {
        (true, true) => println!("stopped"),
        (false, true) => println!("nothing was running"),
        (_, false) => println!(
            "stopped what an earlier stack left running: {}",
            leftovers.join(", ")
        ),
    }
    Ok(())
}

/// `test-env` and `test-regions`: runs a command with a stack, and returns the command's exit status.
pub async fn around(settings: &Settings, regions: RegionCount, command: &[String]) -> Result<i32> {
    let lock = lock(settings).await?;
    let outcome = run_within(settings, regions, command).await;
    lock.give_up(settings);
    outcome
}

async fn run_within(settings: &Settings, regions: RegionCount, command: &[String]) -> Result<i32> {
    let (program, arguments) = command.split_first().context("no command to run")?;
    let progress = Progress::start();
    let mut running = start(settings, progress, regions).await?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(settings.repository())
        .kill_on_drop(true)
        .spawn()?;
    let outcome = tokio::select! {
        status = child.wait() => Ok(status?.code().unwrap_or(1)),
        error = running.first_end() => Err(error),
        () = asked_to_stop() => Err(anyhow::anyhow!("stopped")),
    };
    running.stop(settings, progress).await;
    outcome
}

async fn asked_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
