//! Compiles the functions, once for all of them, into the artefacts that `sam build` would make.

use std::path::PathBuf;

use anyhow::Result;

use crate::process::run_logged;
use crate::settings::Settings;
use crate::tools::Tools;

/// Where cargo-lambda leaves its builds.
pub fn builds_dir(settings: &Settings) -> PathBuf {
    settings.repository().join("target/lambda")
}

/// Where the build's output goes.
pub fn log(settings: &Settings) -> PathBuf {
    settings.state("build.log")
}

/// Builds every function for this machine's architecture, with plain cargo: no cross compiler is needed.
/// Without cargo-lambda's own defaults for releases, which link seven times for a minute each.
pub async fn functions(settings: &Settings, tools: &Tools, binaries: &[String]) -> Result<()> {
    let profile = settings.override_or("FUNCTIONS_PROFILE", "local");
    let mut command = tools.command("cargo-lambda");
    command.args(["lambda", "build", "--locked", "--compiler", "cargo"]);
    command.args(["--disable-optimizations", "--profile", &profile]);
    for binary in binaries {
        command.args(["--bin", binary]);
    }
    command
        .current_dir(settings.repository())
        .env("CARGO_TERM_COLOR", "never");
    run_logged(&mut command, &log(settings)).await
}
