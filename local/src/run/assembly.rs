//! Starts the parts of the stack, in parallel where possible, and stops them together.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use super::description::describe;
use crate::cloud::deploy::{self, Outputs};
use crate::cloud::region::{Extent, FALLBACK, PRIMARY, Region};
use crate::cloud::template::Template;
use crate::cloud::{apis, build, emulator, replica, seed};
use crate::credentials::Credentials;
use crate::faults::rule::System;
use crate::faults::{self, Faults, Upstreams};
use crate::gateway::{Gateway, Upstream};
use crate::loss::{self, Losable, TwoRegions};
use crate::pbx::fleet::{Fleet, ari_urls};
use crate::pbx::server::ari_url;
use crate::pbx::source;
use crate::process::{Daemon, PidFile};
use crate::progress::Progress;
use crate::replication::Replication;
use crate::settings::{LOOPBACK, PBXS, PORTS, Settings, TOKEN_AUDIENCE, TOKEN_ISSUER};
use crate::stack::Stack;
use crate::stand_in;
use crate::tools::Tools;

/// How long a child process may take to end before it is killed.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the first health check may fail, because the functions start cold.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

/// A running stack.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) description: Stack,
    cloud: Daemon,
    second_cloud: Option<Daemon>,
    pbxs: Fleet,
    gates: Gates,
    _servers: Vec<JoinHandle<()>>,
    _faults: Option<faults::Serving>,
}

/// The gateways. Dropping them closes them.
#[derive(Debug)]
enum Gates {
    One { _gateway: Gateway },
    Two { _regions: Arc<TwoRegions> },
}

impl Running {
    pub(super) async fn part_ended(&mut self) -> anyhow::Error {
        let second = async {
            match &mut self.second_cloud {
                Some(cloud) => cloud.ended().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = self.cloud.ended() => error,
            error = second => error,
            error = self.pbxs.ended() => error,
        }
    }

    pub(super) async fn stop(self, settings: &Settings, progress: Progress) {
        Stack::remove(&settings.state_dir());
        progress.say("stopping");
        drop(self.gates);
        let second = async {
            if let Some(cloud) = self.second_cloud {
                cloud.stop(PATIENCE).await;
            }
        };
        tokio::join!(self.pbxs.stop(), self.cloud.stop(PATIENCE), second);
        progress.say("stopped");
    }
}

/// A region with the application deployed into it.
struct Deployed {
    region: Region,
    cloud: Daemon,
    outputs: Outputs,
}

/// The regions of a stack.
struct Regions {
    first: Deployed,
    second: Option<Deployed>,
}

impl Regions {
    fn all(&self) -> impl Iterator<Item = &Deployed> {
        [&self.first].into_iter().chain(&self.second)
    }
}

/// Starts everything.
pub(super) async fn start(
    settings: &Settings,
    progress: Progress,
    extent: Extent,
) -> Result<Running> {
    let template = Template::read(&settings.repository().join("template.yaml"))?;
    let faults = Faults::if_wanted(settings).await?;
    let with_faults = faults.is_some();
    let token_uri = format!("{}/token", Around::region(PRIMARY, with_faults).fcm);
    let tools = Tools::at(settings);

    let prepare_cloud = async {
        install_and_build(settings, progress, &tools, &template).await?;
        deploy_everywhere(settings, progress, &tools, &template, extent, with_faults).await
    };
    let prepare_pbx = obtain_asterisk(settings, progress);
    let make_credentials = async {
        let made = tokio::task::spawn_blocking(move || Credentials::generate(&token_uri)).await?;
        made?.overridden(settings)
    };
    let (regions, asterisk, credentials) =
        tokio::try_join!(prepare_cloud, prepare_pbx, make_credentials)?;

    let serve = |faults: Faults| {
        let upstreams = upstreams(settings);
        let cloud = PidFile::new(&settings.state_dir(), PRIMARY.part);
        faults.serve(&upstreams, &credentials, cloud)
    };
    let serving = faults.map(serve).transpose()?;
    let mut servers = serve_stand_ins(&credentials).await?;
    let fill = fill(&regions, &credentials, with_faults);
    progress
        .step("put the secrets, routes and numbers", None, fill)
        .await?;
    let front = Front::open(settings, &regions, &credentials).await?;
    servers.extend(front.server);
    let starting = start_pbxs(settings, &regions, &asterisk, &credentials, with_faults);
    let pbxs = progress.step("start Asterisk", None, starting).await?;
    for deployed in regions.all() {
        check_health(progress, deployed.region).await;
    }
    let Regions { first, second } = regions;
    let (region, outputs) = (first.region, &first.outputs);
    let description = Stack {
        fallback: front.fallback,
        loss_url: front.loss_url,
        ..describe(settings, region, outputs, &credentials, with_faults)?
    };
    description.write(&settings.state_dir())?;
    Ok(Running {
        description,
        cloud: first.cloud,
        second_cloud: second.map(|second| second.cloud),
        pbxs,
        gates: front.gates,
        _servers: servers,
        _faults: serving,
    })
}

async fn start_pbxs(
    settings: &Settings,
    regions: &Regions,
    asterisk: &source::Source,
    credentials: &Credentials,
    with_faults: bool,
) -> Result<Fleet> {
    let listed = if with_faults {
        Around::region(PRIMARY, with_faults).pbx
    } else {
        settings.override_or("ARI_URL", ari_urls())
    };
    let url = regions.first.region.http_url();
    let second = regions.second.as_ref();
    let fallback_url = second.map(|second| second.region.http_url());
    let hooks = (url.as_str(), fallback_url.as_deref());
    Fleet::start(settings, asterisk, credentials, hooks, &listed).await
}

async fn deploy_everywhere(
    settings: &Settings,
    progress: Progress,
    tools: &Tools,
    template: &Template,
    extent: Extent,
    with_faults: bool,
) -> Result<Regions> {
    let around = |region| Around::region(region, with_faults);
    let start = async |region| emulator::start(settings, tools, region, &around(region).aws).await;
    let starting = async {
        match extent {
            Extent::OneRegion => Ok((start(PRIMARY).await?, None)),
            Extent::TwoRegions => {
                let (first, second) = tokio::try_join!(start(PRIMARY), start(FALLBACK))?;
                Ok((first, Some(second)))
            }
        }
    };
    let (first, second) = progress.step("start the local AWS", None, starting).await?;
    let other = second.is_some().then_some(FALLBACK);
    let own = other.map(|other| vec![("OtherRegion", other.name.to_owned())]);
    let own = own.unwrap_or_default();
    let deploy = async |region, own| {
        let around = around(region);
        deploy_application(settings, progress, tools, template, &around, region, own).await
    };
    let outputs = deploy(PRIMARY, own).await?;
    let second = match second {
        None => None,
        Some(cloud) => {
            let table = outputs.require("TableName")?;
            let label = replica::make(PRIMARY, table, FALLBACK).await?;
            let own = vec![
                ("OtherRegion", PRIMARY.name.to_owned()),
                ("ExistingTableName", table.to_owned()),
                ("ExistingTableStreamLabel", label),
            ];
            let outputs = deploy(FALLBACK, own).await?;
            Some(Deployed {
                region: FALLBACK,
                cloud,
                outputs,
            })
        }
    };
    let first = Deployed {
        region: PRIMARY,
        cloud: first,
        outputs,
    };
    Ok(Regions { first, second })
}

async fn fill(regions: &Regions, credentials: &Credentials, with_crowd: bool) -> Result<()> {
    for one in regions.all() {
        seed::secrets(one.region, &one.outputs, credentials).await?;
    }
    let Deployed {
        region, outputs, ..
    } = &regions.first;
    seed::numbers(*region, outputs, with_crowd).await
}

fn upstream(settings: &Settings, deployed: &Deployed) -> Result<Upstream> {
    let outputs = &deployed.outputs;
    Ok(Upstream::in_local_aws(
        deployed.region,
        outputs.require("HttpApiId")?,
        outputs.optional("WebSocketApiId"),
        settings.state_dir(),
    ))
}

/// The gateways, and the description of the second region.
struct Front {
    gates: Gates,
    fallback: Option<Box<Stack>>,
    loss_url: Option<String>,
    server: Option<JoinHandle<()>>,
}

impl Front {
    async fn open(
        settings: &Settings,
        regions: &Regions,
        credentials: &Credentials,
    ) -> Result<Self> {
        let first = &regions.first;
        let Some(second) = &regions.second else {
            let _gateway = open_gateway(settings, first).await?;
            return Ok(Self {
                gates: Gates::One { _gateway },
                fallback: None,
                loss_url: None,
                server: None,
            });
        };
        let regions = [
            losable(settings, first).await?,
            losable(settings, second).await?,
        ];
        let table = first.outputs.require("TableName")?;
        let replication = Replication::start([first.region, second.region], table).await?;
        let regions = Arc::new(TwoRegions::new(regions, replication));
        let server = stand_in::serve(loss::router(Arc::clone(&regions)), PORTS.loss).await?;
        let fallback = describe(settings, second.region, &second.outputs, credentials, false)?;
        Ok(Self {
            gates: Gates::Two { _regions: regions },
            fallback: Some(Box::new(fallback)),
            loss_url: Some(format!("http://{LOOPBACK}:{}", PORTS.loss)),
            server: Some(server),
        })
    }
}

async fn open_gateway(settings: &Settings, deployed: &Deployed) -> Result<Gateway> {
    Gateway::start(upstream(settings, deployed)?, deployed.region.gateway_port).await
}

async fn losable(settings: &Settings, deployed: &Deployed) -> Result<Losable> {
    let gateway = open_gateway(settings, deployed).await?;
    let group = deployed.cloud.group();
    Ok(Losable::new(
        deployed.region,
        group,
        upstream(settings, deployed)?,
        gateway,
    ))
}

/// Installs the tools and compiles the functions, in parallel unless cargo-lambda must be installed first.
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
    match source::work_ahead(settings)? {
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
    region: Region,
    regions_own: Vec<(&'static str, String)>,
) -> Result<Outputs> {
    let path = settings.state("template.yaml");
    std::fs::write(
        &path,
        template.with_builds(|binary| build::archive(settings, binary))?,
    )?;
    let parameters = parameters(
        settings,
        &template.parameters(),
        around,
        region,
        regions_own,
    );
    let deployment = deploy::deploy(settings, tools, region, &path, &parameters);
    let name = format!("deploy template.yaml into {}", region.name);
    let log = deploy::log(settings, region);
    progress.step(&name, Some(log), deployment).await
}

/// The template parameters with the URLs of systems that can be behind a fault proxy.
const BEHIND_DOORS: [&str; 3] = ["AriUrl", "FcmBaseUrl", "ExotelBaseUrl"];

/// The URLs of the systems that the functions use.
#[derive(Debug)]
struct Around {
    aws: String,
    pbx: String,
    fcm: String,
    exotel: String,
    /// Whether these are the URLs of fault proxies. Then the proxies apply the environment variables, and the
    /// parameters must not.
    doors: bool,
}

impl Around {
    /// The systems themselves, or their fault proxies. The local AWS of the second region has no proxy.
    fn region(region: Region, faults: bool) -> Self {
        let or_door = |system, own| if faults { faults::url(system) } else { own };
        let stand_in = |port| format!("http://{LOOPBACK}:{port}");
        Self {
            aws: match region {
                PRIMARY => or_door(System::Aws, region.endpoint()),
                other => other.endpoint(),
            },
            pbx: or_door(System::Pbx, ari_urls()),
            fcm: or_door(System::Fcm, stand_in(PORTS.fcm)),
            exotel: or_door(System::Exotel, stand_in(PORTS.exotel)),
            doors: faults,
        }
    }
}

/// The URLs behind the fault proxies: from the environment, or the stack's own.
fn upstreams(settings: &Settings) -> Upstreams {
    let own = Around::region(PRIMARY, false);
    Upstreams {
        aws: own.aws,
        pbx: settings.override_or("ARI_URL", ari_url(&PBXS[0])),
        fcm: settings.override_or("FCM_BASE_URL", own.fcm),
        exotel: settings.override_or("EXOTEL_BASE_URL", own.exotel),
    }
}

/// The stack's own template parameters, overridden by the environment.
fn parameters(
    settings: &Settings,
    declared: &[String],
    around: &Around,
    region: Region,
    regions_own: Vec<(&'static str, String)>,
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
        ("PublicHttpUrl", region.http_url()),
        ("LocalApiGatewayUrl", apis(&around.aws)),
        ("TokenIssuer", TOKEN_ISSUER.to_owned()),
        ("TokenAudience", TOKEN_AUDIENCE.to_owned()),
        // Tests place as many calls in a minute as one extension's apps in a month.
        ("CallsPerMinute", "600".to_owned()),
        ("CallsAtOnce", "100".to_owned()),
        ("ConcurrentCallsPerExtension", "100".to_owned()),
        ("PhoneCallsPerDay", "10000".to_owned()),
        ("RegistrationsPerMinute", "600".to_owned()),
        ("RegistrationsAtOnce", "100".to_owned()),
        // The example call in the README starts from a number that belongs to no extension.
        ("CallerIdPolicy", "any".to_owned()),
    ];
    let mut parameters: BTreeMap<String, String> = own
        .into_iter()
        .chain(regions_own)
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

async fn serve_stand_ins(credentials: &Credentials) -> Result<Vec<JoinHandle<()>>> {
    let fcm = stand_in::fcm::router(&credentials.service_account)?;
    let exotel = stand_in::exotel::router(&credentials.exotel)?;
    Ok(vec![
        stand_in::serve(fcm, PORTS.fcm).await?,
        stand_in::serve(exotel, PORTS.exotel).await?,
    ])
}

/// Prints the result of the health check. An unhealthy stack keeps running, so that it can be examined.
async fn check_health(progress: Progress, region: Region) {
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    loop {
        let answer = match reqwest::get(format!("{}/health", region.http_url())).await {
            Ok(answer) if answer.status().is_success() => {
                return progress.say(&format!("health in {}: 200", region.name));
            }
            Ok(answer) => format!(
                "{}: {}",
                answer.status(),
                answer.text().await.unwrap_or_default()
            ),
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            return progress.say(&format!("health in {}: NOT WELL, {answer}", region.name));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
