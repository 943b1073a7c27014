//! A healthy stack, and the ways to break it: in the secrets, in Asterisk, in the stand-ins, in the table and in the functions. Each way
//! creates a fault, looks, and takes the fault back before it compares.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use reqwest::Method;
use ringback::doctor::Fault;
use ringback_e2e::fixture::Fixture;
use ringback_e2e::pbx::DialplanGlobals;
use ringback_local::pbx::server::ari_client;
use ringback_local::pbx::source;
use ringback_local::settings::{STACK_NAME, Settings};
use ringback_local::stack::Stack;
use serde_json::{Value, json};

use ringback_e2e::ringback_command::Ringback;

/// The ARI user that only these tests create.
pub(super) const OTHER_ARI_USER: &str = "limited";

pub(super) struct Patient {
    pub(super) fixture: Fixture,
    ringback: Ringback,
}

impl Patient {
    /// The running stack, with a device for each extension that a number leads to.
    pub(super) async fn new() -> Result<Self> {
        let fixture = Fixture::open().await?;
        let ringback = Ringback::with(Some(&fixture.stack))?;
        let this = Self { fixture, ringback };
        let routes = this.entries("NUMBERS").await?;
        let extensions = routes.iter().map(|route| route["extension"].as_s().ok());
        let extensions: Option<BTreeSet<_>> = extensions.collect();
        for extension in extensions.context("a route")? {
            this.device(Method::PUT, extension).await?;
        }
        Ok(this)
    }

    /// Registers or removes the device of an extension.
    async fn device(&self, method: Method, extension: &str) -> Result<()> {
        let mint = ["token", "--extension", extension];
        let token = self.ringback.run(&mint).await?;
        let url = format!("{}/api/devices/doctor", self.fixture.stack.http_url);
        let request = self.fixture.http.request(method, url);
        let request = request.bearer_auth(token.succeeds().trim());
        let body = json!({ "extension": extension, "platform": "fcm", "token": format!("doctor-{extension}") });
        request.json(&body).send().await?.error_for_status()?;
        Ok(())
    }

    /// What the command finds: fault and place, in order.
    pub(super) async fn findings(&self) -> Result<Vec<(String, String)>> {
        findings_of(&self.ringback).await
    }

    /// What the command prints for people.
    pub(super) async fn text(&self) -> Result<(i32, String)> {
        let outcome = self.ringback.run(&["doctor"]).await?;
        Ok((outcome.code, outcome.stdout))
    }

    /// With another description of the stack: its addresses are wrong, as a wrong DNS record makes them.
    pub(super) async fn at(
        &self,
        change: impl FnOnce(&mut Stack),
    ) -> Result<Vec<(String, String)>> {
        let mut stack = self.fixture.stack.clone();
        change(&mut stack);
        findings_of(&Ringback::with(Some(&stack))?).await
    }

    /// With a secret that has another value.
    pub(super) async fn with_secret(
        &self,
        name: &str,
        change: impl FnOnce(&mut Value),
    ) -> Result<Vec<(String, String)>> {
        let mut value = self.fixture.secret(name).await?;
        change(&mut value);
        self.with_secret_text(name, &value.to_string()).await
    }

    /// With a secret that has this text.
    pub(super) async fn with_secret_text(
        &self,
        name: &str,
        text: &str,
    ) -> Result<Vec<(String, String)>> {
        let before = self.fixture.secret(name).await?.to_string();
        self.fixture.put_secret(name, text).await?;
        let seen = self.findings().await;
        self.fixture.put_secret(name, &before).await?;
        seen
    }

    /// With a secret that has no value, as the deployment creates it.
    pub(super) async fn without_value(&self, name: &str) -> Result<Vec<(String, String)>> {
        let manager = aws_sdk_secretsmanager::Client::new(&self.fixture.aws);
        let id = format!("{STACK_NAME}/{name}");
        let before = manager.get_secret_value().secret_id(&id).send().await?;
        let version = before.version_id.context("a version")?;
        let current = || {
            let change = manager.update_secret_version_stage().secret_id(&id);
            change.version_stage("AWSCURRENT")
        };
        current().remove_from_version_id(&version).send().await?;
        let seen = self.findings().await;
        current().move_to_version_id(&version).send().await?;
        seen
    }

    /// With another value of a global variable in the dialplan of a PBX.
    pub(super) async fn with_global(
        &self,
        which: usize,
        name: &str,
        value: &str,
    ) -> Result<Vec<(String, String)>> {
        let globals = DialplanGlobals::of(&self.fixture, which)?;
        globals.set(name, value).await?;
        let seen = self.findings().await;
        // It removes globals that are not in the site file.
        self.reload(which, "pbx_config.so").await?;
        seen
    }

    /// With another text of a configuration file of a PBX.
    pub(super) async fn with_file(
        &self,
        which: usize,
        (file, module): (&str, &str),
        change: impl FnOnce(&str) -> String,
    ) -> Result<Vec<(String, String)>> {
        let before = self.change_file(which, (file, module), change).await?;
        let seen = self.findings().await;
        self.change_file(which, (file, module), |_| before).await?;
        seen
    }

    /// Writes a configuration file of a PBX, lets Asterisk read it, and returns what it was.
    pub(super) async fn change_file(
        &self,
        which: usize,
        (file, module): (&str, &str),
        change: impl FnOnce(&str) -> String,
    ) -> Result<String> {
        let name = &self.fixture.stack.pbxs[which].name;
        let state = source::state(&Settings::from_environment());
        let path: PathBuf = state.join(name).join("etc").join(file);
        let before = std::fs::read_to_string(&path)?;
        let after = change(&before);
        ensure!(after != before, "{file} is as before");
        std::fs::write(&path, after)?;
        self.reload(which, module).await?;
        Ok(before)
    }

    async fn reload(&self, which: usize, module: &str) -> Result<()> {
        let ari = &self.fixture.stack.pbxs[which].ari;
        let url = format!("{}/asterisk/modules/{module}", ari.local_url);
        let request = ari_client(&ari.ca_pem)?.put(url);
        let request = request.basic_auth(&ari.username, Some(&ari.password));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    /// With another environment of the function.
    pub(super) async fn with_variable(
        &self,
        name: &str,
        value: &str,
    ) -> Result<Vec<(String, String)>> {
        let url = format!(
            "{}/2015-03-31/functions/{STACK_NAME}-doctor/configuration",
            self.fixture.stack.aws.endpoint
        );
        let http = &self.fixture.http;
        let put = async |environment: &Value| {
            let body = json!({ "Environment": environment });
            let answer = http.put(&url).json(&body).send().await?;
            anyhow::Ok(answer.error_for_status()?)
        };
        let before: Value = http.get(&url).send().await?.json().await?;
        let before = json!({ "Variables": before["Environment"]["Variables"] });
        let mut after = before.clone();
        after["Variables"][name] = value.into();
        put(&after).await?;
        let seen = self.findings().await;
        put(&before).await?;
        seen
    }

    /// With so much reserved for one function that all others share this concurrency.
    pub(super) async fn with_concurrency(&self, left: u64) -> Result<Vec<(String, String)>> {
        let endpoint = &self.fixture.stack.aws.endpoint;
        let http = &self.fixture.http;
        let settings = http.get(format!("{endpoint}/2016-08-19/account-settings/"));
        let settings: Value = settings.send().await?.json().await?;
        let now = settings["AccountLimit"]["UnreservedConcurrentExecutions"].as_u64();
        let reserved = now.context("a number")?.saturating_sub(left);
        let url = format!("{endpoint}/2017-10-31/functions/{STACK_NAME}-console/concurrency");
        let body = json!({ "ReservedConcurrentExecutions": reserved });
        http.put(&url)
            .json(&body)
            .send()
            .await?
            .error_for_status()?;
        let seen = self.findings().await;
        http.delete(&url).send().await?.error_for_status()?;
        seen
    }

    /// Without the entries of a directory: numbers lead nowhere, or extensions have no telephone.
    pub(super) async fn without_entries(&self, directory: &str) -> Result<Vec<(String, String)>> {
        let before = self.entries(directory).await?;
        let table = aws_sdk_dynamodb::Client::new(&self.fixture.aws);
        let name = &self.fixture.stack.aws.table;
        for item in &before {
            let delete = table.delete_item().table_name(name);
            let delete = delete.key("pk", item["pk"].clone());
            delete.key("sk", item["sk"].clone()).send().await?;
        }
        // As deployed, unlike in the local stack: apps call from their own telephone.
        let seen = self.with_variable("CALLER_ID_POLICY", "own").await;
        for item in before {
            let put = table.put_item().table_name(name);
            put.set_item(Some(item)).send().await?;
        }
        seen
    }

    /// Without the device of this extension.
    pub(super) async fn without_device(&self, extension: &str) -> Result<Vec<(String, String)>> {
        self.device(Method::DELETE, extension).await?;
        let seen = self.findings().await;
        self.device(Method::PUT, extension).await?;
        seen
    }

    /// The items of a directory.
    async fn entries(&self, directory: &str) -> Result<Vec<HashMap<String, AttributeValue>>> {
        let table = aws_sdk_dynamodb::Client::new(&self.fixture.aws);
        let query = table.query().table_name(&self.fixture.stack.aws.table);
        let query = query.key_condition_expression("pk = :directory");
        let directory = AttributeValue::S(directory.to_owned());
        let query = query.expression_attribute_values(":directory", directory);
        Ok(query.send().await?.items.unwrap_or_default())
    }
}

async fn findings_of(ringback: &Ringback) -> Result<Vec<(String, String)>> {
    let outcome = ringback.run(&["doctor", "--json"]).await?;
    let document: Value =
        serde_json::from_str(&outcome.stdout).with_context(|| format!("{outcome:?}"))?;
    let findings = document["findings"].as_array().context("findings")?;
    ensure!(
        outcome.code == i32::from(!findings.is_empty()),
        "{outcome:?}"
    );
    let text = |finding: &Value, name: &str| finding[name].as_str().map(str::to_owned);
    let findings = findings.iter();
    let findings = findings.map(|finding| Some((text(finding, "fault")?, text(finding, "where")?)));
    findings.collect::<Option<_>>().context("a finding")
}

/// Exactly this fault was found, at these places.
pub(super) fn exactly(seen: &[(String, String)], fault: Fault, places: &[&str]) -> Result<()> {
    let expected = places.iter().map(|place| (fault.id(), *place));
    let expected: Vec<_> = expected.collect();
    let seen: Vec<_> = seen
        .iter()
        .map(|(id, place)| (id.as_str(), place.as_str()))
        .collect();
    ensure!(seen == expected, "{seen:?} instead of {expected:?}");
    Ok(())
}
