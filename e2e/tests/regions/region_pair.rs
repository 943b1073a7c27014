//! Functions for tests on two regions.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use ringback_client::Client;
use ringback_core::ids::CallId;
use ringback_local::settings::Settings;
use ringback_local::stack::Stack;
use tokio::time::{Instant, sleep, timeout};

use crate::region_loss::RegionLoss;
use ringback_e2e::fixture::{Fixture, SOON};
use ringback_e2e::pbx::DialplanGlobals;

pub(crate) async fn two_regions() -> Result<(Fixture, Fixture, RegionLoss)> {
    let stack = Stack::load(&Settings::from_environment().state_dir())?;
    let loss = RegionLoss::none(&stack).await?;
    let primary = Fixture::open().await?;
    let fallback = primary.in_fallback_region().await?;
    // After a region was lost, the PBX prefers the other one for a while. Reset that.
    let globals = DialplanGlobals::of(&primary, 0)?;
    globals.set("RINGBACK_AVOID_UNTIL", "0").await?;
    Ok((primary, fallback, loss))
}

pub(crate) fn ring() -> Duration {
    Settings::from_environment().ring()
}

pub(crate) async fn client(fixture: &Fixture) -> Result<Client> {
    let phone = fixture.stack.phone("1001").context("1001")?;
    Ok(Client::connect(&fixture.stack.ws_url, &phone.token).await?)
}

/// Waits until a client receives this status of a call.
pub(crate) async fn wait_for_update(client: &mut Client, call: &str, status: &str) -> Result<()> {
    let mut received = Vec::new();
    let is_told = async {
        loop {
            let message = client.receive().await?;
            let data = &message["data"];
            if data["callId"] == call && data["status"] == status {
                return anyhow::Ok(());
            }
            received.push(message);
        }
    };
    match timeout(2 * SOON, is_told).await {
        Ok(told) => told,
        Err(_) => bail!("no update {status}, only {received:?}"),
    }
}

/// Checks that the call reaches this status in both regions, and that both items stay equal. A region that returns
/// with outdated data writes it first, and replication then corrects both.
pub(crate) async fn check_same_end(
    primary: &Fixture,
    fallback: &Fixture,
    call: &str,
    status: &str,
) -> Result<()> {
    let deadline = Instant::now() + 3 * SOON;
    loop {
        let item = wait_until_equal(primary, fallback, call).await?;
        let actual = item.get("status").and_then(|it| it.as_s().ok());
        if actual.is_some_and(|actual| actual == status) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{actual:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the call has ended in both regions and both items are equal.
async fn wait_until_equal(primary: &Fixture, fallback: &Fixture, call: &str) -> Result<Item> {
    let deadline = Instant::now() + 3 * SOON;
    loop {
        let (here, there) = (item(primary, call).await?, item(fallback, call).await?);
        let over = here.as_ref().is_some_and(|item| {
            let status = item.get("status").and_then(|status| status.as_s().ok());
            status.is_some_and(|status| {
                ["completed", "declined", "timed_out", "canceled", "failed"]
                    .contains(&status.as_str())
            })
        });
        match here {
            Some(here) if over && Some(&here) == there.as_ref() => return Ok(here),
            here if Instant::now() > deadline => {
                bail!("the regions differ:\nprimary  {here:?}\nfallback {there:?}")
            }
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
}

type Item = HashMap<String, AttributeValue>;

fn key_of(call: &str) -> Result<String> {
    Ok(format!("CALL#{}", CallId::try_from(call)?.key()))
}

pub(crate) async fn item(fixture: &Fixture, call: &str) -> Result<Option<Item>> {
    let asked = aws_sdk_dynamodb::Client::new(&fixture.aws)
        .get_item()
        .table_name(&fixture.stack.aws.table)
        .key("pk", AttributeValue::S(key_of(call)?))
        .key("sk", AttributeValue::S("CALL".to_owned()))
        .send();
    Ok(asked.await?.item)
}

pub(crate) async fn check_no_channels(fixture: &Fixture) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let channels = fixture.channels().await?;
        if channels.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "channels are left: {channels:?}");
        sleep(Duration::from_millis(200)).await;
    }
}
