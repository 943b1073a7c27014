//! Deploys the template into the local AWS with the SAM CLI, the same way as into AWS.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use super::point_at_local_aws;
use super::region::Region;
use crate::process::{output, run_logged};
use crate::settings::{STACK_NAME, Settings};
use crate::tools::Tools;

/// The S3 bucket for the ZIP archives.
const BUCKET: &str = "ringback-local-builds";

/// The outputs of the deployed CloudFormation stack.
#[derive(Debug, Clone)]
pub struct Outputs(BTreeMap<String, String>);

impl Outputs {
    /// An output that every deployment has.
    pub fn require(&self, name: &str) -> Result<&str> {
        self.optional(name).with_context(|| {
            format!("the deployed stack has no output {name}, which template.yaml declares")
        })
    }

    /// An output that only some deployments have.
    pub fn optional(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }
}

/// The log of the deployment.
pub fn log(settings: &Settings, region: Region) -> PathBuf {
    settings.state(&region.file("deploy.log"))
}

/// Deploys the template into a region with these parameters.
pub async fn deploy(
    settings: &Settings,
    tools: &Tools,
    region: Region,
    template: &Path,
    parameters: &BTreeMap<String, String>,
) -> Result<Outputs> {
    create_bucket(region).await?;
    let mut command = sam(settings, tools, region);
    command
        .args([
            "deploy",
            "--stack-name",
            STACK_NAME,
            "--region",
            region.name,
            "--s3-bucket",
            BUCKET,
        ])
        .args([
            "--capabilities",
            "CAPABILITY_IAM",
            "CAPABILITY_NAMED_IAM",
            "CAPABILITY_AUTO_EXPAND",
        ])
        .args([
            "--no-confirm-changeset",
            "--no-fail-on-empty-changeset",
            "--no-progressbar",
            "--template-file",
        ])
        .arg(template)
        .arg("--parameter-overrides")
        .args(
            parameters
                .iter()
                .map(|(name, value)| override_of(name, value)),
        );
    run_logged(&mut command, &log(settings, region)).await?;
    outputs(settings, tools, region).await
}

/// A parameter as SAM reads it. It rejects `NAME=`.
fn override_of(name: &str, value: &str) -> String {
    match value {
        "" => format!("{name}=\"\""),
        value => format!("{name}={value}"),
    }
}

/// Runs the SAM CLI in the state directory, where no `samconfig.toml` overrides the arguments.
fn sam(settings: &Settings, tools: &Tools, region: Region) -> tokio::process::Command {
    let mut command = tools.command("sam");
    point_at_local_aws(&mut command, region)
        .current_dir(settings.state_dir())
        .env("__SAM_CLI_APP_DIR", settings.state("sam"));
    command
}

async fn create_bucket(region: Region) -> Result<()> {
    let answer = reqwest::Client::new()
        .put(format!("{}/{BUCKET}", region.endpoint()))
        .send()
        .await?;
    ensure!(
        answer.status().is_success(),
        "could not create the S3 bucket: {}",
        answer.status()
    );
    Ok(())
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Output {
    output_key: String,
    output_value: String,
}

async fn outputs(settings: &Settings, tools: &Tools, region: Region) -> Result<Outputs> {
    let mut command = sam(settings, tools, region);
    command.args([
        "list",
        "stack-outputs",
        "--stack-name",
        STACK_NAME,
        "--region",
        region.name,
        "--output",
        "json",
    ]);
    let printed = output(&mut command).await?;
    let outputs: Vec<Output> = serde_json::from_str(&printed)
        .with_context(|| format!("unexpected output of `sam list stack-outputs`: {printed}"))?;
    Ok(Outputs(
        outputs
            .into_iter()
            .map(|output| (output.output_key, output.output_value))
            .collect(),
    ))
}
