//! A selection for `make test` that takes less than a minute: crashes between a change and its effects, and one or two
//! faults of each system.

use anyhow::{Result, ensure};
use ringback_local::faults::rule::{Fault, Moment, Rule, System};

use crate::crash::AFTER_A_DEATH;
use crate::play::{Scenario, play, ring};
use crate::stage::Stage;
use crate::systems::{Case, case, cases, meet};
use ringback_e2e::outcome_table::table;

/// The names of the faults in the table.
const FAULTS: [&str; 7] = [
    "DynamoDB throttles the first 3 requests",
    "DynamoDB takes the accept, and its answer is lost",
    "ARI calls the phone, and its answer is lost",
    "FCM answers 429 once, with Retry-After: 1",
    "FCM fails (503) for good",
    "Exotel places the call, and its answer is lost",
    "SQS delivers the timer twice",
];
/// One for each concurrent call, and one more for each call between apps.
const SEATS: usize = 16;

#[tokio::test(flavor = "multi_thread")]
async fn calls_end_as_promised_while_one_thing_fails() -> Result<()> {
    let stage = Stage::open(SEATS).await?;
    let known = cases().into_iter();
    let faults: Vec<Case> = known.filter(|case| FAULTS.contains(&case.fault)).collect();
    ensure!(faults.len() == FAULTS.len(), "a fault is called otherwise");
    // A first invocation starts slowly, and these tests do not measure cold starts.
    for scenario in [Scenario::Answered, Scenario::Outbound] {
        play(&stage, scenario, &[]).await?;
    }
    let mut rows = Vec::new();
    // One at a time: a crash also hits the other calls that the process works on, and their own crash would not
    // happen.
    for death in deaths() {
        rows.extend(meet(&stage, vec![death], 1).await?);
    }
    rows.extend(meet(&stage, faults, 1).await?);
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    let channels = stage.fixture.channels().await?;
    ensure!(channels.is_empty(), "channels are left: {channels:?}");
    Ok(())
}

fn deaths() -> Vec<Case> {
    use Moment::{After, Before};
    use Scenario::{Answered, CallerGivesUp, OneOfTwoAccepts, Outbound};
    let dies = |fault, scenario, moment, (system, function, operation): (System, &str, &str)| {
        let rule = Rule {
            system,
            operation: Some(operation.to_owned()),
            function: Some(function.to_owned()),
            play: None,
            skip: 0,
            times: Some(1),
            one_in: None,
            fault: Fault::Kill(moment),
        };
        let within = ring() + std::time::Duration::from_secs(2) + AFTER_A_DEATH;
        case(fault, scenario, [rule], None, within)
    };
    let makes = (System::Aws, "asterisk-incoming", "DynamoDB PutItem CALL");
    let accepts = (System::Aws, "call-response", "DynamoDB UpdateItem CALL");
    let cancels = (System::Fcm, "asterisk-incoming", "FCM call_cancelled");
    let connects = (System::Exotel, "ws-message", "Exotel connect");
    vec![
        dies("death before the call is made", Answered, Before, makes),
        dies("death after the call is made", Answered, After, makes),
        dies(
            "death after the accept is saved",
            OneOfTwoAccepts,
            After,
            accepts,
        ),
        dies(
            "death before the phones are silenced",
            CallerGivesUp,
            Before,
            cancels,
        ),
        dies("death after Exotel was asked", Outbound, After, connects),
    ]
}
