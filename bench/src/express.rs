//! The seed's own server, written out (`bench/express`), as it runs.

use std::fs::File;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use tokio::process::{Child, Command};

use crate::stage::Stage;
use crate::world::System;

/// How long it may take to listen.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// The server, as long as this lives.
#[derive(Debug)]
pub struct Express {
    process: Child,
    url: String,
    client: reqwest::Client,
}

impl Express {
    /// Starts it; its calls ring for so long.
    ///
    /// # Errors
    /// When Node.js is not there, or its packages have not been installed.
    pub async fn start(stage: &Stage, ring: Duration) -> Result<Self> {
        let account = stage.places.scratch().join("account.json");
        std::fs::write(&account, stage.world.service_account()?.to_string())?;
        // Taken, and given up for the server to take.
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = File::create(stage.places.log("express"))?;
        let process = Command::new("node")
            .arg(stage.places.file("bench/express/server.mjs"))
            .env("NODE_ENV", "production")
            .env("PORT", port.to_string())
            .env("RING_MS", ring.as_millis().to_string())
            .env("FCM_ACCOUNT_FILE", &account)
            .env("FCM_BASE_URL", stage.world.url(System::Fcm))
            .env("ARI_URL", format!("{}/ari", stage.world.url(System::Ari)))
            .env("NODE_EXTRA_CA_CERTS", stage.world.trusted())
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

    /// Its process.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pid(&self) -> Result<u32> {
        self.process.id().context("the Express server has ended")
    }

    /// Where its WebSocket is.
    #[must_use]
    pub fn websocket_url(&self) -> String {
        format!("{}/exotel-stream", self.url.replacen("http", "ws", 1))
    }

    /// Hands it what API Gateway would hand a function; answers with the answer's body.
    ///
    /// # Errors
    /// When it answers anything but 200.
    pub async fn ask(&self, event: &Value) -> Result<Value> {
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
