//! How conversations end.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;

use crate::scene::{Conversation, SOON, Scene};

/// So long after the last packet, at most, does the PBX give a leg up in the local stack.
const NOTICED: Duration = Duration::from_secs(10 + 5);

#[tokio::test(flavor = "multi_thread")]
async fn the_app_hangs_up_and_both_legs_go_down() -> Result<()> {
    let scene = Scene::open().await?;
    let app = scene.app("1001").await?;
    let mut phone = scene.phone("1001").await?;
    let talk = Conversation::begin(&app, &mut phone).await?;
    let (status, answer) = app.says("hangup", &talk.id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"completed".into())
    );
    talk.caller.ended(SOON).await?;
    talk.callee.ended(SOON).await?;
    let (status, answer) = app.says("hangup", &talk.id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"completed".into())
    );
    assert_eq!(
        app.says("accept_ready", &talk.id).await?.0,
        StatusCode::CONFLICT
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hangs_up_and_the_phones_leg_goes_down() -> Result<()> {
    let scene = Scene::open().await?;
    let app = scene.app("1001").await?;
    let mut phone = scene.phone("1001").await?;
    let talk = Conversation::begin(&app, &mut phone).await?;
    talk.caller.hang_up().await?;
    talk.callee.ended(SOON).await?;
    let call = app.sees(&talk.id, "completed").await?;
    assert!(call["ended_at"].as_u64() >= call["bridged_at"].as_u64());
    Ok(())
}

/// No BYE comes of a network that died: the PBX notices that no media does (`rtp_timeout`, 10 s here).
#[tokio::test(flavor = "multi_thread")]
async fn a_party_whose_network_dies_leaves_the_other_no_silence_for_good() -> Result<()> {
    let scene = Scene::open().await?;
    let (one, other) = (scene.app("1001").await?, scene.app("1002").await?);
    let mut ones_phone = scene.phone("1001").await?;
    let mut others_phone = scene.phone("1002").await?;
    let callers = Conversation::begin(&one, &mut ones_phone).await?;
    let phones = Conversation::begin(&other, &mut others_phone).await?;
    callers.is_heard().await?;
    phones.is_heard().await?;
    callers.caller.media().mute();
    phones.callee.media().mute();
    callers.callee.ended(NOTICED).await?;
    phones.caller.ended(NOTICED).await?;
    one.sees(&callers.id, "completed").await?;
    other.sees(&phones.id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_calls_history_tells_its_story() -> Result<()> {
    let scene = Scene::open().await?;
    let app = scene.app("1001").await?;
    let mut phone = scene.phone("1001").await?;
    let talk = Conversation::begin(&app, &mut phone).await?;
    app.says("hangup", &talk.id).await?;
    let call = app.sees(&talk.id, "completed").await?;
    let told: Vec<&str> = call["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    for event in ["ring", "rang", "accept_ready", "bridged", "hangup"] {
        assert!(told.contains(&event), "{event} is missing in {told:?}");
    }
    Ok(())
}
