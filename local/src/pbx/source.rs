//! Provides Asterisk: from PATH, in a container, or unpacked from Debian packages.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use nix::unistd::{Gid, Uid};
use tokio::process::Command;

use crate::process::run_logged;
use crate::settings::{PbxPorts, Settings};

/// The Debian release with Asterisk 22. Bookworm and trixie have none.
const DEBIAN_RELEASE: &str = "forky";
/// The Docker image, built from the same packages.
const IMAGE: &str = "ringback-asterisk:22";
/// The configuration folder inside a container.
const CONTAINER_FOLDER: &str = "/srv/ringback";
const DOCKERFILE: &str = "FROM debian:forky-slim
RUN apt-get update && apt-get install -y --no-install-recommends asterisk ca-certificates && rm -rf /var/lib/apt/lists/*
ENTRYPOINT [\"asterisk\"]
";
/// The library folder of Debian's packages, and the dynamic loader in it.
const DEBIAN_LIBRARIES: (&str, &str) = if cfg!(target_arch = "aarch64") {
    ("usr/lib/aarch64-linux-gnu", "ld-linux-aarch64.so.1")
} else {
    ("usr/lib/x86_64-linux-gnu", "ld-linux-x86-64.so.2")
};

/// An installed Asterisk.
#[derive(Debug, Clone)]
pub struct AsteriskSource {
    installation: Installation,
    state: PathBuf,
}

#[derive(Debug, Clone)]
enum Installation {
    /// Installed on this machine.
    OnPath,
    /// Unpacked into a folder. It runs with its own libraries, because they belong to another Debian release.
    Unpacked(PathBuf),
    /// In a container with the host's network.
    Docker,
}

impl AsteriskSource {
    /// The folder for the configuration and state of a PBX, as this machine sees it.
    pub fn outside(&self, pbx: &PbxPorts) -> PathBuf {
        self.state.join(pbx.name)
    }

    /// The same folder, as Asterisk sees it.
    pub fn inside(&self, pbx: &PbxPorts) -> PathBuf {
        match self.installation {
            Installation::OnPath | Installation::Unpacked(_) => self.outside(pbx),
            Installation::Docker => Path::new(CONTAINER_FOLDER).join(pbx.name),
        }
    }

    /// The directories in `asterisk.conf` that differ from the package's defaults.
    pub fn directories(&self) -> Vec<(&'static str, PathBuf)> {
        match &self.installation {
            Installation::OnPath | Installation::Docker => Vec::new(),
            Installation::Unpacked(tree) => vec![
                (
                    "astmoddir",
                    tree.join(DEBIAN_LIBRARIES.0).join("asterisk/modules"),
                ),
                ("astdatadir", tree.join("usr/share/asterisk")),
            ],
        }
    }

    /// A command that runs `asterisk` with these arguments.
    pub fn asterisk(&self, pbx: &PbxPorts, arguments: &[&str]) -> Command {
        let mut command = match &self.installation {
            Installation::OnPath => Command::new("asterisk"),
            Installation::Unpacked(tree) => {
                let libraries = tree.join(DEBIAN_LIBRARIES.0);
                let mut command = Command::new(libraries.join(DEBIAN_LIBRARIES.1));
                command.arg("--library-path").arg(libraries);
                command.args(["--argv0", "asterisk"]);
                command.arg(tree.join("usr/sbin/asterisk"));
                command
            }
            Installation::Docker => {
                let mut command = Command::new("docker");
                command.args([
                    "run",
                    "--rm",
                    "--network",
                    "host",
                    "--name",
                    &container(pbx),
                ]);
                // Files that it writes into the mounted folder belong to the user.
                let (user, group) = (Uid::effective(), Gid::effective());
                command
                    .args(["--user", &format!("{user}:{group}"), "--volume"])
                    .arg(format!("{}:{CONTAINER_FOLDER}", self.state.display()))
                    .arg(IMAGE);
                command
            }
        };
        command.args(arguments);
        command
    }

    /// A command that runs a CLI command in the running Asterisk.
    pub fn cli(&self, pbx: &PbxPorts, configuration: &str, command_line: &str) -> Command {
        if let Installation::Docker = self.installation {
            let mut command = Command::new("docker");
            command.args([
                "exec",
                &container(pbx),
                "asterisk",
                "-C",
                configuration,
                "-rx",
                command_line,
            ]);
            return command;
        }
        self.asterisk(pbx, &["-C", configuration, "-rx", command_line])
    }
}

fn container(pbx: &PbxPorts) -> String {
    format!("ringback-asterisk-{}", pbx.name)
}

/// The folder for the configuration and state of all PBXs.
pub fn state(settings: &Settings) -> PathBuf {
    settings.state("asterisk")
}

/// How to get Asterisk. `local/tools/prerequisites.sh` decides and sets `ASTERISK_FROM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AsteriskOrigin {
    OnPath,
    Debian,
    Docker,
}

fn asterisk_origin(settings: &Settings) -> Result<AsteriskOrigin> {
    match settings.variable("ASTERISK_FROM") {
        Some("path") => Ok(AsteriskOrigin::OnPath),
        Some("debian") => Ok(AsteriskOrigin::Debian),
        Some("docker") => Ok(AsteriskOrigin::Docker),
        Some(other) => bail!("ASTERISK_FROM is `{other}`, but must be path, debian or docker"),
        None => bail!(
            "ASTERISK_FROM is not set; start the stack with `make up`, or with `local/tools/prerequisites.sh release ringback-local up`, which set it"
        ),
    }
}

/// The log of the installation.
pub fn log(settings: &Settings) -> PathBuf {
    settings.state("asterisk-fetch.log")
}

/// Describes the installation step, if one is needed.
///
/// # Errors
/// When `ASTERISK_FROM` is missing or unknown.
pub fn installation_step(settings: &Settings) -> Result<Option<&'static str>> {
    Ok(match asterisk_origin(settings)? {
        AsteriskOrigin::OnPath => None,
        AsteriskOrigin::Debian => Some("unpack Asterisk from Debian's packages"),
        AsteriskOrigin::Docker => Some("build Asterisk's container image"),
    })
}

/// Installs Asterisk.
///
/// # Errors
/// When it cannot be downloaded, unpacked or built.
pub async fn install(settings: &Settings) -> Result<AsteriskSource> {
    let installation = match asterisk_origin(settings)? {
        AsteriskOrigin::OnPath => Installation::OnPath,
        AsteriskOrigin::Debian => {
            let tree = settings.tools_dir().join("asterisk");
            unpack(settings, &tree).await?;
            Installation::Unpacked(tree)
        }
        AsteriskOrigin::Docker => {
            build_image(settings).await?;
            Installation::Docker
        }
    };
    let state = state(settings);
    Ok(AsteriskSource {
        installation,
        state,
    })
}

/// Does nothing if the tree is already unpacked.
async fn unpack(settings: &Settings, tree: &Path) -> Result<()> {
    let mut command = Command::new(settings.repository().join("local/tools/unpack.sh"));
    command.arg(tree).args([DEBIAN_RELEASE, "asterisk"]);
    run_logged(&mut command, &log(settings)).await
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    std::process::Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

async fn build_image(settings: &Settings) -> Result<()> {
    if succeeds("docker", &["image", "inspect", IMAGE]) {
        return Ok(());
    }
    let folder = settings.state("asterisk-image");
    crate::tools::make_dir(&folder)?;
    std::fs::write(folder.join("Dockerfile"), DOCKERFILE)?;
    let mut command = Command::new("docker");
    run_logged(
        command.args(["build", "--tag", IMAGE]).arg(&folder),
        &log(settings),
    )
    .await?;
    ensure!(
        succeeds("docker", &["image", "inspect", IMAGE]),
        "docker build created no image {IMAGE}"
    );
    Ok(())
}
