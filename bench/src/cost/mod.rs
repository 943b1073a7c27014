//! The price of calls on AWS from counted requests, measured durations and public prices, compared with always-on Express
//! servers, and the share of AWS's quotas that calls use.

pub mod model;
pub mod prices;
pub mod quotas;
mod reasons;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::call_run::{CallEnding, CallRun, WarmFunctions};
use crate::critical_path::without_ids;
use crate::express::Express;
use crate::figures::{Rounded, Samples};
use crate::fixture::Fixture;
use crate::functions::Paths;
use crate::page::MarkdownTable;
use crate::process::cpu_time;
use crate::stand_ins::System;
use model::{Usage, assumed, bill, busiest_second, calls_for, servers};

/// Calls a month.
const MONTHS: [(&str, f64); 4] = [("1 k", 1e3), ("100 k", 1e5), ("10 M", 1e7), ("1 G", 1e9)];

/// How many calls of each kind are made.
const CALLS: usize = 10;

/// The memory of a function.
const MEMORY_MB: f64 = 256.0;
/// Lambda gives a function with this memory one core, and less in proportion.
const CORE_MB: f64 = 1_769.0;

/// From this share of a quota, the page says what to do.
const NEAR: f64 = 0.5;

/// How long each system is assumed to take for an answer. The stand-ins delay their answers by it.
const fn answer_time(system: System) -> Duration {
    Duration::from_millis(match system {
        System::DynamoDb => 5,
        System::Sqs | System::Secrets => 10,
        System::Ari | System::Connections => 20,
        System::Scheduler => 30,
        System::Fcm | System::GoogleToken | System::Sns => 100,
        System::Exotel => 300,
    })
}

/// Counts, measures and calculates.
///
/// # Errors
/// When a function fails.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start(paths).await?;
    let (answered, run) = usage_of_calls(&mut fixture, CallEnding::Answered).await?;
    let (timed_out, _) = usage_of_calls(&mut fixture, CallEnding::TimedOut).await?;
    let mixed = answered.mixed(assumed::ANSWERED, timed_out);
    let server = cpu_of_express(&mut fixture).await?;
    Ok([
        usage_table(&answered, &timed_out)?,
        requests_table(&run)?,
        bill_table(&mixed)?,
        months_table(&mixed, server)?,
        quotas_table(&mixed)?,
        assumptions(server),
        prices_table()?,
    ]
    .join("\n"))
}

/// The mean usage of several calls of this kind, and the last of them.
async fn usage_of_calls(fixture: &mut Fixture, ending: CallEnding) -> Result<(Usage, CallRun)> {
    fixture.remove_calls();
    let mut functions = WarmFunctions::default();
    functions.run_call(fixture, ending).await?;
    fixture.stand_ins.delay_answers(answer_time);
    let (mut usages, mut last) = (Vec::new(), CallRun::default());
    for _ in 0..CALLS {
        last = functions.run_call(fixture, ending).await?;
        usages.push(usage_of(&last));
    }
    fixture.stand_ins.answer_at_once();
    let mean = |of: fn(&Usage) -> f64| usages.iter().map(of).sum::<f64>() / usages.len() as f64;
    let usage = Usage {
        invocations: mean(|usage| usage.invocations),
        gb_seconds: mean(|usage| usage.gb_seconds),
        http_requests: mean(|usage| usage.http_requests),
        posts: mean(|usage| usage.posts),
        write_units: mean(|usage| usage.write_units),
        read_units: mean(|usage| usage.read_units),
        queue_requests: mean(|usage| usage.queue_requests),
        schedules: mean(|usage| usage.schedules),
        logged: mean(|usage| usage.logged),
        pushes: mean(|usage| usage.pushes),
    };
    Ok((usage, last))
}

fn usage_of(run: &CallRun) -> Usage {
    let requests = |system| run.requests_to(system) as f64;
    let operations = |system, start: &str| {
        run.requests()
            .filter(|request| request.system == system && request.operation.starts_with(start))
            .count() as f64
    };
    let timers = run.invocations_of("call-timeout") as f64;
    let updates = run.invocations_of("broadcast") as f64;
    let invocations = run.invocations.len() as f64;
    // CPU time takes longer on the share of a core that Lambda gives.
    let slower = CORE_MB / MEMORY_MB - 1.0;
    let seconds: f64 = run
        .invocations
        .iter()
        .map(|one| (one.duration.as_secs_f64() + one.cpu.as_secs_f64() * slower).max(0.001))
        .sum();
    Usage {
        invocations,
        gb_seconds: seconds * MEMORY_MB / 1024.0,
        http_requests: invocations - timers - updates,
        posts: requests(System::Connections),
        write_units: run.units().written,
        read_units: run.units().read,
        // Each message is sent, received and deleted. Lambda batches them only under load.
        queue_requests: operations(System::Sqs, "SendMessage") * 3.0,
        schedules: operations(System::Scheduler, "POST"),
        logged: run.logged as f64,
        pushes: requests(System::Fcm),
    }
}

/// CPU seconds of the Express server for a new call and its acceptance.
async fn cpu_of_express(fixture: &mut Fixture) -> Result<f64> {
    let express = Express::start(fixture, Duration::from_secs(600)).await?;
    let mut seconds = Samples::default();
    for index in 0..200 {
        let (ring, pid) = (fixture.new_passthru()?, express.pid()?);
        let before = cpu_time(pid)?;
        let ringing = express.send(&ring).await?;
        let call = ringing["call_id"].as_str().context("a call's id")?;
        express.send(&fixture.accept_ready(call)?).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        if index >= 50 {
            seconds.add((cpu_time(pid)? - before).as_secs_f64());
        }
    }
    ensure!(seconds.median() > 0.0, "the server used no CPU time");
    Ok(seconds.median())
}

fn usage_table(answered: &Usage, timed_out: &Usage) -> Result<String> {
    let mut table = MarkdownTable::new(&["one call", "answered", "timed out"]);
    type Figure = fn(&Usage) -> f64;
    let rows: [(&str, Figure); 10] = [
        ("invocations of functions", |usage| usage.invocations),
        ("their duration, GB-seconds", |usage| usage.gb_seconds),
        ("requests to the HTTP API", |usage| usage.http_requests),
        ("messages posted to clients", |usage| usage.posts),
        ("DynamoDB write units", |usage| usage.write_units),
        ("DynamoDB read units", |usage| usage.read_units),
        ("requests to SQS", |usage| usage.queue_requests),
        ("schedules created", |usage| usage.schedules),
        ("pushes", |usage| usage.pushes),
        ("bytes logged", |usage| usage.logged),
    ];
    for (what, of) in rows {
        table.row(&[&what, &Rounded(of(answered)), &Rounded(of(timed_out))])?;
    }
    Ok(format!("Counted and measured:\n\n{table}"))
}

/// Why `broadcast` is invoked without a request.
const NO_REQUEST: &str = "a change of the call that clients do not see; a filter of the stream cannot compare it with the version before";

/// Each request of a call, by invocation.
fn requests_table(run: &CallRun) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "invocation",
        "request",
        "items",
        "write units",
        "read units",
        "why",
    ]);
    for (number, invocation) in run.invocations.iter().enumerate() {
        let name = format!("{}. `{}`", number + 1, invocation.function);
        if invocation.requests.is_empty() {
            table.row(&[&name, &"none", &"", &"", &"", &NO_REQUEST])?;
        }
        for request in &invocation.requests {
            let (system, operation) = (request.system.name(), without_ids(&request.operation));
            let request_text = format!("{system} {operation}");
            let items = request.items.join(", ");
            let why = reasons::reason(invocation.function, &request_text, &items)?;
            let shown = |units: f64| (units > 0.0).then(|| Rounded(units).to_string());
            table.row(&[
                &name,
                &request_text,
                &items,
                &shown(request.units.written).unwrap_or_default(),
                &shown(request.units.read).unwrap_or_default(),
                &why,
            ])?;
        }
    }
    Ok(format!("The requests of an answered call:\n\n{table}"))
}

fn bill_table(usage: &Usage) -> Result<String> {
    let lines = bill(usage);
    let mut table = MarkdownTable::new(&["$ for 1 million calls in a month", ""]);
    for line in &lines {
        table.row(&[&line.item, &Rounded(line.dollars(1e6))])?;
    }
    let total: f64 = lines.iter().map(|line| line.dollars(1e6)).sum();
    table.row(&[&"**total**", &format!("**{}**", Rounded(total))])?;
    Ok(table.to_string())
}

fn months_table(usage: &Usage, server: f64) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "calls a month",
        "in the busiest second",
        "Ringback, $ a month",
        "$ for 1,000 calls",
        "Express servers",
        "$ a month",
        "Ringback ÷ servers",
    ]);
    for (name, calls) in MONTHS {
        let dollars: f64 = bill(usage).iter().map(|line| line.dollars(calls)).sum();
        let servers = servers(calls, server);
        table.row(&[
            &name,
            &Rounded(busiest_second(calls)),
            &Rounded(dollars),
            &Rounded(dollars / calls * 1000.0),
            &servers.count,
            &Rounded(servers.dollars),
            &Rounded(dollars / servers.dollars),
        ])?;
    }
    let two = servers(0.0, server).dollars;
    let even = calls_for(&bill(usage), two);
    Ok(format!(
        "{table}\nTwo of the smallest servers cost as much as {} calls a month. They lose their calls when one of them fails, check no \
         tokens, and one of them must be able to handle all calls.\n",
        Rounded(even)
    ))
}

fn quotas_table(usage: &Usage) -> Result<String> {
    let mut columns = vec!["default quota", "limit"];
    columns.extend(MONTHS.map(|(name, _)| name));
    let mut table = MarkdownTable::new(&columns);
    let mut remedies = String::new();
    for quota in quotas::ALL {
        let shares = MONTHS.map(|(_, calls)| (quota.used)(usage, calls) / quota.limit);
        let shown = shares.map(percent);
        let mut cells: Vec<&dyn std::fmt::Display> = Vec::new();
        let (name, most) = (
            format!("[{}]({})", quota.name, quota.source),
            Rounded(quota.limit),
        );
        cells.push(&name);
        cells.push(&most);
        cells.extend(shown.iter().map(|share| share as &dyn std::fmt::Display));
        table.row(&cells)?;
        if shares.iter().any(|share| *share >= NEAR) {
            writeln!(remedies, "- {}: {}.", quota.name, quota.remedy)?;
        }
    }
    Ok(format!(
        "{table}\nShare of each quota in the busiest second of the month. What to do near a limit:\n\n{remedies}"
    ))
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        small if small < 0.01 => "< 0.01 %".to_owned(),
        large => format!("{} %", Rounded(large)),
    }
}

fn assumptions(server: f64) -> String {
    let systems = System::ALL
        .map(|system| format!("{} {} ms", system.name(), answer_time(system).as_millis()));
    format!(
        "Assumptions: {} % of the calls are answered, each extension has one device, one client watches all calls, functions have {MEMORY_MB} MB \
         ({} of a core), {} % of the invocations start a process, the busiest second has {} times the calls of an average one. Answer \
         times: {}. A call takes {} ms of CPU time on an Express server, which may use {} % of its core.\n",
        assumed::ANSWERED * 100.0,
        Rounded(MEMORY_MB / CORE_MB),
        assumed::COLD * 100.0,
        assumed::PEAK,
        systems.join(", "),
        Rounded(server * 1000.0),
        assumed::BUSY * 100.0,
    )
}

fn prices_table() -> Result<String> {
    let mut table = MarkdownTable::new(&["price", "$", "for", "source"]);
    for price in prices::ALL {
        let source = format!("<{}>", price.source);
        table.row(&[&price.item, &price.dollars, &Rounded(price.per), &source])?;
    }
    Ok(format!(
        "Prices as of {}, US East (N. Virginia):\n\n{table}",
        prices::AS_OF
    ))
}
