//! Steady calls while a region is lost and restored.

use std::time::Duration;

use anyhow::{Context, Result};
use ringback_local::region_outage::RegionState;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::region_loss::RegionLoss;
use crate::region_pair::{check_no_channels, check_same_end, ring};
use crate::report::RunReport;
use crate::steady_calls::{CallPlan, End, FailoverClients, TalkLength};
use crate::{BUSY_WITHIN, OTHER_TIMER_DELAY};
use ringback_e2e::fixture::{Fixture, SOON};

/// The region is lost this much later than a call begins: the call is stored, but not replicated.
const JUST_PLACED: Duration = Duration::from_millis(100);

/// The phases of one run: the primary is healthy, lost, and restored.
#[derive(Clone, Copy)]
pub(crate) struct RegionLossRun {
    pub(crate) every: Duration,
    pub(crate) before: Duration,
    pub(crate) lost: Duration,
    pub(crate) after: Duration,
    pub(crate) lag: Duration,
}

impl RegionLossRun {
    pub(crate) async fn run(
        self,
        primary: &Fixture,
        fallback: &Fixture,
        loss: &RegionLoss,
        condition: RegionState,
    ) -> Result<()> {
        let switching = FailoverClients::on(&primary.stack).await?;
        let _staff = switching.run_phones().await?;
        loss.wait_until_replicated(SOON).await?;
        loss.lag(self.lag).await?;
        let began = Instant::now();
        let lost_at = began + self.before + JUST_PLACED;
        let back_at = lost_at + self.lost;
        let until = back_at + self.after;
        let calling = async {
            let mut calls = JoinSet::new();
            let mut next = began;
            for number in 0.. {
                if next >= until {
                    break;
                }
                sleep_until(next).await;
                let plan = self.plan(number)?;
                calls.spawn(std::sync::Arc::clone(&switching).call(plan));
                next += self.every;
            }
            Ok::<_, anyhow::Error>(calls)
        };
        let losing = async {
            sleep_until(lost_at).await;
            loss.primary_is(condition).await?;
            let lost_at = Instant::now();
            sleep_until(back_at).await;
            loss.primary_is(RegionState::Up).await?;
            Ok::<_, anyhow::Error>((lost_at, Instant::now()))
        };
        let (calls, losing) = tokio::join!(calling, losing);
        let (lost_at, back_at) = losing?;
        let outcomes = calls?.join_all().await;
        let report = RunReport::of(&outcomes, condition, self.lag, lost_at, back_at, fallback);
        println!("{}", report.text(&outcomes)?);
        report.row(&outcomes).save()?;
        report.check()?;
        for outcome in &outcomes {
            let call = outcome.call.as_deref().context("the push has no call id")?;
            let status = match outcome.end {
                End::Bridged => "completed",
                End::Busy | End::Lost(_) => "timed_out",
            };
            check_same_end(primary, fallback, call, status)
                .await
                .with_context(|| format!("call {}: {outcome:?}", outcome.number))?;
        }
        check_no_channels(primary).await
    }

    /// Varies the reaction and talk times, so that some callers talk while the region is lost and when it is restored.
    /// The region is lost just after call 4 is stored in it, and the other region takes the accept.
    fn plan(self, number: usize) -> Result<CallPlan> {
        let taps_after = [1_500, 400, 0, 3_500][number % 4];
        let talks = [
            TalkLength::For(Duration::from_secs(2)),
            TalkLength::UntilAfterTheRing,
            TalkLength::For(Duration::from_secs(9)),
        ][number % 3];
        Ok(CallPlan {
            number,
            taps_after: Duration::from_millis(taps_after),
            talks,
            rings_for: ring(),
            grace: BUSY_WITHIN + OTHER_TIMER_DELAY + self.lag,
        })
    }
}
