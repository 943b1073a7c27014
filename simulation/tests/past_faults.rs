//! The past faults of `docs/simulation.md`: `simulation/prove.sh` puts them back, so their patches must apply to the present code.

#![allow(clippy::unwrap_used, reason = "an unreadable file fails the test")]

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn patches() -> BTreeSet<String> {
    let files = fs::read_dir(root().join("simulation/past_faults")).unwrap();
    let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .map(|name| name.strip_suffix(".patch").unwrap().to_owned())
        .collect()
}

#[test]
fn each_past_fault_can_be_put_back() {
    for name in patches() {
        let path = format!("simulation/past_faults/{name}.patch");
        let text = fs::read_to_string(root().join(&path)).unwrap();
        let mut lines = text.lines();
        for begins in ["Fault: ", "Mended by: "] {
            let line = lines.next().unwrap_or_default();
            assert!(line.starts_with(begins), "{path}: {line}");
        }
        let mut git = Command::new("git");
        let check = git.args(["apply", "--check", &path]).current_dir(root());
        let output = check.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "adapt the patch: {errors}");
    }
}

#[test]
fn the_page_lists_each_past_fault_as_found() {
    let page = fs::read_to_string(root().join("docs/simulation.md")).unwrap();
    let rows = page.lines().filter_map(|line| {
        line.strip_prefix("| [")?
            .split_once("](../simulation/past_faults/")
    });
    let rows: Vec<_> = rows.collect();
    let listed: BTreeSet<String> = rows.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(listed, patches(), "run simulation/prove.sh");
    for (name, row) in rows {
        assert!(!row.contains("NOT FOUND"), "{name}");
    }
}
