//! `make bench`: measures, and writes what it found into the page.

use std::io::Write as _;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use ringback_bench::functions::Places;
use ringback_bench::page::Page;
use ringback_bench::{cold, cost, machine, scale, size, warm};

/// The page of results.
const PAGE: &str = "bench/README.md";

/// Measures what a call costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure: everything, if nothing is named.
    parts: Vec<Part>,
    /// Prints what was found, and leaves the page as it is.
    #[arg(long)]
    dry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// From a process's start to its first poll, and to its first answer.
    Cold,
    /// CPU time and own time of each event.
    Warm,
    /// Files and memory.
    Size,
    /// Many clients, many stored calls, many events.
    Scale,
    /// What a month of calls costs.
    Cost,
}

impl Part {
    const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Size => "size",
            Self::Scale => "scale",
            Self::Cost => "cost",
        }
    }

    async fn measure(self, places: &Places) -> Result<String> {
        match self {
            Self::Cold => cold::measure(places).await,
            Self::Warm => warm::measure(places).await,
            Self::Size => size::measure(places).await,
            Self::Scale => scale::measure(places).await,
            Self::Cost => cost::measure(places).await,
        }
    }
}

// One thread: what is around the functions shall not take both cores of a small machine from them.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let places = Places::find()?;
    let page = Page::at(&places.file(PAGE));
    let parts = match arguments.parts.as_slice() {
        [] => Part::value_variants(),
        named => named,
    };
    let mut out = std::io::stdout();
    for part in parts {
        writeln!(out, "{} …", part.name())?;
        let found = part.measure(&places).await?;
        writeln!(out, "\n{found}\n")?;
        if !arguments.dry {
            // Part by part, so that a run that is broken off has not been for nothing.
            page.write(part.name(), &found)?;
            page.write("machine", &machine::description())?;
        }
    }
    Ok(())
}
