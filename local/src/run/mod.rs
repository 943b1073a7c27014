//! Starts, runs and stops the whole stack: in the foreground (`run`), in the background (`up`, `down`), or around
//! another command (`test-env`).
//!
//! `lock` allows one stack per checkout, `assembly` starts its parts (`deployment` those in the cloud), `description` writes their addresses, and
//! `keyboard` places calls on a key press.

mod assembly;
mod deployment;
mod description;
mod keyboard;
mod lock;
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
use description::summary;
use lock::{acquire_lock, clear_leftovers, holder, stop_holder};

/// `run` and `regions`: runs until Ctrl-C or SIGTERM.
pub async fn in_foreground(settings: &Settings, regions: RegionCount) -> Result<()> {
    let lock = acquire_lock(settings).await?;
    let result = run_until_stopped(settings, regions).await;
    lock.release(settings);
    result
}

async fn run_until_stopped(settings: &Settings, regions: RegionCount) -> Result<()> {
    let progress = Progress::start();
    let mut running = tokio::select! {
        running = start(settings, progress, regions) => running?,
        () = stop_signal() => {
            progress.say("stopped before it was ready");
            clear_leftovers(settings).await;
            return Ok(());
        }
    };
    progress.say("ready");
    print!("{}", summary(settings, &running.description));
    let result = tokio::select! {
        () = stop_signal() => Ok(()),
        error = running.wait_for_exit() => Err(error),
        () = keyboard::place_calls(settings) => Ok(()),
    };
    running.stop(settings, progress).await;
    result
}

/// `up`: starts the stack in the background, and returns when it is ready or has failed.
pub async fn up(settings: &Settings) -> Result<()> {
    if holder(settings).running().is_some() {
        println!("already running:");
        print!(
            "{}",
            summary(settings, &Stack::load(&settings.state_dir())?)
        );
        return Ok(());
    }
    make_dir(&settings.state_dir())?;
    // A description that a killed stack left must not be mistaken for the new one.
    Stack::remove(&settings.state_dir());
    let log = settings.state("stack.log");
    let mut child = start_in_background(&log)?;
    tokio::select! {
        result = wait_until_ready(settings, &mut child, &log) => result,
        () = stop_signal() => {
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
        shown = print_new_lines(log, shown);
        if let Some(status) = child.try_wait()? {
            print_new_lines(log, shown);
            bail!("the stack did not start ({status}); see {}", log.display());
        }
        if Stack::load(&settings.state_dir()).is_ok() {
            // The summary is printed right after the description is written.
            tokio::time::sleep(Duration::from_millis(200)).await;
            print_new_lines(log, shown);
            return Ok(());
        }
    }
}

/// Prints the new lines of a log. Returns the number of lines.
fn print_new_lines(log: &Path, shown: usize) -> usize {
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
            "stopped processes of an earlier stack: {}",
            leftovers.join(", ")
        ),
    }
    Ok(())
}

/// `test-env` and `test-regions`: runs a command with a stack, and returns the command's exit status.
pub async fn run_with_stack(
    settings: &Settings,
    regions: RegionCount,
    command: &[String],
) -> Result<i32> {
    let lock = acquire_lock(settings).await?;
    let result = run_command(settings, regions, command).await;
    lock.release(settings);
    result
}

async fn run_command(settings: &Settings, regions: RegionCount, command: &[String]) -> Result<i32> {
    let (program, arguments) = command.split_first().context("no command to run")?;
    let progress = Progress::start();
    let mut running = start(settings, progress, regions).await?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(settings.repository())
        .kill_on_drop(true)
        .spawn()?;
    let result = tokio::select! {
        status = child.wait() => Ok(status?.code().unwrap_or(1)),
        error = running.wait_for_exit() => Err(error),
        () = stop_signal() => Err(anyhow::anyhow!("stopped")),
    };
    running.stop(settings, progress).await;
    result
}

async fn stop_signal() {
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
