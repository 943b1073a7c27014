//! The client of the stack's fault injection API.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use reqwest::Client;
use ringback_local::faults::rule::{Line, Play, Rule, Standing, System};

/// The fault injection API.
#[derive(Clone)]
pub(crate) struct Faults {
    url: String,
    http: Client,
}

impl Faults {
    pub(crate) fn at(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            http: Client::new(),
        }
    }

    pub(crate) async fn make(&self, name: &str, rule: &Rule) -> Result<()> {
        let url = format!("{}/rules/{name}", self.url);
        let answer = self.http.put(url).json(rule).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// How often a rule was applied.
    pub(crate) async fn met(&self, name: &str) -> Result<Standing> {
        let url = format!("{}/rules/{name}", self.url);
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    pub(crate) async fn drop_rule(&self, name: &str) -> Result<()> {
        let url = format!("{}/rules/{name}", self.url);
        self.http.delete(url).send().await?.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn switch(&self, system: System, line: Line) -> Result<()> {
        let name = serde_json::to_value(system)?;
        let name = name.as_str().context("a system's name")?;
        let url = format!("{}/lines/{name}", self.url);
        let answer = self.http.put(url).json(&line).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn begin(&self, play: &str, marks: &BTreeSet<String>) -> Result<()> {
        let url = format!("{}/plays/{play}", self.url);
        let answer = self.http.put(url).json(marks).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Ends a play and deletes its rules. Returns the requests that were sent for it.
    pub(crate) async fn end(&self, play: &str) -> Result<Play> {
        let url = format!("{}/plays/{play}", self.url);
        let answer = self.http.delete(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }
}
