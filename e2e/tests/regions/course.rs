//! Steady calls while a region is lost and restored.

use std::time::Duration;

use anyhow::{Context, Result};
use ringback_local::loss::Condition;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::both::{ends_alike, no_channel_is_left, ring};
use crate::loss::Loss;
use crate::report::Report;
use crate::steady_calls::{End, Plan, Switching};
use crate::{AFTER_THE_OTHER, BUSY_WITHIN};
use ringback_e2e::fixture::{Fixture, SOON};

/// The phases of one run: the primary is healthy, lost, and restored.
#[derive(Clone, Copy)]
pub(crate) struct Course {
    pub(crate) every: Duration,
    pub(crate) before: Duration,
    pub(crate) lost: Duration,
    pub(crate) after: Duration,
    pub(crate) lag: Duration,
}

impl Course {
    pub(crate) async fn run(
        self,
        primary: &Fixture,
        fallback: &Fixture,
        loss: &Loss,
        condition: Condition,
    ) -> Result<()> {
        let switching = Switching::on(&primary.stack).await?;
        let _staff = switching.staff().await?;
        loss.everything_has_come(SOON).await?;
        loss.lag(self.lag).await?;
        let began = Instant::now();
        let (lost_at, back_at) = (began + self.before, began + self.before + self.lost);
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
            loss.primary_is(Condition::Well).await?;
            Ok::<_, anyhow::Error>((lost_at, Instant::now()))
        };
        let (calls, losing) = tokio::join!(calling, losing);
        let (lost_at, back_at) = losing?;
        let outcomes = calls?.join_all().await;
        let report = Report::of(&outcomes, condition, self.lag, lost_at, back_at, fallback);
        println!("{}", report.text(&outcomes)?);
        report.row(&outcomes).keep()?;
        report.check()?;
        for outcome in &outcomes {
            let call = outcome.call.as_deref().context("a call without a push")?;
            let status = match outcome.end {
                End::Bridged => "completed",
                End::Busy | End::Lost(_) => "timed_out",
            };
            ends_alike(primary, fallback, call, status)
                .await
                .with_context(|| format!("call {}: {outcome:?}", outcome.number))?;
        }
        no_channel_is_left(primary).await
    }

    /// Varies the reaction and talk times, so that some callers talk while the region is lost and when it is restored.
    fn plan(self, number: usize) -> Result<Plan> {
        let taps_after = [0, 400, 1_500, 3_500][number % 4];
        let talks_for = [2_000, 5_000, 9_000][number % 3];
        Ok(Plan {
            number,
            taps_after: Duration::from_millis(taps_after),
            talks_for: Duration::from_millis(talks_for),
            rings_for: ring(),
            grace: BUSY_WITHIN + AFTER_THE_OTHER + self.lag,
        })
    }
}
