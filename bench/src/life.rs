//! A call from its caller's first sign to its end, played through warm functions, with every invocation and request counted.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use ringback_local::runtime_api::RunningFunction;
use serde_json::{Value, json};

use crate::process::cpu_time;
use crate::stage::{Stage, good};
use crate::world::{Change, Item, Seen, System, Units};

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The app is woken, looks whether the call still rings, is ready; the two talk; the caller hangs up.
    Talked,
    /// Nobody answers: the timer ends the ring.
    RangOut,
}

/// One invocation of a function.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// Which.
    pub function: &'static str,
    /// From the event to the answer.
    pub took: Duration,
    /// CPU time.
    pub cpu: Duration,
}

/// What a call took.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// In their order.
    pub invocations: Vec<Invocation>,
    /// The requests to the systems around.
    pub requests: Vec<Seen>,
    /// How many bytes were logged.
    pub logged: u64,
}

impl Life {
    /// How many requests went to this system.
    #[must_use]
    pub fn requests_to(&self, system: System) -> usize {
        let to_it = self.requests.iter().filter(|seen| seen.system == system);
        to_it.count()
    }

    /// What DynamoDB charges for it.
    #[must_use]
    pub fn units(&self) -> Units {
        let mut units = Units::default();
        for request in &self.requests {
            units += request.units;
        }
        units
    }

    /// How often a function was invoked.
    #[must_use]
    pub fn invocations_of(&self, function: &str) -> usize {
        let of_it = self.invocations.iter();
        of_it.filter(|one| one.function == function).count()
    }
}

/// Warm functions, for one call after the other.
#[derive(Debug, Default)]
pub struct Company {
    running: BTreeMap<&'static str, RunningFunction>,
}

impl Company {
    /// Plays one call, and tells each of its changes to whoever is connected.
    ///
    /// # Errors
    /// When a function does not do its part.
    pub async fn play(&mut self, stage: &mut Stage, ending: Ending) -> Result<Life> {
        let sid = stage.call_sid();
        let logged = self.logged(stage)?;
        let mut life = Life::default();
        stage.world.table().changes();
        stage.world.watch();
        let webhook = stage.passthru_of(&sid)?;
        let rang = self
            .invoke(stage, &mut life, "exotel-webhook", &webhook)
            .await?;
        let call = call_id_in(&rang)?;
        let arrival = stage.arrival(&sid)?;
        self.invoke(stage, &mut life, "asterisk-incoming", &arrival)
            .await?;
        match ending {
            Ending::Talked => {
                let status = stage.status(&call)?;
                self.invoke(stage, &mut life, "call-status", &status)
                    .await?;
                let ready = stage.accept_ready(&call)?;
                self.invoke(stage, &mut life, "call-response", &ready)
                    .await?;
                for report in [stage.bridged(&sid, &call)?, stage.ended(&sid, &call)?] {
                    self.invoke(stage, &mut life, "asterisk-incoming", &report)
                        .await?;
                }
            }
            Ending::RangOut => stage.ring_out(&call)?,
        }
        // The queue brings its message to every call; one that is over has no use for it.
        let timer = stage.timer(&call)?;
        self.invoke(stage, &mut life, "call-timeout", &timer)
            .await?;
        let changes = stage.world.table().changes();
        for record in changes.iter().filter_map(record_of_a_call) {
            let event = json!({ "Records": [record] });
            self.invoke(stage, &mut life, "broadcast", &event).await?;
        }
        life.requests = stage.world.seen();
        life.logged = self.logged(stage)? - logged;
        Ok(life)
    }

    async fn invoke(
        &mut self,
        stage: &Stage,
        life: &mut Life,
        function: &'static str,
        event: &Value,
    ) -> Result<Value> {
        if !self.running.contains_key(function) {
            self.running.insert(function, stage.start(function).await?);
        }
        let running = self.running.get_mut(function).context("just started")?;
        let pid = running.pid().context("it has ended")?;
        running.wait_until_idle().await?;
        let before = cpu_time(pid)?;
        let answered = running.invoke_timed(event).await?;
        good(&answered.answer).with_context(|| format!("{function}: {event}"))?;
        running.wait_until_idle().await?;
        life.invocations.push(Invocation {
            function,
            took: answered.at - answered.began,
            cpu: cpu_time(pid)?.saturating_sub(before),
        });
        Ok(answered.answer)
    }

    fn logged(&self, stage: &Stage) -> Result<u64> {
        let sizes = self.running.keys().map(|function| {
            let log = std::fs::metadata(stage.places.log(function))?;
            Ok(log.len())
        });
        sizes.sum()
    }
}

fn call_id_in(answer: &Value) -> Result<String> {
    let body: Value = serde_json::from_str(answer["body"].as_str().context("no body")?)?;
    Ok(body["call_id"].as_str().context("no call_id")?.to_owned())
}

/// What the table's stream shows of a change; the template's filter lets calls through, and nothing else.
fn record_of_a_call(change: &Change) -> Option<Value> {
    let is_call = |item: &Item| item.contains_key("status") && item["sk"]["S"] == "CALL";
    let after = change.after.as_deref().filter(|item| is_call(item))?;
    let mut dynamodb = json!({ "SequenceNumber": "1", "NewImage": after });
    if let Some(before) = change.before.as_deref() {
        dynamodb["OldImage"] = json!(before);
    }
    Some(json!({ "dynamodb": dynamodb }))
}
