//! The event files `events/FUNCTION-CASE.json`, and the secrets that they are signed with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

/// One file of `events/`.
#[derive(Debug)]
pub struct EventFile {
    /// The file name without `.json`.
    pub name: String,
    /// Its content.
    pub event: Value,
}

impl EventFile {
    /// All event files, sorted by name.
    pub fn all(repository: &Path) -> Result<Vec<Self>> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(repository.join("events"))
            .context("list events/")?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        paths.retain(|path| {
            path.extension()
                .is_some_and(|extension| extension == "json")
        });
        paths.sort();
        paths.iter().map(|path| Self::read(path)).collect()
    }

    fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
        let event =
            serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
        let name = path
            .file_stem()
            .and_then(|name| name.to_str())
            .context("the file name is not UTF-8")?
            .to_owned();
        Ok(Self { name, event })
    }

    /// The function that the file name starts with.
    pub fn function<'a>(&self, functions: impl Iterator<Item = &'a str>) -> Option<&'a str> {
        let names = functions.filter(|function| {
            self.name
                .strip_prefix(function)
                .is_some_and(|case| case.is_empty() || case.starts_with('-'))
        });
        names.max_by_key(|function| function.len())
    }

    /// The route of an HTTP event, such as `POST /api/call-response`.
    pub fn route(&self) -> Option<&str> {
        self.event["routeKey"].as_str()
    }

    /// The route key of a WebSocket event, such as `$default`.
    pub fn websocket_route(&self) -> Option<&str> {
        let context = &self.event["requestContext"];
        context["connectionId"]
            .as_str()
            .filter(|_| !self.is_for_an_authorizer())?;
        context["routeKey"].as_str()
    }

    /// Whether this event goes to the WebSocket authorizer.
    pub fn is_for_an_authorizer(&self) -> bool {
        self.event["type"] == "REQUEST"
    }
}

/// What `events/README.md` says about an event.
#[derive(Debug)]
pub struct Expectation {
    /// The name of its file.
    pub event: String,
    /// The events that must come first, in this order.
    pub needs: Vec<String>,
    /// The status codes that the answer may have. An event that is no request has none.
    pub statuses: Vec<u16>,
    /// The answer in words.
    pub answer: String,
}

/// What `events/README.md` says about each event, in the order of a call, from table rows of the form
/// ``| `event` | function | needs | answer |``.
pub fn expectations(repository: &Path) -> Result<Vec<Expectation>> {
    let rows = rows(repository)?.into_iter();
    let rows = rows.filter_map(|cells| {
        let [event, _function, needs, answer] = cells.try_into().ok()?;
        let first = answer.split([':', ',']).next().unwrap_or_default();
        let statuses = first.split(" or ").map(str::parse);
        Some(Expectation {
            event: in_backticks(&event)?.to_owned(),
            needs: needs
                .split(", ")
                .filter_map(in_backticks)
                .map(str::to_owned)
                .collect(),
            statuses: statuses.collect::<Result<_, _>>().unwrap_or_default(),
            answer,
        })
    });
    Ok(rows.collect())
}

/// The secrets documented in `events/README.md`, from table rows of the form ``| `name` | `value` |``.
pub fn documented_secrets(repository: &Path) -> Result<BTreeMap<String, String>> {
    let rows = rows(repository)?.into_iter();
    let rows = rows.filter_map(|cells| {
        let [name, value] = cells.try_into().ok()?;
        Some((
            in_backticks(&name)?.to_owned(),
            in_backticks(&value)?.to_owned(),
        ))
    });
    Ok(rows.collect())
}

/// The cells of the table rows in `events/README.md`.
fn rows(repository: &Path) -> Result<Vec<Vec<String>>> {
    let readme = std::fs::read_to_string(repository.join("events/README.md"))
        .context("read events/README.md")?;
    let rows = readme.lines().filter_map(|line| {
        let cells = line.strip_prefix('|')?.strip_suffix('|')?.split('|');
        Some(cells.map(|cell| cell.trim().to_owned()).collect())
    });
    Ok(rows.collect())
}

fn in_backticks(cell: &str) -> Option<&str> {
    cell.strip_prefix('`')?.strip_suffix('`')
}
