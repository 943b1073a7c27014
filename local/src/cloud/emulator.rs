//! Runs the local AWS: one process, in memory, empty at each start.

use std::time::Duration;

use anyhow::{Result, bail};
use reqwest::Client;

use super::point_at_local_aws;
use super::region::Region;
use crate::process::Daemon;
use crate::settings::{LOOPBACK, Settings};
use crate::tools::{Tools, make_dir};

/// A start takes about 3 s, and longer while other parts start too.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Starts the local AWS and waits until it is ready.
///
/// `for_functions` is the endpoint of every AWS service for the functions: the local AWS itself, or the fault proxy in
/// front of it.
pub async fn start(
    settings: &Settings,
    tools: &Tools,
    region: Region,
    for_functions: &str,
) -> Result<Daemon> {
    let scratch = settings.state(region.part);
    make_dir(&scratch)?;
    let mut command = tools.command("python");
    command.arg(settings.repository().join("local/tools/local_aws.py"));
    point_at_local_aws(&mut command, region)
        .env("AWS_ENDPOINT_URL", for_functions)
        // By default it binds to every interface, and opens ports for services that are not used here.
        .env("BIND_HOST", LOOPBACK)
        .env("GATEWAY_PORT", region.cloud_port.to_string())
        .env("MINISTACK_REGION", region.name)
        .env("SFTP_ENABLED", "0")
        .env("IOT_MTLS_ENABLED", "0")
        .env("TMPDIR", &scratch);
    let mut daemon = Daemon::start(region.part, &mut command, &settings.state_dir())?;
    match wait_until_ready(&mut daemon, region).await {
        Ok(()) => Ok(daemon),
        Err(error) => {
            daemon.stop(Duration::from_secs(1)).await;
            Err(error)
        }
    }
}

async fn wait_until_ready(daemon: &mut Daemon, region: Region) -> Result<()> {
    let http = Client::builder().timeout(Duration::from_secs(2)).build()?;
    let url = format!("{}/_ministack/ready", region.endpoint());
    let deadline = tokio::time::Instant::now() + START_TIMEOUT;
    while tokio::time::Instant::now() < deadline {
        daemon.check_alive().await?;
        if http
            .get(&url)
            .send()
            .await
            .is_ok_and(|answer| answer.status().is_success())
        {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bail!(
        "the local AWS did not answer at {url} within {} s",
        START_TIMEOUT.as_secs()
    )
}
