//! The software bill of materials: the crates that are compiled into the programs of a release, in the format CycloneDX 1.5.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::process::output;
use crate::tools::remove_cargo_variables;

/// The answer of `cargo metadata`.
#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
    resolve: Resolve,
}

#[derive(Deserialize)]
struct Package {
    id: String,
    name: String,
    version: String,
    license: Option<String>,
    source: Option<String>,
}

#[derive(Deserialize)]
struct Resolve {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    id: String,
    deps: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    pkg: String,
    dep_kinds: Vec<Kind>,
}

#[derive(Deserialize)]
struct Kind {
    /// `None` for a normal dependency, otherwise `build` or `dev`.
    kind: Option<String>,
}

/// The bill of the programs of these packages, for the platform of this machine.
pub(super) async fn of(repository: &Path, programs: &[&str]) -> Result<Value> {
    let mut cargo = Command::new("cargo");
    remove_cargo_variables(&mut cargo);
    cargo.args(["metadata", "--locked", "--format-version", "1"]);
    cargo.args(["--filter-platform", &host().await?]);
    let printed = output(cargo.current_dir(repository)).await?;
    let metadata: Metadata =
        serde_json::from_str(&printed).context("unexpected output of `cargo metadata`")?;
    let lock = std::fs::read_to_string(repository.join("Cargo.lock"))?;
    Ok(bill(&metadata, &checksums(&lock), programs))
}

async fn host() -> Result<String> {
    let version = output(Command::new("rustc").arg("-vV")).await?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

fn bill(
    metadata: &Metadata,
    checksums: &BTreeMap<(String, String), String>,
    programs: &[&str],
) -> Value {
    let packages = metadata.packages.iter();
    let packages: BTreeMap<&str, &Package> = packages.map(|one| (one.id.as_str(), one)).collect();
    let nodes = metadata.resolve.nodes.iter();
    let compiled: BTreeMap<&str, BTreeSet<&str>> = nodes
        .map(|node| (node.id.as_str(), compiled_into(node)))
        .collect();
    let mut wanted: Vec<&str> = packages
        .values()
        .filter(|package| package.source.is_none() && programs.contains(&package.name.as_str()))
        .map(|package| package.id.as_str())
        .collect();
    let mut found = BTreeSet::new();
    while let Some(id) = wanted.pop() {
        if found.insert(id) {
            wanted.extend(compiled.get(id).into_iter().flatten());
        }
    }
    let components: Vec<Value> = found
        .iter()
        .filter_map(|id| Some(component(packages.get(id)?, checksums)))
        .collect();
    let reference = |id: &&str| packages.get(id).map(|package| reference(package));
    let dependencies: Vec<Value> = found
        .iter()
        .map(|id| {
            let on = compiled.get(id).into_iter().flatten();
            json!({ "ref": reference(id), "dependsOn": on.filter_map(reference).collect::<Vec<_>>() })
        })
        .collect();
    json!({
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": { "component": {
            "type": "application", "bom-ref": "ringback-release", "name": "ringback", "version": env!("CARGO_PKG_VERSION"),
        } },
        "components": components,
        "dependencies": dependencies,
    })
}

/// The ids of the crates that a crate is compiled with, without those that only its build script or its tests use.
fn compiled_into(node: &Node) -> BTreeSet<&str> {
    let dependencies = node.deps.iter();
    dependencies
        .filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()))
        .map(|dependency| dependency.pkg.as_str())
        .collect()
}

fn component(package: &Package, checksums: &BTreeMap<(String, String), String>) -> Value {
    let mut component = json!({
        "type": if package.source.is_some() { "library" } else { "application" },
        "bom-ref": reference(package),
        "name": package.name,
        "version": package.version,
    });
    if package.source.is_some() {
        component["purl"] = json!(reference(package));
    }
    if let Some(license) = &package.license {
        // An old way to write OR.
        let expression = license.replace('/', " OR ");
        component["licenses"] = json!([{ "expression": expression }]);
    }
    let key = (package.name.clone(), package.version.clone());
    if let Some(checksum) = checksums.get(&key) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": checksum }]);
    }
    component
}

fn reference(package: &Package) -> String {
    format!("pkg:cargo/{}@{}", package.name, package.version)
}

/// The checksums in `Cargo.lock` by name and version.
fn checksums(lock: &str) -> BTreeMap<(String, String), String> {
    let packages = lock.split("[[package]]").skip(1);
    packages
        .filter_map(|package| {
            let value = |name: &str| {
                let mut lines = package.lines();
                let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(" = \""));
                Some(value?.strip_suffix('"')?.to_owned())
            };
            Some(((value("name")?, value("version")?), value("checksum")?))
        })
        .collect()
}
