//! A party holds the call and resumes it. The other party hears music meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringback_e2e::fixture::{Conversation, Fixture, SOON};
use ringback_e2e::sip_account::SipAccount;
use ringback_sip::{Hold, Media};
use tokio::time::sleep;

use super::{ENOUGH, hears_again, until};

/// Waits for 200 ms of sound that comes from no party.
async fn hears_music(media: &Media) -> Result<()> {
    let enough = media.received_sound() + ENOUGH;
    until("no music", || media.received_sound() >= enough).await
}

#[tokio::test(flavor = "multi_thread")]
async fn each_party_hears_music_while_the_other_one_holds() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    talk.both_hear().await?;
    let (caller, callee) = (&talk.caller, &talk.callee);
    let sides = [
        ("the phone", callee.leg(), callee.media(), caller.media()),
        ("the trunk", caller.leg(), caller.media(), callee.media()),
    ];
    for (name, holder, holders, others) in sides {
        for how in [
            Hold::SendOnly,
            Hold::SendOnlyInPcma,
            Hold::Inactive,
            Hold::ZeroAddress,
        ] {
            let case = || format!("{name}, {how:?}");
            holder.hold(how).await.with_context(case)?;
            hears_music(others).await.with_context(case)?;
            holder.resume().await.with_context(case)?;
            hears_again(others, holders).await.with_context(case)?;
            hears_again(holders, others).await.with_context(case)?;
        }
    }
    talk.end(&app).await?;
    Ok(())
}

/// The shipped configuration has no RTP timeout. An operator may set one: it ends a silent call, but not a call on hold.
#[tokio::test(flavor = "multi_thread")]
async fn an_rtp_timeout_ends_a_silent_call_and_no_call_on_hold() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let account = SipAccount::of(&app).await?;
    let endpoint = account.text("username");
    fixture
        .set_endpoint(endpoint, &[("rtp_timeout", "1")])
        .await?;
    let mut phone = account.phone(&fixture, 0, false).await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    let (caller, callee) = (&talk.caller, &talk.callee);
    for how in [Hold::Inactive, Hold::ZeroAddress] {
        callee.leg().hold(how).await?;
        sleep(Duration::from_millis(2_500)).await;
        ensure!(!caller.events().is_over(), "{how:?}: the call has ended");
        callee.leg().resume().await?;
        hears_again(caller.media(), callee.media()).await?;
    }
    callee.media().mute();
    caller.ended(SOON).await?;
    app.wait_for_status(&talk.id, "completed").await?;
    app.unregister().await
}
