//! Compiles all functions in one build, and lays them out as `sam build` and `sam package` do: a folder per function
//! with an executable `bootstrap`, and a ZIP archive beside it that several deployments share.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;
use tokio::task::JoinSet;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::process::run_logged;
use crate::settings::Settings;
use crate::tools::{Tools, make_dir, remove_cargo_variables};

/// The folder of the functions' archives in a release.
pub const FUNCTIONS: &str = "functions";

/// The profile of this program itself. The functions reuse the dependencies that it has compiled.
const OWN_PROFILE: &str = "dev";

/// The compression of archives: the best one for a release, which this program makes when it is optimized itself. Otherwise it
/// would take minutes.
const COMPRESSION: i64 = if cfg!(debug_assertions) { 1 } else { 9 };

/// The folder of the built functions. cargo-lambda uses the same one.
pub fn builds_dir(settings: &Settings) -> PathBuf {
    settings.repository().join("target/lambda")
}

/// The log of the build.
pub fn log(settings: &Settings) -> PathBuf {
    settings.state("build.log")
}

/// Whether cargo-lambda builds the functions, as for AWS.
pub fn needs_cargo_lambda(settings: &Settings) -> bool {
    profile(settings) != OWN_PROFILE
}

fn profile(settings: &Settings) -> String {
    settings.override_or("FUNCTIONS_PROFILE", OWN_PROFILE)
}

/// Builds every function for the architecture of this machine, so no cross compiler is needed. Those of a release are built.
pub async fn functions(settings: &Settings, tools: &Tools, binaries: &[String]) -> Result<()> {
    if needs_cargo_lambda(settings) {
        with_cargo_lambda(settings, tools, binaries).await?;
        return pack_all(settings, binaries).await;
    }
    with_cargo(settings, binaries).await?;
    let built = settings.repository().join("target/debug");
    package(settings, &built, binaries).await
}

/// Makes the archives of the executables in the folder `built`.
pub async fn package(settings: &Settings, built: &Path, binaries: &[String]) -> Result<()> {
    for binary in binaries {
        strip_into_place(settings, built, binary).await?;
    }
    pack_all(settings, binaries).await
}

async fn pack_all(settings: &Settings, binaries: &[String]) -> Result<()> {
    let mut packing = JoinSet::new();
    for binary in binaries {
        let (bootstrap, archive) = (bootstrap(settings, binary), archive(settings, binary));
        packing.spawn_blocking(move || {
            if is_up_to_date(&archive, &bootstrap) {
                return Ok(());
            }
            pack(&bootstrap, &archive)?;
            mark_up_to_date(&archive, &bootstrap)
        });
    }
    while let Some(packed) = packing.join_next().await {
        packed??;
    }
    Ok(())
}

/// The ZIP archive of a function.
pub fn archive(settings: &Settings, binary: &str) -> PathBuf {
    let folder = if settings.is_release() {
        settings.repository().join(FUNCTIONS)
    } else {
        builds_dir(settings)
    };
    folder.join(format!("{binary}.zip"))
}

/// The executable of a function.
pub fn bootstrap(settings: &Settings, binary: &str) -> PathBuf {
    builds_dir(settings).join(binary).join("bootstrap")
}

fn pack(bootstrap: &Path, archive: &Path) -> Result<()> {
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(COMPRESSION))
        .unix_permissions(0o755);
    let mut zip = ZipWriter::new(File::create(archive)?);
    zip.start_file("bootstrap", options)?;
    io::copy(&mut File::open(bootstrap)?, &mut zip)?;
    zip.finish()?;
    Ok(())
}

async fn with_cargo_lambda(settings: &Settings, tools: &Tools, binaries: &[String]) -> Result<()> {
    let mut command = tools.command("cargo-lambda");
    command.args(["lambda", "build", "--locked", "--compiler", "cargo"]);
    command.args(["--profile", &profile(settings)]);
    build(settings, command, binaries).await
}

async fn with_cargo(settings: &Settings, binaries: &[String]) -> Result<()> {
    let mut command = Command::new("cargo");
    remove_cargo_variables(&mut command);
    // With `--workspace`, the dependencies have the features that the tests and this program need too, so cargo does not compile them again.
    command.args(["build", "--locked", "--workspace"]);
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

/// Copies the executable without its symbols, which are most of its size.
async fn strip_into_place(settings: &Settings, built: &Path, binary: &str) -> Result<()> {
    let bootstrap = bootstrap(settings, binary);
    make_dir(
        bootstrap
            .parent()
            .context("the path has no parent folder")?,
    )?;
    let compiled = built.join(binary);
    if is_up_to_date(&bootstrap, &compiled) {
        return Ok(());
    }
    strip(&compiled, &bootstrap, &log(settings)).await?;
    mark_up_to_date(&bootstrap, &compiled)
}

/// Copies a program without its symbols.
pub(crate) async fn strip(compiled: &Path, to: &Path, log: &Path) -> Result<()> {
    let mut strip = Command::new("strip");
    strip.arg("-o").arg(to).arg(compiled);
    run_logged(&mut strip, log).await
}

/// Whether `made` is up to date with `of`, which it is when both have the same modification time. A later time is not
/// enough, because `of` may be a build of another profile.
fn is_up_to_date(made: &Path, of: &Path) -> bool {
    let time = |path: &Path| path.metadata().and_then(|it| it.modified()).ok();
    time(of).is_some_and(|of| time(made) == Some(of))
}

fn mark_up_to_date(made: &Path, of: &Path) -> Result<()> {
    let time = of.metadata()?.modified()?;
    let made = File::options().write(true).open(made)?;
    Ok(made.set_modified(time)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_up_to_date_until_its_source_changes() -> Result<()> {
        let folder = std::env::temp_dir().join(format!("ringback-build-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let [of, made] = ["of", "made"].map(|name| folder.join(name));
        assert!(!is_up_to_date(&made, &of));
        std::fs::write(&of, "one")?;
        std::fs::write(&made, "made of one")?;
        mark_up_to_date(&made, &of)?;
        assert!(is_up_to_date(&made, &of));
        let earlier = of.metadata()?.modified()? - std::time::Duration::from_secs(60);
        File::options()
            .write(true)
            .open(&of)?
            .set_modified(earlier)?;
        assert!(!is_up_to_date(&made, &of));
        Ok(std::fs::remove_dir_all(&folder)?)
    }
}
