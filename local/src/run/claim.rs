//! Who holds the stack, what a killed one left behind, and how the holder is stopped.

use std::fs::File;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cloud::region::{FALLBACK, PRIMARY};
use crate::process::PidFile;
use crate::settings::{PBXS, Settings};
use crate::stack::Stack;
use crate::tools::make_dir;

/// The pid file of the process that holds the stack.
const HOLDER: &str = "stack";
/// How long a leftover child may take to end before it is ended.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long stopping the whole stack may take.
const STOPPING: Duration = Duration::from_secs(20);

/// This process's right to the stack of this checkout. The lock ends with the process, however that ends.
pub(super) struct Claim {
    holder: PidFile,
    _lock: File,
}

impl Claim {
    pub(super) fn give_up(self, settings: &Settings) {
        Stack::remove(&settings.state_dir());
        self.holder.remove();
    }
}

/// Makes this process the one that holds the stack.
pub(super) async fn claim(settings: &Settings) -> Result<Claim> {
    make_dir(&settings.state_dir())?;
    let lock = File::create(settings.state("stack.lock"))?;
    let holder = holder(settings);
    if lock.try_lock().is_err() {
        let pid = holder
            .running()
            .map_or_else(String::new, |pid| format!(" (pid {pid})"));
        bail!("a stack of this checkout is already running{pid}; `make down` stops it");
    }
    clear_leftovers(settings).await;
    holder.write(std::process::id())?;
    Ok(Claim {
        holder,
        _lock: lock,
    })
}

pub(super) fn holder(settings: &Settings) -> PidFile {
    PidFile::new(&settings.state_dir(), HOLDER)
}

/// Ends what a killed stack left running, and names it.
pub(super) async fn clear_leftovers(settings: &Settings) -> Vec<&'static str> {
    Stack::remove(&settings.state_dir());
    let mut ended = Vec::new();
    let pbxs = PBXS
        .into_iter()
        .flat_map(|pbx| [pbx.daemon, pbx.proxy_daemon]);
    for name in pbxs.chain([PRIMARY.part, FALLBACK.part]) {
        if PidFile::new(&settings.state_dir(), name)
            .end_leftover(PATIENCE)
            .await
        {
            ended.push(name);
        }
    }
    ended
}

/// Asks the holder to stop, and waits until it has. Says whether there was one.
pub(super) async fn stop_holder(settings: &Settings) -> Result<bool> {
    let holder = holder(settings);
    let Some(pid) = holder.running() else {
        holder.remove();
        return Ok(false);
    };
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
        .context("could not ask the stack to stop")?;
    if !holder.wait_until_gone(STOPPING).await {
        holder.end_leftover(Duration::ZERO).await;
    }
    Ok(true)
}
