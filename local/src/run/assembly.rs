//! Starts the parts in their order, side by side where that saves time, and stops them together.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use super::description::{describe, http_url};
use crate::cloud::deploy::{self, Outputs};
use crate::cloud::template::Template;
use crate::cloud::{apis, build, emulator, endpoint, seed};
use crate::credentials::Credentials;
use crate::faults::rule::System;
use crate::faults::{self, Faults, Upstreams};
use crate::gateway::{Gateway, Upstream};
use crate::pbx::fleet::{Fleet, ari_urls};
use crate::pbx::server::ari_url;
use crate::pbx::source;
use crate::process::{Daemon, PidFile};
use crate::progress::Progress;
use crate::settings::{LOOPBACK, PBXS, PORTS, Settings, TOKEN_AUDIENCE, TOKEN_ISSUER};
use crate::stack::Stack;
use crate::stand_in;
use crate::tools::Tools;

/// How long a child may take to end before it is ended.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the first health check may fail: the functions start cold.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

/// A stack with all its parts running.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) description: Stack,
    cloud: Daemon,
    pbxs: Fleet,
    _gateway: Gateway,
    _stand_ins: [JoinHandle<()>; 2],
    _faults: Option<faults::Serving>,
}

impl Running {
    pub(super) async fn part_ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.cloud.ended() => error,
            error = self.pbxs.ended() => error,
        }
    }

    pub(super) async fn stop(self, settings: &Settings, progress: Progress) {
        Stack::remove(&settings.state_dir());
        progress.say("stopping");
        tokio::join!(self.pbxs.stop(), self.cloud.stop(PATIENCE));
        progress.say("stopped");
    }
}

/// Brings everything up, side by side where that saves time.
pub(super) async fn start(settings: &Settings, progress: Progress) -> Result<Running> {
    let template = Template::read(&settings.repository().join("template.yaml"))?;
    let faults = Faults::if_wanted(settings).await?;
    let around = Around::with(faults.is_some());
    let token_uri = format!("{}/token", around.fcm);
    let tools = Tools::at(settings);

    let prepare_cloud = async {
        install_and_build(settings, progress, &tools, &template).await?;
        let cloud = progress
            .step(
                "start the local AWS",
                None,
                emulator::start(settings, &tools, &around.aws),
            )
            .await?;
        let outputs = deploy_application(settings, progress, &tools, &template, &around).await;
        stop_if_failed(cloud, outputs).await
    };
    let prepare_pbx = obtain_asterisk(settings, progress);
    let make_credentials = async {
        let made = tokio::task::spawn_blocking(move || Credentials::generate(&token_uri)).await?;
        made?.overridden(settings)
    };
    let ((cloud, outputs), asterisk, credentials) =
        tokio::try_join!(prepare_cloud, prepare_pbx, make_credentials)?;

    let with_faults = faults.is_some();
    let serve = |faults: Faults| {
        let upstreams = upstreams(settings);
        let cloud = PidFile::new(&settings.state_dir(), emulator::NAME);
        faults.serve(&upstreams, &credentials, cloud)
    };
    let serving = faults.map(serve).transpose();
    let rest = async {
        let serving = serving?;
        let front = finish(
            settings,
            progress,
            &outputs,
            asterisk,
            &credentials,
            with_faults,
        )
        .await?;
        anyhow::Ok((serving, front))
    };
    let (cloud, (faults, (pbxs, gateway, stand_ins, description))) =
        stop_if_failed(cloud, rest.await).await?;
    Ok(Running {
        description,
        cloud,
        pbxs,
        _gateway: gateway,
        _stand_ins: stand_ins,
        _faults: faults,
    })
}

/// Hands on what came after the local AWS was started, or stops it.
async fn stop_if_failed<T>(cloud: Daemon, outcome: Result<T>) -> Result<(Daemon, T)> {
    match outcome {
        Ok(value) => Ok((cloud, value)),
        Err(error) => {
            cloud.stop(PATIENCE).await;
            Err(error)
        }
    }
}

/// Side by side, unless one of the tools is what compiles.
async fn install_and_build(
    settings: &Settings,
    progress: Progress,
    tools: &Tools,
    template: &Template,
) -> Result<()> {
    let binaries = template.binaries();
    let name = format!("compile the {} functions", binaries.len());
    let compile = progress.step(
        &name,
        Some(build::log(settings)),
        build::functions(settings, tools, &binaries),
    );
    if tools.are_installed() {
        return compile.await;
    }
    let install = progress.step(
        "install the tools into target/tools",
        Some(tools.log()),
        tools.install(),
    );
    if build::needs_cargo_lambda(settings) {
        install.await?;
        return compile.await;
    }
    tokio::try_join!(install, compile)?;
    Ok(())
}

async fn obtain_asterisk(settings: &Settings, progress: Progress) -> Result<source::Source> {
    match source::work_ahead(settings) {
        Some(work) => {
            progress
                .step(work, Some(source::log(settings)), source::obtain(settings))
                .await
        }
        None => source::obtain(settings).await,
    }
}

async fn deploy_application(
    settings: &Settings,
    progress: Progress,
    tools: &Tools,
    template: &Template,
    around: &Around,
) -> Result<Outputs> {
    let path = settings.state("template.yaml");
    std::fs::write(
        &path,
        template.with_builds_in(&build::builds_dir(settings))?,
    )?;
    let parameters = parameters(settings, &template.parameters(), around);
    let deployment = deploy::deploy(settings, tools, &path, &parameters);
    progress
        .step(
            "deploy template.yaml",
            Some(deploy::log(settings)),
            deployment,
        )
        .await
}

/// The parameters that say where a system is that may stand behind a door.
const BEHIND_DOORS: [&str; 3] = ["AriUrl", "FcmBaseUrl", "ExotelBaseUrl"];

/// Where the functions find the systems around them.
#[derive(Debug)]
struct Around {
    aws: String,
    pbx: String,
    fcm: String,
    exotel: String,
    /// Whether these are the doors, which know themselves where the environment wants to have the systems.
    doors: bool,
}

impl Around {
    /// Themselves, or the doors in front of them that faults need.
    fn with(faults: bool) -> Self {
        let or_door = |system, own| if faults { faults::url(system) } else { own };
        let stand_in = |port| format!("http://{LOOPBACK}:{port}");
        Self {
            aws: or_door(System::Aws, endpoint()),
            pbx: or_door(System::Pbx, ari_urls()),
            fcm: or_door(System::Fcm, stand_in(PORTS.fcm)),
            exotel: or_door(System::Exotel, stand_in(PORTS.exotel)),
            doors: faults,
        }
    }
}

/// What stands behind the doors: whatever the environment names, or the stack's own.
fn upstreams(settings: &Settings) -> Upstreams {
    let own = Around::with(false);
    Upstreams {
        aws: own.aws,
        pbx: settings.override_or("ARI_URL", ari_url(&PBXS[0])),
        fcm: settings.override_or("FCM_BASE_URL", own.fcm),
        exotel: settings.override_or("EXOTEL_BASE_URL", own.exotel),
    }
}

/// The stack's own settings for the template, and over them whatever the environment says.
fn parameters(
    settings: &Settings,
    declared: &[String],
    around: &Around,
) -> BTreeMap<String, String> {
    let own = [
        (
            "Architecture",
            if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "x86_64"
            }
            .to_owned(),
        ),
        ("AriUrl", around.pbx.clone()),
        ("FcmBaseUrl", around.fcm.clone()),
        ("ExotelBaseUrl", around.exotel.clone()),
        ("PublicHttpUrl", http_url()),
        ("LocalApiGatewayUrl", apis(&around.aws)),
        ("TokenIssuer", TOKEN_ISSUER.to_owned()),
        ("TokenAudience", TOKEN_AUDIENCE.to_owned()),
        // Tests do in a minute what the apps of one extension do in a month.
        ("CallsPerMinute", "600".to_owned()),
        ("CallsAtOnce", "100".to_owned()),
        ("RegistrationsPerMinute", "600".to_owned()),
        ("RegistrationsAtOnce", "100".to_owned()),
    ];
    let mut parameters: BTreeMap<String, String> = own
        .into_iter()
        .filter(|(name, _)| declared.iter().any(|declared| declared == name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    let mut changed = settings.parameters_from_environment(declared);
    if around.doors {
        changed.retain(|name, _| !BEHIND_DOORS.contains(&name.as_str()));
    }
    parameters.extend(changed);
    parameters
}

type Front = (Fleet, Gateway, [JoinHandle<()>; 2], Stack);

/// Everything that needs the deployed application's names.
async fn finish(
    settings: &Settings,
    progress: Progress,
    outputs: &Outputs,
    asterisk: source::Source,
    credentials: &Credentials,
    with_faults: bool,
) -> Result<Front> {
    let stand_ins = serve_stand_ins(credentials).await?;
    progress
        .step(
            "put the secrets, routes and numbers",
            None,
            seed::fill(outputs, credentials, with_faults),
        )
        .await?;
    let upstream = Upstream::in_local_aws(
        outputs.require("HttpApiId")?,
        outputs.optional("WebSocketApiId"),
    )?;
    let gateway = Gateway::start(upstream, PORTS.gateway).await?;
    let listed = if with_faults {
        Around::with(with_faults).pbx
    } else {
        settings.override_or("ARI_URL", ari_urls())
    };
    let url = http_url();
    let starting = Fleet::start(settings, &asterisk, credentials, &url, &listed);
    let pbxs = progress.step("start Asterisk", None, starting).await?;
    check_health(progress).await;
    let description = describe(settings, outputs, credentials, with_faults)?;
    description.write(&settings.state_dir())?;
    Ok((pbxs, gateway, stand_ins, description))
}

async fn serve_stand_ins(credentials: &Credentials) -> Result<[JoinHandle<()>; 2]> {
    let fcm = stand_in::fcm::router(&credentials.service_account)?;
    let exotel = stand_in::exotel::router(&credentials.exotel)?;
    Ok([
        stand_in::serve(fcm, PORTS.fcm).await?,
        stand_in::serve(exotel, PORTS.exotel).await?,
    ])
}

/// Says how the application finds itself. An unhealthy stack is left running: it is there to be looked at.
async fn check_health(progress: Progress) {
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    loop {
        let answer = match reqwest::get(format!("{}/health", http_url())).await {
            Ok(answer) if answer.status().is_success() => return progress.say("health: 200"),
            Ok(answer) => format!(
                "{}: {}",
                answer.status(),
                answer.text().await.unwrap_or_default()
            ),
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            return progress.say(&format!("health: NOT WELL, {answer}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
