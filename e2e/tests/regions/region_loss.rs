//! Takes a region of the stack offline and back online, and delays replication between the two.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use reqwest::Client;
use ringback_local::region_outage::RegionState;
use ringback_local::stack::Stack;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// The client of the stack's region loss API.
pub(crate) struct RegionLoss {
    http: Client,
    url: String,
    primary: String,
}

impl RegionLoss {
    /// Both regions are healthy, and replication is as fast as possible.
    pub(crate) async fn none(stack: &Stack) -> Result<Self> {
        let url = stack.region_control_url.clone();
        let loss = Self {
            http: Client::new(),
            url: url.context("the stack has one region: `make regions` has two")?,
            primary: stack.aws.region.clone(),
        };
        loss.primary_is(RegionState::Up).await?;
        loss.lag(Duration::ZERO).await?;
        Ok(loss)
    }

    pub(crate) async fn primary_is(&self, condition: RegionState) -> Result<()> {
        let path = format!("regions/{}", self.primary);
        self.put(&path, json!({ "state": condition })).await
    }

    pub(crate) async fn lag(&self, lag: Duration) -> Result<()> {
        let lag_ms = u64::try_from(lag.as_millis())?;
        self.put("replication", json!({ "lag_ms": lag_ms, "cut": false }))
            .await
    }

    async fn put(&self, path: &str, order: Value) -> Result<()> {
        let request = self.http.put(format!("{}/{path}", self.url)).json(&order);
        let answer = request.send().await?;
        let status = answer.status();
        ensure!(
            status.is_success(),
            "{path}: {status}: {}",
            answer.text().await?
        );
        Ok(())
    }

    /// Waits until all writes are replicated.
    pub(crate) async fn wait_until_replicated(&self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        // The replicator may not have read the latest writes yet.
        sleep(Duration::from_millis(300)).await;
        loop {
            let told: Value = self.http.get(&self.url).send().await?.json().await?;
            let link = &told["replication"];
            if link["pending"] == 0 && link["region_down"] == false {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not replicated within {within:?}: {link}");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}
