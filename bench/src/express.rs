//! The Express server of `bench/express`, which handles calls in memory as the original design does (docs/origin.md).

use std::fs::File;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::fixture::Fixture;
use crate::stand_ins::System;

/// The server listens within this time.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// The running server. Dropping it stops it.
#[derive(Debug)]
pub struct Express {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Express {
    /// Starts the server. Its calls ring for this long.
    ///
    /// # Errors
    /// When Node.js or an npm package is missing.
    pub async fn start(fixture: &Fixture, ring: Duration) -> Result<Self> {
        let account = fixture.paths.scratch().join("account.json");
        std::fs::write(&account, fixture.stand_ins.service_account()?.to_string())?;
        // A free port; the server binds it after this listener is dropped.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = File::create(fixture.paths.log("express"))?;
        let process = Command::new("node")
            .arg(fixture.paths.file("bench/express/server.mjs"))
            .env("NODE_ENV", "production")
            .env("PORT", port.to_string())
            .env("RING_MS", ring.as_millis().to_string())
            .env("FCM_ACCOUNT_FILE", &account)
            .env("FCM_BASE_URL", fixture.stand_ins.url(System::Fcm))
            .env(
                "ARI_URL",
                format!("{}/ari", fixture.stand_ins.url(System::Ari)),
            )
            .env("NODE_EXTRA_CA_CERTS", fixture.stand_ins.ca_file())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("Node.js does not start")?;
        let express = Self {
            process,
            url: format!("http://127.0.0.1:{port}"),
            client: reqwest::Client::new(),
        };
        express.listens().await?;
        Ok(express)
    }

    async fn listens(&self) -> Result<()> {
        let until = Instant::now() + STARTS_WITHIN;
        while self.client.get(&self.url).send().await.is_err() {
            ensure!(Instant::now() < until, "the Express server does not listen");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// The id of its process.
    ///
    /// # Errors
    /// When the process has ended.
    pub fn pid(&self) -> Result<u32> {
        self.process.id().context("the Express server has ended")
    }

    /// The URL of its WebSocket.
    #[must_use]
    pub fn websocket_url(&self) -> String {
        format!("{}/exotel-stream", self.url.replacen("http", "ws", 1))
    }

    /// Sends the HTTP request that an API Gateway event describes. Returns the body of the answer.
    ///
    /// # Errors
    /// When the answer is an error.
    pub async fn send(&self, event: &Value) -> Result<Value> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (path, query) = (text(&event["rawPath"]), text(&event["rawQueryString"]));
        let url = format!("{}{path}?{query}", self.url);
        let request = match event["requestContext"]["http"]["method"].as_str() {
            Some("GET") => self.client.get(url),
            _ => self
                .client
                .post(url)
                .header("content-type", "application/json")
                .body(text(&event["body"])),
        };
        Ok(request.send().await?.error_for_status()?.json().await?)
    }
}
