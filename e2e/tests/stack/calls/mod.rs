//! Calls from start to end: real SIP legs through a real Asterisk, the real functions deployed from the real template,
//! and apps that use HTTP.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_e2e::fixture::SOON;
use ringback_sip::Media;
use tokio::time::{Instant, sleep};

mod answered;
mod answers;
mod audio_streams;
mod between_apps;
mod call_waiting;
mod during_call;
mod encrypted;
mod ended;
mod exotel_flows;
mod final_status;
mod hold;
mod inbound_reports;
mod invite_size;
mod missed;
mod moves;
mod numbers;
mod outbound;
mod reach;
mod recent;
mod refused;
mod replays;
mod softphone;
mod status_updates;
mod store;
mod transfer;
mod unanswered;

/// As many packets as 200 ms of audio have.
const ENOUGH: u64 = 10;

/// Looks every 20 ms, and fails with `what` if the condition does not hold soon.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    while !holds() {
        ensure!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// Waits for 200 ms of the other party's audio, counted from now.
async fn hears_again(media: &Media, other: &Media) -> Result<()> {
    let enough = media.received_from(other) + ENOUGH;
    until("no audio", || media.received_from(other) > enough).await
}
