//! The size of each function: the file, the upload, and the memory after many events.

use std::io::Write as _;

use anyhow::{Context, Result};
use flate2::Compression;
use flate2::write::DeflateEncoder;
use ringback_local::runtime_api::RunningFunction;

use crate::cold::{first_events, verdict};
use crate::crates;
use crate::figures::Rounded;
use crate::fixture::{Fixture, ensure_success};
use crate::functions::Paths;
use crate::page::MarkdownTable;
use crate::process::peak_memory;

/// How many events each function handles. Functions keep only secrets and connections between events.
const EVENTS: usize = 200;

/// The function with the most dependencies.
const LARGEST: &str = "exotel-webhook";
/// Crates below this share (one in so many bytes) are summed up.
const MIN_SHARE: u64 = 100;

/// Goals, in MiB.
const MAX_ZIPPED: f64 = 4.0;
const MAX_MEMORY: f64 = 24.0;

/// Measures all functions.
///
/// # Errors
/// When a function fails.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start(paths).await?;
    let mut table =
        MarkdownTable::new(&["function", "file, MiB", "zipped, MiB", "peak memory, MiB"]);
    let mut missed = Vec::new();
    for (name, event, before) in first_events(&mut fixture).await? {
        fixture.restore(&before);
        let mut function = fixture.start_function(name).await?;
        for _ in 0..EVENTS {
            fixture.restore(&before);
            let answered = function.invoke_timed(&event).await;
            ensure_success(&answered.with_context(|| name.to_owned())?.answer)?;
        }
        let memory = memory_of(&function)?;
        let (size, zipped) = sizes(paths, name)?;
        if memory >= MAX_MEMORY {
            missed.push(format!("`{name}` uses {} MiB of memory", Rounded(memory)));
        }
        if zipped >= MAX_ZIPPED {
            missed.push(format!("`{name}` has {} MiB zipped", Rounded(zipped)));
        }
        table.row(&[
            &format!("`{name}`"),
            &Rounded(size),
            &Rounded(zipped),
            &Rounded(memory),
        ])?;
    }
    let (size, zipped) = sizes(paths, "hello")?;
    table.row(&[&"hello-world", &Rounded(size), &Rounded(zipped), &""])?;
    let crates = crates_table(paths)?;
    Ok(format!(
        "{table}\nAfter {EVENTS} events. Goals: less than {MAX_ZIPPED} MiB zipped, less than {MAX_MEMORY} MiB of memory, each. {}\n\n{crates}",
        verdict(&missed)
    ))
}

/// The size of each crate in the function with the most dependencies.
fn crates_table(paths: &Paths) -> Result<String> {
    let sizes = crates::sizes(&paths.with_symbols(LARGEST))?;
    let total: u64 = sizes.iter().map(|(_, size)| size).sum();
    let (large, small): (Vec<_>, Vec<_>) = sizes
        .into_iter()
        .partition(|(_, size)| size * MIN_SHARE >= total);
    let mut table = MarkdownTable::new(&["crate", "KiB", "share, %"]);
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
        "Crates in `{LARGEST}`: symbols of {} KiB. The rest of the file is strings and unwinding tables.\n\n{table}",
        total / 1024
    ))
}

fn memory_of(function: &RunningFunction) -> Result<f64> {
    let bytes = peak_memory(function.pid().context("the function has ended")?)?;
    Ok(mebibytes(bytes as f64))
}

/// The file's size, and its size in a zip archive, in MiB.
fn sizes(paths: &Paths, name: &str) -> Result<(f64, f64)> {
    let file = paths.binary(name);
    let bytes = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let mut zip = DeflateEncoder::new(Vec::new(), Compression::default());
    zip.write_all(&bytes)?;
    let zipped = zip.finish()?.len();
    Ok((mebibytes(bytes.len() as f64), mebibytes(zipped as f64)))
}

fn mebibytes(bytes: f64) -> f64 {
    bytes / (1024.0 * 1024.0)
}
