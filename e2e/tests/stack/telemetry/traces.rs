//! With tracing enabled, a function sends the X-Ray daemon a document for each request and each call. Without, it has
//! no socket for it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use ringback_local::runtime_api::TRACE;
use serde_json::Value;
use tokio::net::UdpSocket;
use tokio::time::timeout;

use ringback_e2e::fixture::{CALLER, Fixture, call_sid};
use ringback_e2e::observed_function::{ObservedFunction, passthru};

/// Documents that have not arrived by then do not arrive.
const QUIET: Duration = Duration::from_millis(300);

#[tokio::test(flavor = "multi_thread")]
async fn a_traced_invocation_reports_its_requests_and_its_call_to_x_ray() -> Result<()> {
    let fixture = Fixture::open().await?;
    let daemon = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let (call, _function) = ring(&fixture, "Active", &daemon).await?;
    let parts = received(&daemon).await?;

    for part in &parts {
        assert_eq!(part["type"], "subsegment", "{part}");
        let number = CALLER.trim_start_matches("+91");
        assert!(!part.to_string().contains(number), "{part}");
        assert_eq!(part["trace_id"], TRACE.root, "{part}");
        assert_eq!(part["parent_id"], TRACE.parent, "{part}");
        let times = [&part["start_time"], &part["end_time"]].map(Value::as_f64);
        let [Some(began), Some(ended)] = times else {
            anyhow::bail!("when? {part}")
        };
        assert!(began <= ended && ended - began < 10.0, "{part}");
    }
    let of_calls: Vec<&Value> = parts
        .iter()
        .map(|part| &part["annotations"]["call_id"])
        .filter(|id| !id.is_null())
        .collect();
    assert_eq!(of_calls, [call.as_str()]);
    let asked = |system: &str, operation: &str| {
        parts.iter().any(|part| {
            part["name"] == system
                && (part["aws"]["operation"] == operation
                    || part["annotations"]["doing"] == operation)
        })
    };
    for (system, operation) in [
        ("DynamoDB", "Query"),
        ("DynamoDB", "TransactWriteItems"),
        ("SQS", "SendMessage"),
        ("Secrets Manager", "GetSecretValue"),
        ("FCM", "requesting an access token"),
        ("FCM", "sending a push"),
    ] {
        assert!(
            asked(system, operation),
            "{system}, {operation}: {parts:#?}"
        );
    }
    // `broadcast` creates the schedule.
    assert!(!asked("Scheduler", "CreateSchedule"), "{parts:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untraced_function_sends_nothing_and_has_no_socket() -> Result<()> {
    let fixture = Fixture::open().await?;
    let daemon = UdpSocket::bind(("127.0.0.1", 0)).await?;
    let (_, _function) = ring(&fixture, "PassThrough", &daemon).await?;
    assert_eq!(received(&daemon).await?, Vec::<Value>::new());
    assert_eq!(udp_sockets_of(&process_with("PassThrough", &daemon)?)?, 0);

    let (_, _traced) = ring(&fixture, "Active", &daemon).await?;
    assert_eq!(
        udp_sockets_of(&process_with("Active", &daemon)?)?,
        1,
        "exactly one process matches"
    );
    Ok(())
}

/// Exotel reports a caller to `exotel-webhook`, which makes the app ring. Returns the call id and the function.
async fn ring(
    fixture: &Fixture,
    tracing: &str,
    daemon: &UdpSocket,
) -> Result<(String, ObservedFunction)> {
    let _app = fixture.app("1001").await?;
    let address = daemon.local_addr()?.to_string();
    let variables = [("TRACING", tracing), ("AWS_XRAY_DAEMON_ADDRESS", &address)];
    let mut function = ObservedFunction::start_with(fixture, "exotel-webhook", &variables).await?;
    let event = passthru(fixture, CALLER, &call_sid(), "1001")?;
    let (answer, _) = function.invoke(&event).await?;
    let call = answer["call_id"]
        .as_str()
        .context("the push has no call id")?
        .to_owned();
    Ok((call, function))
}

/// The received documents. Each one follows the header that the daemon expects.
async fn received(daemon: &UdpSocket) -> Result<Vec<Value>> {
    let mut documents = Vec::new();
    let mut buffer = vec![0; 65_536];
    while let Ok(length) = timeout(QUIET, daemon.recv(&mut buffer)).await {
        let text = std::str::from_utf8(&buffer[..length?])?;
        let (header, document) = text
            .split_once('\n')
            .context("the datagram has no header")?;
        let header: Value = serde_json::from_str(header)?;
        ensure!(
            header["format"] == "json" && header["version"] == 1,
            "{header}"
        );
        documents.push(serde_json::from_str(document)?);
    }
    Ok(documents)
}

/// The process in `/proc` with this environment.
fn process_with(tracing: &str, daemon: &UdpSocket) -> Result<PathBuf> {
    let tracing = format!("TRACING={tracing}");
    let address = format!("AWS_XRAY_DAEMON_ADDRESS={}", daemon.local_addr()?);
    let processes = std::fs::read_dir("/proc")?.filter_map(|entry| Some(entry.ok()?.path()));
    let is_it = |process: &PathBuf| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        let says = |wanted: &str| {
            let mut variables = environment.split(|byte| *byte == 0);
            variables.any(|variable| variable == wanted.as_bytes())
        };
        says(&tracing) && says(&address)
    };
    let mut found = processes.filter(is_it);
    found.next().context("the function's process was not found")
}

/// The number of UDP sockets of a process.
fn udp_sockets_of(process: &Path) -> Result<usize> {
    let mut inodes = Vec::new();
    for table in ["udp", "udp6"] {
        let table = std::fs::read_to_string(process.join("net").join(table))?;
        let rows = table.lines().skip(1);
        inodes.extend(rows.filter_map(|row| Some(row.split_whitespace().nth(9)?.to_owned())));
    }
    let mut held = 0;
    for file in std::fs::read_dir(process.join("fd"))? {
        let target = std::fs::read_link(file?.path()).unwrap_or_default();
        let target = target.to_string_lossy();
        let inode = target
            .strip_prefix("socket:[")
            .and_then(|rest| rest.strip_suffix(']'));
        held += usize::from(inode.is_some_and(|inode| inodes.iter().any(|one| one == inode)));
    }
    Ok(held)
}
