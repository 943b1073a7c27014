//! Writes the tables of `docs/promises.md` from the results of the tests.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use ringback_local::settings::Settings;

use crate::call_run::Scenario;
use crate::{soak, stack_wide, systems};
use ringback_e2e::outcome_table;
use ringback_e2e::outcome_table::{OutcomeRow, seconds, table};

const BEGIN: [&str; 2] = ["<!-- the table: begin -->", "<!-- observations: begin -->"];
const END: [&str; 2] = ["<!-- the table: end -->", "<!-- observations: end -->"];

fn caller_cell(row: &OutcomeRow) -> String {
    let mut parts = Vec::new();
    if row.bridged > 0 {
        parts.push("is bridged".to_owned());
    }
    if row.busy > 0 {
        let codes: Vec<String> = row.codes.iter().map(ToString::to_string).collect();
        parts.push(match codes.is_empty() {
            true => "hears that the call failed".to_owned(),
            false => format!("is rejected ({})", codes.join(", ")),
        });
    }
    let waited = row
        .waits
        .map(|(least, most)| match seconds(least) == seconds(most) {
            true => format!(" after {} s", seconds(most)),
            false => format!(" after {} to {} s", seconds(least), seconds(most)),
        });
    if row.abandoned > 0 {
        parts.push("hangs up".to_owned());
    }
    format!("{}{}", parts.join(" or "), waited.unwrap_or_default())
}

fn app_cell(row: &OutcomeRow) -> String {
    let results: Vec<&str> = row.app_results.iter().map(String::as_str).collect();
    match results.is_empty() {
        true => "nothing: it received no push, or only watched".to_owned(),
        false => results.join("; "),
    }
}

fn fault_cell(row: &OutcomeRow) -> String {
    match row.occurrences {
        (0, _) => "during all requests".to_owned(),
        (1, _) => "once".to_owned(),
        (times, over) => format!("{times} times within {} s", seconds(over)),
    }
}

/// The second table: what the caller, the app and the operator observe.
fn observed(rows: &[OutcomeRow]) -> String {
    let mut table =
        "| fault | the caller | the app receives | the fault occurred |\n| --- | --- | --- | --- |\n"
            .to_owned();
    for row in rows {
        let (caller, app, met) = (caller_cell(row), app_cell(row), fault_cell(row));
        let _ = writeln!(table, "| {} | {caller} | {app} | {met} |", row.fault);
    }
    table
}

/// A sentence on the calls that do not count because Asterisk crashed.
fn crashes(rows: &[OutcomeRow]) -> String {
    match rows.iter().map(|row| row.crashes).sum() {
        0_u32 => "Asterisk itself crashed during none of them.\n".to_owned(),
        calls => {
            format!("Asterisk itself crashed during {calls} more calls, which were repeated.\n")
        }
    }
}

/// Every fault that a test injects, in the order of the page.
fn known_faults() -> Vec<String> {
    let deaths = Scenario::ALL.map(crate::crash::fault_name);
    let cases = systems::cases();
    let of_systems = cases.iter().map(|case| case.fault.to_owned());
    let fault = stack_wide::FAULTS.iter().map(|fault| (*fault).to_owned());
    deaths
        .into_iter()
        .chain(of_systems)
        .chain(fault)
        .chain(outcome_table::REGION_LOST.map(ToOwned::to_owned))
        .chain([soak::FAULT.to_owned()])
        .collect()
}

fn page() -> PathBuf {
    Settings::from_environment()
        .repository()
        .join("docs/promises.md")
}

/// The text between two markers of the page.
fn between(page: &str, place: usize) -> Result<&str> {
    let (_, after) = page.split_once(BEGIN[place]).context(BEGIN[place])?;
    let (inside, _) = after.split_once(END[place]).context(END[place])?;
    Ok(inside)
}

#[test]
fn the_page_has_one_row_for_each_fault() -> Result<()> {
    let page = std::fs::read_to_string(page())?;
    let rows: Vec<&str> = between(&page, 0)?
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter(|row| !row.starts_with("fault |") && !row.starts_with("---"))
        .collect();
    let faults: Vec<&str> = rows
        .iter()
        .filter_map(|row| row.split(" | ").next())
        .collect();
    ensure!(
        faults == known_faults(),
        "run `make chaos` to write the page: {faults:?}"
    );
    for row in rows {
        ensure!(
            row.split(" | ").nth(5) == Some("0"),
            "calls were lost: {row}"
        );
    }
    Ok(())
}

#[test]
#[ignore = "the last step of `make chaos`"]
fn write_the_page() -> Result<()> {
    let faults = known_faults();
    let rows: Vec<OutcomeRow> = faults
        .iter()
        .map(|fault| OutcomeRow::load(fault))
        .collect::<Result<_>>()?;
    let tables = [
        format!("{}\n{}", table(&rows), crashes(&rows)),
        observed(&rows[Scenario::ALL.len()..rows.len() - 1]),
    ];
    println!("\n{}", tables[0]);
    let mut text = std::fs::read_to_string(page())?;
    for (place, table) in tables.iter().enumerate() {
        let (before, rest) = text.split_once(BEGIN[place]).context(BEGIN[place])?;
        let (_, after) = rest.split_once(END[place]).context(END[place])?;
        let (begin, end) = (BEGIN[place], END[place]);
        text = format!("{before}{begin}\n\n{table}\n{end}{after}");
    }
    std::fs::write(page(), text)?;
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}
