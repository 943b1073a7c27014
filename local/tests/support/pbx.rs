//! What is done to one of the stack's real Asterisks, and taken back.

use anyhow::{Context, Result};
use form_urlencoded::Serializer;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{Client, Method, RequestBuilder};
use ringback_local::pbx::server::ari_client;
use ringback_local::process::PidFile;
use ringback_local::settings::{PBXS, Settings};
use ringback_local::stack::Ari;
use serde_json::Value;

use crate::scene::Scene;

impl Scene {
    /// The same with its trunk and phones at another of the stack's PBXs.
    pub(crate) fn at_pbx(mut self, which: usize) -> Result<Self> {
        self.pbx = self.stack.pbxs[which].sip.address.parse()?;
        Ok(self)
    }
}

/// An Asterisk that takes connections and says nothing, until this is dropped.
pub(crate) struct Frozen {
    pid: Pid,
}

impl Frozen {
    /// The one at this place of the stack's list.
    pub(crate) fn pbx(scene: &Scene, which: usize) -> Result<Self> {
        let name = &scene.stack.pbxs[which].name;
        let ports = PBXS.iter().find(|pbx| pbx.name == name);
        let daemon = ports.context("no such PBX")?.daemon;
        let asterisk = PidFile::new(&Settings::from_environment().state_dir(), daemon);
        let pid = asterisk.running().context("Asterisk does not run")?;
        kill(pid, Signal::SIGSTOP)?;
        Ok(Self { pid })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        kill(self.pid, Signal::SIGCONT).unwrap();
    }
}

/// The global variables of an Asterisk's dialplan.
pub(crate) struct Globals {
    http: Client,
    ari: Ari,
}

impl Globals {
    /// Those of the one at this place of the stack's list.
    pub(crate) fn of(scene: &Scene, which: usize) -> Result<Self> {
        let ari = scene.stack.pbxs[which].ari.clone();
        let http = ari_client(&ari.ca_pem)?;
        Ok(Self { http, ari })
    }

    pub(crate) async fn get(&self, name: &str) -> Result<String> {
        let request = self.variable(Method::GET, &[("variable", name)]);
        let answer: Value = request.send().await?.error_for_status()?.json().await?;
        Ok(answer["value"].as_str().context("no value")?.to_owned())
    }

    pub(crate) async fn set(&self, name: &str, value: &str) -> Result<()> {
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
