//! Runs the check of `ringback-site/` that the repository ships. A PBX runs it before Asterisk starts.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

/// Fails with all problems of the site files: a missing file, or a placeholder of an example.
pub fn check(repository: &Path, site: &Path) -> Result<()> {
    let script = repository.join("asterisk/check-site.sh");
    let output = Command::new(&script)
        .arg(site)
        .output()
        .with_context(|| format!("could not run {}", script.display()))?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::path::PathBuf;

    use super::*;

    fn repository() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
    }

    /// Copies the examples without changing their values.
    fn copied_examples(test: &str) -> PathBuf {
        let site = std::env::temp_dir().join(format!("ringback-{test}-{}", std::process::id()));
        fs::create_dir_all(&site).unwrap();
        for entry in fs::read_dir(repository().join("asterisk/ringback-site")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            let from = repository().join("asterisk/ringback-site").join(&name);
            fs::copy(from, site.join(name.trim_end_matches(".example"))).unwrap();
        }
        site
    }

    fn problems(site: &Path) -> String {
        match check(&repository(), site) {
            Ok(()) => String::new(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_placeholder_is_reported_with_its_file_and_line() {
        let site = copied_examples("left");
        let problems = problems(&site);
        for entry in fs::read_dir(&site).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            for (number, line) in (1..).zip(fs::read_to_string(&path).unwrap().lines()) {
                let value = line.split([';', '#']).next().unwrap_or_default();
                let reported = problems.contains(&format!("{name}, line {number}: "));
                let is_placeholder = ["change-me", "192.0.2.", "abcdefghij."]
                    .iter()
                    .any(|placeholder| value.contains(placeholder));
                assert_eq!(
                    reported, is_placeholder,
                    "{name}:{number}: {line}\n{problems}"
                );
            }
        }
        fs::remove_dir_all(&site).unwrap();
    }

    #[test]
    fn a_phone_that_may_transfer_is_reported() {
        let site = copied_examples("transfer");
        let phones = site.join("phones.conf");
        for (line, is_reported) in [
            ("allow_transfer = yes", true),
            ("allow_transfer=true", true),
            ("allow_transfer => on", true),
            ("allow_transfer = no", false),
            ("; allow_transfer = yes", false),
        ] {
            fs::write(&phones, format!("[1001](phone)\n{line}\n")).unwrap();
            let problems = problems(&site);
            let reported = problems.contains("phones.conf, line 2: allow_transfer");
            assert_eq!(reported, is_reported, "{line}\n{problems}");
        }
        fs::remove_dir_all(&site).unwrap();
    }

    #[test]
    fn a_complete_folder_passes_and_a_missing_file_is_reported() {
        let site = copied_examples("filled-in");
        let names: BTreeSet<PathBuf> = fs::read_dir(&site)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        for path in &names {
            let text = fs::read_to_string(path).unwrap();
            let filled_in = text
                .replace("change-me", "s3cret")
                .replace("192.0.2.", "203.0.113.")
                .replace("abcdefghij", "a1b2c3d4e5");
            fs::write(path, filled_in).unwrap();
        }
        assert_eq!(problems(&site), "");
        for path in &names {
            let text = fs::read_to_string(path).unwrap();
            fs::remove_file(path).unwrap();
            let name = path.file_name().unwrap().to_str().unwrap();
            assert!(
                problems(&site).contains(&format!("{name} is missing")),
                "{name}"
            );
            fs::write(path, text).unwrap();
        }
        fs::remove_dir_all(&site).unwrap();
    }
}
