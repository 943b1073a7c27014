//! Faults that affect all calls in progress: a system that is unreachable, a PBX that hangs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use ringback_local::faults::rule::{Fault, Line, Rule, System};
use ringback_local::settings::Settings;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::pbx;
use crate::play::{End, Played, Scenario, play_while, ring};
use crate::report;
use crate::stage::Stage;
use ringback_e2e::outcome_table::table;

/// The number of calls in progress during the fault.
const CALLS: usize = 4;
const LOOKS_EVERY: Duration = Duration::from_millis(5);

const AWS_AWAY: &str = "AWS refuses connections for 3 s";
const ARI_AWAY: &str = "ARI refuses connections for 4 s";
const ARI_SILENT: &str = "ARI takes connections and says nothing for 4 s";
const ARI_AWAY_FOR_GOOD: &str = "ARI refuses connections for good, and nobody answers";
const EXPIRED: &str = "ARI's certificate has expired, and nobody answers";
const FROZEN: &str = "Asterisk stands still for 4 s (SIGSTOP)";
const FCM_AWAY: &str = "FCM refuses connections";
const EXOTEL_AWAY: &str = "Exotel refuses connections";
const NO_ACCESS: &str = "FCM's access tokens are refused, and there are no new ones (503)";

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
struct Wide {
    fault: &'static str,
    scenario: Scenario,
    what: What,
    /// The duration, from when the numbers are dialled. `None`: from before that until the last call has ended.
    lasts: Option<Duration>,
    end: End,
    within: Duration,
}

enum What {
    Line(System, Line),
    PbxStops,
    NoAccess,
}

fn all() -> Vec<Wide> {
    use Scenario::{Answered, NobodyAnswers, Outbound};
    let line = |fault, scenario, system, line, lasts: Option<u64>, end, within| Wide {
        fault,
        scenario,
        what: What::Line(system, line),
        lasts: lasts.map(Duration::from_secs),
        end,
        within: Duration::from_secs(within),
    };
    let ring = ring().as_secs();
    let own_limit_of_the_pbx = 64;
    vec![
        line(
            AWS_AWAY,
            Answered,
            System::Aws,
            Line::Refused,
            Some(3),
            End::Bridged,
            ring + 6,
        ),
        line(
            ARI_AWAY,
            Answered,
            System::Pbx,
            Line::Refused,
            Some(4),
            End::Bridged,
            ring + 6,
        ),
        line(
            ARI_SILENT,
            Answered,
            System::Pbx,
            Line::Silent,
            Some(4),
            End::Bridged,
            ring + 6,
        ),
        line(
            ARI_AWAY_FOR_GOOD,
            NobodyAnswers,
            System::Pbx,
            Line::Refused,
            None,
            End::Busy,
            own_limit_of_the_pbx,
        ),
        line(
            EXPIRED,
            NobodyAnswers,
            System::Pbx,
            Line::Expired,
            None,
            End::Busy,
            own_limit_of_the_pbx,
        ),
        Wide {
            fault: FROZEN,
            scenario: Answered,
            what: What::PbxStops,
            lasts: Some(Duration::from_secs(4)),
            end: End::Bridged,
            within: Duration::from_secs(ring + 6),
        },
        line(
            FCM_AWAY,
            Answered,
            System::Fcm,
            Line::Refused,
            None,
            End::Busy,
            6,
        ),
        line(
            EXOTEL_AWAY,
            Outbound,
            System::Exotel,
            Line::Refused,
            None,
            End::Busy,
            8,
        ),
        Wide {
            fault: NO_ACCESS,
            scenario: Answered,
            what: What::NoAccess,
            lasts: None,
            end: End::Busy,
            within: Duration::from_secs(8),
        },
    ]
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes: part of `make chaos`"]
async fn whatever_fails_for_everybody_calls_end_as_promised() -> Result<()> {
    let stage = Stage::open(2 * CALLS).await?;
    let settings = Settings::from_environment();
    let only = settings.variable("CHAOS_ONLY").unwrap_or_default();
    let named = all().into_iter().map(|wide| wide.fault);
    ensure!(named.eq(FAULTS), "the page has them in another order");
    let mut rows = Vec::new();
    for wide in all().iter().filter(|wide| wide.fault.contains(only)) {
        let played = wide.happens(&stage).await;
        // Restore the system, whatever the calls' results are: the next fault needs it.
        wide.is_over(&stage).await?;
        let row = report::row(wide.fault, &played?, wide.within);
        println!("{}", table(std::slice::from_ref(&row)));
        row.keep()?;
        rows.push(row);
    }
    println!("\n{}", table(&rows));
    ensure!(rows.iter().all(|row| row.lost == 0), "calls were lost");
    Ok(())
}

impl Wide {
    async fn happens(&self, stage: &Arc<Stage>) -> Result<Vec<Played>> {
        if self.lasts.is_none() {
            self.begins(stage).await?;
        }
        let before = stage.begun.load(Ordering::Relaxed);
        let mut playing = JoinSet::new();
        for _ in 0..CALLS {
            let (stage, scenario) = (Arc::clone(stage), self.scenario);
            playing.spawn(async move { play_while(&stage, scenario, &[], true).await });
        }
        let all_of_them = before + u32::try_from(CALLS)?;
        while stage.begun.load(Ordering::Relaxed) < all_of_them {
            sleep(LOOKS_EVERY).await;
        }
        if let Some(lasts) = self.lasts {
            self.begins(stage).await?;
            sleep(lasts).await;
            self.is_over(stage).await?;
        }
        let mut all = Vec::new();
        while let Some(played) = playing.join_next().await {
            let mut played = played??;
            if played.end != self.end {
                played.problems.push(format!("promised {:?}", self.end));
            }
            println!("  {}: {played}", self.fault);
            all.push(played);
        }
        Ok(all)
    }

    async fn begins(&self, stage: &Stage) -> Result<()> {
        match self.what {
            What::Line(system, line) => stage.faults.switch(system, line).await,
            What::PbxStops => pbx::signal(Signal::SIGSTOP),
            What::NoAccess => {
                for (name, operation, status) in NO_ACCESS_RULES {
                    stage
                        .faults
                        .make(name, &fcm_answers(operation, status))
                        .await?;
                }
                Ok(())
            }
        }
    }

    async fn is_over(&self, stage: &Stage) -> Result<()> {
        match self.what {
            What::Line(system, _) => stage.faults.switch(system, Line::Open).await,
            What::PbxStops => pbx::signal(Signal::SIGCONT),
            What::NoAccess => {
                for (name, ..) in NO_ACCESS_RULES {
                    stage.faults.drop_rule(name).await?;
                }
                Ok(())
            }
        }
    }
}

/// What FCM and the token endpoint answer when access is denied.
const NO_ACCESS_RULES: [(&str, &str, u16); 2] = [
    ("no-access", "FCM incoming_call", 401),
    ("no-new-one", "POST /token", 503),
];

fn fcm_answers(operation: &str, status: u16) -> Rule {
    Rule {
        system: System::Fcm,
        operation: Some(operation.to_owned()),
        function: None,
        play: None,
        skip: 0,
        times: None,
        one_in: None,
        fault: Fault::Answer {
            status,
            headers: BTreeMap::new(),
            body: "{}".to_owned(),
        },
    }
}
