//! Controls the stack's Asterisk processes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use form_urlencoded::Serializer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method, RequestBuilder};
use ringback_local::pbx::server::ari_client;
use ringback_local::process::PidFile;
use ringback_local::settings::{PBXS, Settings};
use ringback_local::stack::Ari;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::fixture::Fixture;

impl Fixture {
    /// The same fixture with its trunk and phones at another PBX of the stack.
    pub fn at_pbx(mut self, which: usize) -> Result<Self> {
        self.pbx = self.stack.pbxs[which].sip.address.parse()?;
        Ok(self)
    }

    /// The channels of the first PBX.
    pub async fn channels(&self) -> Result<Vec<Value>> {
        self.ask_first_pbx("/channels").await
    }

    /// Whether a phone is `online` or `offline` for the first PBX.
    pub async fn endpoint_state(&self, extension: &str) -> Result<String> {
        let endpoint: Value = self
            .ask_first_pbx(&format!("/endpoints/PJSIP/{extension}"))
            .await?;
        let state = endpoint["state"].as_str();
        Ok(state.context("the endpoint has no state")?.to_owned())
    }

    /// Changes options of a SIP account's endpoint at the first PBX.
    pub async fn set_endpoint(&self, name: &str, options: &[(&str, &str)]) -> Result<()> {
        let fields = options
            .iter()
            .map(|(attribute, value)| json!({ "attribute": attribute, "value": value }));
        let fields = json!({ "fields": fields.collect::<Vec<_>>() });
        let ari = &self.stack.ari;
        let url = format!(
            "{}/asterisk/config/dynamic/res_pjsip/endpoint/{name}",
            ari.local_url
        );
        let request = ari_client(&ari.ca_pem)?
            .put(url)
            .json(&fields)
            .basic_auth(&ari.username, Some(&ari.password));
        request.send().await?.error_for_status()?;
        Ok(())
    }

    async fn ask_first_pbx<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let ari = &self.stack.ari;
        let request = ari_client(&ari.ca_pem)?
            .get(format!("{}{path}", ari.local_url))
            .basic_auth(&ari.username, Some(&ari.password));
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}

/// A stopped Asterisk (SIGSTOP): it accepts connections but does not answer. Dropping this resumes it.
pub struct FrozenPbx {
    pid: Pid,
}

impl FrozenPbx {
    /// Stops the PBX at this index of the stack's list.
    pub fn stop(fixture: &Fixture, which: usize) -> Result<Self> {
        let name = &fixture.stack.pbxs[which].name;
        let ports = PBXS.iter().find(|pbx| pbx.name == name);
        let daemon = ports.context("no such PBX")?.daemon;
        let asterisk = PidFile::new(&Settings::from_environment().state_dir(), daemon);
        let pid = asterisk.running().context("Asterisk is not running")?;
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self { pid })
    }
}

impl Drop for FrozenPbx {
    fn drop(&mut self) {
        kill(self.pid, Signal::SIGCONT).unwrap();
    }
}

/// The global variables of a PBX's dialplan.
pub struct DialplanGlobals {
    http: Client,
    ari: Ari,
}

impl DialplanGlobals {
    /// Those of the PBX at this index of the stack's list.
    pub fn of(fixture: &Fixture, which: usize) -> Result<Self> {
        let ari = fixture.stack.pbxs[which].ari.clone();
        let http = ari_client(&ari.ca_pem)?;
        Ok(Self { http, ari })
    }

    /// Reads a variable.
    pub async fn get(&self, name: &str) -> Result<String> {
        let request = self.variable(Method::GET, &[("variable", name)]);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(answer["value"]
            .as_str()
            .context("the variable has no value")?
            .to_owned())
    }

    /// Sets a variable.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        let set = [("variable", name), ("value", value)];
        let request = self.variable(Method::POST, &set);
        request.send().await?.error_for_status()?;
        Ok(())
    }

    fn variable(&self, method: Method, query: &[(&str, &str)]) -> RequestBuilder {
        let query = Serializer::new(String::new()).extend_pairs(query).finish();
        let url = format!("{}/asterisk/variable?{query}", self.ari.local_url);
        let request = self.http.request(method, url);
        request.basic_auth(&self.ari.username, Some(&self.ari.password))
    }
}

/// The folder with the configuration of the PBX at this index of the stack's list.
pub fn configuration_folder(fixture: &Fixture, which: usize) -> PathBuf {
    let state = ringback_local::pbx::source::state(&Settings::from_environment());
    state.join(&fixture.stack.pbxs[which].name).join("etc")
}

/// The command that started the Asterisk at this index of the stack's list, with its arguments for the console.
pub fn asterisk_command(fixture: &Fixture, which: usize) -> Result<String> {
    let name = &fixture.stack.pbxs[which].name;
    let ports = PBXS.iter().find(|pbx| pbx.name == name);
    let daemon = ports.context("no such PBX")?.daemon;
    let asterisk = PidFile::new(&Settings::from_environment().state_dir(), daemon);
    let pid = asterisk.running().context("Asterisk is not running")?;
    let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline"))?;
    let words = words.split_terminator('\0').filter(|word| *word != "-f");
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// Loads a module of a running PBX (`POST`), reloads it (`PUT`) or unloads it (`DELETE`).
pub async fn change_module(
    fixture: &Fixture,
    which: usize,
    method: Method,
    module: &str,
) -> Result<()> {
    let ari = &fixture.stack.pbxs[which].ari;
    module_request(&ari_client(&ari.ca_pem)?, ari, method, module).await
}

async fn module_request(http: &Client, ari: &Ari, method: Method, module: &str) -> Result<()> {
    let url = format!("{}/asterisk/modules/{module}", ari.local_url);
    let request = http.request(method, url);
    let request = request.basic_auth(&ari.username, Some(&ari.password));
    request.send().await?.error_for_status()?;
    Ok(())
}

/// A changed file of a running PBX's configuration. The change is undone with [`ChangedFile::undo`].
pub struct ChangedFile {
    path: PathBuf,
    original: String,
    module: Option<&'static str>,
    http: Client,
    ari: Ari,
}

impl ChangedFile {
    /// Changes a file below `etc` of the PBX at this index of the stack's list. Reloads the module that reads it, if it is named.
    pub async fn change(
        fixture: &Fixture,
        which: usize,
        name: &str,
        module: Option<&'static str>,
        change: impl Fn(&str) -> String,
    ) -> Result<Self> {
        let ari = &fixture.stack.pbxs[which].ari;
        let path = configuration_folder(fixture, which).join(name);
        let file = Self {
            original: std::fs::read_to_string(&path)?,
            path,
            module,
            http: ari_client(&ari.ca_pem)?,
            ari: ari.clone(),
        };
        let changed = change(&file.original);
        ensure!(changed != file.original, "nothing is changed in {name}");
        file.write(&changed).await?;
        Ok(file)
    }

    /// Restores the file.
    pub async fn undo(self) -> Result<()> {
        self.write(&self.original).await
    }

    async fn write(&self, text: &str) -> Result<()> {
        std::fs::write(&self.path, text)?;
        match self.module {
            Some(module) => module_request(&self.http, &self.ari, Method::PUT, module).await,
            None => Ok(()),
        }
    }
}
