//! The process of the first Asterisk. Tests send it signals, and it may crash. The stack restarts it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringback_local::process::PidFile;
use ringback_local::settings::{PBXS, Settings};
use tokio::time::{Instant, sleep};

use ringback_e2e::fixture::Fixture;

/// A restart takes a second or two.
const COMES_BACK_WITHIN: Duration = Duration::from_secs(20);
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The process, if it is running.
pub(crate) fn process() -> Option<Pid> {
    let settings = Settings::from_environment();
    PidFile::new(&settings.state_dir(), PBXS[0].daemon).running()
}

/// Sends a signal to the process.
pub(crate) fn signal(signal: Signal) -> Result<()> {
    let pid = process().context("the stack's Asterisk is not running")?;
    Ok(kill(pid, signal)?)
}

/// Waits until Asterisk answers again.
pub(crate) async fn wait_until_back(fixture: &Fixture) -> Result<()> {
    let deadline = Instant::now() + COMES_BACK_WITHIN;
    while fixture.channels().await.is_err() {
        ensure!(Instant::now() < deadline, "Asterisk has not restarted");
        sleep(POLL_INTERVAL).await;
    }
    Ok(())
}

/// Asterisk crashes, and restarts with an empty database.
pub(crate) async fn crash_and_lose_database(fixture: &Fixture) -> Result<()> {
    // While it is stopped, it can neither write its database again nor restart.
    signal(Signal::SIGSTOP)?;
    let state = Settings::from_environment().state_dir().join("asterisk");
    let database = state.join(PBXS[0].name).join("lib/astdb.sqlite3");
    std::fs::remove_file(&database).with_context(|| database.display().to_string())?;
    signal(Signal::SIGKILL)?;
    wait_until_back(fixture).await
}
