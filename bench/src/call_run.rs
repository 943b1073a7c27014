//! One whole call through warm functions, with all invocations and requests counted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ringback_local::runtime_api::{RunningFunction, TimedAnswer};
use serde_json::{Value, json};

use crate::fixture::{Fixture, call_id, ensure_success};
use crate::process::cpu_time;
use crate::stand_ins::{AnsweredRequest, Item, ItemChange, RequestUnits, System};

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEnding {
    /// The app wakes, reads the call's status and accepts. The legs are bridged. The caller hangs up.
    Answered,
    /// The ring timer ends the call.
    TimedOut,
}

/// One invocation of a function.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The function.
    pub function: &'static str,
    /// From the event to the answer.
    pub duration: Duration,
    /// CPU time.
    pub cpu: Duration,
    /// Its requests to other systems.
    pub requests: Vec<AnsweredRequest>,
}

/// What one call used.
#[derive(Clone, Debug, Default)]
pub struct CallRun {
    /// The invocations, in order.
    pub invocations: Vec<Invocation>,
    /// Bytes logged.
    pub logged: u64,
}

impl CallRun {
    /// The number of requests to a system.
    #[must_use]
    pub fn requests_to(&self, system: System) -> usize {
        let requests = self.requests();
        requests.filter(|request| request.system == system).count()
    }

    /// The requests of all invocations.
    pub fn requests(&self) -> impl Iterator<Item = &AnsweredRequest> {
        self.invocations.iter().flat_map(|one| &one.requests)
    }

    /// What DynamoDB charges for the call.
    #[must_use]
    pub fn units(&self) -> RequestUnits {
        let mut units = RequestUnits::default();
        for request in self.requests() {
            units += request.units;
        }
        units
    }

    /// The number of invocations of a function.
    #[must_use]
    pub fn invocations_of(&self, function: &str) -> usize {
        let invocations = self.invocations.iter();
        invocations.filter(|one| one.function == function).count()
    }
}

/// Functions that stay warm from one call to the next.
#[derive(Debug, Default)]
pub struct WarmFunctions {
    running: BTreeMap<&'static str, RunningFunction>,
}

impl WarmFunctions {
    /// Makes one call, and sends each of its changes to the connected client.
    ///
    /// # Errors
    /// When a function fails, or the call ends in another way.
    pub async fn run_call(&mut self, fixture: &mut Fixture, ending: CallEnding) -> Result<CallRun> {
        let sid = fixture.call_sid();
        let logged = self.logged(fixture)?;
        let mut run = CallRun::default();
        fixture.stand_ins.items().take_changes();
        let webhook = fixture.passthru(&sid)?;
        let answered = self
            .invoke(fixture, &mut run, "exotel-webhook", &webhook)
            .await?;
        let call = call_id(&answered)?;
        let arrival = fixture.arrival(&sid)?;
        self.invoke(fixture, &mut run, "asterisk-incoming", &arrival)
            .await?;
        if ending == CallEnding::Answered {
            let status = fixture.status(&call)?;
            self.invoke(fixture, &mut run, "call-status", &status)
                .await?;
            let ready = fixture.accept_ready(&call)?;
            self.invoke(fixture, &mut run, "call-response", &ready)
                .await?;
            for report in [fixture.bridged(&call)?, fixture.ended(&sid, &call)?] {
                self.invoke(fixture, &mut run, "asterisk-incoming", &report)
                    .await?;
            }
        }
        // The queue delivers the timer of every call, also of one that has ended.
        let timer = fixture.timer(&call)?;
        self.invoke(fixture, &mut run, "call-timeout", &timer)
            .await?;
        let changes = fixture.stand_ins.items().take_changes();
        ensure_ended(&changes, ending)?;
        for record in changes.iter().filter_map(stream_record) {
            let event = json!({ "Records": [record] });
            self.invoke(fixture, &mut run, "broadcast", &event).await?;
        }
        run.logged = self.logged(fixture)? - logged;
        Ok(run)
    }

    async fn invoke(
        &mut self,
        fixture: &Fixture,
        run: &mut CallRun,
        function: &'static str,
        event: &Value,
    ) -> Result<TimedAnswer> {
        if !self.running.contains_key(function) {
            let started = fixture.start_function(function).await?;
            self.running.insert(function, started);
        }
        let running = self.running.get_mut(function).context("just started")?;
        let pid = running.pid().context("the function has ended")?;
        running.wait_until_idle().await?;
        fixture.stand_ins.start_recording();
        let before = cpu_time(pid)?;
        let answered = running.invoke_timed(event).await?;
        ensure_success(&answered.answer).with_context(|| format!("{function}: {event}"))?;
        running.wait_until_idle().await?;
        run.invocations.push(Invocation {
            function,
            duration: answered.at - answered.began,
            cpu: cpu_time(pid)?.saturating_sub(before),
            requests: fixture.stand_ins.recorded(),
        });
        Ok(answered)
    }

    /// The bytes that the functions have logged. None of them may warn: its figures would not be those of a normal call.
    fn logged(&self, fixture: &Fixture) -> Result<u64> {
        let mut bytes = 0;
        for function in self.running.keys() {
            let log = std::fs::read_to_string(fixture.paths.log(function))?;
            let warning = |line: &&str| ["WARN", "ERROR"].iter().any(|level| line.contains(level));
            if let Some(line) = log.lines().find(warning) {
                bail!("{function} warns: {line}");
            }
            bytes += log.len() as u64;
        }
        Ok(bytes)
    }
}

/// Only an answered call was bridged, and both kinds have ended.
fn ensure_ended(changes: &[ItemChange], ending: CallEnding) -> Result<()> {
    let last = changes.iter().rfind(|change| call_after(change).is_some());
    let call = last.and_then(call_after).context("no call was stored")?;
    let was_bridged = call.contains_key("bridged_at");
    ensure!(
        call.contains_key("ended") && was_bridged == (ending == CallEnding::Answered),
        "the call ends as {}, not {ending:?}",
        call.get("status").unwrap_or(&Value::Null)
    );
    Ok(())
}

fn call_after(change: &ItemChange) -> Option<&Item> {
    let item = change.after.as_deref()?;
    (item.contains_key("status") && item["sk"]["S"] == "CALL").then_some(item)
}

/// The stream's record of a change of a call. The template's filter drops changes of other items.
fn stream_record(change: &ItemChange) -> Option<Value> {
    let after = call_after(change)?;
    let mut dynamodb = json!({ "SequenceNumber": "1", "NewImage": after });
    if let Some(before) = change.before.as_deref() {
        dynamodb["OldImage"] = json!(before);
    }
    Some(json!({ "dynamodb": dynamodb }))
}
