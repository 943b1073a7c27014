//! Injects faults between the functions and the systems that they use. Each system has a proxy in front of it, which
//! forwards every request unless a rule says otherwise.
//!
//! [`rule`] defines the faults, [`proxy`] applies them, and [`registry`] assigns requests to test calls, so that a fault
//! can affect one call of many. [`function_process`] finds the function that sends a request, to kill it. Tests set
//! rules through [`control`]. Only a stack that is started with `FAULTS=yes` has these proxies.

mod control;
mod function_process;
mod operation;
mod proxy;
mod registry;
pub mod rule;

use std::sync::Arc;

use anyhow::{Context, Result};
use reqwest::Certificate;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::credentials::Credentials;
use crate::process::PidFile;
use crate::settings::{LOOPBACK, PORTS, Settings};
use function_process::FunctionProcesses;
use proxy::{FaultProxy, Tls};
use registry::FaultRegistry;
use rule::{LinkState, System};

/// The environment variable that enables the faults.
const FAULTS_VARIABLE: &str = "FAULTS";

/// The bound listeners. They are served later, because other parts need their addresses first.
#[derive(Debug)]
pub struct FaultListeners {
    listeners: Vec<(System, TcpListener)>,
    control: TcpListener,
}

/// The running proxies. Dropping this stops them.
#[derive(Debug)]
pub struct RunningProxies {
    _tasks: JoinSet<()>,
}

/// The URLs of the systems themselves.
#[derive(Debug)]
pub struct SystemUrls {
    /// The local AWS.
    pub aws: String,
    /// ARI.
    pub pbx: String,
    /// FCM.
    pub fcm: String,
    /// Exotel's API.
    pub exotel: String,
}

impl FaultListeners {
    /// Listens in front of each system, if `FAULTS=yes`.
    pub async fn if_enabled(settings: &Settings) -> Result<Option<Self>> {
        if settings.variable(FAULTS_VARIABLE) != Some("yes") {
            return Ok(None);
        }
        let mut listeners = Vec::new();
        for system in System::ALL {
            listeners.push((system, listen(port(system)).await?));
        }
        let control = listen(PORTS.faults).await?;
        Ok(Some(Self { listeners, control }))
    }

    /// Starts the proxies. `cloud` is the pid file of the local AWS, the parent of the function processes.
    pub fn serve(
        self,
        upstreams: &SystemUrls,
        credentials: &Credentials,
        cloud: PidFile,
    ) -> Result<RunningProxies> {
        let registry = Arc::new(FaultRegistry::default());
        let functions = Arc::new(FunctionProcesses::new(cloud));
        let mut tasks = JoinSet::new();
        let mut links = Vec::new();
        for (system, listener) in self.listeners {
            let (link, link_state) = watch::channel(LinkState::Open);
            links.push((system, link));
            let proxy = FaultProxy {
                system,
                upstream: upstreams.of(system).trim_end_matches('/').to_owned(),
                client: client(system, credentials)?,
                tls: tls(system, credentials)?,
                registry: Arc::clone(&registry),
                functions: Arc::clone(&functions),
            };
            tasks.spawn(proxy::run(Arc::new(proxy), listener, link_state));
        }
        let control = control::router(registry, links);
        tasks.spawn(async move {
            // Ends with the stack.
            let _ = axum::serve(self.control, control).await;
        });
        Ok(RunningProxies { _tasks: tasks })
    }
}

impl SystemUrls {
    fn of(&self, system: System) -> &str {
        match system {
            System::Aws => &self.aws,
            System::Pbx => &self.pbx,
            System::Fcm => &self.fcm,
            System::Exotel => &self.exotel,
        }
    }
}

/// The URL of a system's proxy, which the functions use.
#[must_use]
pub fn url(system: System) -> String {
    let port = port(system);
    match system {
        System::Pbx => format!("https://{LOOPBACK}:{port}/ari"),
        System::Aws | System::Fcm | System::Exotel => format!("http://{LOOPBACK}:{port}"),
    }
}

/// The URL of the control API.
#[must_use]
pub fn control_url() -> String {
    format!("http://{LOOPBACK}:{}", PORTS.faults)
}

/// Fixed ports below the ephemeral range, so that a listener that was closed can bind to its port again.
const fn port(system: System) -> u16 {
    PORTS.faults
        + match system {
            System::Aws => 1,
            System::Pbx => 2,
            System::Fcm => 3,
            System::Exotel => 4,
        }
}

async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind((LOOPBACK, port))
        .await
        .with_context(|| format!("could not listen on port {port} for the fault proxies"))
}

/// Opens one connection per request, so that a fault affects only the request that it is meant for.
fn client(system: System, credentials: &Credentials) -> Result<reqwest::Client> {
    let mut builder = reqwest::Client::builder()
        .pool_max_idle_per_host(0)
        .redirect(reqwest::redirect::Policy::none());
    if system == System::Pbx {
        let authority = Certificate::from_pem(credentials.ari_ca_pem.as_bytes())?;
        builder = builder.tls_certs_only([authority]);
    }
    Ok(builder.build()?)
}

fn tls(system: System, credentials: &Credentials) -> Result<Option<Tls>> {
    let certificate = &credentials.ari_certificate;
    (system == System::Pbx)
        .then(|| Tls::new(certificate))
        .transpose()
}
