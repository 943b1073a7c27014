//! Makes the release archive `target/release-archives/ringback-VERSION-ARCHITECTURE.tar.gz`. It needs no Rust: `sam deploy`
//! works in its folder, and so do the command `ringback` and the local stack.
//!
//! It packs what cargo has compiled into the folder of this program. So tests pack what they have, and `make dist` what it has built
//! for release.

mod glibc;
mod sbom;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::cloud::build::{self, FUNCTIONS};
use crate::cloud::template::{EXPANDED, Template};
use crate::process::run_logged;
use crate::settings::{ARCHITECTURE, Settings};
use crate::tools::make_dir;

/// The folder of the releases, in the repository.
pub const RELEASES: &str = "target/release-archives";

const SBOM: &str = "sbom.cdx.json";
const CHECKSUMS: &str = "SHA256SUMS";
/// The commands of a release: the one that operates a deployment, and the local stack.
const COMMANDS: [&str; 2] = ["ringback", "ringback-local"];
/// What a release has from the repository as it is. The local stack needs `asterisk` and `local/tools`.
const COPIED: [&str; 10] = [
    "LICENSE-APACHE",
    "LICENSE-MIT",
    "README.md",
    "SECURITY.md",
    "asterisk",
    "docs",
    "events",
    "local/README.md",
    "local/tools",
    "samconfig.toml",
];

/// The name of the release, which is also the name of its folder.
pub fn name() -> String {
    format!("ringback-{}-{ARCHITECTURE}", env!("CARGO_PKG_VERSION"))
}

/// Makes the archive of the programs in the folder `built`, and returns its path.
pub async fn create(settings: &Settings, built: &Path) -> Result<PathBuf> {
    let repository = settings.repository();
    let releases = repository.join(RELEASES);
    let folder = releases.join(name());
    if folder.exists() {
        std::fs::remove_dir_all(&folder)
            .with_context(|| format!("could not clear {}", folder.display()))?;
    }
    make_dir(&folder.join(FUNCTIONS))?;
    // For the logs of the builds.
    make_dir(&settings.state_dir())?;
    let log = releases.join("release.log");

    let template = Template::read(&repository.join("template.yaml"))?;
    let functions = template.binaries();
    build::package(settings, built, &functions).await?;
    for function in &functions {
        let program = build::bootstrap(settings, function);
        glibc::check(&program)
            .await
            .with_context(|| format!("the function {function}"))?;
        std::fs::copy(
            build::archive(settings, function),
            folder.join(archive(function)),
        )?;
    }
    template
        .with_builds(archive)
        .for_architecture(ARCHITECTURE)
        .write(&folder.join(EXPANDED))?;
    for command in COMMANDS {
        build::strip(&built.join(command), &folder.join(command), &log).await?;
    }
    let mut copy = Command::new("cp");
    copy.args(["-r", "--parents"]).args(COPIED).arg(&folder);
    run_logged(copy.current_dir(repository), &log).await?;

    let packages = functions.iter().map(String::as_str);
    let sbom = sbom::of(
        repository,
        &packages
            .chain(["ringback-cli", "ringback-local"])
            .collect::<Vec<_>>(),
    )
    .await?;
    std::fs::write(
        folder.join(SBOM),
        serde_json::to_string_pretty(&sbom)? + "\n",
    )?;
    shell(
        &folder,
        &log,
        &format!(
            "find . -type f ! -name {CHECKSUMS} -print0 | sort -z | xargs -0 sha256sum >{CHECKSUMS}"
        ),
    )
    .await?;

    let (name, file) = (name(), format!("{}.tar.gz", name()));
    shell(&releases, &log, &format!("tar --sort=name --owner=0 --group=0 --numeric-owner -czf {file} {name} && sha256sum {file} >{file}.sha256")).await?;
    Ok(releases.join(file))
}

/// The archive of a function, relative to the template.
fn archive(function: &str) -> PathBuf {
    Path::new(FUNCTIONS).join(format!("{function}.zip"))
}

async fn shell(folder: &Path, log: &Path, script: &str) -> Result<()> {
    let mut command = Command::new("sh");
    run_logged(command.args(["-ec", script]).current_dir(folder), log).await
}
