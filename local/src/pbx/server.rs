//! A running Asterisk.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reqwest::{Certificate, Client};

use super::source::Source;
use crate::credentials::Credentials;
use crate::process::{Daemon, output};
use crate::settings::{LOOPBACK, PbxPorts, Settings};

/// It answers within a second; a loaded machine may take longer.
const START: Duration = Duration::from_secs(30);
/// It stops at once, but for a thread that waits for something now and then.
const STOP: Duration = Duration::from_secs(3);
/// One that crashes is started again, as a supervisor would do it; not one that crashes as soon as it runs.
const RUNS_AT_LEAST: Duration = Duration::from_secs(5);

/// Where ARI answers.
pub fn ari_url(pbx: &PbxPorts) -> String {
    format!("https://{LOOPBACK}:{}/ari", pbx.ari)
}

/// A running Asterisk.
#[derive(Debug)]
pub struct Pbx {
    daemon: Daemon,
    source: Source,
    ports: PbxPorts,
    configuration: PathBuf,
    state_dir: PathBuf,
    started: Instant,
}

impl Pbx {
    /// Starts it and waits until ARI answers over HTTPS.
    pub async fn start(
        settings: &Settings,
        source: Source,
        ports: PbxPorts,
        configuration: PathBuf,
        credentials: &Credentials,
    ) -> Result<Self> {
        let state_dir = settings.state_dir();
        let mut pbx = Self {
            daemon: daemon(&source, &ports, &configuration, &state_dir)?,
            source,
            ports,
            configuration,
            state_dir,
            started: Instant::now(),
        };
        match pbx.wait_until_ready(credentials).await {
            Ok(()) => Ok(pbx),
            Err(error) => {
                pbx.stop().await;
                Err(error)
            }
        }
    }

    /// Waits until it ends for good, which it should not: when it crashes it is started again.
    pub async fn ended(&mut self) -> anyhow::Error {
        loop {
            let crash = self.daemon.ended().await;
            if self.started.elapsed() < RUNS_AT_LEAST {
                return crash;
            }
            eprintln!("{crash:#}\nIt is started again.");
            let log = self.state_dir.join(self.ports.daemon);
            // What it has said is for whoever looks for the reason.
            let _ = std::fs::rename(log.with_extension("log"), log.with_extension("crashed.log"));
            match daemon(
                &self.source,
                &self.ports,
                &self.configuration,
                &self.state_dir,
            ) {
                Ok(again) => self.daemon = again,
                Err(error) => return error,
            }
            self.started = Instant::now();
        }
    }

    /// Stops it at once, calls and all.
    pub async fn stop(self) {
        let mut order =
            self.source
                .remote(&self.ports, &text(&self.configuration), "core stop now");
        // An Asterisk that no longer answers is ended by signal below.
        let _ = tokio::time::timeout(STOP, output(&mut order)).await;
        self.daemon.stop(STOP).await;
    }

    async fn wait_until_ready(&mut self, credentials: &Credentials) -> Result<()> {
        let http = ari_client(&credentials.ari_certificate.ca_pem)?;
        let url = format!("{}/asterisk/ping", ari_url(&self.ports));
        let deadline = tokio::time::Instant::now() + START;
        while tokio::time::Instant::now() < deadline {
            self.daemon.check_alive().await?;
            let ping = http
                .get(&url)
                .basic_auth(&credentials.ari_username, Some(&credentials.ari_password))
                .send();
            if ping.await.is_ok_and(|answer| answer.status().is_success()) {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        bail!(
            "ARI did not answer at {url} within {} s; see {}.log beside stack.json",
            START.as_secs(),
            self.ports.daemon
        )
    }
}

fn daemon(
    source: &Source,
    ports: &PbxPorts,
    configuration: &Path,
    state_dir: &Path,
) -> Result<Daemon> {
    let mut command = source.asterisk(ports, &["-f", "-C", &text(configuration)]);
    Daemon::start(ports.daemon, &mut command, state_dir)
}

/// An HTTP client that trusts the stack's own certificate authority.
pub fn ari_client(ca_pem: &str) -> Result<Client> {
    Ok(Client::builder()
        .tls_certs_only([Certificate::from_pem(ca_pem.as_bytes())?])
        .timeout(Duration::from_secs(5))
        .build()?)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
