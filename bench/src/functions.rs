//! The functions' binaries, their logs, and the example events.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use ringback_local::runtime_api::RunningFunction;
use serde_json::Value;
use tokio::process::Command;

/// Longer than any invocation takes.
const TIMEOUT: Duration = Duration::from_secs(120);

/// The deployed functions, without `doctor`, which people start by hand.
pub const FUNCTIONS: [&str; 16] = [
    "exotel-webhook",
    "asterisk-incoming",
    "call-response",
    "call-timeout",
    "ws-message",
    "broadcast",
    "call-status",
    "devices",
    "admin",
    "sip-accounts",
    "health",
    "ws-authorizer",
    "ws-connect",
    "ws-replay",
    "ws-disconnect",
    "console",
];

/// The files that the bench reads and writes.
#[derive(Clone, Debug)]
pub struct Paths {
    repository: PathBuf,
    binaries: PathBuf,
    scratch: PathBuf,
}

impl Paths {
    /// The functions' binaries are beside this program, stripped copies in the folder `bench` beside it.
    ///
    /// # Errors
    /// When that folder cannot be created.
    pub fn find() -> Result<Self> {
        let program = std::env::current_exe()?;
        Self::in_folder(program.parent().context("a folder")?)
    }

    /// The functions' binaries are in this folder, stripped copies in its folder `bench`.
    ///
    /// # Errors
    /// When that folder cannot be created.
    pub fn in_folder(binaries: &Path) -> Result<Self> {
        let scratch = binaries.join("bench");
        std::fs::create_dir_all(&scratch)?;
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent();
        Ok(Self {
            repository: repository.context("a repository")?.to_owned(),
            binaries: binaries.to_owned(),
            scratch,
        })
    }

    /// A file of the repository.
    #[must_use]
    pub fn file(&self, path: &str) -> PathBuf {
        self.repository.join(path)
    }

    /// The folder for stripped binaries, logs and temporary files.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// A function's binary as deployed, without symbols.
    #[must_use]
    pub fn binary(&self, name: &str) -> PathBuf {
        self.scratch.join(name)
    }

    /// A function's binary with symbols.
    #[must_use]
    pub fn with_symbols(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }

    /// Starts a function.
    ///
    /// # Errors
    /// When its binary is missing.
    pub async fn start(
        &self,
        name: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<RunningFunction> {
        let (binary, log) = (self.binary(name), self.log(name));
        RunningFunction::start(name, &binary, variables, TIMEOUT, &log).await
    }

    /// Starts the Node.js version of a function.
    ///
    /// # Errors
    /// When Node.js or the bundled script is missing.
    pub async fn start_node(
        &self,
        function: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<RunningFunction> {
        let mut command = Command::new("node");
        command.arg(self.file("bench/node/dist/index.mjs"));
        let mut variables = variables.clone();
        variables.insert("RINGBACK_FUNCTION".to_owned(), function.to_owned());
        let name = format!("node-{function}");
        self.start_command(&name, command, &variables).await
    }

    /// Starts a program on the `PATH` as a function.
    ///
    /// # Errors
    /// When the program is missing.
    pub async fn start_command(
        &self,
        name: &str,
        command: Command,
        variables: &BTreeMap<String, String>,
    ) -> Result<RunningFunction> {
        let mut variables = variables.clone();
        if let Some(path) = std::env::var_os("PATH").and_then(|path| path.into_string().ok()) {
            variables.insert("PATH".to_owned(), path);
        }
        let log = self.log(name);
        let program = command.as_std().get_program().to_owned();
        RunningFunction::start_command(name, command, &variables, TIMEOUT, &log)
            .await
            .with_context(|| format!("{} does not start", program.display()))
    }

    /// A function's log.
    #[must_use]
    pub fn log(&self, name: &str) -> PathBuf {
        self.scratch.join(format!("{name}.log"))
    }

    /// An example event of `events/`.
    ///
    /// # Errors
    /// When there is none with this name.
    pub fn event(&self, name: &str) -> Result<Value> {
        let path = self.file(&format!("events/{name}.json"));
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_slice(&text)?)
    }
}
