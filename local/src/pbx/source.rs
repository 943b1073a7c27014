//! Where Asterisk comes from: on PATH, in a container, or unpacked from Debian's packages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::{Gid, Uid};
use tokio::process::Command;

use crate::process::{output, run_logged};
use crate::settings::{PbxPorts, Settings};

/// Debian's suite that carries Asterisk 22; bookworm and trixie have none.
const SUITE: &str = "forky";
/// The image made for Docker: the same packages.
const IMAGE: &str = "ringback-asterisk:22";
/// Where the configuration lies inside a container or an unpacked tree.
const INSIDE: &str = "/srv/ringback";
const DOCKERFILE: &str = "FROM debian:forky-slim
RUN apt-get update && apt-get install -y --no-install-recommends asterisk ca-certificates && rm -rf /var/lib/apt/lists/*
ENTRYPOINT [\"asterisk\"]
";

/// An Asterisk that can be run.
#[derive(Debug, Clone)]
pub enum Source {
    /// Installed on this machine.
    OnPath {
        /// Where its configuration and state go.
        state: PathBuf,
    },
    /// Unpacked into a folder, run with `chroot`.
    Unpacked {
        /// The folder.
        tree: PathBuf,
    },
    /// In a container on the host's network.
    Docker {
        /// Where its configuration and state go, mounted.
        state: PathBuf,
    },
}

impl Source {
    /// A PBX's folder for configuration and state, as this machine sees it.
    pub fn outside(&self, pbx: &PbxPorts) -> PathBuf {
        let all = match self {
            Self::OnPath { state } | Self::Docker { state } => state.clone(),
            Self::Unpacked { tree } => tree.join(INSIDE.trim_start_matches('/')),
        };
        all.join(pbx.name)
    }

    /// The same folder, as Asterisk sees it.
    pub fn inside(&self, pbx: &PbxPorts) -> PathBuf {
        let all = match self {
            Self::OnPath { state } => state.as_path(),
            Self::Unpacked { .. } | Self::Docker { .. } => Path::new(INSIDE),
        };
        all.join(pbx.name)
    }

    /// A command that runs `asterisk` with these arguments.
    pub fn asterisk(&self, pbx: &PbxPorts, arguments: &[&str]) -> Command {
        let mut command = match self {
            Self::OnPath { .. } => Command::new("asterisk"),
            Self::Unpacked { tree } => {
                let mut command = Command::new("chroot");
                command.arg(tree).arg("asterisk");
                command
            }
            Self::Docker { state } => {
                let mut command = Command::new("docker");
                command.args([
                    "run",
                    "--rm",
                    "--network",
                    "host",
                    "--name",
                    &container(pbx),
                ]);
                // What it writes into the mounted folder stays the user's own.
                let (user, group) = (Uid::effective(), Gid::effective());
                command
                    .args(["--user", &format!("{user}:{group}"), "--volume"])
                    .arg(format!("{}:{INSIDE}", state.display()))
                    .arg(IMAGE);
                command
            }
        };
        command.args(arguments);
        command
    }

    /// A command that has the running Asterisk carry out one of its own commands.
    pub fn remote(&self, pbx: &PbxPorts, configuration: &str, order: &str) -> Command {
        if let Self::Docker { .. } = self {
            let mut command = Command::new("docker");
            command.args([
                "exec",
                &container(pbx),
                "asterisk",
                "-C",
                configuration,
                "-rx",
                order,
            ]);
            return command;
        }
        self.asterisk(pbx, &["-C", configuration, "-rx", order])
    }
}

fn container(pbx: &PbxPorts) -> String {
    format!("ringback-asterisk-{}", pbx.name)
}

/// How Asterisk can be had here. `ASTERISK_FROM` (`path`, `docker`, `debian`) picks one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    OnPath,
    Debian,
    Docker,
}

/// What is missing for every way, with how to get one of them.
pub fn missing(settings: &Settings) -> Option<String> {
    way(settings).is_none().then(|| {
        "a way to run Asterisk, one of: `asterisk` 20 or later on PATH (package asterisk, where the distribution \
         has it); a running Docker (`docker info` must work); or, on Debian as root, `apt-get install debootstrap`"
            .to_owned()
    })
}

fn way(settings: &Settings) -> Option<Way> {
    let all = [Way::OnPath, Way::Debian, Way::Docker];
    let wanted = |way: &Way| match settings.variable("ASTERISK_FROM") {
        None => true,
        Some(name) => name == name_of(*way),
    };
    all.into_iter()
        .filter(wanted)
        .find(|way| is_possible(settings, *way))
}

fn name_of(way: Way) -> &'static str {
    match way {
        Way::OnPath => "path",
        Way::Debian => "debian",
        Way::Docker => "docker",
    }
}

fn is_possible(settings: &Settings, way: Way) -> bool {
    match way {
        Way::OnPath => succeeds("asterisk", &["-V"]),
        Way::Debian => {
            Uid::effective().is_root()
                && (is_unpacked(&tree(settings)) || succeeds("debootstrap", &["--version"]))
        }
        Way::Docker => succeeds("docker", &["info"]),
    }
}

fn succeeds(program: &str, arguments: &[&str]) -> bool {
    std::process::Command::new(program)
        .args(arguments)
        .output()
        .is_ok_and(|output| output.status.success())
}

/// Where fetching Asterisk is logged.
pub fn log(settings: &Settings) -> PathBuf {
    settings.state("asterisk-fetch.log")
}

/// What has to be done before it can run, in a word, or nothing.
pub fn work_ahead(settings: &Settings) -> Option<&'static str> {
    match way(settings)? {
        Way::OnPath => None,
        Way::Debian if is_unpacked(&tree(settings)) => None,
        Way::Debian => Some("unpack Asterisk from Debian's packages"),
        Way::Docker => Some("make Asterisk's container image"),
    }
}

/// Makes one of the ways ready.
pub async fn obtain(settings: &Settings) -> Result<Source> {
    match way(settings) {
        Some(Way::OnPath) => Ok(Source::OnPath {
            state: settings.state("asterisk"),
        }),
        Some(Way::Debian) => {
            let tree = tree(settings);
            if !is_unpacked(&tree) {
                unpack(settings, &tree).await?;
            }
            Ok(Source::Unpacked { tree })
        }
        Some(Way::Docker) => {
            make_image(settings).await?;
            Ok(Source::Docker {
                state: settings.state("asterisk"),
            })
        }
        None => bail!("no way to run Asterisk"),
    }
}

fn tree(settings: &Settings) -> PathBuf {
    settings.tools_dir().join("asterisk")
}

fn stamp(tree: &Path) -> PathBuf {
    tree.join("ringback-unpacked")
}

fn is_unpacked(tree: &Path) -> bool {
    std::fs::read_to_string(stamp(tree)).is_ok_and(|suite| suite.trim() == SUITE)
}

async fn unpack(settings: &Settings, tree: &Path) -> Result<()> {
    let mirror = debian_mirror(settings).await?;
    if tree.exists() {
        std::fs::remove_dir_all(tree)
            .with_context(|| format!("could not clear {}", tree.display()))?;
    }
    let mut command = Command::new("debootstrap");
    command
        .args([
            "--variant=minbase",
            "--include=asterisk,ca-certificates",
            SUITE,
        ])
        .arg(tree)
        .arg(mirror)
        // Older debootstraps have no script of the suite's name; all later suites use this one.
        .arg("/usr/share/debootstrap/scripts/sid");
    run_logged(&mut command, &log(settings)).await?;
    std::fs::write(stamp(tree), SUITE)?;
    Ok(())
}

/// The Debian archive this machine installs from, so that whatever mirror it is set up for is used here too.
async fn debian_mirror(settings: &Settings) -> Result<String> {
    if let Some(mirror) = settings.variable("DEBIAN_MIRROR") {
        return Ok(mirror.to_owned());
    }
    let mut command = Command::new("apt-get");
    command.args([
        "indextargets",
        "--format",
        "$(CODENAME) $(REPO_URI)",
        "Created-By: Packages",
    ]);
    let targets = output(&mut command).await?;
    let mirror = main_archive(&targets).map(str::to_owned);
    mirror.context(
        "apt knows no Debian archive; set DEBIAN_MIRROR to one, or install asterisk by other means",
    )
}

/// The archive itself, not its security or updates parts.
fn main_archive(targets: &str) -> Option<&str> {
    targets
        .lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(codename, uri)| {
            !codename.contains('-') && uri.trim_end_matches('/').ends_with("/debian")
        })
        .map(|(_, uri)| uri)
}

async fn make_image(settings: &Settings) -> Result<()> {
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
        "docker built no image {IMAGE}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_told_from_its_updates() {
        let targets = "\
bookworm-security http://mirror.example/debian-security/
bookworm-updates http://mirror.example/debian/
bookworm http://mirror.example/debian/
";
        assert_eq!(main_archive(targets), Some("http://mirror.example/debian/"));
        assert_eq!(main_archive("noble http://mirror.example/ubuntu/\n"), None);
    }
}
