//! Kamailio as the PBX: it holds a call, sends the push itself, and calls the phone when it registers (`bench/kamailio`).

use std::net::{SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringback_local::process::{Daemon, output};
use ringback_sip::{Caller, Phone, Trunk};
use tokio::process::Command;

use super::{EXTENSION, SOON, TRUNK, WakeUp, give_up, next_push};
use crate::fixture::Fixture;
use crate::functions::Paths;
use crate::stand_ins::System;

/// The password of the phone.
const PASSWORD: &str = "bench";
/// Where `local/tools/unpack.sh` unpacks it.
const UNPACKED: &str = "target/tools/kamailio";
/// How long a clean stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// An installed Kamailio.
#[derive(Debug)]
pub struct InstalledKamailio {
    program: PathBuf,
    /// The folder of unpacked packages, if it is not installed on the machine.
    tree: Option<PathBuf>,
}

impl InstalledKamailio {
    /// The unpacked one, or the one on the `PATH`.
    #[must_use]
    pub fn find(paths: &Paths) -> Option<Self> {
        let tree = paths.file(UNPACKED);
        let program = tree.join("usr/sbin/kamailio");
        if program.exists() {
            let tree = Some(tree);
            return Some(Self { program, tree });
        }
        let folders = std::env::var_os("PATH")?;
        // Normal users have no /usr/sbin on the PATH.
        let folders = std::env::split_paths(&folders).chain([PathBuf::from("/usr/sbin")]);
        let program = folders
            .map(|folder| folder.join("kamailio"))
            .find(|program| program.exists())?;
        Some(Self {
            program,
            tree: None,
        })
    }

    fn command(&self) -> Result<Command> {
        let mut command = Command::new(&self.program);
        if let Some(tree) = &self.tree {
            let folder = format!("{}-linux-gnu", std::env::consts::ARCH);
            let own = tree.join("usr/lib").join(&folder).join("kamailio");
            let others = ["usr/lib", "lib"].map(|parent| tree.join(parent).join(&folder));
            let libraries = std::env::join_paths([&own].into_iter().chain(&others))?;
            command.env("LD_LIBRARY_PATH", libraries);
            command.arg("-L").arg(own.join("modules"));
        }
        Ok(command)
    }
}

/// The running Kamailio, a caller and a phone.
pub(super) struct Kamailio {
    daemon: Daemon,
    version: String,
    address: SocketAddr,
    trunk: Trunk,
    phone: Phone,
}

impl Kamailio {
    pub(super) async fn start(fixture: &Fixture) -> Result<Self> {
        let paths = &fixture.paths;
        let installed = InstalledKamailio::find(paths).context("it is not installed")?;
        let version = output(installed.command()?.arg("-v")).await?;
        // "version: kamailio 5.6.3 (x86_64/linux)"
        let version = version.split_whitespace().nth(2).unwrap_or_default();
        let address = free_address()?;
        let configuration = write_configuration(fixture)?;
        let mut command = installed.command()?;
        command
            .args(["-DD", "-E", "-l", &format!("udp:{address}")])
            .arg("-Y")
            .arg(paths.scratch())
            .arg("-f")
            .arg(configuration);
        let mut kamailio = Self {
            daemon: Daemon::start("kamailio", &mut command, paths.scratch())?,
            version: format!("Kamailio {version}"),
            address,
            trunk: Trunk::bind(TRUNK).await?,
            phone: Phone::new(address, EXTENSION, PASSWORD).await?,
        };
        kamailio.listens().await?;
        Ok(kamailio)
    }

    /// Waits until it has taken its address.
    async fn listens(&mut self) -> Result<()> {
        let until = Instant::now() + SOON;
        while UdpSocket::bind(self.address).is_ok() {
            ensure!(Instant::now() < until, "it does not listen");
            self.daemon.check_alive().await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) async fn stop(self) {
        self.daemon.stop(STOP_TIMEOUT).await;
    }

    /// One call. The phone is not registered before it and after it.
    pub(super) async fn call(&mut self, fixture: &Fixture) -> Result<WakeUp> {
        let caller = Caller::number("+919876543210");
        let caller = self
            .trunk
            .call(self.address, EXTENSION, caller, None)
            .await?;
        let push = next_push(&fixture.stand_ins).await?;
        let woken = Instant::now();
        self.phone.register().await?;
        let call = self.phone.next_call(SOON).await?;
        give_up(&caller, &call).await?;
        self.phone.unregister().await?;
        Ok(WakeUp {
            push: push - caller.placed().instant,
            ring: call.arrived().instant - woken,
        })
    }
}

fn free_address() -> Result<SocketAddr> {
    Ok(UdpSocket::bind(("127.0.0.1", 0))?.local_addr()?)
}

fn write_configuration(fixture: &Fixture) -> Result<PathBuf> {
    let template = fixture.paths.file("bench/kamailio/kamailio.cfg");
    let text = std::fs::read_to_string(template)?
        .replace("@CA@", fixture.stand_ins.ca_file())
        .replace("@PUSH@", fixture.stand_ins.url(System::Fcm))
        .replace("@PASSWORD@", PASSWORD);
    let path: &Path = &fixture.paths.scratch().join("kamailio.cfg");
    std::fs::write(path, text)?;
    Ok(path.to_owned())
}
