//! The pinned tools, which are installed only into `target/tools`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::process::run_logged;
use crate::settings::Settings;

/// The pinned versions. A copy of this file marks a finished installation.
const REQUIREMENTS: &str = "local/tools/requirements.txt";

/// A Python environment with the local AWS, the SAM CLI and cargo-lambda.
#[derive(Debug, Clone)]
pub struct Tools {
    venv: PathBuf,
    requirements: PathBuf,
    log: PathBuf,
}

impl Tools {
    /// The environment, which may not be installed yet.
    pub fn at(settings: &Settings) -> Self {
        Self {
            venv: settings.tools_dir().join("venv"),
            requirements: settings.repository().join(REQUIREMENTS),
            log: settings.state("tools.log"),
        }
    }

    /// Whether the installed versions are the pinned ones.
    pub fn are_installed(&self) -> bool {
        let (Ok(pinned), Ok(installed)) = (
            std::fs::read(&self.requirements),
            std::fs::read(self.stamp()),
        ) else {
            return false;
        };
        pinned == installed
    }

    /// The log of the installation.
    pub fn log(&self) -> PathBuf {
        self.log.clone()
    }

    /// Creates the environment from scratch and installs everything.
    pub async fn install(&self) -> Result<()> {
        let venv = Command::new("python3")
            .args(["-m", "venv", "--clear"])
            .arg(&self.venv)
            .kill_on_drop(true)
            .status();
        anyhow::ensure!(
            venv.await?.success(),
            "python3 could not make a virtual environment in {}",
            self.venv.display()
        );
        run_logged(
            self.pip_install().arg("-r").arg(&self.requirements),
            &self.log,
        )
        .await?;
        std::fs::copy(&self.requirements, self.stamp())
            .context("could not remember what was installed")?;
        Ok(())
    }

    /// A command that runs one of the tools, with all of them on its PATH.
    pub fn command(&self, tool: &str) -> Command {
        let mut command = Command::new(self.bin().join(tool));
        command.env("PATH", self.path());
        remove_cargo_variables(&mut command);
        command
    }

    fn pip_install(&self) -> Command {
        let mut command = self.command("python");
        // All versions are pinned, so pip resolves no dependencies. Python compiles to bytecode at first use.
        command.args([
            "-m",
            "pip",
            "install",
            "--no-input",
            "--no-deps",
            "--no-compile",
            "--disable-pip-version-check",
        ]);
        command
    }

    fn bin(&self) -> PathBuf {
        self.venv.join("bin")
    }

    fn path(&self) -> OsString {
        let inherited = std::env::var_os("PATH").unwrap_or_default();
        let paths = std::iter::once(self.bin()).chain(std::env::split_paths(&inherited));
        std::env::join_paths(paths).unwrap_or(inherited)
    }

    fn stamp(&self) -> PathBuf {
        self.venv.join("installed-requirements.txt")
    }
}

/// Removes the variables that `cargo run` sets for its child. With them, build scripts of a nested cargo would see
/// another environment and compile everything again.
pub(crate) fn remove_cargo_variables(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "LD_LIBRARY_PATH"
        {
            command.env_remove(&name);
        }
    }
}

/// Creates a directory and its parents.
pub fn make_dir(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("could not make {}", path.display()))
}
