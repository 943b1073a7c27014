//! Starts the command `ringback`. Its folder has a description of the running stack, as a checkout has.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ringback_local::stack::Stack;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// The longest time of a command. Most need a few requests, and a test call waits for its steps.
const AT_MOST: Duration = Duration::from_secs(60);

/// The command in its folder.
pub struct Ringback {
    folder: PathBuf,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code.
    pub code: i32,
    /// The results.
    pub stdout: String,
    /// Everything else.
    pub stderr: String,
}

/// A command that runs until it is stopped.
pub struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
    stderr: Lines<BufReader<ChildStderr>>,
}

impl Ringback {
    /// The command in a new folder, with this description of the local stack, or none.
    pub fn with(stack: Option<&Stack>) -> Result<Self> {
        let name = format!("ringback-cli-{}", uuid::Uuid::new_v4().simple());
        let folder = std::env::temp_dir().join(name);
        let state = folder.join("target/local");
        std::fs::create_dir_all(&state)?;
        if let Some(stack) = stack {
            stack.write(&state)?;
        }
        Ok(Self { folder })
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, text: &str) -> Result<()> {
        Ok(std::fs::write(self.folder.join(name), text)?)
    }

    /// The path of a file in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Runs a command for the local stack to its end.
    pub async fn run(&self, arguments: &[&str]) -> Result<Outcome> {
        self.run_with_stdin(arguments, "").await
    }

    /// The same, with a text on stdin.
    pub async fn run_with_stdin(&self, arguments: &[&str], text: &str) -> Result<Outcome> {
        let mut child = self.command(arguments)?.spawn()?;
        let mut stdin = child.stdin.take().context("no stdin")?;
        // A command that fails before it reads has closed it.
        let _written_or_closed = stdin.write_all(text.as_bytes()).await;
        drop(stdin);
        let Output {
            status,
            stdout,
            stderr,
        } = timeout(AT_MOST, child.wait_with_output()).await??;
        Ok(Outcome {
            code: status.code().context("the command was killed")?,
            stdout: String::from_utf8(stdout)?,
            stderr: String::from_utf8(stderr)?,
        })
    }

    /// Starts a command for the local stack.
    pub fn start(&self, arguments: &[&str]) -> Result<Running> {
        let mut child = self.command(arguments)?.spawn()?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        Ok(Running {
            child,
            stdout: BufReader::new(stdout).lines(),
            stderr: BufReader::new(stderr).lines(),
        })
    }

    fn command(&self, arguments: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command
            .arg("--local")
            .args(arguments)
            .current_dir(&self.folder)
            .env_remove("RINGBACK_TOKEN")
            .env_remove("RINGBACK_STACK")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        Ok(command)
    }
}

impl Drop for Ringback {
    fn drop(&mut self) {
        // What stays is in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Outcome {
    /// The result of a command that succeeded.
    pub fn succeeds(&self) -> &str {
        assert_eq!(self.code, 0, "{self:?}");
        &self.stdout
    }

    /// The same, as JSON.
    pub fn document(&self) -> Result<Value> {
        Ok(serde_json::from_str(self.succeeds())?)
    }

    /// Checks that the command failed with this code, and says this on stderr only.
    pub fn fails(&self, code: i32, sentence: &str) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (code, ""),
            "{}",
            self.stderr
        );
        assert!(self.stderr.contains(sentence), "{self:?}");
    }
}

impl Running {
    /// The next line on stderr.
    pub async fn note(&mut self, within: Duration) -> Result<String> {
        let line = timeout(within, self.stderr.next_line()).await??;
        line.context("the command has ended")
    }

    /// The next line on stdout, as JSON.
    pub async fn document(&mut self, within: Duration) -> Result<Value> {
        let line = timeout(within, self.stdout.next_line()).await??;
        Ok(serde_json::from_str(
            &line.context("the command has ended")?,
        )?)
    }

    /// Stops the command as Ctrl-C does.
    pub async fn stop(mut self) -> Result<()> {
        let pid = self.child.id().context("the command has ended")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGINT)?;
        let status = timeout(AT_MOST, self.child.wait()).await??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

/// The binary beside those of the tests. Cargo builds it if it is older than its source.
pub fn binary() -> Result<&'static Path> {
    static BINARY: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    if let Some(binary) = BINARY.get() {
        return Ok(binary);
    }
    // `--workspace`: the same features of the dependencies as the tests have.
    let built = std::process::Command::new(env!("CARGO"))
        .args(["build", "--locked", "--quiet", "--workspace"])
        .args(["--bin", "ringback"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()?;
    ensure!(built.success(), "the command was not built");
    let tests = std::env::current_exe()?;
    let folder = tests.ancestors().nth(2).context("no target folder")?;
    Ok(BINARY.get_or_init(|| folder.join("ringback")))
}
