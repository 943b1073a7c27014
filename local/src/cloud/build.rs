//! Compiles the functions, once for all of them, into the artefacts that `sam build` would make: a folder for each, with
//! an executable `bootstrap` in it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::process::run_logged;
use crate::settings::Settings;
use crate::tools::{Tools, forget_outer_cargo, make_dir};

/// The profile in which the stack's own program is compiled: the functions share all that it has compiled already.
const SHARED: &str = "dev";

/// Where the artefacts are; cargo-lambda leaves its own there too.
pub fn builds_dir(settings: &Settings) -> PathBuf {
    settings.repository().join("target/lambda")
}

/// Where the build's output goes.
pub fn log(settings: &Settings) -> PathBuf {
    settings.state("build.log")
}

/// Whether cargo-lambda is to build them, as it does for AWS.
pub fn needs_cargo_lambda(settings: &Settings) -> bool {
    profile(settings) != SHARED
}

fn profile(settings: &Settings) -> String {
    settings.override_or("FUNCTIONS_PROFILE", SHARED)
}

/// Builds every function for this machine's architecture: no cross compiler is needed.
pub async fn functions(settings: &Settings, tools: &Tools, binaries: &[String]) -> Result<()> {
    if needs_cargo_lambda(settings) {
        return with_cargo_lambda(settings, tools, binaries).await;
    }
    with_cargo(settings, binaries).await?;
    for binary in binaries {
        put_in_place(settings, binary).await?;
    }
    Ok(())
}

/// Without cargo-lambda's own defaults for releases, which link seven times for a minute each.
async fn with_cargo_lambda(settings: &Settings, tools: &Tools, binaries: &[String]) -> Result<()> {
    let mut command = tools.command("cargo-lambda");
    command.args(["lambda", "build", "--locked", "--compiler", "cargo"]);
    command.args(["--disable-optimizations", "--profile", &profile(settings)]);
    build(settings, command, binaries).await
}

async fn with_cargo(settings: &Settings, binaries: &[String]) -> Result<()> {
    let mut command = Command::new("cargo");
    forget_outer_cargo(&mut command);
    // No `-p`: with it, cargo would choose other features for the same dependencies and compile them twice.
    command.args(["build", "--locked"]);
    command
        .arg("--target-dir")
        .arg(settings.repository().join("target"));
    build(settings, command, binaries).await
}

async fn build(settings: &Settings, mut command: Command, binaries: &[String]) -> Result<()> {
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    command
        .current_dir(settings.repository())
        .env("CARGO_TERM_COLOR", "never");
    run_logged(&mut command, &log(settings)).await
}

/// Without its symbols, which are most of it, as `strip` of the C compiler's tools leaves it.
async fn put_in_place(settings: &Settings, binary: &str) -> Result<()> {
    let bootstrap = builds_dir(settings).join(binary).join("bootstrap");
    make_dir(bootstrap.parent().context("it has a folder")?)?;
    let compiled = settings.repository().join("target/debug").join(binary);
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(&bootstrap).arg(&compiled);
    run_logged(&mut strip, &log(settings)).await
}
