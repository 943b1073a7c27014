//! The stack's first Asterisk, as a process: it can be hit, and it can crash by itself. The stack starts it again then.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringback_local::process::PidFile;
use ringback_local::settings::{PBXS, Settings};
use tokio::time::{Instant, sleep};

use ringback_e2e::fixture::Fixture;

/// It is there again within a second or two.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(20);
const LOOKS_EVERY: Duration = Duration::from_millis(200);

/// The process, if it runs.
pub(crate) fn process() -> Option<Pid> {
    let settings = Settings::from_environment();
    PidFile::new(&settings.state_dir(), PBXS[0].daemon).running()
}

/// To that process, by its pid.
pub(crate) fn signal(signal: Signal) -> Result<()> {
    let pid = process().context("the stack's Asterisk")?;
    Ok(kill(pid, signal)?)
}

/// Waits until it answers again.
pub(crate) async fn wait_until_back(fixture: &Fixture) -> Result<()> {
    let deadline = Instant::now() + COMES_BACK_WITHIN;
    while fixture.channels().await.is_err() {
        ensure!(Instant::now() < deadline, "Asterisk does not come back");
        sleep(LOOKS_EVERY).await;
    }
    Ok(())
}
