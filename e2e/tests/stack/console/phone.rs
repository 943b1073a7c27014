//! The phone in the console: a call to it rings, is answered or declined, and it can call.

use anyhow::{Context, Result, ensure};
use ringback_local::settings::Settings;
use serde_json::{Value, json};

use super::page::{Page, SOON};
use ringback_e2e::browser::{ENTER, TAB};
use ringback_e2e::fixture::Fixture;

#[tokio::test(flavor = "multi_thread")]
async fn a_test_call_rings_is_accepted_heard_and_hung_up_on_the_page() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    page.switch_on().await?;
    page.click("#dial button").await?;
    page.shows("#phone-state", "is calling").await?;
    page.click("#callers button").await?;
    page.latest_is("Canceled").await?;
    page.shows("#phone-state", "Asleep").await?;
    page.shows("#callers", "gave up").await?;
    page.shows("#pushes", "Call canceled (the caller hung up)")
        .await?;

    page.click("#dial button").await?;
    page.latest_is("Ringing").await?;
    page.shows("#phone-state", "Asha Rao, +919876543210 is calling")
        .await?;
    page.shows("#pushes", "Incoming call from Asha Rao").await?;
    page.shows("#callers", "hears it ring").await?;
    page.click("#accept").await?;
    page.latest_is("Talking").await?;
    // Each party hears the sound of the other one, packet by packet.
    page.shows("#leg", "talks, hears caller").await?;
    page.shows("#callers", "talks, hears phone 1001").await?;
    page.shows("#board .timeline", "Legs bridged").await?;
    page.shows("#board .timeline", "s after the push (FCM)")
        .await?;
    let history = history(&fixture, &page).await?;
    for event in [
        "ring",
        "push_sent",
        "ringing",
        "accept_ready",
        "effects_completed",
        "bridged",
    ] {
        ensure!(
            history.iter().any(|line| line["event"] == event),
            "{history:?}"
        );
    }
    picture(&page).await?;
    page.click("#hang-up").await?;
    page.latest_is("Ended").await?;
    page.shows("#board .reason", "the callee hung up").await?;
    page.shows("#board .timeline", "Hung up by an app").await?;
    page.shows("#callers", "was hung up on").await?;
    page.shows("#leg", "was hung up on").await?;
    page.shows("#phone-state", "Asleep").await?;
    page.close().await
}

/// The screenshot for the README, which `make screenshot` copies.
async fn picture(page: &Page) -> Result<()> {
    page.browser
        .run("document.activeElement.blur(); document.querySelector('#pushes-of').open = true; scrollTo(0, 0)", json!([]))
        .await?;
    let image = page.browser.screenshot().await?;
    std::fs::write(Settings::from_environment().state("console.png"), image)?;
    Ok(())
}

async fn history(fixture: &Fixture, page: &Page) -> Result<Vec<Value>> {
    let call = fixture
        .unregistered_app("1001")
        .call(&page.latest().await?)
        .await?;
    Ok(call["history"]
        .as_array()
        .context("the call has no history")?
        .clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_declined_with_the_keyboard() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = Page::open(&fixture).await?;
    let mut passed = Vec::new();
    tab_to(&page, "switch", &mut passed).await?;
    page.browser.press(ENTER).await?;
    page.shows("#phone-state", "waiting for a push").await?;
    ensure!(
        page.focus().await? == "switch",
        "the focus moved to {}",
        page.focus().await?
    );
    tab_to(&page, "caller-number", &mut passed).await?;
    // In reading order, without repeats: the focus is never trapped.
    let order = [
        "viewer-of",
        "extension",
        "switch",
        "recipient",
        "video",
        "dialled",
        "caller-name",
        "caller-number",
    ];
    let named: Vec<&str> = passed
        .iter()
        .map(String::as_str)
        .filter(|id| order.contains(id))
        .collect();
    assert_eq!(named, order);
    page.browser.press(ENTER).await?;
    page.shows("#phone-state", "is calling").await?;
    let back = "document.querySelector('#switch').focus()";
    page.browser.run(back, json!([])).await?;
    tab_to(&page, "decline", &mut passed).await?;
    page.browser.press(ENTER).await?;
    page.latest_is("Declined").await?;
    page.shows("#callers", "heard busy").await?;
    page.shows("#phone-state", "Declined").await?;
    // The pressed button is gone, and the focus has moved to a sensible place.
    assert_eq!(page.focus().await?, "phone-state");
    let said = page.text("#announcer").await?;
    ensure!(
        said.contains("Declined"),
        "a screen reader announced {said:?}"
    );
    page.close().await
}

/// Presses Tab until the element has the focus. Checks for each element on the way that its focus is visible.
async fn tab_to(page: &Page, id: &str, passed: &mut Vec<String>) -> Result<()> {
    for _ in 0..30 {
        page.browser.press(TAB).await?;
        let focus = page.focus().await?;
        let outline = "const style = getComputedStyle(document.activeElement);
            return style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2";
        let seen = page.browser.run(outline, json!([])).await?;
        ensure!(
            seen == true,
            "the focus on {focus} is not visible after {passed:?}"
        );
        passed.push(focus.clone());
        if focus == id {
            return Ok(());
        }
    }
    anyhow::bail!("Tab does not reach {id}: {passed:?}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_from_the_page_is_answered_automatically_by_its_own_phone() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    let mut callee = fixture.registered_phone("1002").await?;
    let page = Page::open(&fixture).await?;
    let ready = "!document.querySelector('#place button').disabled";
    page.browser.until(ready, SOON).await?;
    page.click("#place button").await?;
    let id = app.receives_call().await?;
    page.shows("#phone-state", "Calling 1002").await?;
    page.latest_is("Ringing").await?;
    app.respond("accept_ready", &id).await?;
    let leg = callee.next_call(SOON).await?;
    leg.answer().await?;
    page.shows("#phone-state", "Talking with 1002").await?;
    page.shows("#leg", "talks").await?;
    page.click("#hang-up").await?;
    leg.ended(SOON).await?;
    page.latest_is("Ended").await?;
    page.shows("#phone-state", "Off.").await?;

    page.browser.fill("#recipient", "1003").await?;
    page.click("#place button").await?;
    page.shows("#phone-error", "this extension has no registered device")
        .await?;
    page.close().await
}
