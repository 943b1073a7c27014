//! How many instructions an event costs in a warm function, counted by Valgrind.
//!
//! Seconds depend on the machine and on what else it does; this count hardly does. So a test can bound it. TLS is not counted: in Valgrind,
//! its handshakes take longer than the functions wait.

use std::path::Path;

use anyhow::{Context, Result, ensure};
use ringback_local::runtime_api::RunningFunction;
use serde_json::Value;
use tokio::process::Command;

use crate::event_kind::EventKind;
use crate::fixture::{Fixture, ensure_success};
use crate::functions::Paths;
use crate::page::MarkdownTable;
use crate::stand_ins::Transport;

/// The first events fetch secrets, open connections and fill caches.
const WARM_UP: usize = 4;
/// How many events count.
const EVENTS: usize = 10;
/// How often one of the first events is sent again.
const MAX_RETRIES: usize = 5;

/// Counts all kinds of event.
///
/// # Errors
/// When a function fails, or Valgrind is missing.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start_with(paths, Transport::Plain).await?;
    let mut table = MarkdownTable::new(&["event", "thousand instructions"]);
    for kind in EventKind::ALL {
        let count = per_event(&mut fixture, kind)
            .await
            .with_context(|| kind.name())?;
        table.row(&[&kind.name(), &(count / 1_000)])?;
    }
    Ok(format!(
        "{table}\nMeans of {EVENTS} events after {WARM_UP} others.\n"
    ))
}

/// The mean number of instructions of an event in a warm function.
///
/// # Errors
/// When a function fails, or Valgrind is missing.
pub async fn per_event(fixture: &mut Fixture, kind: EventKind) -> Result<u64> {
    fixture.remove_calls();
    let events = kind.events(fixture, WARM_UP + EVENTS).await?;
    let (first, counted) = events.split_at(WARM_UP);
    let name = kind.function();
    let counts = fixture.paths.scratch().join(format!("{name}.callgrind"));
    let mut command = Command::new("valgrind");
    command
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(fixture.paths.binary(name));
    let variables = fixture.variables();
    let mut function = fixture
        .paths
        .start_command(name, command, variables)
        .await?;
    for event in first {
        warm_up(&mut function, event).await?;
    }
    function.wait_until_idle().await?;
    start_again_at_zero(&function).await?;
    for event in counted {
        ensure_success(&function.invoke(event).await?)?;
    }
    function.wait_until_idle().await?;
    function.terminate().await?;
    Ok(total_in(&counts)? / EVENTS as u64)
}

/// In Valgrind, a new process may take longer for its first requests than the functions wait. Then its client sends the event again.
async fn warm_up(function: &mut RunningFunction, event: &Value) -> Result<()> {
    let mut handled = ensure_success(&function.invoke(event).await?);
    for _ in 0..MAX_RETRIES {
        if handled.is_ok() {
            break;
        }
        handled = ensure_success(&function.invoke(event).await?);
    }
    handled
}

async fn start_again_at_zero(function: &RunningFunction) -> Result<()> {
    let pid = function.pid().context("the function has ended")?;
    let mut command = Command::new("vgdb");
    command.arg(format!("--pid={pid}")).arg("zero");
    let done = command.output().await.context("vgdb does not start")?;
    ensure!(
        done.status.success(),
        "vgdb: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    Ok(())
}

/// The sum that Callgrind writes at the end of its file.
fn total_in(counts: &Path) -> Result<u64> {
    let text = std::fs::read_to_string(counts)?;
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(total.context("no totals")?.trim().parse()?)
}
