//! The release archive of `make dist`, made here from the unoptimized programs: `sam deploy` deploys it into the local AWS without
//! Rust, and its functions run.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use ringback_local::cloud::point_at_local_aws;
use ringback_local::cloud::region::PRIMARY;
use ringback_local::release;
use ringback_local::settings::Settings;
use ringback_local::stack::Stack;
use serde_json::Value;

/// The deployment from the release, beside the one of the running stack.
const NAME: &str = "ringback-release";

#[tokio::test(flavor = "multi_thread")]
async fn a_release_deploys_without_rust_and_its_functions_run() -> Result<()> {
    let settings = Settings::from_environment();
    let endpoint = Stack::load(&settings.state_dir())?.aws.endpoint;
    let folder = unpacked(&settings).await?;
    has_the_checksums_and_the_bill_of_its_parts(&folder)?;
    cdk_includes_the_whole_template(&settings, &folder)?;

    let sam = Sam::of(&settings, &folder)?;
    sam.run(&[
        "deploy",
        "--no-confirm-changeset",
        "--parameter-overrides",
        "AriUrl=https://127.0.0.1:8089/ari LocalApiGatewayUrl=http://127.0.0.1:4566/_aws/execute-api",
    ])?;
    let outputs = sam.run(&["list", "stack-outputs", "--output", "json"])?;
    let outputs: Vec<Value> = serde_json::from_str(&outputs)?;
    let api = outputs.iter().find(|one| one["OutputKey"] == "HttpApiId");
    let api = api.and_then(|one| one["OutputValue"].as_str());
    let url = format!("{endpoint}/_aws/execute-api/{}/", api.context("HttpApiId")?);
    let page = reqwest::get(&url).await?;
    let (status, text) = (page.status(), page.text().await?);
    ensure!(
        status == 200 && text.contains("<title>Ringback"),
        "{status}: {text}"
    );
    sam.run(&["delete", "--no-prompts"])?;
    Ok(std::fs::remove_dir_all(folder)?)
}

/// Makes the archive and unpacks it elsewhere.
async fn unpacked(settings: &Settings) -> Result<PathBuf> {
    let command = ringback_e2e::ringback_command::binary()?;
    let built = command.parent().context("the command has no folder")?;
    let archive = release::create(settings, built).await?;
    let elsewhere = std::env::temp_dir().join(format!("ringback-release-{}", std::process::id()));
    std::fs::create_dir_all(&elsewhere)?;
    run(Command::new("tar")
        .arg("-xzf")
        .arg(archive)
        .arg("-C")
        .arg(&elsewhere))?;
    Ok(elsewhere.join(release::name()))
}

fn has_the_checksums_and_the_bill_of_its_parts(folder: &Path) -> Result<()> {
    let mut sums = Command::new("sha256sum");
    run(sums
        .args(["--check", "--strict", "--quiet", "SHA256SUMS"])
        .current_dir(folder))?;
    let bill: Value = serde_json::from_slice(&std::fs::read(folder.join("sbom.cdx.json"))?)?;
    let component = |name: &str| {
        let all = bill["components"].as_array().into_iter().flatten();
        all.clone().find(|one| one["name"] == name).cloned()
    };
    let rustls = component("rustls").context("the bill lacks a crate")?;
    let checksum = rustls["hashes"][0]["content"].as_str().unwrap_or_default();
    ensure!(checksum.len() == 64, "{rustls}");
    for not_shipped in ["proptest", "ringback-e2e", "ringback-bench"] {
        ensure!(
            component(not_shipped).is_none(),
            "the bill has {not_shipped}"
        );
    }
    Ok(())
}

/// CDK's `CfnInclude` keeps every part. It only sorts the dependencies.
fn cdk_includes_the_whole_template(settings: &Settings, folder: &Path) -> Result<()> {
    let path = folder.join("template.json");
    let mut node = Command::new("node");
    node.arg(
        settings
            .repository()
            .join("e2e/tests/stack/cdk/include.mjs"),
    );
    let mut included: Value = serde_json::from_str(&run(node.arg(&path).current_dir(folder))?)?;
    let mut template: Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    for resources in [&mut included["Resources"], &mut template["Resources"]] {
        for resource in resources
            .as_object_mut()
            .into_iter()
            .flat_map(|all| all.values_mut())
        {
            if let Some(names) = resource["DependsOn"].as_array_mut() {
                names.sort_by_key(Value::to_string);
            }
        }
    }
    for part in [
        "Transform",
        "Globals",
        "Mappings",
        "Conditions",
        "Resources",
        "Outputs",
    ] {
        ensure!(included[part] == template[part], "CDK changes {part}");
    }
    Ok(())
}

/// The SAM CLI in the folder of the release, on a PATH without cargo.
struct Sam<'a> {
    program: PathBuf,
    path: String,
    folder: &'a Path,
}

impl<'a> Sam<'a> {
    fn of(settings: &Settings, folder: &'a Path) -> Result<Self> {
        let bin = settings.tools_dir().join("venv/bin");
        let path = format!("{}:/usr/bin:/bin", bin.display());
        let found = Command::new("sh")
            .args(["-c", "command -v cargo"])
            .env("PATH", &path)
            .status()?;
        ensure!(!found.success(), "this PATH has a cargo: {path}");
        Ok(Self {
            program: bin.join("sam"),
            path,
            folder,
        })
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = tokio::process::Command::new(&self.program);
        point_at_local_aws(&mut command, PRIMARY)
            .args(arguments)
            .args(["--stack-name", NAME])
            .env("PATH", &self.path)
            .current_dir(self.folder);
        run(command.as_std_mut())
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout).into_owned(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    );
    ensure!(output.status.success(), "{command:?}\n{out}\n{err}");
    Ok(out)
}
