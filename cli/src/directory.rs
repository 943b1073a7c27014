//! The two directories that admins write, over the admin API.

use ringback::store::directories::Directory;
use serde_json::{Value, json};

use crate::api::{Api, Expects, Refusal, encoded};
use crate::failure::{Failure, Result};
use crate::output::Output;

/// An entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) value: String,
    pub(crate) etag: String,
}

/// The directory's name in paths and answers.
pub(crate) const fn name(directory: Directory) -> &'static str {
    match directory {
        Directory::Numbers => "numbers",
        Directory::Extensions => "extensions",
    }
}

/// The path of an entry.
pub(crate) fn path(directory: Directory, key: &str) -> String {
    format!("/api/admin/{}/{}", name(directory), encoded(key))
}

/// The body that gives an entry this value.
pub(crate) fn body(directory: Directory, value: &str) -> Value {
    json!({ directory.value_name(): value })
}

/// All entries of a directory.
pub(crate) async fn entries(api: &Api, directory: Directory) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    let add = |page: &Value| {
        let found = page[name(directory)].as_array().into_iter().flatten();
        entries.extend(found.filter_map(|entry| Entry::parse(directory, entry)));
        true
    };
    let path = format!("/api/admin/{}", name(directory));
    api.read_pages(&path, add).await?;
    Ok(entries)
}

/// The failure of a change, because somebody else has changed the entry. It contains the value that the entry has now.
pub(crate) fn changed_meanwhile(directory: Directory, key: &str, refusal: &Refusal) -> Failure {
    let current = Entry::parse(directory, &refusal.answer["current"]);
    let current = match current {
        Some(entry) => format!("it is {} now", entry.value),
        None => "it is gone now".to_owned(),
    };
    Failure::refused(format!(
        "Somebody else has changed {key} meanwhile ({current}), so it was left as it is: look at it, and run the command again."
    ))
}

impl Entry {
    fn parse(directory: Directory, answer: &Value) -> Option<Self> {
        let text = |name: &str| answer[name].as_str().map(str::to_owned);
        Some(Self {
            key: text(directory.key_name())?,
            value: text(directory.value_name())?,
            etag: text("etag")?,
        })
    }

    fn to_json(&self, directory: Directory) -> Value {
        json!({ directory.key_name(): self.key, directory.value_name(): self.value, "etag": self.etag })
    }
}

/// Prints all entries.
pub(crate) async fn list(
    api: &Api,
    directory: Directory,
    heading: [&str; 2],
    output: Output,
) -> Result<()> {
    let entries = entries(api, directory).await?;
    let document: Vec<Value> = entries.iter().map(|one| one.to_json(directory)).collect();
    let document = json!({ name(directory): document });
    if entries.is_empty() {
        output.note("There is no entry yet.");
    }
    let rows = entries.into_iter().map(|entry| [entry.key, entry.value]);
    output.print_table(&document, heading, rows.collect())
}

/// Gives an entry this value, unless somebody else changes it at the same time.
pub(crate) async fn set(
    api: &Api,
    directory: Directory,
    key: &str,
    value: &str,
    output: Output,
) -> Result<()> {
    let path = path(directory, key);
    let before = api.find(&path).await?;
    let before = before.and_then(|answer| Entry::parse(directory, &answer));
    let expects = match &before {
        Some(entry) => Expects::Entry(entry.etag.clone()),
        None => Expects::Nothing,
    };
    let wanted = body(directory, value);
    let entry = match api.write(&path, Some(&wanted), &expects).await? {
        Ok(answer) => Entry::parse(directory, &answer),
        Err(refusal) if refusal.is("changed") => {
            return Err(changed_meanwhile(directory, key, &refusal));
        }
        Err(refusal) => return Err(refusal.into_failure()),
    };
    let entry = entry.ok_or_else(|| {
        Failure::not_reachable("The answer of the deployment is not that of Ringback.")
    })?;
    let was = match before.map(|entry| entry.value) {
        Some(value) if value == entry.value => ", as before".to_owned(),
        Some(value) => format!(" (was {value})"),
        None => String::new(),
    };
    let text = format!("{} → {}{was}", entry.key, entry.value);
    output.print(&entry.to_json(directory), &text)
}

/// Removes an entry, unless somebody else changes it at the same time.
pub(crate) async fn remove(
    api: &Api,
    directory: Directory,
    key: &str,
    output: Output,
) -> Result<()> {
    let path = path(directory, key);
    let before = api.find(&path).await?;
    let before = before.and_then(|answer| Entry::parse(directory, &answer));
    let Some(entry) = before else {
        return Err(Failure::refused(format!(
            "There is no entry {key}: `list` shows all entries."
        )));
    };
    let expects = Expects::Entry(entry.etag.clone());
    match api.write(&path, None, &expects).await? {
        Ok(_) => {}
        // Another admin has removed it too.
        Err(refusal) if refusal.is("no_such_entry") => {}
        Err(refusal) if refusal.is("changed") => {
            return Err(changed_meanwhile(directory, key, &refusal));
        }
        Err(refusal) => return Err(refusal.into_failure()),
    }
    let text = format!("{} removed (was {})", entry.key, entry.value);
    output.print(&json!({ "removed": entry.to_json(directory) }), &text)
}
