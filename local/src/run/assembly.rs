//! Starts the parts of the stack, in parallel where possible, and stops them together.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio::task::JoinHandle;

use super::deployment::{DeployedRegion, DeployedRegions, Deployer};
use super::description::describe;
use super::parameters::{FunctionUrls, system_urls};
use crate::cloud::region::{PRIMARY, Region, RegionCount};
use crate::credentials::Credentials;
use crate::faults::{self, FaultListeners};
use crate::gateway::{Gateway, Upstream};
use crate::pbx::fleet::{Fleet, ari_urls};
use crate::pbx::source;
use crate::process::{Daemon, PidFile};
use crate::progress::Progress;
use crate::region_outage::{self, RegionPair, StoppableRegion};
use crate::replication::Replication;
use crate::settings::{LOOPBACK, PORTS, Settings};
use crate::stack::Stack;
use crate::stand_in;

/// How long a child process may take to end before it is killed.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the first health check may fail, because the functions start cold.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(15);

/// A running stack.
#[derive(Debug)]
pub(super) struct RunningStack {
    pub(super) description: Stack,
    cloud: Daemon,
    second_cloud: Option<Daemon>,
    pbxs: Fleet,
    gateways: Gateways,
    _servers: Vec<JoinHandle<()>>,
    _faults: Option<faults::RunningProxies>,
}

/// The gateways. Dropping them closes them.
#[derive(Debug)]
enum Gateways {
    One { _gateway: Gateway },
    Two { _regions: Arc<RegionPair> },
}

impl RunningStack {
    pub(super) async fn wait_for_exit(&mut self) -> anyhow::Error {
        let second = async {
            match &mut self.second_cloud {
                Some(cloud) => cloud.wait_for_exit().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            error = self.cloud.wait_for_exit() => error,
            error = second => error,
            error = self.pbxs.wait_for_exit() => error,
        }
    }

    pub(super) async fn stop(self, settings: &Settings, progress: Progress) {
        Stack::remove(&settings.state_dir());
        progress.say("stopping");
        drop(self.gateways);
        let second = async {
            if let Some(cloud) = self.second_cloud {
                cloud.stop(STOP_TIMEOUT).await;
            }
        };
        tokio::join!(self.pbxs.stop(), self.cloud.stop(STOP_TIMEOUT), second);
        progress.say("stopped");
    }
}

/// Starts everything.
pub(super) async fn start(
    settings: &Settings,
    progress: Progress,
    count: RegionCount,
) -> Result<RunningStack> {
    let faults = FaultListeners::if_enabled(settings).await?;
    let with_faults = faults.is_some();
    let token_uri = format!("{}/token", FunctionUrls::of(PRIMARY, with_faults).fcm);
    let deployer = Deployer::new(settings, progress, with_faults)?;

    let prepare_cloud = async {
        deployer.install_and_build().await?;
        deployer.start_regions(count).await
    };
    let prepare_pbx = install_asterisk(settings, progress);
    let make_credentials = async {
        let made = tokio::task::spawn_blocking(move || Credentials::generate(&token_uri)).await?;
        made?.with_overrides(settings)
    };
    let (regions, asterisk, credentials) =
        tokio::try_join!(prepare_cloud, prepare_pbx, make_credentials)?;

    let serve = |listeners: FaultListeners| {
        let urls = system_urls(settings);
        let cloud = PidFile::new(&settings.state_dir(), PRIMARY.part);
        listeners.serve(&urls, &credentials, cloud)
    };
    let proxies = faults.map(serve).transpose()?;
    let mut servers = serve_stand_ins(&credentials).await?;
    let seed = regions.seed(&credentials, with_faults);
    progress
        .step("write the secrets and phone numbers", None, seed)
        .await?;
    let open = OpenGateways::open(settings, &regions, &credentials).await?;
    servers.extend(open.server);
    let starting = start_pbxs(settings, &regions, &asterisk, &credentials, with_faults);
    let pbxs = progress.step("start Asterisk", None, starting).await?;
    for deployed in regions.all() {
        check_health(progress, deployed.region).await;
    }
    let DeployedRegions { first, second } = regions;
    let (region, outputs) = (first.region, &first.outputs);
    let description = Stack {
        fallback: open.fallback,
        region_control_url: open.region_control_url,
        ..describe(settings, region, outputs, &credentials, with_faults)?
    };
    description.write(&settings.state_dir())?;
    Ok(RunningStack {
        description,
        cloud: first.cloud,
        second_cloud: second.map(|second| second.cloud),
        pbxs,
        gateways: open.gateways,
        _servers: servers,
        _faults: proxies,
    })
}

async fn start_pbxs(
    settings: &Settings,
    regions: &DeployedRegions,
    asterisk: &source::AsteriskSource,
    credentials: &Credentials,
    with_faults: bool,
) -> Result<Fleet> {
    let listed = if with_faults {
        FunctionUrls::of(PRIMARY, with_faults).pbx
    } else {
        settings.override_or("ARI_URL", ari_urls())
    };
    let url = regions.first.region.http_url();
    let second = regions.second.as_ref();
    let fallback_url = second.map(|second| second.region.http_url());
    let hooks = (url.as_str(), fallback_url.as_deref());
    Fleet::start(settings, asterisk, credentials, hooks, &listed).await
}

fn upstream(settings: &Settings, deployed: &DeployedRegion) -> Result<Upstream> {
    let outputs = &deployed.outputs;
    Ok(Upstream::in_local_aws(
        deployed.region,
        outputs.require("HttpApiId")?,
        outputs.optional("WebSocketApiId"),
        settings.state_dir(),
    ))
}

/// The gateways, and the description of the second region.
struct OpenGateways {
    gateways: Gateways,
    fallback: Option<Box<Stack>>,
    region_control_url: Option<String>,
    server: Option<JoinHandle<()>>,
}

impl OpenGateways {
    async fn open(
        settings: &Settings,
        regions: &DeployedRegions,
        credentials: &Credentials,
    ) -> Result<Self> {
        let first = &regions.first;
        let Some(second) = &regions.second else {
            let _gateway = open_gateway(settings, first).await?;
            return Ok(Self {
                gateways: Gateways::One { _gateway },
                fallback: None,
                region_control_url: None,
                server: None,
            });
        };
        let regions = [
            stoppable_region(settings, first).await?,
            stoppable_region(settings, second).await?,
        ];
        let table = first.outputs.require("TableName")?;
        let replication = Replication::start([first.region, second.region], table).await?;
        let regions = Arc::new(RegionPair::new(regions, replication));
        let server = stand_in::serve(
            region_outage::router(Arc::clone(&regions)),
            PORTS.region_control,
        )
        .await?;
        let fallback = describe(settings, second.region, &second.outputs, credentials, false)?;
        Ok(Self {
            gateways: Gateways::Two { _regions: regions },
            fallback: Some(Box::new(fallback)),
            region_control_url: Some(format!("http://{LOOPBACK}:{}", PORTS.region_control)),
            server: Some(server),
        })
    }
}

async fn open_gateway(settings: &Settings, deployed: &DeployedRegion) -> Result<Gateway> {
    Gateway::start(upstream(settings, deployed)?, deployed.region.gateway_port).await
}

async fn stoppable_region(
    settings: &Settings,
    deployed: &DeployedRegion,
) -> Result<StoppableRegion> {
    let gateway = open_gateway(settings, deployed).await?;
    let group = deployed.cloud.group();
    Ok(StoppableRegion::new(
        deployed.region,
        group,
        upstream(settings, deployed)?,
        gateway,
    ))
}

async fn install_asterisk(
    settings: &Settings,
    progress: Progress,
) -> Result<source::AsteriskSource> {
    match source::installation_step(settings)? {
        Some(name) => {
            progress
                .step(name, Some(source::log(settings)), source::install(settings))
                .await
        }
        None => source::install(settings).await,
    }
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
    let deadline = tokio::time::Instant::now() + HEALTH_TIMEOUT;
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
            return progress.say(&format!("health in {}: UNHEALTHY: {answer}", region.name));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
