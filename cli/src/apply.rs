//! `ringback route apply`: compares a file with the directories, and makes them as the file says.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::Args;
use ringback::store::directories::{Directory, EntryKey};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

use crate::api::Api;
use crate::directory::{Entry, entries, name, write};
use crate::failure::{Failure, Result};
use crate::output::{Output, columns};

/// The part of the help with the format of the file.
pub(crate) const HELP: &str = "\
The file has one or both of these parts:
  numbers:                     # dialled number: extension that rings
    +918047491899: 1001
  telephones:                  # extension: telephone of its owner
    1001: +919800001001
Entries that are not in the file stay, unless --prune is given. A part that is not in the file stays as it is.

Example:
  ringback route apply routes.yaml --dry-run";

#[derive(Args, Debug)]
pub(crate) struct ApplyArguments {
    /// The YAML file; - reads stdin
    file: PathBuf,
    /// Only show what would change
    #[arg(long)]
    dry_run: bool,
    /// Remove the entries that are not in the file
    #[arg(long)]
    prune: bool,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    numbers: Option<Pairs>,
    telephones: Option<Pairs>,
}

/// Pairs in the order of the file. A map would keep one of two equal keys.
#[derive(Debug)]
struct Pairs(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Pairs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("lines such as `+918047491899: 1001`")
            }

            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// What is to be done about an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Difference {
    directory: Directory,
    key: String,
    before: Option<Entry>,
    after: Option<String>,
}

/// What a file asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Plan {
    differences: Vec<Difference>,
    /// The entries that are as they should be.
    unchanged: usize,
    /// The entries that are not in the file, and stay.
    kept: usize,
}

/// Runs `ringback route apply`.
pub(crate) async fn run(
    api: &Api,
    arguments: &ApplyArguments,
    country: &str,
    output: Output,
) -> Result<()> {
    let wanted = Wanted::parse(&read(&arguments.file)?)?;
    let mut plan = Plan::default();
    for (directory, pairs) in [
        (Directory::Numbers, &wanted.numbers),
        (Directory::Extensions, &wanted.telephones),
    ] {
        if let Some(pairs) = pairs {
            let wanted = pairs.normalized(directory, country)?;
            let current = entries(api, directory).await?;
            plan.compare(directory, &wanted, current, arguments.prune);
        }
    }
    if !arguments.dry_run {
        for (done, difference) in plan.differences.iter().enumerate() {
            let applied = difference.apply(api).await;
            applied.map_err(|failure| plan.interrupted(done, failure))?;
        }
    }
    output.print(
        &plan.to_json(arguments.dry_run),
        &plan.to_text(arguments.dry_run),
    )
}

fn read(file: &Path) -> Result<String> {
    let text = match file == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()),
        false => std::fs::read_to_string(file),
    };
    text.map_err(|error| Failure::wrong_use(format!("{} cannot be read: {error}.", file.display())))
}

impl Wanted {
    fn parse(text: &str) -> Result<Self> {
        let wanted: Self = yaml_serde::from_str(text).map_err(|error| {
            Failure::wrong_use(format!(
                "The file is not a list of routes: {error}. `ringback route apply --help` shows the format."
            ))
        })?;
        match &wanted {
            Self {
                numbers: None,
                telephones: None,
            } => Err(Failure::wrong_use(
                "The file has neither `numbers:` nor `telephones:`, so there is nothing to do.",
            )),
            _ => Ok(wanted),
        }
    }
}

impl Pairs {
    /// The pairs as the deployment stores them, so that all notations of a number are equal.
    fn normalized(&self, directory: Directory, country: &str) -> Result<BTreeMap<String, String>> {
        let mut normalized = BTreeMap::new();
        let of_values = match directory {
            Directory::Numbers => Directory::Extensions,
            Directory::Extensions => Directory::Numbers,
        };
        for (key, value) in &self.0 {
            let parse = |directory, text: &str| {
                EntryKey::parse(directory, text, country).map_err(|error| {
                    Failure::wrong_use(format!("In the line `{key}: {value}`, {error}."))
                })
            };
            let (name, value) = (parse(directory, key)?, parse(of_values, value)?);
            let name = name.as_str().to_owned();
            if normalized.contains_key(&name) {
                return Err(Failure::wrong_use(format!(
                    "The file has {name} twice: delete one of the two lines."
                )));
            }
            normalized.insert(name, value.as_str().to_owned());
        }
        Ok(normalized)
    }
}

impl Plan {
    fn compare(
        &mut self,
        directory: Directory,
        wanted: &BTreeMap<String, String>,
        current: Vec<Entry>,
        prune: bool,
    ) {
        let mut current: BTreeMap<String, Entry> = current
            .into_iter()
            .map(|entry| (entry.key.clone(), entry))
            .collect();
        for (key, value) in wanted {
            let before = current.remove(key);
            if before.as_ref().is_some_and(|entry| entry.value == *value) {
                self.unchanged += 1;
                continue;
            }
            self.differences.push(Difference {
                directory,
                key: key.clone(),
                before,
                after: Some(value.clone()),
            });
        }
        if !prune {
            self.kept += current.len();
            return;
        }
        let removed = current.into_iter().map(|(key, entry)| Difference {
            directory,
            key,
            before: Some(entry),
            after: None,
        });
        self.differences.extend(removed);
    }

    /// The failure of the change after the first `done` ones.
    fn interrupted(&self, done: usize, failure: Failure) -> Failure {
        let all = self.differences.len();
        failure.and(&format!(
            "{done} of {all} changes are made: run the command again for the others."
        ))
    }

    fn to_text(&self, dry_run: bool) -> String {
        let rows = self.differences.iter().map(Difference::row).collect();
        let lines = columns(rows);
        let (count, would_be) = (
            self.differences.len(),
            if dry_run { "would be " } else { "" },
        );
        let changes = if count == 1 { "change" } else { "changes" };
        let mut summary = format!(
            "{count} {changes} {would_be}made, {} as before.",
            self.unchanged
        );
        if self.kept > 0 {
            let entries = if self.kept == 1 {
                "entry stays"
            } else {
                "entries stay"
            };
            summary += &format!(
                " {} {entries} that the file does not have; --prune removes such entries.",
                self.kept
            );
        }
        match lines.is_empty() {
            true => summary,
            false => format!("{lines}\n{summary}"),
        }
    }

    fn to_json(&self, dry_run: bool) -> Value {
        let changes: Vec<Value> = self.differences.iter().map(Difference::to_json).collect();
        json!({ "dry_run": dry_run, "changes": changes, "unchanged": self.unchanged, "kept": self.kept })
    }
}

impl Difference {
    async fn apply(&self, api: &Api) -> Result<()> {
        let (before, after) = (self.before.as_ref(), self.after.as_deref());
        let written = write(api, self.directory, &self.key, before, after).await?;
        written.map(drop).map_err(|refusal| {
            let about = format!("This is about {}.", self.key);
            refusal.into_failure().and(&about)
        })
    }

    const fn action(&self) -> &'static str {
        match (&self.before, &self.after) {
            (None, _) => "add",
            (Some(_), Some(_)) => "change",
            (Some(_), None) => "remove",
        }
    }

    fn row(&self) -> [String; 4] {
        let kind = match self.directory {
            Directory::Numbers => "route",
            Directory::Extensions => "telephone",
        };
        let was = self.before.as_ref().map(|entry| entry.value.as_str());
        let values = match (was, &self.after) {
            (None, Some(after)) => format!("→ {after}"),
            (Some(was), Some(after)) => format!("→ {after} (was {was})"),
            (was, None) => format!("(was {})", was.unwrap_or_default()),
        };
        [
            self.action().to_owned(),
            kind.to_owned(),
            self.key.clone(),
            values,
        ]
    }

    fn to_json(&self) -> Value {
        json!({
            "action": self.action(),
            "directory": name(self.directory),
            "key": self.key,
            "before": self.before.as_ref().map(|entry| &entry.value),
            "after": self.after,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(text: &str) -> Result<BTreeMap<String, String>> {
        let wanted = Wanted::parse(text)?;
        match (wanted.numbers, wanted.telephones) {
            (Some(pairs), _) => pairs.normalized(Directory::Numbers, "IN"),
            (_, Some(pairs)) => pairs.normalized(Directory::Extensions, "IN"),
            (None, None) => unreachable!(),
        }
    }

    fn pairs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        let pairs = pairs.iter().copied();
        pairs
            .map(|(key, value)| (key.into(), value.into()))
            .collect()
    }

    fn entry(key: &str, value: &str) -> Entry {
        Entry {
            key: key.to_owned(),
            value: value.to_owned(),
            etag: format!("\"{value}\""),
        }
    }

    #[test]
    fn numbers_need_no_quotes_and_have_any_notation() {
        let file = "numbers:\n  +918047491899: 1001\n  08047491900: \"0100\"\n  +91 80474-91901: support\n  1909: 1004\n";
        let expected = pairs(&[
            ("+918047491899", "1001"),
            ("+918047491900", "0100"),
            ("+918047491901", "support"),
            ("1909", "1004"),
        ]);
        assert_eq!(normalized(file), Ok(expected));
        let file = "telephones:\n  1001: +919800001001\n  0100: 09800001002\n";
        let expected = pairs(&[("0100", "+919800001002"), ("1001", "+919800001001")]);
        assert_eq!(normalized(file), Ok(expected));
        assert_eq!(normalized("numbers: {}"), Ok(BTreeMap::new()));
    }

    #[test]
    fn a_wrong_file_is_refused_with_what_is_wrong() {
        for (file, expected) in [
            ("", "neither"),
            ("routes:\n  a: b\n", "routes"),
            ("numbers: [1001]", "not a list of routes"),
            (
                "numbers:\n  +918047491899: [1001]\n",
                "not a list of routes",
            ),
            ("numbers:\n  +918047491899: 10/01\n", "extension"),
            ("numbers:\n  hello: 1001\n", "`hello: 1001`"),
            (
                "numbers:\n  08047491899: 1001\n  +918047491899: 1002\n",
                "+918047491899 twice",
            ),
        ] {
            let failure = normalized(file).unwrap_err();
            assert_eq!(failure.number(), 2);
            assert!(failure.to_string().contains(expected), "{file}: {failure}");
        }
    }

    #[test]
    fn a_plan_adds_changes_and_removes_only_with_prune() {
        let wanted = pairs(&[("+911", "1001"), ("+912", "1002"), ("+913", "1003")]);
        let current = || {
            vec![
                entry("+912", "1009"),
                entry("+913", "1003"),
                entry("+914", "1004"),
            ]
        };
        let plan = |prune| {
            let mut plan = Plan::default();
            plan.compare(Directory::Numbers, &wanted, current(), prune);
            plan
        };
        assert_eq!(
            plan(false).to_text(true),
            "add     route  +911  → 1001\n\
             change  route  +912  → 1002 (was 1009)\n\
             2 changes would be made, 1 as before. \
             1 entry stays that the file does not have; --prune removes such entries."
        );
        let pruned = plan(true);
        assert!(
            pruned
                .to_text(false)
                .contains("remove  route  +914  (was 1004)")
        );
        assert!(
            pruned
                .to_text(false)
                .ends_with("3 changes made, 1 as before.")
        );
        let document = pruned.to_json(false);
        assert_eq!(document["changes"][2]["action"], "remove");
        assert_eq!(document["changes"][1]["before"], "1009");
    }

    #[test]
    fn nothing_to_do_is_no_failure() {
        let mut plan = Plan::default();
        let wanted = pairs(&[("1001", "+919800001001")]);
        let current = vec![entry("1001", "+919800001001")];
        plan.compare(Directory::Extensions, &wanted, current, true);
        assert_eq!(plan.to_text(false), "0 changes made, 1 as before.");
    }
}
