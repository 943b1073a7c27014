//! The console's page and common actions on it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use ringback_e2e::browser::Browser;
use ringback_e2e::fixture::Fixture;

/// The time from a change of a call until the page shows it, on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(8);

/// The latest call on the board.
pub(crate) const LATEST: &str = "document.querySelector('#board > .call')";

/// The console's page in its own browser window.
pub(crate) struct Page {
    pub(crate) browser: Browser,
}

impl Page {
    /// Opens the live console of the running stack as an operator.
    pub(crate) async fn open(fixture: &Fixture) -> Result<Self> {
        let page = Self::open_at(&format!("{}/", fixture.stack.http_url)).await?;
        page.is_live().await?;
        Ok(page)
    }

    pub(crate) async fn open_at(url: &str) -> Result<Self> {
        let browser = Browser::start().await?;
        browser.open(url).await?;
        Ok(Self { browser })
    }

    /// Closes the page. Fails if the browser logged an error.
    pub(crate) async fn close(self) -> Result<()> {
        let complaints = self.browser.complaints().await?;
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        self.browser.close().await
    }

    /// Fails if the browser logged an error without this text. The browser logs each failed request as an error.
    pub(crate) async fn complains_only_of(&self, text: &str) -> Result<()> {
        let complaints = self.browser.complaints().await?;
        let is_expected = complaints.iter().all(|one| one.contains(text));
        ensure!(is_expected, "{complaints:?}");
        Ok(())
    }

    pub(crate) async fn is_live(&self) -> Result<()> {
        let live = "document.querySelector('#connection').dataset.state === 'live'";
        self.browser.until(live, SOON).await
    }

    /// Waits until an element's text contains these words.
    pub(crate) async fn shows(&self, css: &str, words: &str) -> Result<()> {
        let element = format!("document.querySelector({})", json!(css));
        let has = format!(
            "{element} && {element}.textContent.includes({})",
            json!(words)
        );
        self.browser.until(&has, SOON).await
    }

    /// Waits until the latest call shows this status.
    pub(crate) async fn latest_is(&self, words: &str) -> Result<()> {
        self.shows("#board > .call .words", words).await
    }

    pub(crate) async fn text(&self, css: &str) -> Result<String> {
        let body = "return document.querySelector(arguments[0])?.textContent ?? ''";
        let text = self.browser.run(body, json!([css])).await?;
        Ok(text.as_str().context("the element has no text")?.to_owned())
    }

    /// The id of the latest call.
    pub(crate) async fn latest(&self) -> Result<String> {
        let id = self
            .browser
            .run(&format!("return {LATEST}.dataset.call"), json!([]))
            .await?;
        Ok(id.as_str().context("the call has no id")?.to_owned())
    }

    pub(crate) async fn click(&self, css: &str) -> Result<()> {
        self.browser.click(css).await
    }

    /// Switches the phone on and waits until it can receive calls.
    pub(crate) async fn switch_on(&self) -> Result<()> {
        self.click("#switch").await?;
        self.shows("#phone-state", "waiting for a push").await
    }

    pub(crate) async fn choose(&self, css: &str, value: &str) -> Result<()> {
        let body =
            "const select = document.querySelector(arguments[0]); select.value = arguments[1];
            select.dispatchEvent(new Event('change'))";
        self.browser.run(body, json!([css, value])).await?;
        Ok(())
    }

    pub(crate) async fn focus(&self) -> Result<String> {
        let body = "const one = document.activeElement; return one.id || one.tagName.toLowerCase()";
        let id = self.browser.run(body, json!([])).await?;
        Ok(id.as_str().unwrap_or_default().to_owned())
    }

    pub(crate) async fn measured(&self, expression: &str) -> Result<Value> {
        self.browser
            .run(&format!("return {expression}"), json!([]))
            .await
    }
}
