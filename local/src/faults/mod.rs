//! Faults on the way from the functions to the systems around them: each system stands behind a listener of ours that
//! hands every request on, until it is told not to.
//!
//! [`rule`] says what can be made to happen; [`proxy`] makes it happen; [`book`] knows whose requests they are, so that
//! one call of many can be meant; [`behind`] finds the function that asks, to end it; [`control`] is how tests say what
//! they want. Only a stack that is started with `FAULTS=yes` has all this.

mod behind;
mod book;
mod control;
mod operation;
mod proxy;
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
use behind::Functions;
use book::Book;
use proxy::{Door, Tls};
use rule::{Line, System};

/// The variable that puts the faults in.
const WANTED: &str = "FAULTS";

/// The listeners, bound and not served yet: others have to be told where they are first.
#[derive(Debug)]
pub struct Faults {
    listeners: Vec<(System, TcpListener)>,
    control: TcpListener,
}

/// The listeners, served until this is dropped.
#[derive(Debug)]
pub struct Serving {
    _tasks: JoinSet<()>,
}

/// Where the systems really are.
#[derive(Debug)]
pub struct Upstreams {
    /// The local AWS.
    pub aws: String,
    /// ARI.
    pub pbx: String,
    /// FCM.
    pub fcm: String,
    /// Exotel's API.
    pub exotel: String,
}

impl Faults {
    /// Listens in front of each system, if the environment says `FAULTS=yes`.
    pub async fn if_wanted(settings: &Settings) -> Result<Option<Self>> {
        if settings.variable(WANTED) != Some("yes") {
            return Ok(None);
        }
        let mut listeners = Vec::new();
        for system in System::ALL {
            listeners.push((system, listen(port(system)).await?));
        }
        let control = listen(PORTS.faults).await?;
        Ok(Some(Self { listeners, control }))
    }

    /// Begins to hand on. `cloud` names the process whose children the functions are.
    pub fn serve(
        self,
        upstreams: &Upstreams,
        credentials: &Credentials,
        cloud: PidFile,
    ) -> Result<Serving> {
        let book = Arc::new(Book::default());
        let functions = Arc::new(Functions::of(cloud));
        let mut tasks = JoinSet::new();
        let mut lines = Vec::new();
        for (system, listener) in self.listeners {
            let (line, told) = watch::channel(Line::Open);
            lines.push((system, line));
            let door = Door {
                system,
                upstream: upstreams.of(system).trim_end_matches('/').to_owned(),
                client: client(system, credentials)?,
                tls: tls(system, credentials)?,
                book: Arc::clone(&book),
                functions: Arc::clone(&functions),
            };
            tasks.spawn(proxy::keep(Arc::new(door), listener, told));
        }
        let control = control::router(book, lines);
        tasks.spawn(async move {
            // It ends with the stack.
            let _ = axum::serve(self.control, control).await;
        });
        Ok(Serving { _tasks: tasks })
    }
}

impl Upstreams {
    fn of(&self, system: System) -> &str {
        match system {
            System::Aws => &self.aws,
            System::Pbx => &self.pbx,
            System::Fcm => &self.fcm,
            System::Exotel => &self.exotel,
        }
    }
}

/// What the functions take for a system.
#[must_use]
pub fn url(system: System) -> String {
    let port = port(system);
    match system {
        System::Pbx => format!("https://{LOOPBACK}:{port}/ari"),
        System::Aws | System::Fcm | System::Exotel => format!("http://{LOOPBACK}:{port}"),
    }
}

/// Where faults are asked for.
#[must_use]
pub fn control_url() -> String {
    format!("http://{LOOPBACK}:{}", PORTS.faults)
}

/// Fixed, below those that the system hands out: a line that was cut has to come back where it was.
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
        .with_context(|| format!("could not listen on {port} for faults"))
}

/// One connection a request, so that what is broken is what was asked for, and never a connection that had been idle.
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
        .then(|| Tls::of(certificate))
        .transpose()
}
