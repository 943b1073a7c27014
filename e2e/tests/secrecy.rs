//! No log contains a secret or a phone number. `make e2e` runs this last, on the logs of all other tests. The local
//! stack must be running.

use std::collections::BTreeMap;
use std::io::Write as _;

use anyhow::{Context, Result};
use ringback_e2e::fixture::Fixture;
use ringback_e2e::log_lines::{LogLine, log_lines};
use ringback_e2e::private_values::PrivateValues;
use ringback_local::settings::Settings;

#[tokio::test(flavor = "multi_thread")]
async fn no_log_line_contains_a_secret_or_a_number() -> Result<()> {
    let fixture = Fixture::open().await?;
    let private = PrivateValues::of(&fixture, &[]).await?;
    let mut lines = log_lines(&fixture, "").await?;
    lines.extend(lines_of_tests()?);
    let leaks: Vec<String> = lines
        .iter()
        .flat_map(|line| private.found_in(line))
        .collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    std::io::stdout().write_all(table(&lines, &private).as_bytes())?;
    Ok(())
}

/// The logs of functions that tests started themselves, some with level `trace`.
fn lines_of_tests() -> Result<Vec<LogLine>> {
    let mut lines = Vec::new();
    let Ok(logs) = std::fs::read_dir(Settings::from_environment().state("observed")) else {
        return Ok(lines);
    };
    for log in logs {
        let path = log?.path();
        let function = path.file_stem().unwrap_or_default().to_string_lossy();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        lines.extend(text.lines().map(|line| LogLine::of(&function, line)));
    }
    Ok(lines)
}

fn table(lines: &[LogLine], private: &PrivateValues) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for line in lines {
        *counts.entry(&line.function).or_default() += 1;
    }
    let counts: String = counts
        .iter()
        .map(|(function, count)| format!("{function:<20}{count:>7}\n"))
        .collect();
    let secrets = private.count();
    format!("\nLog lines without any of {secrets} secrets and numbers\n\n{counts}\n")
}
