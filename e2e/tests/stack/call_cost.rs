//! What a whole call costs, and how many instructions an event takes, counted with the stand-ins of the bench around the deployed functions.

use std::os::unix::fs::symlink;

use anyhow::{Result, ensure};
use ringback_bench::call_run::{CallEnding, CallRun, WarmFunctions};
use ringback_bench::event_kind::EventKind;
use ringback_bench::fixture::Fixture;
use ringback_bench::functions::{FUNCTIONS, Paths};
use ringback_bench::instructions;
use ringback_bench::stand_ins::{System, Transport};
use ringback_local::settings::Settings;

/// The most that a call may cost.
struct Budget {
    invocations: usize,
    dynamodb_requests: usize,
    write_units: f64,
    read_units: f64,
    logged_bytes: u64,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_stays_within_its_budget() -> Result<()> {
    let paths = deployed_functions("bench")?;
    let mut fixture = Fixture::start(&paths).await?;
    for (ending, budget) in [
        (
            CallEnding::Answered,
            Budget {
                invocations: 15,
                dynamodb_requests: 39,
                write_units: 19.0,
                read_units: 12.5,
                logged_bytes: 1_900,
            },
        ),
        (
            CallEnding::TimedOut,
            Budget {
                invocations: 8,
                dynamodb_requests: 30,
                write_units: 16.0,
                read_units: 8.5,
                logged_bytes: 1_900,
            },
        ),
    ] {
        let mut functions = WarmFunctions::default();
        // In its first call, each process fetches secrets.
        functions.run_call(&mut fixture, ending).await?;
        let run = functions.run_call(&mut fixture, ending).await?;
        budget.allows(&run, ending);
    }
    Ok(())
}

/// Thousand instructions of an event in the builds for tests. A tenth more is allowed: hash maps and the order of answers differ.
const INSTRUCTIONS: [(EventKind, u64); 3] = [
    (EventKind::Webhook, 21_500),
    (EventKind::AcceptReady, 12_245),
    (EventKind::StatusUpdate, 25_831),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_event_takes_no_more_instructions_than_it_did() -> Result<()> {
    let paths = deployed_functions("instructions")?;
    let mut fixture = Fixture::start_with(&paths, Transport::Plain).await?;
    for (kind, known) in INSTRUCTIONS {
        let thousands = instructions::per_event(&mut fixture, kind).await? / 1_000;
        println!("{}: {thousands} thousand instructions", kind.name());
        let allowed = known + known / 10;
        ensure!(
            thousands <= allowed,
            "{}: {thousands} > {allowed}",
            kind.name()
        );
    }
    Ok(())
}

/// The functions as they are deployed, in a folder for the bench.
fn deployed_functions(folder: &str) -> Result<Paths> {
    let paths = Paths::in_folder(&Settings::from_environment().state(folder))?;
    for function in FUNCTIONS {
        let deployed = format!("target/lambda/{function}/bootstrap");
        let _ = std::fs::remove_file(paths.binary(function));
        symlink(paths.file(&deployed), paths.binary(function))?;
    }
    Ok(paths)
}

impl Budget {
    fn allows(&self, run: &CallRun, ending: CallEnding) {
        let requests = run.requests_to(System::DynamoDb);
        let units = run.units();
        let used = format!(
            "{ending:?}: {} invocations, {requests} requests to DynamoDB, {units:?}, {} bytes logged",
            run.invocations.len(),
            run.logged,
        );
        assert!(run.invocations.len() <= self.invocations, "{used}");
        assert!(requests <= self.dynamodb_requests, "{used}");
        assert!(units.written <= self.write_units, "{used}");
        assert!(units.read <= self.read_units, "{used}");
        assert!(run.logged <= self.logged_bytes, "{used}");
    }
}
