//! Runs an Asterisk and the HAProxy in front of its HTTP server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use reqwest::{Certificate, Client};
use tokio::process::Command;

use super::configuration::WrittenConfiguration;
use super::source::AsteriskSource;
use crate::credentials::Credentials;
use crate::process::{Daemon, output};
use crate::settings::{LOOPBACK, PbxPorts, Settings};

/// Asterisk answers within a second. The timeout leaves room for a loaded machine.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a clean stop may take. Usually it is immediate.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// A crashed Asterisk is restarted, as a supervisor does, unless it ran for less than this.
const SHORTEST_RUN: Duration = Duration::from_secs(5);

/// The URL of ARI for the functions: the proxy, which passes only the requests that they need.
pub fn ari_url(pbx: &PbxPorts) -> String {
    format!("https://{LOOPBACK}:{}/ari", pbx.ari)
}

/// The URL of Asterisk itself, with all of ARI.
pub fn local_ari_url(pbx: &PbxPorts) -> String {
    format!("http://{LOOPBACK}:{}/ari", pbx.ari_plain)
}

/// A running Asterisk and its proxy.
#[derive(Debug)]
pub struct Pbx {
    daemon: Daemon,
    proxy: Daemon,
    source: AsteriskSource,
    ports: PbxPorts,
    configuration: WrittenConfiguration,
    state_dir: PathBuf,
    started: Instant,
}

impl Pbx {
    /// Starts both, and waits until ARI answers through the proxy.
    pub async fn start(
        settings: &Settings,
        source: AsteriskSource,
        ports: PbxPorts,
        configuration: WrittenConfiguration,
        credentials: &Credentials,
    ) -> Result<Self> {
        let state_dir = settings.state_dir();
        let mut pbx = Self {
            daemon: daemon(&source, &ports, &configuration.asterisk, &state_dir)?,
            proxy: proxy(&ports, &configuration, &state_dir)?,
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

    /// Waits until one of them ends for good. Restarts Asterisk when it crashes.
    pub async fn wait_for_exit(&mut self) -> anyhow::Error {
        loop {
            let crash = tokio::select! {
                crash = self.daemon.wait_for_exit() => crash,
                crash = self.proxy.wait_for_exit() => return crash,
            };
            if self.started.elapsed() < SHORTEST_RUN {
                return crash;
            }
            eprintln!("{crash:#}\nRestarting it.");
            let log = self.state_dir.join(self.ports.daemon);
            // Keep the log of the crashed process.
            let _ = std::fs::rename(log.with_extension("log"), log.with_extension("crashed.log"));
            match daemon(
                &self.source,
                &self.ports,
                &self.configuration.asterisk,
                &self.state_dir,
            ) {
                Ok(again) => self.daemon = again,
                Err(error) => return error,
            }
            self.started = Instant::now();
        }
    }

    /// Stops both at once, including the calls.
    pub async fn stop(self) {
        let configuration = path_text(&self.configuration.asterisk);
        let mut stop_command = self
            .source
            .cli(&self.ports, &configuration, "core stop now");
        // If Asterisk does not answer, the signal below ends it.
        let _ = tokio::time::timeout(STOP_TIMEOUT, output(&mut stop_command)).await;
        tokio::join!(
            self.daemon.stop(STOP_TIMEOUT),
            self.proxy.stop(STOP_TIMEOUT)
        );
    }

    async fn wait_until_ready(&mut self, credentials: &Credentials) -> Result<()> {
        let http = ari_client(&credentials.ari_certificate.ca_pem)?;
        let url = format!("{}/asterisk/ping", ari_url(&self.ports));
        let deadline = tokio::time::Instant::now() + START_TIMEOUT;
        while tokio::time::Instant::now() < deadline {
            self.daemon.check_alive().await?;
            self.proxy.check_alive().await?;
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
            "ARI did not answer at {url} within {} s; see target/local/{}.log",
            START_TIMEOUT.as_secs(),
            self.ports.daemon
        )
    }
}

fn daemon(
    source: &AsteriskSource,
    ports: &PbxPorts,
    configuration: &Path,
    state_dir: &Path,
) -> Result<Daemon> {
    let mut command = source.asterisk(ports, &["-f", "-C", &path_text(configuration)]);
    Daemon::start(ports.daemon, &mut command, state_dir)
}

fn proxy(
    ports: &PbxPorts,
    configuration: &WrittenConfiguration,
    state_dir: &Path,
) -> Result<Daemon> {
    let mut command = Command::new("haproxy");
    for file in &configuration.proxy {
        command.arg("-f").arg(file);
    }
    Daemon::start(ports.proxy_daemon, &mut command, state_dir)
}

/// An HTTP client that trusts the stack's certificate authority.
pub fn ari_client(ca_pem: &str) -> Result<Client> {
    Ok(Client::builder()
        .tls_certs_only([Certificate::from_pem(ca_pem.as_bytes())?])
        .timeout(Duration::from_secs(5))
        .build()?)
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
