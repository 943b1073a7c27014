//! The documents: their links lead somewhere, the README is short, and `samconfig.toml` names every parameter.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use regex::Regex;
use ringback_e2e::cloudformation::Template;
use ringback_local::events::{EventFile, expectations};

/// A newcomer reads it to the end.
const LINES_OF_README: usize = 200;
/// The parameters without a default that everyone can use.
const TO_FILL_IN: [&str; 3] = ["AriUrl", "SipUris", "AlarmEmail"];

#[test]
fn the_readme_is_short() -> Result<()> {
    let lines = read(&repository().join("README.md"))?.lines().count();
    ensure!(lines < LINES_OF_README, "{lines} lines");
    Ok(())
}

#[test]
fn every_link_between_documents_leads_to_a_file_and_a_heading() -> Result<()> {
    let link = Regex::new(r"\]\(([^)\s]+)\)")?;
    let code = Regex::new(r"(?s)```.*?```|`[^`\n]*`")?;
    let mut links = 0;
    for page in pages()? {
        let folder = page.parent().context("a page has a folder")?;
        for found in link.captures_iter(&code.replace_all(&read(&page)?, "")) {
            let to = &found[1];
            if to.contains("://") || to.starts_with("mailto:") {
                continue;
            }
            links += 1;
            let (file, heading) = to.split_once('#').unwrap_or((to, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                folder.join(file)
            };
            ensure!(target.exists(), "{}: {to} does not exist", page.display());
            let is_there = heading.is_empty() || headings(&target)?.contains(heading);
            ensure!(is_there, "{}: {to} has no such heading", page.display());
        }
    }
    ensure!(links > 100, "found only {links} links");
    Ok(())
}

#[test]
fn samconfig_has_three_values_to_fill_in_and_every_other_default() -> Result<()> {
    let text = read(&repository().join("samconfig.toml"))?;
    let (of_default, _) = text.split_once("\n]").context("no parameters")?;
    // SAM rejects `NAME=` for an empty value.
    let value = Regex::new(r#"(?m)^    (# )?(?:"(\w+)=([^"]+)"|'(\w+)=""'),"#)?;
    let (mut set, mut defaults) = (BTreeSet::new(), BTreeSet::new());
    for line in value.captures_iter(of_default) {
        let text = |number| line.get(number).map(|found| found.as_str().to_owned());
        let name = text(2).or(text(4)).context("no name")?;
        if line.get(1).is_none() {
            set.insert(name);
        } else {
            defaults.insert((name, text(3).unwrap_or_default()));
        }
    }
    assert_eq!(set, TO_FILL_IN.map(str::to_owned).into());
    let template = Template::load(repository())?;
    let others = template
        .parameters()
        .filter(|(name, _)| !TO_FILL_IN.contains(name));
    let expected = others.map(|(name, parameter)| {
        let default = &parameter["Default"];
        let default = default.as_str().map_or(default.to_string(), str::to_owned);
        (name.to_owned(), default)
    });
    assert_eq!(defaults, expected.collect());
    Ok(())
}

#[test]
fn the_page_of_events_has_each_event_after_those_that_it_needs() -> Result<()> {
    let mut seen = BTreeSet::new();
    for expected in expectations(repository())? {
        for needed in &expected.needs {
            ensure!(
                seen.contains(needed),
                "{}: {needed} is not before it",
                expected.event
            );
        }
        seen.insert(expected.event);
    }
    let files = EventFile::all(repository())?.into_iter();
    assert_eq!(seen, files.map(|file| file.name).collect());
    Ok(())
}

/// The documents of the repository, without those of dependencies.
fn pages() -> Result<Vec<PathBuf>> {
    let mut pages = Vec::new();
    let mut folders = vec![repository().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir()
                && !name.starts_with('.')
                && !["target", "node_modules", "dist"].contains(&name)
            {
                folders.push(path);
            } else if name.ends_with(".md") {
                pages.push(path);
            }
        }
    }
    Ok(pages)
}

/// The names of a page's headings in links, as GitHub makes them.
fn headings(page: &Path) -> Result<BTreeSet<String>> {
    let text = read(page)?;
    let headings = text.lines().filter_map(|line| {
        let heading = line.trim_start_matches('#');
        (heading.len() < line.len()).then(|| heading.trim())
    });
    let name = |heading: &str| {
        let kept = heading.to_lowercase().replace(' ', "-");
        kept.chars()
            .filter(|one| one.is_alphanumeric() || "-_".contains(*one))
            .collect()
    };
    Ok(headings.map(name).collect())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
