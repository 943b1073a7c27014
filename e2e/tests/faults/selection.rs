//! A selection for `make test` that takes less than a minute: crashes between a change and its effects, and one or two
//! faults of each system.

use anyhow::{Result, ensure};
use ringback_local::faults::rule::{Fault, KillPoint, System};

use crate::call_run::{Scenario, ring, run_call};
use crate::crash::AFTER_A_DEATH;
use crate::faults::{from, rule};
use crate::harness::Harness;
use crate::systems::{Case, case, cases, run_cases};
use ringback_e2e::outcome_table::table;

/// The names of the faults in the table.
const FAULTS: [&str; 9] = [
    "DynamoDB throttles the first 3 requests",
    "DynamoDB stores the accept, and its response is lost",
    "ARI calls the phone, and its response is lost",
    "FCM fails (503) once, with Retry-After: 3",
    "FCM fails (503) permanently",
    "Exotel places the call, and its response is lost",
    "SQS delivers the timer twice",
    "DynamoDB stores the refusal, and its response is lost",
    "SQS delivers a client that has connected twice",
];
/// One for each concurrent call, and one more for each call between apps.
const SUBSCRIBERS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_as_promised_during_one_fault() -> Result<()> {
    let harness = Harness::open(SUBSCRIBERS).await?;
    let known = cases().into_iter();
    let faults: Vec<Case> = known.filter(|case| FAULTS.contains(&case.fault)).collect();
    ensure!(
        faults.len() == FAULTS.len(),
        "a selected fault does not exist"
    );
    // A first invocation starts slowly, and these tests do not measure cold starts.
    for scenario in [Scenario::Answered, Scenario::Outbound] {
        run_call(&harness, scenario, &[]).await?;
    }
    let mut rows = Vec::new();
    // One at a time: a crash also hits the other calls that the process works on, and their own crash would not
    // happen.
    for death in deaths() {
        rows.extend(run_cases(&harness, vec![death]).await?);
    }
    rows.extend(run_cases(&harness, faults).await?);
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    let channels = harness.fixture.channels().await?;
    ensure!(channels.is_empty(), "channels are left: {channels:?}");
    Ok(())
}

fn deaths() -> Vec<Case> {
    use KillPoint::{After, Before};
    use Scenario::{Answered, CallerGivesUp, Outbound};
    let dies = |fault, scenario, moment, (system, function, operation): (System, &str, &str)| {
        let rule = rule(system, operation, Some(1), Fault::Kill(moment));
        let within = ring() + std::time::Duration::from_secs(2) + AFTER_A_DEATH;
        case(fault, scenario, [from(function, rule)], None, within)
    };
    let makes = (System::Aws, "asterisk-incoming", "DynamoDB PutItem CALL");
    let cancels = (System::Fcm, "asterisk-incoming", "FCM call_cancelled");
    let connects = (System::Exotel, "ws-message", "Exotel connect");
    vec![
        dies("crash after the call is stored", Answered, After, makes),
        dies(
            "crash before the cancellations",
            CallerGivesUp,
            Before,
            cancels,
        ),
        dies(
            "crash after the request to Exotel",
            Outbound,
            After,
            connects,
        ),
    ]
}
