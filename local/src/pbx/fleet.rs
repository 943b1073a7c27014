//! All Asterisks of the stack. They are independent of each other.

use anyhow::{Context, Result};

use super::configuration;
use super::server::{Pbx, ari_url};
use super::source::AsteriskSource;
use crate::credentials::Credentials;
use crate::settings::{PBXS, Settings};

/// The value of `ARI_URL` for the application.
pub fn ari_urls() -> String {
    PBXS.map(|pbx| format!("{}={}", pbx.name, ari_url(&pbx)))
        .join(",")
}

/// The running Asterisks.
#[derive(Debug)]
pub struct Fleet(Vec<Pbx>);

impl Fleet {
    /// Starts all Asterisks. Their hooks call the HTTP API at `hook_url`, and the one at `fallback_url` in a stack with
    /// two regions. A PBX sends its name with its hooks if `listed` (the value of `ARI_URL`) contains the name.
    pub async fn start(
        settings: &Settings,
        source: &AsteriskSource,
        credentials: &Credentials,
        (hook_url, fallback_url): (&str, Option<&str>),
        listed: &str,
    ) -> Result<Self> {
        let starts = PBXS.map(|pbx| {
            let is_named = listed.split(',').any(|entry| {
                let name = entry.split_once('=').map(|(name, _)| name);
                name == Some(pbx.name)
            });
            let name = is_named.then_some(pbx.name);
            let hooks = configuration::HookSettings {
                url: hook_url,
                fallback_url,
                ca_file: None,
                name,
            };
            async move {
                let written = configuration::write(settings, source, &pbx, credentials, &hooks)?;
                Pbx::start(settings, source.clone(), pbx, written, credentials)
                    .await
                    .with_context(|| format!("{} did not start", pbx.name))
            }
        });
        let mut running = Vec::new();
        let mut failure = None;
        for started in futures::future::join_all(starts).await {
            match started {
                Ok(pbx) => running.push(pbx),
                Err(error) => failure = Some(error),
            }
        }
        let fleet = Self(running);
        match failure {
            None => Ok(fleet),
            Some(error) => {
                fleet.stop().await;
                Err(error)
            }
        }
    }

    /// Waits until one of them ends unexpectedly.
    pub async fn wait_for_exit(&mut self) -> anyhow::Error {
        let each = self.0.iter_mut().map(|pbx| Box::pin(pbx.wait_for_exit()));
        futures::future::select_all(each).await.0
    }

    /// Stops all of them at once, including their calls.
    pub async fn stop(self) {
        futures::future::join_all(self.0.into_iter().map(Pbx::stop)).await;
    }
}
