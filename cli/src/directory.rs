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

fn path(directory: Directory, key: &str) -> String {
    format!("/api/admin/{}/{}", name(directory), encoded(key))
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

/// Reads an entry.
pub(crate) async fn find(api: &Api, directory: Directory, key: &str) -> Result<Option<Entry>> {
    let answer = api.find(&path(directory, key)).await?;
    Ok(answer.and_then(|answer| Entry::parse(directory, &answer)))
}

/// Sets the value of an entry, or removes the entry (`None`), if it has not changed since it was read. The inner error is a refusal for
/// another reason.
pub(crate) async fn write(
    api: &Api,
    directory: Directory,
    key: &str,
    before: Option<&Entry>,
    value: Option<&str>,
) -> Result<std::result::Result<Value, Refusal>> {
    let expects = match before {
        Some(entry) => Expects::Entry(entry.etag.clone()),
        None => Expects::Nothing,
    };
    let body = value.map(|value| json!({ directory.value_name(): value }));
    let path = path(directory, key);
    match api.write(&path, body.as_ref(), &expects).await? {
        // Another admin has removed it too.
        Err(refusal) if refusal.is("no_such_entry") && value.is_none() => Ok(Ok(Value::Null)),
        Err(refusal) if refusal.is("changed") => Err(changed_meanwhile(directory, key, &refusal)),
        answer => Ok(answer),
    }
}

fn changed_meanwhile(directory: Directory, key: &str, refusal: &Refusal) -> Failure {
    let current = Entry::parse(directory, &refusal.answer["current"]);
    let current = match current {
        Some(entry) => format!("it is {} now", entry.value),
        None => "it is gone now".to_owned(),
    };
    Failure::refused(format!(
        "Another admin has changed {key} meanwhile ({current}), so it was left as it is: look at it, and run the command again."
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

/// Sets the value of an entry. A concurrent change by another admin makes it fail.
pub(crate) async fn set(
    api: &Api,
    directory: Directory,
    key: &str,
    value: &str,
    output: Output,
) -> Result<()> {
    let before = find(api, directory, key).await?;
    let answer = write(api, directory, key, before.as_ref(), Some(value)).await?;
    let answer = answer.map_err(Refusal::into_failure)?;
    let entry = Entry::parse(directory, &answer).ok_or_else(|| {
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

/// Removes an entry. A concurrent change by another admin makes it fail.
pub(crate) async fn remove(
    api: &Api,
    directory: Directory,
    key: &str,
    output: Output,
) -> Result<()> {
    let Some(entry) = find(api, directory, key).await? else {
        return Err(Failure::refused(format!(
            "There is no entry {key}: `list` shows all entries."
        )));
    };
    let removed = write(api, directory, key, Some(&entry), None).await?;
    removed.map_err(Refusal::into_failure)?;
    let text = format!("{} removed (was {})", entry.key, entry.value);
    output.print(&json!({ "removed": entry.to_json(directory) }), &text)
}
