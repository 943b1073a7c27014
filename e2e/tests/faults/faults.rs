//! The client of the stack's fault injection API.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use reqwest::Client;
use ringback_local::faults::rule::{Fault, LinkState, Rule, RuleStatus, System, TestCall};

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
    pub(crate) async fn met(&self, name: &str) -> Result<RuleStatus> {
        let url = format!("{}/rules/{name}", self.url);
        let answer = self.http.get(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }

    pub(crate) async fn drop_rule(&self, name: &str) -> Result<()> {
        let url = format!("{}/rules/{name}", self.url);
        self.http.delete(url).send().await?.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn switch(&self, system: System, line: LinkState) -> Result<()> {
        let name = serde_json::to_value(system)?;
        let name = name.as_str().context("the system has no name")?;
        let url = format!("{}/links/{name}", self.url);
        let answer = self.http.put(url).json(&line).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    pub(crate) async fn begin(&self, play: &str, marks: &BTreeSet<String>) -> Result<()> {
        let url = format!("{}/test-calls/{play}", self.url);
        let answer = self.http.put(url).json(marks).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Ends a play and deletes its rules. Returns the requests that were sent for it.
    pub(crate) async fn end(&self, play: &str) -> Result<TestCall> {
        let url = format!("{}/test-calls/{play}", self.url);
        let answer = self.http.delete(url).send().await?.error_for_status()?;
        Ok(answer.json().await?)
    }
}

/// A rule for the requests of any function, the first `times` of them or all.
pub(crate) fn rule(system: System, operation: &str, times: Option<u32>, fault: Fault) -> Rule {
    Rule {
        system,
        operation: Some(operation.to_owned()),
        function: None,
        test_call: None,
        skip: 0,
        times,
        one_in: None,
        fault,
    }
}

/// The same rule for one function.
pub(crate) fn from(function: &str, rule: Rule) -> Rule {
    Rule {
        function: Some(function.to_owned()),
        ..rule
    }
}

/// An answer in the system's name.
pub(crate) fn answer(status: u16, body: &str) -> Fault {
    answer_with(
        status,
        &[("content-type", "application/x-amz-json-1.0")],
        body,
    )
}

/// An answer with these headers.
pub(crate) fn answer_with(status: u16, headers: &[(&str, &str)], body: &str) -> Fault {
    let headers = headers.iter();
    Fault::Answer {
        status,
        headers: headers
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        body: body.to_owned(),
    }
}
