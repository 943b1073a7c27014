//! How conversations end.

use anyhow::Result;
use reqwest::StatusCode;

use ringback_e2e::fixture::{Conversation, Fixture, SOON};

#[tokio::test(flavor = "multi_thread")]
async fn the_app_hangs_up_and_both_legs_end() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    let (status, answer) = app.respond("hangup", &talk.id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"completed".into())
    );
    talk.caller.ended(SOON).await?;
    talk.callee.ended(SOON).await?;
    let (status, answer) = app.respond("hangup", &talk.id).await?;
    assert_eq!(
        (status, &answer["status"]),
        (StatusCode::OK, &"completed".into())
    );
    assert_eq!(
        app.respond("accept_ready", &talk.id).await?.0,
        StatusCode::CONFLICT
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_caller_hangs_up_and_the_phones_leg_ends() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    talk.caller.hang_up().await?;
    talk.callee.ended(SOON).await?;
    let call = app.wait_for_status(&talk.id, "completed").await?;
    assert!(call["ended_at"].as_u64() >= call["bridged_at"].as_u64());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_history_of_a_call_is_complete() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    app.respond("hangup", &talk.id).await?;
    let call = app.wait_for_status(&talk.id, "completed").await?;
    let history: Vec<&str> = call["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    for event in ["ring", "push_sent", "accept_ready", "bridged", "hangup"] {
        assert!(
            history.contains(&event),
            "{event} is missing in {history:?}"
        );
    }
    Ok(())
}
