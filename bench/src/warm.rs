//! What an event costs in a warm function: CPU time, and the time without the waits for other systems.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use ringback_local::runtime_api::RunningFunction;
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::cold::verdict;
use crate::critical_path::{self, ANSWER_DELAY, PathGoal};
use crate::event_kind::EventKind;
use crate::express::Express;
use crate::figures::{Rounded, Samples, millis};
use crate::fixture::{Fixture, ensure_success};
use crate::functions::Paths;
use crate::page::MarkdownTable;
use crate::process::cpu_time;
use crate::stand_ins::AnsweredRequest;

/// How many events count.
const EVENTS: usize = 200;
/// How many events come before them, to warm the function up.
const WARM_UP: usize = 30;

/// Goal: the median CPU time of an event, relative to the same event in the Express server.
const MAX_TIMES_EXPRESS: f64 = 1.0 / 3.0;
/// Goal: the median CPU time of an event, relative to the least work for its number of requests (`floor/`).
const MAX_TIMES_FLOOR: f64 = 1.5;
/// Goal: requests in sequence on a critical path.
const MAX_IN_SEQUENCE: usize = 2;

/// A process is idle this long after it has polled for the next event.
const IDLE_AFTER: Duration = Duration::from_millis(1);

/// How long calls ring in the Express server when its timeouts are measured: longer than it takes to start them all.
const EXPRESS_RING: Duration = Duration::from_secs(4);

/// The costs of all events of one kind.
#[derive(Debug, Default)]
pub struct EventCosts {
    /// CPU time, in milliseconds.
    pub cpu: Samples,
    /// From the event to its answer, without the time in which a request was under way, in milliseconds.
    pub own: Samples,
    /// Requests to other systems.
    pub requests: Samples,
}

/// The median CPU time of the least work for each event, in milliseconds.
#[derive(Debug)]
struct Floors {
    /// With bare hyper and rustls.
    bare: Vec<f64>,
    /// With the AWS SDK.
    with_sdk: Vec<f64>,
}

/// Measures all kinds of event.
///
/// # Errors
/// When a function fails.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start(paths).await?;
    let mut costs = Vec::new();
    let mut delayed = Vec::new();
    for kind in EventKind::ALL {
        fixture.remove_calls();
        let events = kind.events(&mut fixture, WARM_UP + EVENTS + 1).await?;
        let mut function = fixture.start_function(kind.function()).await?;
        let measured = of_function(&fixture, &mut function, &events).await;
        let (cost, requests) = measured.with_context(|| kind.name())?;
        costs.push((kind, cost));
        if let Some(goal) = kind.goal() {
            delayed.push((kind, goal, requests));
        }
    }
    fixture.remove_calls();
    let floors = Floors {
        bare: of_floor(&fixture, "floor", &costs).await.context("floor")?,
        with_sdk: of_floor(&fixture, "floor-sdk", &costs)
            .await
            .context("floor-sdk")?,
    };
    let express = of_express(&mut fixture).await.context("bench/express")?;
    Ok(format!(
        "{}\n{}",
        costs_table(&costs, &floors, &express)?,
        critical_paths(&delayed)?
    ))
}

/// The costs of all events but the last, and the requests of the last, with delayed answers.
async fn of_function(
    fixture: &Fixture,
    function: &mut RunningFunction,
    events: &[Value],
) -> Result<(EventCosts, Vec<AnsweredRequest>)> {
    let (last, events) = events.split_last().context("no events")?;
    let pid = function.pid().context("the function has ended")?;
    let mut cost = EventCosts::default();
    for (index, event) in events.iter().enumerate() {
        let before = cpu_when_idle(function, pid).await?;
        fixture.stand_ins.start_recording();
        let answered = function.invoke_timed(event).await?;
        ensure_success(&answered.answer)?;
        let requests = fixture.stand_ins.recorded();
        let after = cpu_when_idle(function, pid).await?;
        if index >= WARM_UP {
            cost.add(
                after.saturating_sub(before),
                answered.at - answered.began,
                &requests,
            );
        }
    }
    fixture.stand_ins.delay_answers(|_| ANSWER_DELAY);
    fixture.stand_ins.start_recording();
    let answered = function.invoke_timed(last).await;
    fixture.stand_ins.answer_at_once();
    let requests = fixture.stand_ins.recorded();
    ensure_success(&answered?.answer)?;
    Ok((cost, requests))
}

/// The median CPU time, in milliseconds, of the least work for each event's number of requests.
async fn of_floor(
    fixture: &Fixture,
    program: &str,
    costs: &[(EventKind, EventCosts)],
) -> Result<Vec<f64>> {
    let mut floor = fixture.start_function(program).await?;
    let mut medians = Vec::new();
    for (_, cost) in costs {
        let event = json!({ "requests": cost.requests.median() as u64 });
        let events = vec![event; WARM_UP + EVENTS + 1];
        let (cost, _) = of_function(fixture, &mut floor, &events).await?;
        medians.push(cost.cpu.median());
    }
    Ok(medians)
}

/// The CPU time of the process so far, once it is idle.
async fn cpu_when_idle(function: &mut RunningFunction, pid: u32) -> Result<Duration> {
    function.wait_until_idle().await?;
    tokio::time::sleep(IDLE_AFTER).await;
    cpu_time(pid)
}

impl EventCosts {
    fn add(&mut self, cpu: Duration, duration: Duration, requests: &[AnsweredRequest]) {
        self.cpu.add(millis(cpu));
        let own = duration.saturating_sub(critical_path::under_way(requests));
        self.own.add(millis(own));
        self.requests.add(requests.len() as f64);
    }
}

/// The costs of the same events in the Express server.
async fn of_express(fixture: &mut Fixture) -> Result<Vec<(EventKind, EventCosts)>> {
    let express = Express::start(fixture, Duration::from_secs(600)).await?;
    let mut webhook = EventCosts::default();
    let mut accept_ready = EventCosts::default();
    let mut by_websocket = EventCosts::default();
    let mut ping = EventCosts::default();
    let (mut socket, _) = tokio_tungstenite::connect_async(express.websocket_url()).await?;
    for index in 0..WARM_UP + EVENTS {
        let counts = index >= WARM_UP;
        let ring = fixture.new_passthru()?;
        let ringing = once(fixture, &express, &mut webhook, counts, express.send(&ring)).await?;
        let accept = fixture.accept_ready(id_in(&ringing)?)?;
        once(
            fixture,
            &express,
            &mut accept_ready,
            counts,
            express.send(&accept),
        )
        .await?;
        let ringing = express.send(&fixture.new_passthru()?).await?;
        // The updates of both calls arrive before the answers.
        socket.next().await.context("no update")??;
        socket.next().await.context("no update")??;
        let accept = fixture.accept_ready_by_websocket(id_in(&ringing)?)?;
        for (message, cost) in [
            (accept, &mut by_websocket),
            (json!({ "body": r#"{"type":"ping"}"# }), &mut ping),
        ] {
            let text = message["body"].as_str().context("a message")?;
            let request = async {
                socket.send(Message::text(text)).await?;
                Ok(socket.next().await.context("no answer")??)
            };
            once(fixture, &express, cost, counts, request).await?;
        }
    }
    drop(express);
    let timeout = timeouts_of_express(fixture).await?;
    Ok(vec![
        (EventKind::Webhook, webhook),
        (EventKind::AcceptReady, accept_ready),
        (EventKind::Timeout, timeout),
        (EventKind::AcceptReadyByWebSocket, by_websocket),
        (EventKind::Ping, ping),
    ])
}

fn id_in(answer: &Value) -> Result<&str> {
    answer["call_id"].as_str().context("a call's id")
}

/// Sends one request to the Express server and adds its cost, if it counts.
async fn once<T>(
    fixture: &Fixture,
    express: &Express,
    cost: &mut EventCosts,
    counts: bool,
    request: impl Future<Output = Result<T>>,
) -> Result<T> {
    let pid = express.pid()?;
    tokio::time::sleep(IDLE_AFTER).await;
    let before = cpu_time(pid)?;
    fixture.stand_ins.start_recording();
    let began = Instant::now();
    let answer = request.await?;
    let duration = began.elapsed();
    tokio::time::sleep(IDLE_AFTER).await;
    let after = cpu_time(pid)?;
    let requests = fixture.stand_ins.recorded();
    if counts {
        cost.add(after.saturating_sub(before), duration, &requests);
    }
    Ok(answer)
}

/// The mean cost of a timeout: the CPU time of the process while all timers fire.
async fn timeouts_of_express(fixture: &mut Fixture) -> Result<EventCosts> {
    let express = Express::start(fixture, EXPRESS_RING).await?;
    let began = Instant::now();
    for _ in 0..EVENTS {
        express.send(&fixture.new_passthru()?).await?;
    }
    anyhow::ensure!(
        began.elapsed() < EXPRESS_RING,
        "calls time out before all have started"
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    let before = cpu_time(express.pid()?)?;
    fixture.stand_ins.start_recording();
    tokio::time::sleep(EXPRESS_RING + Duration::from_secs(1)).await;
    let cpu = cpu_time(express.pid()?)? - before;
    let requests = fixture.stand_ins.recorded().len() as f64 / EVENTS as f64;
    let mut cost = EventCosts::default();
    cost.cpu.add(millis(cpu) / EVENTS as f64);
    cost.requests.add(requests);
    Ok(cost)
}

fn costs_table(
    costs: &[(EventKind, EventCosts)],
    floors: &Floors,
    express: &[(EventKind, EventCosts)],
) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "event",
        "CPU, ms",
        "90 % within",
        "own time, ms",
        "requests",
        "floor: CPU, ms",
        "Ringback ÷ floor, CPU",
        "floor with the SDK: CPU, ms",
        "Express: CPU, ms",
        "own time, ms",
        "requests",
        "Ringback ÷ Express, CPU",
    ]);
    let mut missed = Vec::new();
    for (((kind, cost), floor), with_sdk) in costs.iter().zip(&floors.bare).zip(&floors.with_sdk) {
        let cpu = cost.cpu.median();
        let other = express.iter().find(|(other, _)| other == kind);
        let of_other = |figures: fn(&EventCosts) -> &Samples| match other {
            Some((_, cost)) if figures(cost).count() > 0 => {
                Rounded(figures(cost).median()).to_string()
            }
            _ => String::new(),
        };
        let times_floor = cpu / *floor;
        let times_express = other.map(|(_, other)| cpu / other.cpu.median());
        for (times, goal, what) in [
            (Some(times_floor), MAX_TIMES_FLOOR, "the floor"),
            (times_express, MAX_TIMES_EXPRESS, "Express"),
        ] {
            if let Some(times) = times.filter(|times| *times > goal) {
                missed.push(format!("{}: {} × {what}", kind.name(), Rounded(times)));
            }
        }
        let ratio = times_express.map(|times| Rounded(times).to_string());
        table.row(&[
            &kind.name(),
            &Rounded(cpu),
            &Rounded(cost.cpu.percentile(90)),
            &Rounded(cost.own.median()),
            &cost.requests.median(),
            &Rounded(*floor),
            &Rounded(times_floor),
            &Rounded(*with_sdk),
            &of_other(|cost| &cost.cpu),
            &of_other(|cost| &cost.own),
            &of_other(|cost| &cost.requests),
            &ratio.unwrap_or_default(),
        ])?;
    }
    Ok(format!(
        "{table}\nMedians of {EVENTS} events after {WARM_UP} others. Goals: at most {} × Express and {MAX_TIMES_FLOOR} × the floor. {}\n",
        Rounded(MAX_TIMES_EXPRESS),
        verdict(&missed)
    ))
}

fn critical_paths(delayed: &[(EventKind, PathGoal, Vec<AnsweredRequest>)]) -> Result<String> {
    let mut text = format!(
        "The two critical paths, with each answer delayed by {} ms. Goal: at most {MAX_IN_SEQUENCE} requests in sequence.\n",
        ANSWER_DELAY.as_millis()
    );
    for (kind, goal, requests) in delayed {
        let count = critical_path::in_sequence(requests, *goal);
        let count = count.with_context(|| format!("{}: no {goal:?}", kind.name()))?;
        let timeline = critical_path::timeline(requests);
        text.push_str(&format!(
            "\n{} → {goal:?}: {count} in sequence\n\n```text\n{timeline}```\n",
            kind.name()
        ));
    }
    Ok(text)
}
