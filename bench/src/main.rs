//! `make bench`: measures, and writes the results into `bench/README.md`.

use std::io::Write as _;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use ringback_bench::end_to_end::kamailio::InstalledKamailio;
use ringback_bench::functions::Paths;
use ringback_bench::page::ResultsPage;
use ringback_bench::{cold, cost, end_to_end, instructions, machine, scale, size, warm};

/// The results page.
const PAGE: &str = "bench/README.md";

/// Measures what a call costs.
#[derive(Debug, Parser)]
struct Arguments {
    /// The parts to measure. Default: all.
    parts: Vec<BenchPart>,
    /// Prints the results and does not change the page.
    #[arg(long)]
    dry: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum BenchPart {
    /// From the start of a process to its first poll and its first answer.
    Cold,
    /// CPU time and own time of each kind of event.
    Warm,
    /// Instructions of each kind of event.
    Instructions,
    /// Size of the files, and memory.
    Size,
    /// Many clients, many stored calls, many events.
    Scale,
    /// The price of a month of calls.
    Cost,
    /// Whole ways on a real Asterisk, beside Kamailio.
    EndToEnd,
}

impl BenchPart {
    const fn name(self) -> &'static str {
        match self {
            Self::Cold => "cold",
            Self::Warm => "warm",
            Self::Instructions => "instructions",
            Self::Size => "size",
            Self::Scale => "scale",
            Self::Cost => "cost",
            Self::EndToEnd => "end-to-end",
        }
    }

    /// What this part needs and the machine lacks.
    fn missing(self, paths: &Paths) -> Option<&'static str> {
        let lacks_kamailio = self == Self::EndToEnd && InstalledKamailio::find(paths).is_none();
        lacks_kamailio.then_some("Kamailio is not installed; see \"Run it\" in bench/README.md")
    }

    async fn measure(self, paths: &Paths) -> Result<String> {
        match self {
            Self::Cold => cold::measure(paths).await,
            Self::Warm => warm::measure(paths).await,
            Self::Instructions => instructions::measure(paths).await,
            Self::Size => size::measure(paths).await,
            Self::Scale => scale::measure(paths).await,
            Self::Cost => cost::measure(paths).await,
            Self::EndToEnd => end_to_end::measure(paths).await,
        }
    }
}

// One thread, so that the bench leaves the other core of a small machine to the functions.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let paths = Paths::find()?;
    let page = ResultsPage::at(&paths.file(PAGE));
    let parts = match arguments.parts.as_slice() {
        [] => BenchPart::value_variants(),
        named => named,
    };
    let mut out = std::io::stdout();
    for part in parts {
        if let Some(missing) = part.missing(&paths) {
            writeln!(out, "{}: skipped. {missing}", part.name())?;
            continue;
        }
        writeln!(out, "{} …", part.name())?;
        let results = part.measure(&paths).await?;
        writeln!(out, "\n{results}\n")?;
        if !arguments.dry {
            // After each part, so that an interrupted run keeps what it has.
            page.write(part.name(), &results)?;
            page.write("machine", &machine::description())?;
        }
    }
    Ok(())
}
