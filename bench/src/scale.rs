//! How costs grow with the number of clients and of stored calls, and how many events one process handles.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::call_run::{CallEnding, CallRun, WarmFunctions};
use crate::express::Express;
use crate::figures::{Rounded, millis};
use crate::fixture::{Fixture, ensure_success, item};
use crate::functions::Paths;
use crate::page::MarkdownTable;
use crate::process::{cpu_time, peak_memory};
use crate::stand_ins::{RequestUnits, System};

const CLIENTS: [usize; 3] = [100, 1_000, 10_000];
const STORED: [usize; 4] = [1, 1_000, 100_000, 1_000_000];

/// How long one process receives events.
const BUSY_FOR: Duration = Duration::from_secs(5);

/// The index's partitions (`ringback::store::connections::SHARDS`).
const SHARDS: usize = 4;

/// Measures.
///
/// # Errors
/// When a function fails.
pub async fn measure(paths: &Paths) -> Result<String> {
    let mut fixture = Fixture::start(paths).await?;
    let clients = many_clients(&fixture).await.context("broadcast")?;
    let stored = many_stored_calls(&mut fixture)
        .await
        .context("stored calls")?;
    let events = many_events(&mut fixture).await.context("many events")?;
    Ok(format!("{clients}\n{stored}\n{events}"))
}

/// One change of a call, sent to all connected clients.
async fn many_clients(fixture: &Fixture) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "connected clients",
        "time, ms",
        "ms per client",
        "CPU, ms",
        "peak MiB",
        "posts",
        "queries",
        "read units",
        "connections opened",
    ]);
    for clients in CLIENTS {
        fixture.remove_calls();
        connect(fixture, clients)?;
        let mut function = fixture.start_function("broadcast").await?;
        let pid = function.pid().context("the function has ended")?;
        let before = fixture.stand_ins.connections_to(System::Connections);
        function.wait_until_idle().await?;
        let cpu = cpu_time(pid)?;
        // Made as late as possible: updates about a change that is 5 s old are dropped.
        let event = fixture.change()?;
        fixture.stand_ins.start_recording();
        let answered = function.invoke_timed(&event).await?;
        ensure_success(&answered.answer)?;
        let requests = fixture.stand_ins.recorded();
        let cpu = cpu_time(pid)? - cpu;
        let posts = requests.iter();
        let posts = posts.filter(|request| request.system == System::Connections);
        let posts = posts.count();
        // The fixture has a client, too.
        ensure!(
            posts == clients + 1,
            "{posts} posts to {clients} clients: `broadcast` drops what it has not sent in 5 s"
        );
        let queries = requests.iter();
        let queries = queries.filter(|request| request.operation == "Query");
        let (mut count, mut units) = (0, RequestUnits::default());
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
            &(fixture.stand_ins.connections_to(System::Connections) - before),
        ])?;
    }
    Ok(format!(
        "One status update from a new process to all connected clients. Its requests for posts are all granted, so `PostsPerSecond` does not slow it:\n\n{table}"
    ))
}

fn connect(fixture: &Fixture, clients: usize) -> Result<()> {
    let mut items = fixture.stand_ins.items();
    for client in 0..clients {
        items.put(item(json!({
            "pk": { "S": format!("EXTENSION#{}", 2000 + client % 5000) },
            "sk": { "S": format!("CONNECTION#ap-south-1#bench-{client}=") },
            "audience": { "S": format!("everyone#ap-south-1#{}", client % SHARDS) },
            "connected_at": { "N": "1795148400000" }, "expires_at": { "N": "4102444800" },
        })))?;
    }
    Ok(())
}

/// One call while many calls are stored.
async fn many_stored_calls(fixture: &mut Fixture) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "stored calls",
        "invocations",
        "requests to DynamoDB",
        "write units",
        "read units",
        "CPU of all functions, ms",
    ]);
    fixture.remove_calls();
    let mut functions = WarmFunctions::default();
    // In its first call, each process fetches secrets.
    functions.run_call(fixture, CallEnding::Answered).await?;
    let mut first: Option<(usize, RequestUnits)> = None;
    for calls in STORED {
        fixture.remove_calls();
        fill(fixture, calls)?;
        let run = functions.run_call(fixture, CallEnding::Answered).await?;
        let cost = (run.requests_to(System::DynamoDb), run.units());
        let first = *first.get_or_insert(cost);
        ensure!(
            cost == first,
            "with {calls} stored calls, a call costs {cost:?} instead of {first:?}"
        );
        table.row(&[
            &calls,
            &run.invocations.len(),
            &run.requests_to(System::DynamoDb),
            &run.units().written,
            &run.units().read,
            &Rounded(total_cpu(&run)),
        ])?;
    }
    fixture.remove_calls();
    Ok(format!(
        "One whole call, with its status updates to one client, while other calls are stored. The bench fails if its requests or units depend on their number:\n\n{table}"
    ))
}

fn total_cpu(run: &CallRun) -> f64 {
    run.invocations.iter().map(|one| millis(one.cpu)).sum()
}

/// Stores other calls. They share one body, which no request reads.
fn fill(fixture: &Fixture, calls: usize) -> Result<()> {
    let change = fixture.change()?;
    let call = change["Records"][0]["dynamodb"]["NewImage"].clone();
    let call = Arc::new(item(call));
    let mut items = fixture.stand_ins.items();
    for index in 0..calls {
        let key = (
            format!("CALL#{:032x}", index * 2_654_435_761),
            "CALL".to_owned(),
        );
        items.put_at(key, Arc::clone(&call));
    }
    Ok(())
}

/// How many webhooks one process handles one after the other, and how many the Express server does.
async fn many_events(fixture: &mut Fixture) -> Result<String> {
    let mut table = MarkdownTable::new(&[
        "one process",
        "events",
        "events per second",
        "CPU, share of a core",
        "events per second of CPU",
    ]);
    fixture.remove_calls();
    let mut function = fixture.start_function("exotel-webhook").await?;
    let pid = function.pid().context("the function has ended")?;
    let webhook = fixture.new_passthru()?;
    ensure_success(&function.invoke(&webhook).await?)?;
    let (before, began, mut count) = (cpu_time(pid)?, Instant::now(), 0_u32);
    while began.elapsed() < BUSY_FOR {
        let event = fixture.new_passthru()?;
        ensure_success(&function.invoke(&event).await?)?;
        count += 1;
    }
    row(
        &mut table,
        "`exotel-webhook`: new calls",
        count,
        began.elapsed(),
        cpu_time(pid)? - before,
    )?;
    drop(function);
    fixture.remove_calls();
    let express = Express::start(fixture, Duration::from_secs(600)).await?;
    let pid = express.pid()?;
    let (before, began, mut count) = (cpu_time(pid)?, Instant::now(), 0_u32);
    while began.elapsed() < BUSY_FOR {
        let event: Value = fixture.new_passthru()?;
        express.send(&event).await?;
        count += 1;
    }
    row(
        &mut table,
        "Express: new calls",
        count,
        began.elapsed(),
        cpu_time(pid)? - before,
    )?;
    Ok(format!(
        "One process for {} s, one event at a time, as Lambda delivers them. The stand-ins run on the other core:\n\n{table}",
        BUSY_FOR.as_secs()
    ))
}

fn row(
    table: &mut MarkdownTable,
    name: &str,
    count: u32,
    took: Duration,
    cpu: Duration,
) -> Result<()> {
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
