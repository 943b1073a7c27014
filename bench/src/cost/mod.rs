//! What calls cost on AWS, from requests that are counted, durations that are measured and public prices; beside two servers
//! that are always on, as the seed has them; and the quotas on that way.

pub mod model;
pub mod prices;
pub mod quotas;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::express::Express;
use crate::figures::{Figures, Rounded};
use crate::functions::Places;
use crate::life::{Company, Ending, Life};
use crate::page::Table;
use crate::process::cpu_time;
use crate::stage::Stage;
use crate::world::System;
use model::{Use, assumed, bill, busiest_second, calls_for, servers};

/// Calls a month.
const MONTHS: [(&str, f64); 4] = [("1 k", 1e3), ("100 k", 1e5), ("10 M", 1e7), ("1 G", 1e9)];

/// How many calls of each kind are played.
const CALLS: usize = 10;

/// Lambda gives a function of this memory this share of a core (1,769 MB are one).
const MEMORY_MB: f64 = 256.0;
const CORE_MB: f64 = 1_769.0;

/// From how much of a quota on the page says what to do.
const NEAR: f64 = 0.5;

/// How long the systems take to answer, on AWS: assumed, and played.
const fn takes(system: System) -> Duration {
    Duration::from_millis(match system {
        System::DynamoDb => 5,
        System::Sqs | System::Secrets => 10,
        System::Ari | System::Connections => 20,
        System::Scheduler => 30,
        System::Fcm | System::GoogleToken | System::Sns => 100,
        System::Exotel => 300,
    })
}

/// Counts, measures, reckons, and writes the tables.
///
/// # Errors
/// When a function does not do what it is there for.
pub async fn measure(places: &Places) -> Result<String> {
    let mut stage = Stage::set(places).await?;
    let talked = played(&mut stage, Ending::Talked).await?;
    let rang_out = played(&mut stage, Ending::RangOut).await?;
    let mixed = talked.mixed(assumed::ANSWERED, rang_out);
    let server = cpu_of_the_seeds_server(&mut stage).await?;
    Ok([
        taken_table(&talked, &rang_out)?,
        bill_table(&mixed)?,
        months_table(&mixed, server)?,
        quotas_table(&mixed)?,
        assumptions(server),
        prices_table()?,
    ]
    .join("\n"))
}

/// What a call of this kind takes: the mean of several.
async fn played(stage: &mut Stage, ending: Ending) -> Result<Use> {
    stage.clear();
    let mut company = Company::default();
    company.play(stage, ending).await?;
    stage.world.hold_back(takes);
    let mut taken = Vec::new();
    for _ in 0..CALLS {
        taken.push(use_of(&company.play(stage, ending).await?));
    }
    stage.world.hurry();
    let mean = |of: fn(&Use) -> f64| taken.iter().map(of).sum::<f64>() / taken.len() as f64;
    Ok(Use {
        invocations: mean(|taken| taken.invocations),
        gb_seconds: mean(|taken| taken.gb_seconds),
        http_requests: mean(|taken| taken.http_requests),
        posts: mean(|taken| taken.posts),
        write_units: mean(|taken| taken.write_units),
        read_units: mean(|taken| taken.read_units),
        queue_requests: mean(|taken| taken.queue_requests),
        schedules: mean(|taken| taken.schedules),
        logged: mean(|taken| taken.logged),
        pushes: mean(|taken| taken.pushes),
    })
}

fn use_of(life: &Life) -> Use {
    let requests = |system| life.requests_to(system) as f64;
    let asked = |system, start: &str| {
        let seen = life.requests.iter();
        seen.filter(|seen| seen.system == system && seen.what.starts_with(start))
            .count() as f64
    };
    let timers = life.invocations_of("call-timeout") as f64;
    let of_streams = life.invocations_of("broadcast") as f64;
    let invocations = life.invocations.len() as f64;
    // A share of a core makes what is reckoned here so much slower.
    let slower = CORE_MB / MEMORY_MB - 1.0;
    let seconds: f64 = life
        .invocations
        .iter()
        .map(|one| (one.took.as_secs_f64() + one.cpu.as_secs_f64() * slower).max(0.001))
        .sum();
    Use {
        invocations,
        gb_seconds: seconds * MEMORY_MB / 1024.0,
        http_requests: invocations - timers - of_streams,
        posts: requests(System::Connections),
        write_units: life.units().written,
        read_units: life.units().read,
        // Sent; and received and deleted by Lambda, each by itself when there are few.
        queue_requests: asked(System::Sqs, "SendMessage") * 3.0,
        schedules: asked(System::Scheduler, "POST"),
        logged: life.logged as f64,
        pushes: requests(System::Fcm),
    }
}

/// CPU seconds that a call takes of the seed's own server: begun, and accepted.
async fn cpu_of_the_seeds_server(stage: &mut Stage) -> Result<f64> {
    let express = Express::start(stage, Duration::from_secs(600)).await?;
    let mut seconds = Figures::default();
    for index in 0..200 {
        let (ring, pid) = (stage.passthru()?, express.pid()?);
        let before = cpu_time(pid)?;
        let rang = express.ask(&ring).await?;
        let call = rang["call_id"].as_str().context("a call's id")?;
        express.ask(&stage.accept_ready(call)?).await?;
        tokio::time::sleep(Duration::from_millis(1)).await;
        if index >= 50 {
            seconds.add((cpu_time(pid)? - before).as_secs_f64());
        }
    }
    ensure!(seconds.median() > 0.0, "the server took no time");
    Ok(seconds.median())
}

fn taken_table(talked: &Use, rang_out: &Use) -> Result<String> {
    let mut table = Table::of(&["of one call", "that is answered", "that rings out"]);
    type Of = fn(&Use) -> f64;
    let rows: [(&str, Of); 10] = [
        ("invocations of functions", |taken| taken.invocations),
        ("their duration, GB-seconds", |taken| taken.gb_seconds),
        ("requests to the HTTP API", |taken| taken.http_requests),
        ("messages posted to clients", |taken| taken.posts),
        ("DynamoDB write units", |taken| taken.write_units),
        ("DynamoDB read units", |taken| taken.read_units),
        ("requests to SQS", |taken| taken.queue_requests),
        ("schedules made", |taken| taken.schedules),
        ("pushes", |taken| taken.pushes),
        ("bytes logged", |taken| taken.logged),
    ];
    for (what, of) in rows {
        table.row(&[&what, &Rounded(of(talked)), &Rounded(of(rang_out))])?;
    }
    Ok(format!("What is counted and measured:\n\n{table}"))
}

fn bill_table(taken: &Use) -> Result<String> {
    let lines = bill(taken);
    let mut table = Table::of(&["$ for 1 million calls in a month", ""]);
    for line in &lines {
        table.row(&[&line.what, &Rounded(line.of(1e6))])?;
    }
    let total: f64 = lines.iter().map(|line| line.of(1e6)).sum();
    table.row(&[&"**together**", &format!("**{}**", Rounded(total))])?;
    Ok(table.to_string())
}

fn months_table(taken: &Use, server: f64) -> Result<String> {
    let mut table = Table::of(&[
        "calls a month",
        "in the busiest second",
        "Ringback, $ a month",
        "$ for 1,000 calls",
        "the seed's servers",
        "$ a month",
        "Ringback ÷ servers",
    ]);
    for (name, calls) in MONTHS {
        let dollars: f64 = bill(taken).iter().map(|line| line.of(calls)).sum();
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
    let even = calls_for(&bill(taken), two);
    Ok(format!(
        "{table}\nTwo of the smallest servers cost as much as {} calls a month. What they do not do for it: keep a call when one of \
         them dies, check who asks, or take more than one of them can.\n",
        Rounded(even)
    ))
}

fn quotas_table(taken: &Use) -> Result<String> {
    let mut columns = vec!["quota, as it is by default", "of it a month's calls take:"];
    columns.extend(MONTHS.map(|(name, _)| name));
    let mut table = Table::of(&columns);
    let mut remedies = String::new();
    for quota in quotas::ALL {
        let shares = MONTHS.map(|(_, calls)| (quota.taken)(taken, calls) / quota.most);
        let shown = shares.map(percent);
        let mut cells: Vec<&dyn std::fmt::Display> = Vec::new();
        let (name, most) = (
            format!("[{}]({})", quota.what, quota.source),
            Rounded(quota.most),
        );
        cells.push(&name);
        cells.push(&most);
        cells.extend(shown.iter().map(|share| share as &dyn std::fmt::Display));
        table.row(&cells)?;
        if shares.iter().any(|share| *share >= NEAR) {
            writeln!(remedies, "- {}: {}.", quota.what, quota.remedy)?;
        }
    }
    Ok(format!(
        "{table}\nWhat to do where it comes near:\n\n{remedies}"
    ))
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        little if little < 0.01 => "< 0.01 %".to_owned(),
        much => format!("{} %", Rounded(much)),
    }
}

fn assumptions(server: f64) -> String {
    let systems =
        System::ALL.map(|system| format!("{} {} ms", system.name(), takes(system).as_millis()));
    format!(
        "Assumed: {} % of the calls are answered, each extension has one device, one client watches all calls, the functions have {MEMORY_MB} MB \
         (so {} of a core), {} % of the invocations start a process, the busiest second is {} times as busy as an average one. The systems \
         answer within {}. A call takes {} ms of the seed's server, whose core is to be {} % busy at most.\n",
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
    let mut table = Table::of(&["price", "$", "for", "source"]);
    for price in prices::ALL {
        let source = format!("<{}>", price.source);
        table.row(&[&price.what, &price.dollars, &Rounded(price.per), &source])?;
    }
    Ok(format!(
        "Prices as of {}, US East (N. Virginia):\n\n{table}",
        prices::AS_OF
    ))
}
