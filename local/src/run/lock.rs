//! Locks the stack for one process, cleans up after a killed one, and stops the process that runs it.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cloud::region::{FALLBACK, PRIMARY};
use crate::process::PidFile;
use crate::settings::{PBXS, Settings};
use crate::stack::Stack;
use crate::tools::make_dir;

/// The name of the pid file of the process that runs the stack.
const HOLDER: &str = "stack";
/// How long a leftover child process may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the whole stack may take to stop.
const STACK_STOP_TIMEOUT: Duration = Duration::from_secs(20);

/// The lock on the stack of this checkout. The system releases it when the process ends, even if it is killed.
pub(super) struct StackLock {
    holder: PidFile,
    _lock: File,
}

impl StackLock {
    pub(super) fn release(self, settings: &Settings) {
        Stack::remove(&settings.state_dir());
        self.holder.remove();
    }
}

/// Locks the stack for this process.
pub(super) async fn acquire_lock(settings: &Settings) -> Result<StackLock> {
    make_dir(&settings.state_dir())?;
    let lock = File::create(settings.state("stack.lock"))?;
    let holder = holder(settings);
    if lock.try_lock().is_err() {
        let pid = holder
            .running()
            .map_or_else(String::new, |pid| format!(" (pid {pid})"));
        let stop = settings.command("down");
        bail!("a stack of this folder is already running{pid}; `{stop}` stops it");
    }
    clear_leftovers(settings).await;
    holder.write(std::process::id())?;
    Ok(StackLock {
        holder,
        _lock: lock,
    })
}

pub(super) fn holder(settings: &Settings) -> PidFile {
    PidFile::new(&settings.state_dir(), HOLDER)
}

/// Stops the processes that a killed stack left running, and returns their names.
pub(super) async fn clear_leftovers(settings: &Settings) -> Vec<&'static str> {
    Stack::remove(&settings.state_dir());
    let mut ended = Vec::new();
    let pbxs = PBXS
        .into_iter()
        .flat_map(|pbx| [pbx.daemon, pbx.proxy_daemon]);
    for name in pbxs.chain([PRIMARY.part, FALLBACK.part]) {
        if PidFile::new(&settings.state_dir(), name)
            .end_leftover(STOP_TIMEOUT)
            .await
        {
            ended.push(name);
        }
    }
    ended
}

/// Stops the process that runs the stack. Returns whether there was one.
pub(super) async fn stop_holder(settings: &Settings) -> Result<bool> {
    let holder = holder(settings);
    let Some(pid) = holder.running() else {
        holder.remove();
        return Ok(false);
    };
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
        .context("could not ask the stack to stop")?;
    if !holder.wait_until_gone(STACK_STOP_TIMEOUT).await {
        holder.end_leftover(Duration::ZERO).await;
    }
    Ok(true)
}
