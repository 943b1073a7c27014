//! The results of one run.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Result, ensure};
use ringback_local::region_outage::RegionState;
use tokio::time::Instant;

use crate::steady_calls::{CallOutcome, End};
use ringback_e2e::fixture::Fixture;
use ringback_e2e::outcome_table::{OutcomeRow, REGION_LOST, millis};

/// The only SIP code for a caller who is rejected as promised.
const BUSY_HERE: u16 = 486;

/// The results of one run.
pub(crate) struct RunReport {
    condition: RegionState,
    lag: Duration,
    calls: usize,
    in_flight: usize,
    bridged: usize,
    busy: usize,
    lost: Vec<String>,
    twice: usize,
    longest_wait_before: Duration,
    longest_wait: Duration,
    fallback_answered_after: Option<Duration>,
    by_fallback: usize,
}

impl RunReport {
    pub(crate) fn of(
        outcomes: &[CallOutcome],
        condition: RegionState,
        lag: Duration,
        lost_at: Instant,
        back_at: Instant,
        fallback: &Fixture,
    ) -> Self {
        let count = |end: &End| outcomes.iter().filter(|one| one.end == *end).count();
        let lost = outcomes.iter().filter_map(|one| match &one.end {
            End::Lost(how) => Some(format!("call {}: {how}", one.number)),
            End::Bridged | End::Busy => None,
        });
        let taken = outcomes.iter().filter_map(|one| one.accepted.as_ref());
        let by_fallback: Vec<Instant> = taken
            .filter(|(region, _)| *region == fallback.stack.aws.region)
            .map(|(_, at)| *at)
            .collect();
        let longest = |among: &dyn Fn(&CallOutcome) -> bool| {
            let waits = outcomes
                .iter()
                .filter(|one| among(one))
                .map(|one| one.waited);
            waits.max().unwrap_or_default()
        };
        Self {
            condition,
            lag,
            calls: outcomes.len(),
            in_flight: outcomes
                .iter()
                .filter(|one| one.placed < lost_at && one.over > lost_at)
                .count(),
            bridged: count(&End::Bridged),
            busy: count(&End::Busy),
            lost: lost.collect(),
            twice: outcomes.iter().filter(|one| one.legs > 1).count(),
            longest_wait_before: longest(&|one| one.placed + one.waited < lost_at),
            longest_wait: longest(&|one| {
                one.placed + one.waited >= lost_at && one.placed < back_at
            }),
            fallback_answered_after: by_fallback
                .iter()
                .filter_map(|at| at.checked_duration_since(lost_at))
                .min(),
            by_fallback: by_fallback.len(),
        }
    }

    pub(crate) fn text(&self, outcomes: &[CallOutcome]) -> Result<String> {
        let mut text = String::new();
        let Self {
            calls,
            in_flight,
            bridged,
            busy,
            lost,
            twice,
            longest_wait,
            longest_wait_before,
            by_fallback,
            ..
        } = self;
        let lag = self.lag;
        writeln!(
            text,
            "primary lost ({:?}), replication delayed by {lag:?}",
            self.condition
        )?;
        writeln!(
            text,
            "  calls                       {calls}, {in_flight} in progress at the loss"
        )?;
        writeln!(
            text,
            "  bridged                     {bridged}, {by_fallback} of them accepted by the fallback region"
        )?;
        writeln!(text, "  busy in time                {busy}")?;
        writeln!(text, "  lost                        {}", lost.len())?;
        writeln!(text, "  bridged twice               {twice}")?;
        writeln!(
            text,
            "  longest wait of a caller    {longest_wait:.1?}, {longest_wait_before:.1?} before the loss"
        )?;
        let after = self.fallback_answered_after;
        writeln!(
            text,
            "  first accept in fallback    {after:.1?} after the loss"
        )?;
        for how in lost {
            writeln!(text, "  {how}")?;
        }
        for one in outcomes.iter().filter(|one| one.end != End::Bridged) {
            writeln!(text, "  {one:?}")?;
        }
        Ok(text)
    }

    /// The row of the table.
    pub(crate) fn row(&self, outcomes: &[CallOutcome]) -> OutcomeRow {
        let waits = outcomes.iter().map(|one| millis(one.waited));
        let taken = outcomes.iter().any(|one| one.accepted.is_some());
        let [refuses, silent] = REGION_LOST;
        let fault = match self.condition {
            RegionState::Silent => silent,
            RegionState::Refusing | RegionState::Up => refuses,
        };
        OutcomeRow {
            fault: fault.to_owned(),
            calls: self.calls,
            bridged: self.bridged,
            busy: self.busy,
            abandoned: 0,
            lost: self.lost.len() + self.twice,
            waits: waits.clone().min().zip(waits.max()),
            codes: (self.busy > 0).then_some(BUSY_HERE).into_iter().collect(),
            app_results: taken
                .then(|| "`accept_ready` 200".to_owned())
                .into_iter()
                .collect(),
            occurrences: (0, 0),
            crashes: 0,
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        ensure!(self.lost.is_empty(), "lost: {:?}", self.lost);
        ensure!(self.twice == 0, "{} were bridged twice", self.twice);
        ensure!(self.in_flight > 0, "no call was in progress at the loss");
        ensure!(self.by_fallback > 0, "the fallback region accepted no call");
        ensure!(self.bridged + self.busy == self.calls);
        ensure!(
            self.busy * 2 <= self.in_flight,
            "{} callers heard busy of the {} who were ringing at the loss",
            self.busy,
            self.in_flight
        );
        Ok(())
    }
}
