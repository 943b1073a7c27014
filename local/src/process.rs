//! Child processes: run one to its end with its output in a log, or keep one running until it is stopped.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use tokio::process::{Child, Command};

use crate::progress::tail;

/// How much of a failed command's log is shown.
const TAIL_LINES: usize = 25;

/// Runs a command to its end, its output going to `log`; a failure shows the log's end.
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

/// Runs a command and gives what it printed.
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

/// A child that runs until the stack stops, in a process group of its own so that Ctrl-C reaches only us and
/// whatever it starts itself can be ended with it.
#[derive(Debug)]
pub struct Daemon {
    name: &'static str,
    child: Child,
    group: Pid,
    pid_file: PidFile,
    log: PathBuf,
}

impl Daemon {
    /// Starts it, with its output in `NAME.log` and its pid in `NAME.pid`.
    pub fn start(name: &'static str, command: &mut Command, state_dir: &Path) -> Result<Self> {
        let log = state_dir.join(format!("{name}.log"));
        let child = redirect(command, &log)?
            .process_group(0)
            .spawn()
            .with_context(|| format!("could not start {}", describe(command)))?;
        let pid = child.id().context("the child ended at once")?;
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

    /// Waits until it ends by itself, which it should not.
    pub async fn ended(&mut self) -> anyhow::Error {
        let status = self
            .child
            .wait()
            .await
            .map_or_else(|error| error.to_string(), |status| status.to_string());
        let end = tail(&self.log, TAIL_LINES).join("\n  ");
        anyhow::anyhow!(
            "{} ended by itself ({status}); the end of {}:\n  {end}",
            self.name,
            self.log.display()
        )
    }

    /// Fails if it has ended.
    pub async fn check_alive(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Err(self.ended().await);
        }
        Ok(())
    }

    /// It, and what it has started.
    #[must_use]
    pub const fn group(&self) -> Group {
        Group(self.group)
    }

    /// Asks it to end, waits for that, and insists after `patience`.
    pub async fn stop(mut self, patience: Duration) {
        // The process may be gone already; then there is nobody to ask.
        let _ = kill(self.group, Signal::SIGTERM);
        let _ = tokio::time::timeout(patience, self.child.wait()).await;
        // What it started shares its group; this ends what is left of it, itself included.
        let _ = killpg(self.group, Signal::SIGKILL);
        let _ = self.child.wait().await;
        self.pid_file.remove();
    }
}

/// One that nobody has stopped, such as when something else could not be started, is ended at once.
impl Drop for Daemon {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            let _ = killpg(self.group, Signal::SIGKILL);
            self.pid_file.remove();
        }
    }
}

/// A daemon and what it has started.
#[derive(Debug, Clone, Copy)]
pub struct Group(Pid);

impl Group {
    /// Stops it where it is. Connections to it are still accepted, by the system; nothing is said on them.
    ///
    /// # Errors
    /// When it is no longer there.
    pub fn freeze(self) -> Result<()> {
        killpg(self.0, Signal::SIGSTOP).context("freeze a daemon")
    }

    /// Goes on where it was stopped.
    ///
    /// # Errors
    /// When it is no longer there.
    pub fn thaw(self) -> Result<()> {
        killpg(self.0, Signal::SIGCONT).context("thaw a daemon")
    }

    /// Kills what the daemon has started, in the middle of whatever that does.
    ///
    /// # Errors
    /// When the system does not say what that is.
    pub fn kill_all_but_the_daemon(self) -> Result<usize> {
        let processes = std::process::Command::new("ps")
            .args(["-A", "-o", "pid=,pgid="])
            .output()
            .context("ask for the processes of a daemon")?;
        let listed = String::from_utf8_lossy(&processes.stdout);
        let members = listed.lines().filter_map(|line| {
            let (pid, group) = line.trim().split_once(char::is_whitespace)?;
            let group: i32 = group.trim().parse().ok()?;
            let pid = Pid::from_raw(pid.parse().ok()?);
            (group == self.0.as_raw() && pid != self.0).then_some(pid)
        });
        // One that has ended meanwhile is as dead.
        Ok(members
            .filter(|pid| kill(*pid, Signal::SIGKILL).is_ok())
            .count())
    }
}

/// A file that names a process in such a way that another one with a recycled pid is not taken for it.
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

    /// Names a process.
    pub fn write(&self, pid: u32) -> Result<()> {
        let started = start_time(pid).unwrap_or_default();
        std::fs::write(&self.path, format!("{pid}\n{started}\n"))
            .with_context(|| format!("could not write {}", self.path.display()))
    }

    /// The process, if it is still the one that was named.
    pub fn running(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(&self.path).ok()?;
        let (pid, started) = text.split_once('\n')?;
        let pid: u32 = pid.parse().ok()?;
        (start_time(pid)? == started.trim()).then(|| Pid::from_raw(pid.cast_signed()))
    }

    /// Ends a process that an earlier stack left behind, and whatever shares its group.
    pub async fn end_leftover(&self, patience: Duration) -> bool {
        let Some(pid) = self.running() else {
            self.remove();
            return false;
        };
        let _ = kill(pid, Signal::SIGTERM);
        let gone = self.wait_until_gone(patience).await;
        if !gone {
            let _ = killpg(pid, Signal::SIGKILL);
            // It leads no group when it was started from a terminal.
            let _ = kill(pid, Signal::SIGKILL);
            self.wait_until_gone(Duration::from_secs(2)).await;
        }
        self.remove();
        true
    }

    /// Waits for the process to be gone.
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

    /// Takes the file away.
    pub fn remove(&self) {
        // Already gone is as good.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// When a process started, in whatever form the system tells it: two processes with one pid differ in it.
fn start_time(pid: u32) -> Option<String> {
    if let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) {
        // The name in parentheses may hold spaces; the start time is field 22, the 20th after it.
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
    fn a_pid_file_knows_its_process_from_a_stranger_with_the_same_pid() {
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
