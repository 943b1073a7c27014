//! Builds the functions, and deploys the application into one or two regions.

use anyhow::Result;

use super::parameters::{FunctionUrls, parameters};
use crate::cloud::deploy::{self, Outputs};
use crate::cloud::region::{FALLBACK, PRIMARY, Region, RegionCount};
use crate::cloud::template::{EXPANDED, Template};
use crate::cloud::{build, emulator, replica, seed};
use crate::credentials::Credentials;
use crate::process::Daemon;
use crate::progress::Progress;
use crate::settings::Settings;
use crate::tools::Tools;

/// Template parameters of one region.
type RegionParameters = Vec<(&'static str, String)>;

/// A region with the application deployed into it.
pub(super) struct DeployedRegion {
    pub(super) region: Region,
    pub(super) cloud: Daemon,
    pub(super) outputs: Outputs,
}

/// The regions of a stack.
pub(super) struct DeployedRegions {
    pub(super) first: DeployedRegion,
    pub(super) second: Option<DeployedRegion>,
}

impl DeployedRegions {
    pub(super) fn all(&self) -> impl Iterator<Item = &DeployedRegion> {
        [&self.first].into_iter().chain(&self.second)
    }

    /// Writes the secrets into each region, and the phone numbers into the first one, from which they are replicated.
    pub(super) async fn seed(
        &self,
        credentials: &Credentials,
        with_extra_phones: bool,
    ) -> Result<()> {
        // Both regions need equal values.
        let values = seed::secret_values(credentials);
        for deployed in self.all() {
            seed::secrets(deployed.region, &deployed.outputs, &values).await?;
        }
        let first = &self.first;
        seed::numbers(first.region, &first.outputs, with_extra_phones).await
    }
}

/// What every step of a deployment needs.
pub(super) struct Deployer<'a> {
    pub(super) settings: &'a Settings,
    pub(super) progress: Progress,
    pub(super) with_faults: bool,
    tools: Tools,
    template: Template,
}

impl<'a> Deployer<'a> {
    pub(super) fn new(
        settings: &'a Settings,
        progress: Progress,
        with_faults: bool,
    ) -> Result<Self> {
        Ok(Self {
            settings,
            progress,
            with_faults,
            tools: Tools::at(settings),
            template: Template::read(&settings.template())?,
        })
    }

    /// Installs the tools and compiles the functions, in parallel unless cargo-lambda must be installed first. A release has
    /// its functions.
    pub(super) async fn install_and_build(&self) -> Result<()> {
        let (settings, tools) = (self.settings, &self.tools);
        let install_tools = || {
            let name = "install the tools into target/tools";
            self.progress.step(name, Some(tools.log()), tools.install())
        };
        if settings.is_release() {
            return match tools.are_installed() {
                true => Ok(()),
                false => install_tools().await,
            };
        }
        let binaries = self.template.binaries();
        let name = format!("compile the {} functions", binaries.len());
        let build = build::functions(settings, tools, &binaries);
        let compile = self.progress.step(&name, Some(build::log(settings)), build);
        if tools.are_installed() {
            return compile.await;
        }
        let install = install_tools();
        if build::needs_cargo_lambda(settings) {
            install.await?;
            return compile.await;
        }
        tokio::try_join!(install, compile)?;
        Ok(())
    }

    /// Starts a local AWS for each region and deploys into it.
    pub(super) async fn start_regions(&self, count: RegionCount) -> Result<DeployedRegions> {
        let starting = async {
            match count {
                RegionCount::One => Ok((self.start_local_aws(PRIMARY).await?, None)),
                RegionCount::Two => {
                    let first = self.start_local_aws(PRIMARY);
                    let second = self.start_local_aws(FALLBACK);
                    let (first, second) = tokio::try_join!(first, second)?;
                    Ok((first, Some(second)))
                }
            }
        };
        let (first, second) = self
            .progress
            .step("start the local AWS", None, starting)
            .await?;
        let other_region = |region: Region| ("OtherRegion", region.name.to_owned());
        let own = match count {
            RegionCount::One => Vec::new(),
            RegionCount::Two => vec![other_region(FALLBACK)],
        };
        let first = DeployedRegion {
            region: PRIMARY,
            cloud: first,
            outputs: self.deploy(PRIMARY, own).await?,
        };
        let Some(cloud) = second else {
            return Ok(DeployedRegions {
                first,
                second: None,
            });
        };
        // The second region uses a replica of the first region's table, so it comes second.
        let table = first.outputs.require("TableName")?;
        let label = replica::create(PRIMARY, table, FALLBACK).await?;
        let own = vec![
            other_region(PRIMARY),
            ("ExistingTableName", table.to_owned()),
            ("ExistingTableStreamLabel", label),
        ];
        let second = DeployedRegion {
            region: FALLBACK,
            cloud,
            outputs: self.deploy(FALLBACK, own).await?,
        };
        Ok(DeployedRegions {
            first,
            second: Some(second),
        })
    }

    fn function_urls(&self, region: Region) -> FunctionUrls {
        FunctionUrls::of(region, self.with_faults)
    }

    async fn start_local_aws(&self, region: Region) -> Result<Daemon> {
        let aws = self.function_urls(region).aws;
        emulator::start(self.settings, &self.tools, region, &aws).await
    }

    async fn deploy(&self, region: Region, own: RegionParameters) -> Result<Outputs> {
        let (settings, template) = (self.settings, &self.template);
        let path = settings.state(EXPANDED);
        let deployed = template.clone();
        let deployed = deployed.with_builds(|binary| build::archive(settings, binary));
        deployed.for_emulator().write(&path)?;
        let urls = self.function_urls(region);
        let parameters = parameters(settings, &template.parameters(), &urls, region, own);
        let deployment = deploy::deploy(settings, &self.tools, region, &path, &parameters);
        let name = format!("deploy the template into {}", region.name);
        let log = deploy::log(settings, region);
        self.progress.step(&name, Some(log), deployment).await
    }
}
