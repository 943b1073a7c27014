//! `ringback-local invoke EVENT`: sends an event of `events/` to its function with `sam local invoke`, and first the events that
//! it needs.
//!
//! The functions get the environment of the deployed ones, with a new table, a queue and secrets of their own. So an event
//! finds the same state each time, and the calls of the running stack are not affected.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value, json};

use super::relay::Relays;
use super::{
    EventFile, Expectation, FunctionResources, HOST_OF_CONTAINERS, documented_secrets, expectations,
};
use crate::cloud::region::{PRIMARY, Region};
use crate::cloud::template::{EXPANDED, Template};
use crate::cloud::{build, point_at_local_aws};
use crate::settings::{ARCHITECTURE, LOOPBACK, STACK_NAME, Settings};
use crate::stack::Stack;
use crate::tools::{Tools, make_dir};

const REGION: Region = PRIMARY;

/// Sends the event, and prints each answer. Fails if the answer is not the expected one.
pub async fn invoke(settings: &Settings, event: &str) -> Result<()> {
    let repository = settings.repository();
    let stack = Stack::load(&settings.state_dir())?;
    let files = EventFile::all(repository)?;
    let expectations = expectations(repository)?;
    let expected = find(&expectations, event)?;
    let relays = Relays::open().await?;
    let secrets = documented_secrets(repository)?;
    let resources = FunctionResources::create_for(HOST_OF_CONTAINERS, stack, &secrets).await?;
    let result = async {
        let invoker = Invoker::prepare(settings, relays, &files, &resources).await?;
        for needed in &expected.needs {
            let needed = find(&expectations, needed)?;
            println!("{} comes first", needed.event);
            invoker.invoke(needed).await?;
        }
        invoker.invoke(expected).await
    };
    let result = result.await;
    resources.delete().await?;
    result
}

fn find<'a>(expectations: &'a [Expectation], event: &str) -> Result<&'a Expectation> {
    let found = expectations.iter().find(|one| one.event == event);
    found.with_context(|| {
        let names: Vec<&str> = expectations.iter().map(|one| one.event.as_str()).collect();
        format!(
            "events/README.md has no event {event:?}; it has {}",
            names.join(", ")
        )
    })
}

/// What each `sam local invoke` needs.
struct Invoker<'a> {
    settings: &'a Settings,
    files: &'a [EventFile],
    relays: Relays,
    folder: PathBuf,
    /// The logical ids of the functions, by the names of their executables.
    functions: BTreeMap<String, String>,
}

impl<'a> Invoker<'a> {
    async fn prepare(
        settings: &'a Settings,
        relays: Relays,
        files: &'a [EventFile],
        resources: &FunctionResources,
    ) -> Result<Self> {
        let folder = settings.state("invoke");
        make_dir(&folder)?;
        let template = Template::read(&settings.template())?;
        let functions = template.functions();
        let mut environments = Map::new();
        for (binary, id) in &functions {
            let environment = environment(binary, resources).await?;
            environments.insert(id.clone(), json!(environment));
        }
        let text = serde_json::to_string_pretty(&environments)?;
        std::fs::write(folder.join("env.json"), text + "\n")?;
        template
            .with_builds(|binary| build::archive(settings, binary))
            .for_architecture(ARCHITECTURE)
            .with_variable("AWS_ENDPOINT_URL")
            .write(&folder.join(EXPANDED))?;
        Ok(Self {
            settings,
            files,
            relays,
            folder,
            functions,
        })
    }

    async fn invoke(&self, expected: &Expectation) -> Result<()> {
        let name = &expected.event;
        let file = self.files.iter().find(|file| file.name == *name);
        let file = file.with_context(|| format!("events/{name}.json is missing"))?;
        let function = file.function(self.functions.keys().map(String::as_str));
        let id = function.and_then(|binary| self.functions.get(binary));
        let id = id.with_context(|| format!("{name} belongs to no function"))?;
        let mut sam = Tools::at(self.settings).command("sam");
        point_at_local_aws(&mut sam, REGION)
            .args(["local", "invoke", id, "--region", REGION.name])
            .args(["--template-file", EXPANDED, "--env-vars", "env.json"])
            .arg("--add-host")
            .arg(format!("{HOST_OF_CONTAINERS}:{}", self.relays.address))
            .arg("--event")
            .arg(
                self.settings
                    .repository()
                    .join(format!("events/{name}.json")),
            )
            .current_dir(&self.folder)
            .stdout(Stdio::piped());
        println!("sam local invoke {id} --event events/{name}.json");
        // The function's log goes to stderr.
        let sam = sam.spawn().context("could not start the SAM CLI")?;
        let printed = sam.wait_with_output().await?;
        let answer: Value = serde_json::from_slice(&printed.stdout)
            .with_context(|| format!("{id} gave no answer: see its log above"))?;
        println!("{}", serde_json::to_string_pretty(&answer)?);
        let status = answer["statusCode"].as_u64();
        let is_expected = expected.statuses.is_empty()
            || expected
                .statuses
                .iter()
                .any(|one| Some(u64::from(*one)) == status);
        println!("expected: {}\n", expected.answer);
        if !is_expected || answer["errorMessage"].is_string() {
            bail!("this is not the answer that events/README.md promises for {name}");
        }
        Ok(())
    }
}

/// The environment of the deployed function, with the resources in place of the stack's own.
async fn environment(
    binary: &str,
    resources: &FunctionResources,
) -> Result<BTreeMap<String, String>> {
    let url = format!(
        "{}/2015-03-31/functions/{STACK_NAME}-{binary}/configuration",
        REGION.endpoint()
    );
    let answer = reqwest::get(&url).await?.error_for_status()?;
    let configuration: Value = serde_json::from_str(&answer.text().await?)?;
    let variables = configuration["Environment"]["Variables"].clone();
    let mut environment: BTreeMap<String, String> = serde_json::from_value(variables)
        .with_context(|| format!("the local AWS has no environment of {binary}"))?;
    let of_resources = resources.variables();
    for (name, value) in &mut environment {
        // All PBXs, because the deployed SIP URIs have their names.
        if name == "ARI_URL" {
            *value = value.replace(LOOPBACK, HOST_OF_CONTAINERS);
        } else if let Some(own) = of_resources.get(name.as_str()) {
            value.clone_from(own);
        }
    }
    environment.insert(
        "AWS_ENDPOINT_URL".to_owned(),
        of_resources["AWS_ENDPOINT_URL"].clone(),
    );
    // Longer than the events that come first take.
    let ring = environment.entry("RING_TIMEOUT_SECONDS".to_owned());
    ring.and_modify(|seconds| *seconds = "20".to_owned());
    // The tokens of the events have neither.
    for name in ["TOKEN_ISSUER", "TOKEN_AUDIENCE"] {
        environment.entry(name.to_owned()).and_modify(String::clear);
    }
    Ok(environment)
}
