//! Faults that affect all calls in progress: a system that is unreachable, a PBX that hangs.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use ringback_local::faults::rule::{LinkState, System};
use ringback_local::settings::Settings;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::call_run::{CallEnd, CallResult, Scenario, ring, run_call_with};
use crate::faults::{answer, rule};
use crate::harness::Harness;
use crate::pbx;
use crate::report;
use ringback_e2e::outcome_table::table;
use ringback_e2e::pbx::DialplanGlobals;

/// The number of calls in progress during the fault.
const CALLS: usize = 4;
const POLL_INTERVAL: Duration = Duration::from_millis(5);
/// The dialplan variable for how long a caller may wait at most.
const MAX_WAIT: &str = "RINGBACK_MAX_WAIT_SECONDS";
/// Its value during this test, in seconds. The stack's 60 s must be longer than the last timer. Without ARI, no timer can
/// end the wait.
const MAX_WAIT_SECONDS: u64 = 30;

const AWS_AWAY: &str = "AWS refuses connections for 3 s";
const ARI_AWAY: &str = "ARI refuses connections for 4 s";
const ARI_SILENT: &str = "ARI accepts connections and does not answer for 4 s";
const ARI_AWAY_FOR_GOOD: &str = "ARI refuses connections permanently, call not answered";
const EXPIRED: &str = "ARI's certificate has expired, call not answered";
const FROZEN: &str = "Asterisk hangs for 4 s (SIGSTOP)";
const FCM_AWAY: &str = "FCM refuses connections permanently";
const EXOTEL_AWAY: &str = "Exotel refuses connections";
const NO_ACCESS: &str = "FCM's access tokens are rejected, and new ones fail (503)";

pub(crate) const FAULTS: [&str; 9] = [
    AWS_AWAY,
    ARI_AWAY,
    ARI_SILENT,
    ARI_AWAY_FOR_GOOD,
    EXPIRED,
    FROZEN,
    FCM_AWAY,
    EXOTEL_AWAY,
    NO_ACCESS,
];

/// A fault of the whole stack.
struct StackFault {
    fault: &'static str,
    scenario: Scenario,
    what: FaultKind,
    /// The duration, from when the numbers are dialled. `None`: from before that until the last call has ended.
    lasts: Option<Duration>,
    end: CallEnd,
    within: Duration,
}

enum FaultKind {
    Line(System, LinkState),
    PbxStops,
    NoAccess,
}

fn all() -> Vec<StackFault> {
    use Scenario::{Answered, NobodyAnswers, Outbound};
    let line = |fault, scenario, system, line, lasts: Option<u64>, end, within| StackFault {
        fault,
        scenario,
        what: FaultKind::Line(system, line),
        lasts: lasts.map(Duration::from_secs),
        end,
        within: Duration::from_secs(within),
    };
    let ring = ring().as_secs();
    let own_limit_of_the_pbx = MAX_WAIT_SECONDS + 4;
    vec![
        line(
            AWS_AWAY,
            Answered,
            System::Aws,
            LinkState::Refused,
            Some(3),
            CallEnd::Bridged,
            ring + 6,
        ),
        line(
            ARI_AWAY,
            Answered,
            System::Pbx,
            LinkState::Refused,
            Some(4),
            CallEnd::Bridged,
            ring + 6,
        ),
        line(
            ARI_SILENT,
            Answered,
            System::Pbx,
            LinkState::Silent,
            Some(4),
            CallEnd::Bridged,
            ring + 6,
        ),
        line(
            ARI_AWAY_FOR_GOOD,
            NobodyAnswers,
            System::Pbx,
            LinkState::Refused,
            None,
            CallEnd::Busy,
            own_limit_of_the_pbx,
        ),
        line(
            EXPIRED,
            NobodyAnswers,
            System::Pbx,
            LinkState::Expired,
            None,
            CallEnd::Busy,
            own_limit_of_the_pbx,
        ),
        StackFault {
            fault: FROZEN,
            scenario: Answered,
            what: FaultKind::PbxStops,
            lasts: Some(Duration::from_secs(4)),
            end: CallEnd::Bridged,
            within: Duration::from_secs(ring + 6),
        },
        line(
            FCM_AWAY,
            Answered,
            System::Fcm,
            LinkState::Refused,
            None,
            CallEnd::Busy,
            ring + 4,
        ),
        line(
            EXOTEL_AWAY,
            Outbound,
            System::Exotel,
            LinkState::Refused,
            None,
            CallEnd::Busy,
            8,
        ),
        StackFault {
            fault: NO_ACCESS,
            scenario: Answered,
            what: FaultKind::NoAccess,
            lasts: None,
            end: CallEnd::Busy,
            within: Duration::from_secs(ring + 4),
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn calls_end_as_promised_during_stack_wide_faults() -> Result<()> {
    let harness = Harness::open(2 * CALLS).await?;
    let settings = Settings::from_environment();
    let only = settings.variable("CHAOS_ONLY").unwrap_or_default();
    let named = all().into_iter().map(|fault| fault.fault);
    ensure!(named.eq(FAULTS), "FAULTS does not have the order of all()");
    let globals = DialplanGlobals::of(&harness.fixture, 0)?;
    let configured = globals.get(MAX_WAIT).await?;
    let mut rows = Vec::new();
    for fault in all().iter().filter(|fault| fault.fault.contains(only)) {
        globals.set(MAX_WAIT, &MAX_WAIT_SECONDS.to_string()).await?;
        let result = fault.run(&harness).await;
        // Restore the system even if calls were lost: the next fault needs it.
        fault.end_fault(&harness).await?;
        globals.set(MAX_WAIT, &configured).await?;
        let row = report::row(fault.fault, &result?, fault.within);
        println!("{}", table(std::slice::from_ref(&row)));
        row.save()?;
        rows.push(row);
    }
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}

impl StackFault {
    async fn run(&self, harness: &Arc<Harness>) -> Result<Vec<CallResult>> {
        if self.lasts.is_none() {
            self.begin(harness).await?;
        }
        let before = harness.begun.load(Ordering::Relaxed);
        let mut playing = JoinSet::new();
        for _ in 0..CALLS {
            let (harness, scenario) = (Arc::clone(harness), self.scenario);
            playing.spawn(async move { run_call_with(&harness, scenario, &[], true).await });
        }
        let all_of_them = before + u32::try_from(CALLS)?;
        while harness.begun.load(Ordering::Relaxed) < all_of_them {
            sleep(POLL_INTERVAL).await;
        }
        if let Some(lasts) = self.lasts {
            self.begin(harness).await?;
            sleep(lasts).await;
            self.end_fault(harness).await?;
        }
        let mut all = Vec::new();
        while let Some(result) = playing.join_next().await {
            let mut result = result??;
            if result.end != self.end {
                result.problems.push(format!("promised {:?}", self.end));
            }
            println!("  {}: {result}", self.fault);
            all.push(result);
        }
        Ok(all)
    }

    async fn begin(&self, harness: &Harness) -> Result<()> {
        match self.what {
            FaultKind::Line(system, line) => harness.faults.switch(system, line).await,
            FaultKind::PbxStops => pbx::signal(Signal::SIGSTOP),
            FaultKind::NoAccess => {
                for (name, operation, status) in NO_ACCESS_RULES {
                    harness
                        .faults
                        .make(
                            name,
                            &rule(System::Fcm, operation, None, answer(status, "{}")),
                        )
                        .await?;
                }
                Ok(())
            }
        }
    }

    async fn end_fault(&self, harness: &Harness) -> Result<()> {
        match self.what {
            FaultKind::Line(system, _) => harness.faults.switch(system, LinkState::Open).await,
            FaultKind::PbxStops => pbx::signal(Signal::SIGCONT),
            FaultKind::NoAccess => {
                for (name, ..) in NO_ACCESS_RULES {
                    harness.faults.drop_rule(name).await?;
                }
                Ok(())
            }
        }
    }
}

/// FaultKind FCM and the token endpoint answer when access is denied.
const NO_ACCESS_RULES: [(&str, &str, u16); 2] = [
    ("no-access", "FCM incoming_call", 401),
    ("no-new-one", "POST /token", 503),
];
