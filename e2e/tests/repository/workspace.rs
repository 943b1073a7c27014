//! Checks of the workspace: lints, dependencies, lock file.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

const CRATES_IO: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[test]
fn no_workspace_crate_allows_unsafe_code() -> Result<()> {
    let root = read("Cargo.toml")?;
    let lints =
        section(&root, "[workspace.lints.rust]").context("the manifest has no workspace lints")?;
    ensure!(lints.contains("unsafe_code = \"forbid\""), "{lints}");
    for manifest in manifests()? {
        let text = std::fs::read_to_string(&manifest)?;
        let lints = section(&text, "[lints]").unwrap_or_default();
        ensure!(
            lints.lines().any(|line| line == "workspace = true"),
            "{} does not use the workspace's lints",
            manifest.display()
        );
    }
    Ok(())
}

#[test]
fn every_dependency_is_from_crates_io_with_a_checksum() -> Result<()> {
    let lock = read("Cargo.lock")?;
    let packages: Vec<&str> = lock.split("[[package]]").skip(1).collect();
    let members = manifests()?.len();
    let own = packages
        .iter()
        .filter(|package| value(package, "source").is_none());
    assert_eq!(own.count(), members, "a dependency has no source");
    let of_fuzzing = read("fuzz/Cargo.lock")?;
    for package in packages
        .into_iter()
        .chain(of_fuzzing.split("[[package]]").skip(1))
    {
        if let Some(source) = value(package, "source") {
            let name = value(package, "name").unwrap_or_default();
            ensure!(source == CRATES_IO, "{name} comes from {source}");
            let checksum = value(package, "checksum").unwrap_or_default();
            ensure!(checksum.len() == 64, "{name} has no checksum");
        }
    }
    Ok(())
}

/// A build that resolves dependencies again differs from the one that was tested.
#[test]
fn every_build_command_uses_the_lock_file() -> Result<()> {
    let mut commands = 0;
    for file in [
        "Makefile",
        "local/tools/deny.sh",
        ".ci/run",
        "local/tools/run.sh",
        "simulation/prove.sh",
    ] {
        for line in read(file)?.lines() {
            let command = line.split('#').next().unwrap_or_default();
            let builds = ["run", "test", "nextest run", "clippy", "build", "install"]
                .iter()
                .any(|verb| command.contains(&format!("cargo {verb} ")));
            if builds {
                commands += 1;
                ensure!(command.contains("--locked"), "{file}: {line}");
            }
        }
    }
    ensure!(commands >= 8, "found only {commands} commands");
    let functions = read("local/src/cloud/build.rs")?;
    ensure!(
        functions.contains("\"--locked\""),
        "the functions' build was not found"
    );
    Ok(())
}

/// Only what a function needs is in its archive. `sam build` compiles the default members of the workspace.
#[test]
fn the_functions_have_no_features_of_tests() -> Result<()> {
    let tree = std::process::Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--edges=normal", "--prefix=none"])
        .args(["--format={p}\t{f}"])
        .current_dir(repository())
        .output()?;
    let tree = String::from_utf8(tree.stdout)?;
    ensure!(tree.contains("tokio v"), "cargo printed no tree: {tree}");
    for line in tree.lines() {
        let features = line.split('\t').nth(1).unwrap_or_default();
        let mut features = features.split([',', ' ']);
        let of_tests = features.find(|it| ["test-util", "testing"].contains(it));
        ensure!(of_tests.is_none(), "{line}");
    }
    Ok(())
}

/// The manifests of all workspace members.
fn manifests() -> Result<Vec<PathBuf>> {
    let root = read("Cargo.toml")?;
    let members = root
        .split_once("members = [")
        .and_then(|(_, rest)| rest.split_once(']'));
    let (members, _) = members.context("the workspace has no members")?;
    let mut found = Vec::new();
    for member in members
        .split(',')
        .map(|member| member.trim().trim_matches('"'))
    {
        match member.strip_suffix("/*") {
            Some(folder) => {
                for entry in std::fs::read_dir(repository().join(folder))? {
                    found.push(entry?.path().join("Cargo.toml"));
                }
            }
            None => found.push(repository().join(member).join("Cargo.toml")),
        }
    }
    Ok(found)
}

/// The text of a section, up to the next heading.
fn section<'a>(toml: &'a str, heading: &str) -> Option<&'a str> {
    let (_, rest) = toml.split_once(&format!("{heading}\n"))?;
    Some(rest.split("\n[").next().unwrap_or(rest))
}

/// The string value of a key.
fn value<'a>(toml: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = toml.lines();
    let line = lines.find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \""))?;
    line.strip_suffix('"')
}

fn read(file: &str) -> Result<String> {
    let path = repository().join(file);
    std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}
