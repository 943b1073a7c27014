//! What grows with the number of clients and of stored calls, and what does not; and how much one process does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::express::Express;
use crate::figures::{Rounded, millis};
use crate::functions::Places;
use crate::life::{Company, Ending, Life};
use crate::page::Table;
use crate::process::{cpu_time, peak_memory};
use crate::stage::{Stage, good, item};
use crate::world::{System, Units};

const CLIENTS: [usize; 3] = [100, 1_000, 10_000];
const STORED: [usize; 4] = [1, 1_000, 100_000, 1_000_000];

/// How long one process is kept busy.
const BUSY_FOR: Duration = Duration::from_secs(5);

/// The index's partitions (`ringback::store::connections::SHARDS`).
const SHARDS: usize = 4;

/// Measures, and writes the tables.
///
/// # Errors
/// When a function does not do what it is there for.
pub async fn measure(places: &Places) -> Result<String> {
    let mut stage = Stage::set(places).await?;
    let told = told(&stage).await.context("broadcast")?;
    let stored = stored(&mut stage).await.context("stored calls")?;
    let sustained = sustained(&mut stage).await.context("sustained")?;
    Ok(format!("{told}\n{stored}\n{sustained}"))
}

/// One change of a call, told to all who are connected.
async fn told(stage: &Stage) -> Result<String> {
    let mut table = Table::of(&[
        "connected clients",
        "time, ms",
        "ms a client",
        "CPU, ms",
        "peak MiB",
        "posts",
        "queries",
        "read units",
        "connections kept",
    ]);
    for clients in CLIENTS {
        stage.clear();
        connect(stage, clients)?;
        let event = stage.places.event("broadcast-status")?;
        let mut function = stage.start("broadcast").await?;
        let pid = function.pid().context("it has ended")?;
        let before = stage.world.connections_to(System::Connections);
        function.wait_until_idle().await?;
        let cpu = cpu_time(pid)?;
        stage.world.watch();
        let answered = function.invoke_timed(&event).await?;
        good(&answered.answer)?;
        let seen = stage.world.seen();
        let cpu = cpu_time(pid)? - cpu;
        let posts = seen
            .iter()
            .filter(|seen| seen.system == System::Connections);
        let posts = posts.count();
        // The stage has a client of its own.
        ensure!(
            posts == clients + 1,
            "{posts} of {clients} clients were told"
        );
        let queries = seen.iter().filter(|seen| seen.what == "Query");
        let (mut count, mut units) = (0, Units::default());
        for query in queries {
            count += 1;
            units += query.units;
        }
        let took = millis(answered.at - answered.began);
        table.row(&[
            &clients,
            &Rounded(took),
            &Rounded(took / clients as f64),
            &Rounded(millis(cpu)),
            &Rounded(mebibytes(peak_memory(pid)?)),
            &posts,
            &count,
            &Rounded(units.read),
            &(stage.world.connections_to(System::Connections) - before),
        ])?;
    }
    Ok(format!(
        "One change of a call, told to everybody by a process that has just started:\n\n{table}"
    ))
}

fn connect(stage: &Stage, clients: usize) -> Result<()> {
    let mut table = stage.world.table();
    for client in 0..clients {
        table.put(item(json!({
            "pk": { "S": format!("EXTENSION#{}", 2000 + client % 5000) },
            "sk": { "S": format!("CONNECTION#ap-south-1#bench-{client}=") },
            "audience": { "S": format!("everyone#ap-south-1#{}", client % SHARDS) },
            "connected_at": { "N": "1795148400000" }, "expires_at": { "N": "4102444800" },
        })))?;
    }
    Ok(())
}

/// A call among so many that are stored.
async fn stored(stage: &mut Stage) -> Result<String> {
    let mut table = Table::of(&[
        "stored calls",
        "invocations",
        "requests to DynamoDB",
        "write units",
        "read units",
        "CPU of all, ms",
    ]);
    stage.clear();
    let mut company = Company::default();
    // The first call of each process fetches secrets.
    company.play(stage, Ending::Talked).await?;
    let mut first: Option<(usize, Units)> = None;
    for calls in STORED {
        stage.clear();
        fill(stage, calls)?;
        let life = company.play(stage, Ending::Talked).await?;
        // A process that has not pushed yet may ask for access to FCM beside.
        let cost = (life.requests_to(System::DynamoDb), life.units());
        let first = *first.get_or_insert(cost);
        ensure!(
            cost == first,
            "among {calls} calls one takes {cost:?}, and {first:?} among the fewest"
        );
        table.row(&[
            &calls,
            &life.invocations.len(),
            &life.requests_to(System::DynamoDb),
            &life.units().written,
            &life.units().read,
            &Rounded(cpu_of(&life)),
        ])?;
    }
    stage.clear();
    Ok(format!(
        "One call, from the webhook to its end and with its changes told to one client, among so many that are stored. That these requests and units stay the same is checked:\n\n{table}"
    ))
}

fn cpu_of(life: &Life) -> f64 {
    life.invocations.iter().map(|one| millis(one.cpu)).sum()
}

/// Calls that have been, which share one body: nobody may look at them.
fn fill(stage: &Stage, calls: usize) -> Result<()> {
    let change = stage.places.event("broadcast-status")?;
    let call = change["Records"][0]["dynamodb"]["NewImage"].clone();
    let call = Arc::new(item(call));
    let mut table = stage.world.table();
    for index in 0..calls {
        let key = (
            format!("CALL#{:032x}", index * 2_654_435_761),
            "CALL".to_owned(),
        );
        table.put_at(key, Arc::clone(&call));
    }
    Ok(())
}

/// How many events of a kind one process deals with, one after the other, and how many the seed's server does.
async fn sustained(stage: &mut Stage) -> Result<String> {
    let mut table = Table::of(&[
        "one process",
        "events",
        "events a second",
        "CPU, share of a core",
        "events a second of CPU",
    ]);
    stage.clear();
    let mut function = stage.start("exotel-webhook").await?;
    let pid = function.pid().context("it has ended")?;
    let webhook = stage.passthru()?;
    good(&function.invoke(&webhook).await?)?;
    let (before, began, mut count) = (cpu_time(pid)?, Instant::now(), 0_u32);
    while began.elapsed() < BUSY_FOR {
        let event = stage.passthru()?;
        good(&function.invoke(&event).await?)?;
        count += 1;
    }
    row(
        &mut table,
        "`exotel-webhook`: calls begun",
        count,
        began.elapsed(),
        cpu_time(pid)? - before,
    )?;
    drop(function);
    stage.clear();
    let express = Express::start(stage, Duration::from_secs(600)).await?;
    let pid = express.pid()?;
    let (before, began, mut count) = (cpu_time(pid)?, Instant::now(), 0_u32);
    while began.elapsed() < BUSY_FOR {
        let event: Value = stage.passthru()?;
        express.ask(&event).await?;
        count += 1;
    }
    row(
        &mut table,
        "Express: calls begun",
        count,
        began.elapsed(),
        cpu_time(pid)? - before,
    )?;
    Ok(format!(
        "One process for {} s, one event at a time, as Lambda hands them out; what is around it takes the other core:\n\n{table}",
        BUSY_FOR.as_secs()
    ))
}

fn row(table: &mut Table, name: &str, count: u32, took: Duration, cpu: Duration) -> Result<()> {
    let (count_f, took, cpu) = (f64::from(count), took.as_secs_f64(), cpu.as_secs_f64());
    table.row(&[
        &name,
        &count,
        &Rounded(count_f / took),
        &Rounded(cpu / took),
        &Rounded(count_f / cpu),
    ])
}

fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}
