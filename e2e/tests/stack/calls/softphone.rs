//! A softphone that is not ours.

use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_e2e::baresip::Baresip;
use ringback_e2e::fixture::{Fixture, SOON};
use ringback_sip::Media;
use tokio::time::{Instant, sleep};

const WINDOW: Duration = Duration::from_millis(400);

/// Waits until the caller hears sound for a while, or none. A window of silence has at most a few packets of noise.
async fn hears(caller: &Media, what: &str, expected: bool) -> Result<()> {
    let deadline = Instant::now() + SOON;
    loop {
        let before = caller.received_sound();
        sleep(WINDOW).await;
        let heard = caller.received_sound() - before;
        if (expected && heard > 10) || (!expected && heard < 3) {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "{what}: {heard} packets of sound"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn baresip_answers_holds_resumes_and_hangs_up() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = Baresip::register(&fixture, "1001").await?;
    let (caller, id) = app.is_called().await?;
    let (status, answer) = app.respond("accept_ready", &id).await?;
    ensure!(status == 200, "{status}: {answer}");
    phone.event("CALL_INCOMING").await?;
    phone.run("accept").await?;
    caller.answered(SOON).await?;
    app.wait_for_status(&id, "in_progress").await?;
    let caller_hears = |what, expected| hears(caller.media(), what, expected);
    caller_hears("baresip", true).await?;
    // What the caller hears from now on does not come from baresip.
    phone.run("mute").await?;
    caller_hears("a muted baresip", false).await?;
    phone.run("hold").await?;
    caller_hears("music", true).await?;
    // Baresip's re-INVITE prefers Opus, and its first packet with a new codec could end the music.
    sleep(Duration::from_secs(1)).await;
    caller_hears("music for longer", true).await?;
    phone.run("resume").await?;
    caller_hears("the end of the music", false).await?;
    phone.run("mute").await?;
    caller_hears("baresip after the hold", true).await?;
    phone.run("hangup").await?;
    caller.ended(SOON).await?;
    let call = app.wait_for_status(&id, "completed").await?;
    ensure!(call["reason"] == "callee_hung_up", "{call}");
    Ok(())
}
