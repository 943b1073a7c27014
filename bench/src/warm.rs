//! What an event costs once a function is warm: CPU time, and the time that is not the others'.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use ringback_local::runtime_api::RunningFunction;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::cold::verdict;
use crate::express::Express;
use crate::figures::{Figures, Rounded, millis};
use crate::functions::Places;
use crate::page::Table;
use crate::path::{self, Goal, HELD_BACK};
use crate::process::cpu_time;
use crate::stage::{Stage, call_id, good};

/// How many events are counted, after how many that are not.
const EVENTS: usize = 200;
const BEFORE: usize = 30;

/// The goal: CPU time of an event, in milliseconds, at the median.
const MOST_CPU: f64 = 1.0;
const MOST_IN_SEQUENCE: usize = 2;

/// How long a process takes at most to lie down once it has asked for more.
const LIES_DOWN_WITHIN: Duration = Duration::from_millis(1);

/// How long the calls ring that ring out at the Express server: longer than it takes to start all of them.
const EXPRESS_RING: Duration = Duration::from_secs(4);

/// An event whose cost is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Webhook,
    WebhookForExtension,
    Arrival,
    AcceptReady,
    Timeout,
    AcceptReadyByWebSocket,
    Ping,
    Media,
    CallStatus,
    Change,
}

impl Kind {
    const ALL: [Self; 10] = [
        Self::Webhook,
        Self::WebhookForExtension,
        Self::Arrival,
        Self::AcceptReady,
        Self::Timeout,
        Self::AcceptReadyByWebSocket,
        Self::Ping,
        Self::Media,
        Self::CallStatus,
        Self::Change,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::Webhook => "webhook, by number",
            Self::WebhookForExtension => "webhook, `?extension=`",
            Self::Arrival => "PBX hook, a caller",
            Self::AcceptReady => "`accept_ready`",
            Self::Timeout => "timeout",
            Self::AcceptReadyByWebSocket => "WebSocket: `accept_ready`",
            Self::Ping => "WebSocket: `ping`",
            Self::Media => "WebSocket: a stream's audio",
            Self::CallStatus => "`GET /api/calls/{id}`",
            Self::Change => "a change told to one client",
        }
    }

    const fn function(self) -> &'static str {
        match self {
            Self::Webhook | Self::WebhookForExtension => "exotel-webhook",
            Self::Arrival => "asterisk-incoming",
            Self::AcceptReady => "call-response",
            Self::Timeout => "call-timeout",
            Self::AcceptReadyByWebSocket | Self::Ping | Self::Media => "ws-message",
            Self::CallStatus => "call-status",
            Self::Change => "broadcast",
        }
    }

    /// What somebody waits for, on the two urgent ways.
    const fn goal(self) -> Option<Goal> {
        match self {
            Self::Webhook | Self::WebhookForExtension => Some(Goal::Push),
            Self::AcceptReady => Some(Goal::Originate),
            _ => None,
        }
    }

    /// So many events of this kind, each of a call of its own that stands as it does when such an event comes.
    async fn events(self, stage: &mut Stage, count: usize) -> Result<Vec<Value>> {
        let mut pbx = stage.start("asterisk-incoming").await?;
        let mut events = Vec::new();
        for _ in 0..count {
            let sid = stage.call_sid();
            let event = match self {
                Self::Webhook => stage.passthru_of(&sid)?,
                Self::WebhookForExtension => {
                    let mut event = stage.passthru_of(&sid)?;
                    let query = event["rawQueryString"].as_str().context("a query")?;
                    event["rawQueryString"] = format!("{query}&extension=1001").into();
                    event
                }
                Self::Arrival => stage.arrival(&sid)?,
                Self::Ping => stage.places.event("ws-message-ping")?,
                Self::Media => stage.places.event("ws-message-exotel-media")?,
                Self::Change => stage.places.event("broadcast-status")?,
                Self::AcceptReady
                | Self::Timeout
                | Self::AcceptReadyByWebSocket
                | Self::CallStatus => {
                    let rang = pbx.invoke_timed(&stage.arrival(&sid)?).await?;
                    self.event_of(stage, &call_id(&rang)?)?
                }
            };
            events.push(event);
        }
        Ok(events)
    }

    fn event_of(self, stage: &Stage, call: &str) -> Result<Value> {
        match self {
            Self::Timeout => {
                stage.ring_out(call)?;
                stage.timer(call)
            }
            Self::AcceptReadyByWebSocket => stage.accept_ready_by_websocket(call),
            Self::CallStatus => stage.status(call),
            _ => stage.accept_ready(call),
        }
    }
}

/// What events of one kind cost.
#[derive(Debug, Default)]
pub struct Cost {
    /// CPU time, in milliseconds.
    pub cpu: Figures,
    /// From the event to its answer, without the time in which others were asked, in milliseconds.
    pub own: Figures,
    /// Requests to others.
    pub requests: Figures,
}

/// Measures, and writes the tables.
///
/// # Errors
/// When a function does not do what it is there for.
pub async fn measure(places: &Places) -> Result<String> {
    let mut stage = Stage::set(places).await?;
    let mut costs = Vec::new();
    let mut paths = Vec::new();
    for kind in Kind::ALL {
        stage.clear();
        let events = kind.events(&mut stage, BEFORE + EVENTS + 1).await?;
        let mut function = stage.start(kind.function()).await?;
        let measured = of_function(&stage, &mut function, &events).await;
        let (cost, seen) = measured.with_context(|| kind.name())?;
        costs.push((kind, cost));
        if let Some(goal) = kind.goal() {
            paths.push((kind, goal, seen));
        }
    }
    stage.clear();
    let express = of_express(&mut stage).await.context("bench/express")?;
    Ok(format!(
        "{}\n{}",
        costs_table(&costs, &express)?,
        paths_drawn(&paths)?
    ))
}

/// The costs of all events but the last, whose requests are held back.
async fn of_function(
    stage: &Stage,
    function: &mut RunningFunction,
    events: &[Value],
) -> Result<(Cost, Vec<crate::world::Seen>)> {
    let (last, events) = events.split_last().context("no events")?;
    let pid = function.pid().context("it has ended")?;
    let mut cost = Cost::default();
    for (index, event) in events.iter().enumerate() {
        let (before, taken, seen) = {
            let before = resting(function, pid).await?;
            stage.world.watch();
            let answered = function.invoke_timed(event).await?;
            good(&answered.answer)?;
            (before, answered.at - answered.began, stage.world.seen())
        };
        let after = resting(function, pid).await?;
        if index >= BEFORE {
            cost.add(after - before, taken, &seen);
        }
    }
    stage.world.hold_back(|_| HELD_BACK);
    stage.world.watch();
    let answered = function.invoke_timed(last).await;
    stage.world.hurry();
    let seen = stage.world.seen();
    good(&answered?.answer)?;
    Ok((cost, seen))
}

/// The CPU time that the process has taken until it lies down.
async fn resting(function: &mut RunningFunction, pid: u32) -> Result<Duration> {
    function.wait_until_idle().await?;
    tokio::time::sleep(LIES_DOWN_WITHIN).await;
    cpu_time(pid)
}

impl Cost {
    fn add(&mut self, cpu: Duration, taken: Duration, seen: &[crate::world::Seen]) {
        self.cpu.add(millis(cpu));
        let own = taken.saturating_sub(path::under_way(seen));
        self.own.add(millis(own));
        self.requests.add(seen.len() as f64);
    }
}

/// The same events through the seed's own code.
async fn of_express(stage: &mut Stage) -> Result<Vec<(Kind, Cost)>> {
    let express = Express::start(stage, Duration::from_secs(600)).await?;
    let mut webhook = Cost::default();
    let mut accept_ready = Cost::default();
    let mut by_websocket = Cost::default();
    let mut ping = Cost::default();
    let (mut socket, _) = tokio_tungstenite::connect_async(express.websocket_url()).await?;
    for index in 0..BEFORE + EVENTS {
        let counts = index >= BEFORE;
        let ring = stage.passthru()?;
        let rang = once(stage, &express, &mut webhook, counts, express.ask(&ring)).await?;
        let accept = stage.accept_ready(id_in(&rang)?)?;
        once(
            stage,
            &express,
            &mut accept_ready,
            counts,
            express.ask(&accept),
        )
        .await?;
        let rang = express.ask(&stage.passthru()?).await?;
        // It is told of that call, too.
        socket.next().await.context("no news")??;
        socket.next().await.context("no news")??;
        let accept = stage.accept_ready_by_websocket(id_in(&rang)?)?;
        for (message, cost) in [
            (accept, &mut by_websocket),
            (json!({ "body": r#"{"type":"ping"}"# }), &mut ping),
        ] {
            let text = message["body"].as_str().context("a message")?;
            let asking = async {
                socket.send(Message::text(text)).await?;
                Ok(socket.next().await.context("no answer")??)
            };
            once(stage, &express, cost, counts, asking).await?;
        }
    }
    drop(express);
    let timeout = timeouts_of_express(stage).await?;
    Ok(vec![
        (Kind::Webhook, webhook),
        (Kind::AcceptReady, accept_ready),
        (Kind::Timeout, timeout),
        (Kind::AcceptReadyByWebSocket, by_websocket),
        (Kind::Ping, ping),
    ])
}

fn id_in(rang: &Value) -> Result<&str> {
    rang["call_id"].as_str().context("a call's id")
}

async fn once<T>(
    stage: &Stage,
    express: &Express,
    cost: &mut Cost,
    counts: bool,
    asking: impl Future<Output = Result<T>>,
) -> Result<T> {
    let pid = express.pid()?;
    tokio::time::sleep(LIES_DOWN_WITHIN).await;
    let before = cpu_time(pid)?;
    stage.world.watch();
    let began = Instant::now();
    let answer = asking.await?;
    let taken = began.elapsed();
    tokio::time::sleep(LIES_DOWN_WITHIN).await;
    let after = cpu_time(pid)?;
    let seen = stage.world.seen();
    if counts {
        cost.add(after - before, taken, &seen);
    }
    Ok(answer)
}

/// Its timers fire by themselves: what they cost is what the process takes meanwhile, a call.
async fn timeouts_of_express(stage: &mut Stage) -> Result<Cost> {
    let express = Express::start(stage, EXPRESS_RING).await?;
    let began = Instant::now();
    for _ in 0..EVENTS {
        express.ask(&stage.passthru()?).await?;
    }
    anyhow::ensure!(began.elapsed() < EXPRESS_RING, "the calls ring too short");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = cpu_time(express.pid()?)?;
    stage.world.watch();
    tokio::time::sleep(EXPRESS_RING + Duration::from_secs(1)).await;
    let taken = cpu_time(express.pid()?)? - before;
    let requests = stage.world.seen().len() as f64 / EVENTS as f64;
    let mut cost = Cost::default();
    cost.cpu.add(millis(taken) / EVENTS as f64);
    cost.requests.add(requests);
    Ok(cost)
}

fn costs_table(costs: &[(Kind, Cost)], express: &[(Kind, Cost)]) -> Result<String> {
    let mut table = Table::of(&[
        "event",
        "CPU, ms",
        "90 % within",
        "own time, ms",
        "requests",
        "Express: CPU, ms",
        "own time, ms",
        "requests",
        "Express ÷ Ringback, CPU",
    ]);
    let mut missed = Vec::new();
    for (kind, cost) in costs {
        let cpu = cost.cpu.median();
        if cpu >= MOST_CPU {
            missed.push(format!("{}: {} ms of CPU", kind.name(), Rounded(cpu)));
        }
        let other = express.iter().find(|(other, _)| other == kind);
        let of_other = |figures: fn(&Cost) -> &Figures| match other {
            Some((_, cost)) if figures(cost).count() > 0 => {
                Rounded(figures(cost).median()).to_string()
            }
            _ => String::new(),
        };
        let ratio = other.map(|(_, other)| Rounded(other.cpu.median() / cpu).to_string());
        table.row(&[
            &kind.name(),
            &Rounded(cpu),
            &Rounded(cost.cpu.at(90)),
            &Rounded(cost.own.median()),
            &cost.requests.median(),
            &of_other(|cost| &cost.cpu),
            &of_other(|cost| &cost.own),
            &of_other(|cost| &cost.requests),
            &ratio.unwrap_or_default(),
        ])?;
    }
    Ok(format!(
        "{table}\nMedians of {EVENTS} events after {BEFORE}. Goal: less than {MOST_CPU} ms of CPU each. {}\n",
        verdict(&missed)
    ))
}

fn paths_drawn(paths: &[(Kind, Goal, Vec<crate::world::Seen>)]) -> Result<String> {
    let mut text = format!(
        "The urgent ways, each request held back for {} ms, and how many of them wait for each other (goal: {MOST_IN_SEQUENCE}):\n",
        HELD_BACK.as_millis()
    );
    for (kind, goal, seen) in paths {
        let count = path::in_sequence(seen, *goal);
        let count = count.with_context(|| format!("{}: no {goal:?}", kind.name()))?;
        let drawn = path::drawn(seen);
        text.push_str(&format!(
            "\n{} → {goal:?}: {count} in sequence\n\n```text\n{drawn}```\n",
            kind.name()
        ));
    }
    Ok(text)
}
