//! Two regions, and the loss of one: real callers on a real Asterisk, two deployments with a replicated table between
//! them, and apps that ask the other region when one does not answer. The stack must be one of two regions.

#[path = "support/loss.rs"]
mod loss;
#[path = "calls/scene.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with calls/, which does more on its stage"
)]
mod scene;
#[path = "support/steady_calls.rs"]
mod steady_calls;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use aws_sdk_dynamodb::types::AttributeValue;
use loss::Loss;
use reqwest::StatusCode;
use ringback::clock::Timestamp;
use ringback_client::Client;
use ringback_local::loss::Condition;
use ringback_local::pbx::server::ari_client;
use ringback_local::settings::Settings;
use ringback_local::stack::Stack;
use scene::{SOON, Scene};
use serde_json::Value;
use steady_calls::{End, Outcome, Plan, Switching};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// As late as replication is on a bad day.
const LAG: Duration = Duration::from_secs(1);
/// The contract's: a caller hears busy so long after the ring's end, at most.
const BUSY_WITHIN: Duration = Duration::from_secs(2);
/// By so much the local cloud is slower than AWS when a machine has much else to do.
const SLOW_MACHINE: Duration = Duration::from_secs(2);
/// So much later than the region's own does the other region's timer come.
const AFTER_THE_OTHER: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread")]
async fn an_accept_that_is_faster_than_its_call_waits_for_it() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    let mut phone = primary.registered_phone("1001").await?;
    loss.everything_has_come(SOON).await?;
    loss.lag(LAG).await?;
    let caller = primary.dial("1001").await?;
    let id = app.woken().await?;
    let (status, answer) = app.in_region(&fallback).says("accept_ready", &id).await?;
    ensure!(status == StatusCode::OK, "{status}: {answer}");
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    caller.hang_up().await?;
    ends_alike(&primary, &fallback, &id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn two_regions_that_decide_one_call_at_once_bridge_it_once() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let tablet = primary.app("1001").await?;
    let mobile = primary.app("1001").await?;
    let mut phone = primary.registered_phone("1001").await?;
    loss.everything_has_come(SOON).await?;
    let caller = primary.dial("1001").await?;
    let id = tablet.woken().await?;
    loss.everything_has_come(SOON).await?;
    loss.lag(LAG).await?;
    let there = mobile.in_region(&fallback);
    let (one, other) = tokio::join!(
        tablet.says("accept_ready", &id),
        there.says("accept_ready", &id)
    );
    let statuses = [one?.0, other?.0];
    ensure!(statuses.contains(&StatusCode::OK), "{statuses:?}");
    let leg = phone.next_call(SOON).await?;
    leg.answer().await?;
    caller.answered(SOON).await?;
    ensure!(
        phone.next_call(2 * LAG).await.is_err(),
        "its phone was called twice"
    );
    ensure!(!caller.events().is_over(), "somebody has cut them off");
    caller.hang_up().await?;
    ends_alike(&primary, &fallback, &id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_nobody_answers_ends_in_time_when_its_region_is_lost() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let app = primary.app("1001").await?;
    loss.everything_has_come(SOON).await?;
    let caller = primary.dial("1001").await?;
    let id = app.woken().await?;
    loss.everything_has_come(SOON).await?;
    loss.primary_is(Condition::Refuses).await?;
    let (code, _) = caller.rejected(ring()? + 2 * SOON).await?;
    let now = Timestamp::now();
    ensure!(code == 486, "the caller heard {code}");
    let call = item(&fallback, &id).await?.context("the call")?;
    let rings_until = call.get("rings_until").and_then(|at| at.as_n().ok());
    let rings_until: u64 = rings_until.context("its ring's end")?.parse()?;
    let late = Duration::from_millis(now.as_millis().saturating_sub(rings_until));
    say(&format!(
        "busy {late:.1?} after the ring's end, by the region that is left"
    ))?;
    let in_time = BUSY_WITHIN + AFTER_THE_OTHER + SLOW_MACHINE;
    ensure!(late <= in_time, "{late:?} late");
    app.in_region(&fallback).sees(&id, "timed_out").await?;
    app.push("call_cancelled").await?;
    loss.primary_is(Condition::Well).await?;
    ends_alike(&primary, &fallback, &id, "timed_out").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_either_region_hear_of_calls_in_both() -> Result<()> {
    let (primary, fallback, loss) = two_regions().await?;
    let mut here = client(&primary).await?;
    let mut there = client(&fallback).await?;
    // Twice: whom the other region could not reach would be forgotten after the first.
    for _ in 0..2 {
        let app = primary.app("1001").await?;
        loss.everything_has_come(SOON).await?;
        let caller = primary.dial("1001").await?;
        let id = app.woken().await?;
        hears(&mut here, &id, &["ringing"]).await?;
        hears(&mut there, &id, &["ringing"]).await?;
        let (status, answer) = app
            .in_region(&fallback)
            .says_anonymously("decline", &id)
            .await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        // The caller's leg ends, and the PBX may say so to the region that has not heard of the decline yet.
        let over = ["busy", "canceled"];
        hears(&mut there, &id, &over).await?;
        hears(&mut here, &id, &over).await?;
        caller.rejected(SOON).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_is_lost_when_the_primary_is() -> Result<()> {
    let settings = Settings::from_environment();
    let seconds = |name: &str, unless: u64| -> Result<Duration> {
        let set = settings.variable(name).map(str::parse).transpose()?;
        Ok(Duration::from_secs(set.unwrap_or(unless)))
    };
    let course = Course {
        every: Duration::from_millis(1_500),
        before: seconds("REGION_WELL_SECONDS", 8)?,
        lost: seconds("REGION_LOST_SECONDS", 12)?,
        after: seconds("REGION_WELL_SECONDS", 8)?,
        lag: seconds("REPLICATION_LAG_SECONDS", LAG.as_secs())?,
    };
    let conditions: &[Condition] = if settings.variable("REGION_LOST_BOTH_WAYS").is_some() {
        &[Condition::Refuses, Condition::Silent]
    } else {
        &[Condition::Silent]
    };
    for condition in conditions {
        let (primary, fallback, loss) = two_regions().await?;
        let report = course.run(&primary, &fallback, &loss, *condition).await;
        loss.primary_is(Condition::Well).await?;
        report?;
    }
    Ok(())
}

/// Steady calls, while the primary is well, lost, and back.
#[derive(Clone, Copy)]
struct Course {
    every: Duration,
    before: Duration,
    lost: Duration,
    after: Duration,
    lag: Duration,
}

impl Course {
    async fn run(
        self,
        primary: &Scene,
        fallback: &Scene,
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
        say(&report.text(&outcomes)?)?;
        report.check()?;
        for outcome in &outcomes {
            let call = outcome.call.as_deref().context("a call without a push")?;
            settles(primary, fallback, call)
                .await
                .with_context(|| format!("call {}: {outcome:?}", outcome.number))?;
        }
        no_channel_is_left(&primary.stack).await
    }

    /// People are quick or slow, and talk for a short or a long time: some talk when the region is lost, and when it is back.
    fn plan(self, number: usize) -> Result<Plan> {
        let taps_after = [0, 400, 1_500, 3_500][number % 4];
        let talks_for = [2_000, 5_000, 9_000][number % 3];
        Ok(Plan {
            number,
            taps_after: Duration::from_millis(taps_after),
            talks_for: Duration::from_millis(talks_for),
            rings_for: ring()?,
            grace: BUSY_WITHIN + AFTER_THE_OTHER + SLOW_MACHINE + self.lag,
        })
    }
}

/// The figures of one course.
struct Report {
    condition: Condition,
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

impl Report {
    fn of(
        outcomes: &[Outcome],
        condition: Condition,
        lag: Duration,
        lost_at: Instant,
        back_at: Instant,
        fallback: &Scene,
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
        let longest = |among: &dyn Fn(&Outcome) -> bool| {
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

    fn text(&self, outcomes: &[Outcome]) -> Result<String> {
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
            "primary lost ({:?}), replication {lag:?} late",
            self.condition
        )?;
        writeln!(
            text,
            "  calls                       {calls}, {in_flight} under way when it was lost"
        )?;
        writeln!(
            text,
            "  bridged                     {bridged}, {by_fallback} of them accepted by the fallback"
        )?;
        writeln!(text, "  busy in time                {busy}")?;
        writeln!(text, "  lost                        {}", lost.len())?;
        writeln!(text, "  bridged twice               {twice}")?;
        writeln!(
            text,
            "  longest wait of a caller    {longest_wait:.1?}, {longest_wait_before:.1?} before it was lost"
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

    fn check(&self) -> Result<()> {
        ensure!(self.lost.is_empty(), "lost: {:?}", self.lost);
        ensure!(self.twice == 0, "{} were bridged twice", self.twice);
        ensure!(self.in_flight > 0, "no call was under way");
        ensure!(self.by_fallback > 0, "the fallback did nothing");
        ensure!(self.bridged + self.busy == self.calls);
        ensure!(
            self.busy <= self.in_flight,
            "{} callers heard busy whose app had accepted",
            self.busy
        );
        Ok(())
    }
}

async fn two_regions() -> Result<(Scene, Scene, Loss)> {
    let stack = Stack::load(&Settings::from_environment().state_dir())?;
    let loss = Loss::none(&stack).await?;
    let primary = Scene::open().await?;
    let fallback = primary.in_the_fallback().await?;
    trusts_the_primary(&stack).await?;
    Ok((primary, fallback, loss))
}

/// The PBX asks a region second for a while that another test has just lost.
async fn trusts_the_primary(stack: &Stack) -> Result<()> {
    let variable = "asterisk/variable?variable=RINGBACK_AVOID_UNTIL&value=0";
    let request = ari_client(&stack.ari.ca_pem)?
        .post(format!("{}/{variable}", stack.ari.url))
        .basic_auth(&stack.ari.username, Some(&stack.ari.password));
    request.send().await?.error_for_status()?;
    Ok(())
}

fn ring() -> Result<Duration> {
    let settings = Settings::from_environment();
    let seconds = settings.variable("RING_TIMEOUT_SECONDS").unwrap_or("30");
    Ok(Duration::from_secs(seconds.parse()?))
}

async fn client(scene: &Scene) -> Result<Client> {
    let phone = scene.stack.phone("1001").context("1001")?;
    Ok(Client::connect(&scene.stack.ws_url, &phone.token).await?)
}

/// Waits until a client is told that a call has come to one of these statuses.
async fn hears(client: &mut Client, call: &str, statuses: &[&str]) -> Result<()> {
    let mut heard = Vec::new();
    let is_told = async {
        loop {
            let message = client.receive().await?;
            let data = &message["data"];
            let is_meant = statuses.iter().any(|status| data["status"] == *status);
            if data["callId"] == call && is_meant {
                return anyhow::Ok(());
            }
            heard.push(message);
        }
    };
    match timeout(2 * SOON, is_told).await {
        Ok(told) => told,
        Err(_) => bail!("told none of {statuses:?}, but {heard:?}"),
    }
}

/// The call has this status in both regions, and is the same in both.
async fn ends_alike(primary: &Scene, fallback: &Scene, call: &str, status: &str) -> Result<()> {
    let item = settles(primary, fallback, call).await?;
    let stands = item.get("status").and_then(|it| it.as_s().ok());
    ensure!(stands.is_some_and(|stands| stands == status), "{stands:?}");
    Ok(())
}

/// The call is over in both regions, and its item is the same in both.
async fn settles(primary: &Scene, fallback: &Scene, call: &str) -> Result<Item> {
    let patience = Instant::now() + 3 * SOON;
    loop {
        let (here, there) = (item(primary, call).await?, item(fallback, call).await?);
        let over = here.as_ref().is_some_and(|item| {
            let status = item.get("status").and_then(|status| status.as_s().ok());
            status.is_some_and(|status| {
                ["completed", "declined", "timed_out", "canceled", "failed"]
                    .contains(&status.as_str())
            })
        });
        match here {
            Some(here) if over && Some(&here) == there.as_ref() => return Ok(here),
            here if Instant::now() > patience => {
                bail!("not settled:\nprimary  {here:?}\nfallback {there:?}")
            }
            _ => sleep(Duration::from_millis(200)).await,
        }
    }
}

type Item = HashMap<String, AttributeValue>;

async fn item(scene: &Scene, call: &str) -> Result<Option<Item>> {
    let asked = aws_sdk_dynamodb::Client::new(&scene.aws)
        .get_item()
        .table_name(&scene.stack.aws.table)
        .key("pk", AttributeValue::S(format!("CALL#{call}")))
        .key("sk", AttributeValue::S("CALL".to_owned()))
        .send();
    Ok(asked.await?.item)
}

async fn no_channel_is_left(stack: &Stack) -> Result<()> {
    let http = ari_client(&stack.ari.ca_pem)?;
    let patience = Instant::now() + SOON;
    loop {
        let request = http.get(format!("{}/channels", stack.ari.url));
        let request = request.basic_auth(&stack.ari.username, Some(&stack.ari.password));
        let channels: Vec<Value> = request.send().await?.error_for_status()?.json().await?;
        if channels.is_empty() {
            return Ok(());
        }
        ensure!(Instant::now() < patience, "channels are left: {channels:?}");
        sleep(Duration::from_millis(200)).await;
    }
}

fn say(text: &str) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{text}")?;
    Ok(())
}
