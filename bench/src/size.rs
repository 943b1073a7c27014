//! How large a function is: as a file, as what is uploaded, and in memory once it has dealt with its events for a while.

use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use ringback_local::runtime_api::RunningFunction;

use crate::cold::{first_events, verdict};
use crate::crates;
use crate::figures::Rounded;
use crate::functions::Places;
use crate::page::Table;
use crate::process::peak_memory;
use crate::stage::{Stage, good};

/// How many events each deals with. None of the functions keeps anything from one call to the next but secrets and
/// connections.
const EVENTS: usize = 200;

/// The function with the most dependencies.
const OF_ALL: &str = "exotel-webhook";
/// A crate is named that has at least one part in so many.
const LEAST_SHOWN: u64 = 100;

/// The goals, in MiB.
const MOST_ZIPPED: f64 = 4.0;
const MOST_MEMORY: f64 = 24.0;

/// Measures, and writes the table.
///
/// # Errors
/// When a function does not do what it is there for.
pub async fn measure(places: &Places) -> Result<String> {
    let mut stage = Stage::set(places).await?;
    let mut table = Table::of(&["function", "file, MiB", "zipped, MiB", "peak memory, MiB"]);
    let mut missed = Vec::new();
    for (name, event, before) in first_events(&mut stage).await? {
        stage.restore(&before);
        let mut function = stage.start(name).await?;
        for _ in 0..EVENTS {
            stage.restore(&before);
            let answered = function.invoke_timed(&event).await;
            good(&answered.with_context(|| name.to_owned())?.answer)?;
        }
        let memory = memory_of(&function)?;
        let (size, zipped) = sizes(places, name)?;
        if memory >= MOST_MEMORY {
            missed.push(format!("`{name}` takes {} MiB of memory", Rounded(memory)));
        }
        if zipped >= MOST_ZIPPED {
            missed.push(format!("`{name}` has {} MiB zipped", Rounded(zipped)));
        }
        table.row(&[
            &format!("`{name}`"),
            &Rounded(size),
            &Rounded(zipped),
            &Rounded(memory),
        ])?;
    }
    let (size, zipped) = sizes(places, "hello")?;
    table.row(&[&"hello-world", &Rounded(size), &Rounded(zipped), &""])?;
    let whose = whose(places)?;
    Ok(format!(
        "{table}\nAfter {EVENTS} events. Goals: less than {MOST_ZIPPED} MiB zipped, less than {MOST_MEMORY} MiB of memory, each. {}\n\n{whose}",
        verdict(&missed)
    ))
}

/// What each dependency costs the function that has the most of them.
fn whose(places: &Places) -> Result<String> {
    let sizes = crates::sizes(&places.with_symbols(OF_ALL))?;
    let total: u64 = sizes.iter().map(|(_, size)| size).sum();
    let (large, small): (Vec<_>, Vec<_>) = sizes
        .into_iter()
        .partition(|(_, size)| size * LEAST_SHOWN >= total);
    let mut table = Table::of(&["crate", "KiB", "of all, %"]);
    let mut row = |name: &str, size: u64| {
        let share = Rounded(size as f64 * 100.0 / total as f64);
        table.row(&[&name, &(size / 1024), &share])
    };
    for (name, size) in &large {
        row(&format!("`{name}`"), *size)?;
    }
    let rest = small.iter().map(|(_, size)| size).sum();
    row(&format!("{} others", small.len()), rest)?;
    Ok(format!(
        "In `{OF_ALL}`, what has a name: {} KiB of code and tables; besides, the file has strings and what unwinding needs.\n\n{table}",
        total / 1024
    ))
}

fn memory_of(function: &RunningFunction) -> Result<f64> {
    let bytes = peak_memory(function.pid().context("it has ended")?)?;
    Ok(mebibytes(bytes as f64))
}

/// The file's size, and its size in a zip archive, in MiB.
fn sizes(places: &Places, name: &str) -> Result<(f64, f64)> {
    let file = places.binary(name);
    let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let mut zip = DeflateEncoder::new(Vec::new(), Compression::default());
    zip.write_all(&bytes)?;
    let zipped = zip.finish()?.len();
    Ok((mebibytes(bytes.len() as f64), mebibytes(zipped as f64)))
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / (1024.0 * 1024.0)
}
