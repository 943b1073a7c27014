//! The page of numbers, for admins.

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;

use super::page::Page;
use crate::admin::Admin;
use ringback_e2e::fixture::{Fixture, unused_mobile_number};

const FORM: &str = "#numbers .numbers form";
const ANSWER: &str = "#numbers .numbers .answer";

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_adds_changes_and_deletes_a_number_on_a_narrow_screen() -> Result<()> {
    let fixture = Fixture::open().await?;
    let admin = Admin { fixture: &fixture };
    let page = Page::open(&fixture).await?;
    let screen = json!({ "width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true });
    let emulate = "Emulation.setDeviceMetricsOverride";
    page.browser.devtools(emulate, screen).await?;
    ensure!(
        page.measured("document.querySelector('#numbers').hidden")
            .await?
            == true
    );
    page.choose("#viewer-of", "admin").await?;
    page.is_live().await?;

    let number = unused_mobile_number();
    let national = format!("0{} ", &number[3..]);
    let save = format!("{FORM} button[type=submit]");
    page.browser.fill("#route-number", &national).await?;
    page.browser.fill("#route-extension", "1001").await?;
    page.click(&save).await?;
    let saved = format!("Saved: {number} leads to extension 1001.");
    page.shows(ANSWER, &saved).await?;
    // The same number again is not changed by accident.
    page.browser.fill("#route-number", &number).await?;
    page.browser.fill("#route-extension", "1002").await?;
    page.click(&save).await?;
    page.shows(ANSWER, "leads to extension 1001 already")
        .await?;

    let line = format!("#numbers li[data-key='{number}']");
    page.shows(&line, "leads to extension 1001").await?;
    page.click(&format!("{line} button")).await?;
    let (status, _) = admin.route(&number, None, "1003").await?;
    ensure!(status == 200);
    page.browser.fill("#route-extension", "1002").await?;
    page.click(&save).await?;
    let conflict = format!("another admin has changed this. {number} leads to extension 1003 now");
    page.shows(ANSWER, &conflict).await?;
    page.click(&save).await?;
    page.shows(ANSWER, "leads to extension 1002.").await?;
    page.shows(&line, "leads to extension 1002").await?;

    let wide = "[...document.querySelectorAll('body *')].filter((one) => one.checkVisibility() && !one.closest('.unseen, .skip')
        && one.getBoundingClientRect().right > 360.5).map((one) => one.outerHTML.slice(0, 90))";
    page.click("#numbers summary").await?;
    page.shows("#numbers .changes li", "admin").await?;
    assert_eq!(page.measured(wide).await?, json!([]));

    let delete = format!("{line} .remove");
    page.click(&delete).await?;
    page.click(&delete).await?;
    page.shows(ANSWER, &format!("Deleted: {number}")).await?;
    let path = format!("numbers/{number}");
    assert_eq!(admin.ask(Method::GET, &path, None, None).await?.0, 404);
    page.choose("#viewer-of", "operator").await?;
    ensure!(
        page.measured("document.querySelector('#numbers').hidden")
            .await?
            == true
    );
    page.complains_only_of("412").await?;
    page.browser.close().await
}
