//! One call of Exotel's with several reports and several INVITEs: the popup URL, parallel ringing, sequential ringing.

use std::time::Duration;

use anyhow::Result;
use reqwest::StatusCode;
use tokio::time::sleep;

use ringback_e2e::exotel_flow::{AgentEvent, ExotelFlow, gives_up};
use ringback_e2e::fixture::{App, Conversation, Fixture, SOON};

/// Longer than a report takes to change a call.
const A_MOMENT: Duration = Duration::from_millis(700);

#[tokio::test(flavor = "multi_thread")]
async fn the_popup_url_ends_neither_a_ring_nor_a_conversation() -> Result<()> {
    let fixture = Fixture::open().await?;
    for direction in ["incoming", "outbound-dial"] {
        let app = fixture.app("1001").await?;
        let mut phone = fixture.registered_phone("1001").await?;
        let flow = ExotelFlow::begin(&fixture).with_direction(direction);
        flow.passes_through("1001").await?;
        let id = app.receives_call().await?;
        flow.reports("1001", AgentEvent::Dial).await?;
        let caller = flow.calls("1001").await?;
        flow.reports("1001", AgentEvent::Ringing).await?;
        sleep(A_MOMENT).await;
        assert_eq!(
            app.call(&id).await?["status"],
            "waiting_for_mobile",
            "{direction}"
        );
        assert_eq!(accept(&app, &id).await?, StatusCode::OK);
        let talk = Conversation::join(&app, &mut phone, caller, id.clone()).await?;
        flow.reports("1001", AgentEvent::Answered).await?;
        // A late or repeated report of the beginning.
        flow.reports("1001", AgentEvent::Dial).await?;
        sleep(A_MOMENT).await;
        assert_eq!(app.call(&id).await?["status"], "in_progress", "{direction}");
        talk.both_hear().await?;
        talk.end(&app).await?;
        flow.reports("1001", AgentEvent::Terminal).await?;
        assert_eq!(app.call(&id).await?["status"], "completed", "{direction}");
        assert_eq!(app.count_pushes("incoming_call").await?, 1, "{direction}");
        app.unregister().await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ring_ends_when_exotel_is_done_with_an_agent_whom_it_never_reached() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (called, other) = (fixture.app("1001").await?, fixture.app("1002").await?);
    let flow = ExotelFlow::begin(&fixture);
    flow.reports("1001", AgentEvent::Dial).await?;
    flow.reports("1002", AgentEvent::Dial).await?;
    let (id, other_id) = (called.receives_call().await?, other.receives_call().await?);
    flow.reports("1001", AgentEvent::Terminal).await?;
    called.wait_for_status(&id, "canceled").await?;
    called.push("call_cancelled").await?;
    assert_eq!(other.call(&other_id).await?["status"], "waiting_for_mobile");
    flow.ends("no-answer").await?;
    other.wait_for_status(&other_id, "canceled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_invites_with_one_call_sid_ring_two_extensions() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (first, second) = (fixture.app("1001").await?, fixture.app("1002").await?);
    let mut phone = fixture.registered_phone("1002").await?;
    let flow = ExotelFlow::begin(&fixture);
    let first_leg = flow.calls("1001").await?;
    let second_leg = flow.calls("1002").await?;
    let (first_id, second_id) = (first.receives_call().await?, second.receives_call().await?);
    assert_ne!(first_id, second_id);
    sleep(A_MOMENT).await;
    assert_eq!(first.call(&first_id).await?["status"], "waiting_for_mobile");
    assert_eq!(accept(&second, &second_id).await?, StatusCode::OK);
    let talk = Conversation::join(&second, &mut phone, second_leg, second_id.clone()).await?;
    // Exotel cancels the leg that was not answered.
    gives_up(&first_leg).await?;
    first.wait_for_status(&first_id, "canceled").await?;
    first.push("call_cancelled").await?;
    talk.both_hear().await?;
    assert_eq!(second.call(&second_id).await?["status"], "in_progress");
    talk.end(&second).await?;
    flow.ends("completed").await?;
    assert_eq!(first.call(&first_id).await?["status"], "canceled");
    assert_eq!(second.call(&second_id).await?["status"], "completed");
    for app in [&first, &second] {
        assert_eq!(app.count_pushes("incoming_call").await?, 1);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_decline_at_one_of_two_extensions_leaves_the_other_ringing() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (first, second) = (fixture.app("1001").await?, fixture.app("1002").await?);
    let flow = ExotelFlow::begin(&fixture);
    let (first_leg, second_leg) = (flow.calls("1001").await?, flow.calls("1002").await?);
    let (first_id, second_id) = (first.receives_call().await?, second.receives_call().await?);
    sleep(A_MOMENT).await;
    assert_eq!(first.respond("decline", &first_id).await?.0, StatusCode::OK);
    assert_eq!(first_leg.rejected(SOON).await?.0, 486);
    flow.reports("1001", AgentEvent::Terminal).await?;
    sleep(A_MOMENT).await;
    assert_eq!(
        second.call(&second_id).await?["status"],
        "waiting_for_mobile"
    );
    gives_up(&second_leg).await?;
    second.wait_for_status(&second_id, "canceled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_with_the_same_call_sid_after_a_ring_is_a_new_ring() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let flow = ExotelFlow::begin(&fixture);
    let mut ids = Vec::new();
    for ring in 1..=3 {
        // A new device for each ring: its push cannot be taken for that of an earlier ring.
        let app = fixture.app("1001").await?;
        let caller = flow.calls("1001").await?;
        let id = app.receives_call().await?;
        assert!(!ids.contains(&id), "ring {ring}");
        sleep(A_MOMENT).await;
        // Repeated webhooks change nothing, during the ring and after it.
        flow.passes_through("1001").await?;
        if ring < 3 {
            gives_up(&caller).await?;
            app.wait_for_status(&id, "canceled").await?;
            app.push("call_cancelled").await?;
        } else {
            assert_eq!(accept(&app, &id).await?, StatusCode::OK);
            let talk = Conversation::join(&app, &mut phone, caller, id.clone()).await?;
            talk.both_hear().await?;
            talk.end(&app).await?;
        }
        flow.passes_through("1001").await?;
        flow.reports("1001", AgentEvent::Terminal).await?;
        sleep(A_MOMENT).await;
        assert_eq!(app.count_pushes("incoming_call").await?, 1, "ring {ring}");
        app.unregister().await?;
        ids.push(id);
    }
    Ok(())
}

async fn accept(app: &App<'_>, id: &str) -> Result<StatusCode> {
    Ok(app.respond("accept_ready", id).await?.0)
}
