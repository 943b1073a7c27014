//! Child processes: commands that run to their end, and daemons that run until the stack stops.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::progress::tail;

/// How many lines of a failed command's log are shown.
const TAIL_LINES: usize = 25;

/// Runs a command with its output in `log`. An error contains the end of the log.
pub async fn run_logged(command: &mut Command, log: &Path) -> Result<()> {
    let what = describe(command);
    let status = redirect(command, log)?
        .kill_on_drop(true)
        .status()
        .await
        .with_context(|| format!("could not start {what}"))?;
    if status.success() {
        return Ok(());
    }
    bail!(
        "{what} ended with {status}; the end of {}:\n  {}",
        log.display(),
        tail(log, TAIL_LINES).join("\n  ")
    )
}

/// Runs a command and returns its standard output.
pub async fn output(command: &mut Command) -> Result<String> {
    let what = describe(command);
    let output = command
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("could not start {what}"))?;
    if !output.status.success() {
        bail!(
            "{what} ended with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn redirect<'a>(command: &'a mut Command, log: &Path) -> Result<&'a mut Command> {
    let out = File::create(log).with_context(|| format!("could not create {}", log.display()))?;
    let err = out.try_clone()?;
    Ok(command.stdin(Stdio::null()).stdout(out).stderr(err))
}

fn describe(command: &Command) -> String {
    let command = command.as_std();
    let arguments = command
        .get_args()
        .take(3)
        .map(|argument| argument.to_string_lossy().into_owned());
    let program = Path::new(command.get_program())
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    std::iter::once(program)
        .chain(arguments)
        .collect::<Vec<_>>()
        .join(" ")
}

/// A child process that runs until the stack stops. It has its own process group, so that Ctrl-C does not reach it and
/// its own children can be stopped with it.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    group: Pid,
    pid_file: PidFile,
    log: PathBuf,
}

impl Daemon {
    /// Starts the process, with its output in `NAME.log` and its pid in `NAME.pid`.
    pub fn start(name: &'static str, command: &mut Command, state_dir: &Path) -> Result<Self> {
        let log = state_dir.join(format!("{name}.log"));
        let child = redirect(command, &log)?
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", describe(command)))?;
        let pid = child.id().context("the child process ended at once")?;
        let pid_file = PidFile::new(state_dir, name);
        pid_file.write(pid)?;
        Ok(Self {
            name,
            child,
            group: Pid::from_raw(pid.cast_signed()),
            pid_file,
            log,
        })
    }

    /// Waits until the process ends, which is an error.
    pub async fn wait_for_exit(&mut self) -> anyhow::Error {
        let status = self
            .child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let end = tail(&self.log, TAIL_LINES).join("\n  ");
        anyhow::anyhow!(
            "{} ended unexpectedly ({status}); the end of {}:\n  {end}",
            self.name,
            self.log.display()
        )
    }

    /// Fails if the process has ended.
    pub async fn check_alive(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Err(self.wait_for_exit().await);
        }
        Ok(())
    }

    /// The process group.
    #[must_use]
    pub const fn group(&self) -> ProcessGroup {
        ProcessGroup(self.group)
    }

    /// Stops the process with SIGTERM, and kills its group after `patience`.
    pub async fn stop(mut self, patience: Duration) {
        // The process may have ended already.
        let _ = kill(self.group, Signal::SIGTERM);
        let _ = tokio::time::timeout(patience, self.child.wait()).await;
        // Kills its children too, which share its group.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait().await;
        self.pid_file.remove();
    }
}

/// Kills a daemon that was not stopped, for example because another part failed to start.
impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(self.group, Signal::SIGKILL);
            self.pid_file.remove();
        }
    }
}

/// The process group of a daemon.
#[derive(Debug, Clone, Copy)]
pub struct ProcessGroup(Pid);

impl ProcessGroup {
    /// Suspends all processes. The system still accepts connections for them, but nothing answers.
    ///
    /// # Errors
    /// When the group does not exist any more.
    pub fn suspend(self) -> Result<()> {
        killpg(self.0, Signal::SIGSTOP).context("suspend a daemon")
    }

    /// Resumes all processes.
    ///
    /// # Errors
    /// When the group does not exist any more.
    pub fn resume(self) -> Result<()> {
        killpg(self.0, Signal::SIGCONT).context("resume a daemon")
    }

    /// Kills the children of the daemon but not the daemon. Returns how many.
    ///
    /// # Errors
    /// When `ps` fails.
    pub fn kill_children(self) -> Result<usize> {
        let processes = std::process::Command::new("ps")
            .args(["-A", "-o", "pid=,pgid="])
            .output()
            .context("list the processes of a daemon")?;
        let listed = String::from_utf8_lossy(&processes.stdout);
        let members = listed.lines().filter_map(|line| {
            let (pid, group) = line.trim().split_once(char::is_whitespace)?;
            let group: i32 = group.trim().parse().ok()?;
            let pid = Pid::from_raw(pid.parse().ok()?);
            (group == self.0.as_raw() && pid != self.0).then_some(pid)
        });
        // A process may have ended in the meantime.
        Ok(members
            .filter(|pid| kill(*pid, Signal::SIGKILL).is_ok())
            .count())
    }
}

/// A pid file. It contains the start time too, so that a process with a reused pid is not mistaken for the original.
#[derive(Debug, Clone)]
pub struct PidFile {
    path: PathBuf,
}

impl PidFile {
    /// `NAME.pid` in the state directory.
    pub fn new(state_dir: &Path, name: &str) -> Self {
        Self {
            path: state_dir.join(format!("{name}.pid")),
        }
    }

    /// Writes the pid and start time of a process.
    pub fn write(&self, pid: u32) -> Result<()> {
        let started = start_time(pid).unwrap_or_default();
        std::fs::write(&self.path, format!("{pid}\n{started}\n"))
            .with_context(|| format!("could not write {}", self.path.display()))
    }

    /// The pid, if that same process still runs.
    pub fn running(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let (pid, started) = text.split_once('\n')?;
        let pid: u32 = pid.parse().ok()?;
        (start_time(pid)? == started.trim()).then(|| Pid::from_raw(pid.cast_signed()))
    }

    /// Ends the process and its group, if an earlier stack left it running. Returns whether it did.
    pub async fn end_leftover(&self, patience: Duration) -> bool {
        let Some(pid) = self.running() else {
            self.remove();
            return false;
        };
        let _ = kill(pid, Signal::SIGTERM);
        let gone = self.wait_until_gone(patience).await;
        if !gone {
            let _ = killpg(pid, Signal::SIGKILL);
            // A process started from a terminal does not lead its own process group.
            let _ = kill(pid, Signal::SIGKILL);
            self.wait_until_gone(Duration::from_secs(2)).await;
        }
        self.remove();
        true
    }

    /// Waits until the process has ended. `false` on timeout.
    pub async fn wait_until_gone(&self, patience: Duration) -> bool {
        let deadline = tokio::time::Instant::now() + patience;
        while self.running().is_some() {
            if tokio::time::Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        true
    }

    /// Deletes the file.
    pub fn remove(&self) {
        // It may be deleted already.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// The start time of a process, in the system's own format. It distinguishes two processes with the same pid.
fn start_time(pid: u32) -> Option<String> {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in parentheses may contain spaces. The start time is field 22, the 20th after the name.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        let state = fields.next()?;
        return if state == "Z" {
            None
        } else {
            fields.nth(18).map(str::to_owned)
        };
    }
    let output = std::process::Command::new("ps")
        .args(["-o", "lstart=", "-p", &pid.to_string()])
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_a_reused_pid_is_not_mistaken_for_the_original() {
        let dir = std::env::temp_dir();
        let file = PidFile::new(&dir, &format!("ringback-test-{}", std::process::id()));
        file.write(std::process::id()).unwrap();
        assert_eq!(file.running(), Some(Pid::this()));

        std::fs::write(&file.path, format!("{}\n1\n", std::process::id())).unwrap();
        assert_eq!(file.running(), None);
        file.remove();
        assert_eq!(file.running(), None);
    }
}
