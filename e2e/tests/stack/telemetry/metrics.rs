//! Every metric in `docs/operations.md` appears in the functions' logs as documented, and no other metric does.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::StatusCode;
use ringback_client::Client;
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use ringback_e2e::fixture::{App, CALLER, Conversation, Fixture, SOON};
use ringback_e2e::log_lines::{LogLine, log_lines};

/// Longer than the time after which an app counts as launched from the background.
const SLOW_START: Duration = Duration::from_millis(5_100);

/// Legs that end within a second of each other count as one.
const LEGS_APART: Duration = Duration::from_millis(1_200);

/// A metric and the functions that emit it.
#[derive(Debug, PartialEq, Eq)]
struct Described {
    unit: String,
    dimensions: BTreeSet<String>,
    from: From,
}

#[derive(Debug, PartialEq, Eq)]
enum From {
    Every,
    These(BTreeSet<String>),
}

type Seen = BTreeMap<String, (String, BTreeSet<String>)>;

#[tokio::test(flavor = "multi_thread")]
async fn a_real_run_emits_exactly_the_documented_metrics() -> Result<()> {
    let fixture = Fixture::open().await?;
    let page = documented()?;
    let began = OffsetDateTime::now_utc();
    // For the cold start metric of a function that the other tests rarely invoke.
    let health = format!("{}/health", fixture.stack.http_url);
    fixture.http.get(health).send().await?;
    fixture
        .fcm_behaves(&json!({ "send": [{ "status": 503, "retry_after": 1 }] }))
        .await?;
    tokio::try_join!(
        slow_app_is_answered(&fixture),
        registered_phone_rejects(&fixture)
    )?;
    bridge_is_reported_after_the_end(&fixture).await?;
    device_becomes_silent(&fixture).await?;
    pushes_fail(&fixture).await?;
    call_telephones(&fixture).await?;

    let expected: Seen = page
        .iter()
        .map(|(name, metric)| {
            let dimensions = metric.dimensions.clone();
            (name.clone(), (metric.unit.clone(), dimensions))
        })
        .collect();
    let deadline = Instant::now() + SOON;
    loop {
        let mut lines = log_lines(&fixture, "health").await?;
        lines.extend(log_lines(&fixture, ("", began)).await?);
        let seen = seen(&lines, &page)?;
        if seen == expected {
            return Ok(());
        }
        if Instant::now() > deadline {
            assert_eq!(seen, expected);
        }
        sleep(Duration::from_millis(500)).await;
    }
}

/// All metrics in these lines, each with its unit and dimensions.
fn seen(lines: &[LogLine], page: &BTreeMap<String, Described>) -> Result<Seen> {
    let mut seen = Seen::new();
    for line in lines.iter().filter(|line| !line.json["_aws"].is_null()) {
        for (name, unit, dimensions) in measured(line).with_context(|| line.text.clone())? {
            let metric = page.get(&name);
            let metric = metric.with_context(|| format!("the page lacks {name}"))?;
            let is_from = match &metric.from {
                From::Every => true,
                From::These(functions) => functions.contains(&line.function),
            };
            ensure!(is_from, "{name} is also emitted by {}", line.function);
            let as_before = seen.insert(name.clone(), (unit.clone(), dimensions.clone()));
            let same = as_before.is_none_or(|before| before == (unit, dimensions));
            ensure!(same, "{name} has changing dimensions: {}", line.text);
        }
    }
    Ok(seen)
}

/// The metrics of one line, as CloudWatch reads them.
///
/// <https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html>
fn measured(line: &LogLine) -> Result<Vec<(String, String, BTreeSet<String>)>> {
    let document = &line.json;
    ensure!(
        document["_aws"]["Timestamp"].is_u64(),
        "the line has no time"
    );
    let directives = document["_aws"]["CloudWatchMetrics"].as_array();
    let [directive] = directives.context("directives")?.as_slice() else {
        anyhow::bail!("the line needs one directive");
    };
    ensure!(
        directive["Namespace"] == STACK_NAME,
        "the namespace is not the stack's"
    );
    let sets = directive["Dimensions"].as_array().context("dimensions")?;
    let [set] = sets.as_slice() else {
        anyhow::bail!("one set of dimensions is enough, and each one costs money");
    };
    let mut dimensions = BTreeSet::new();
    for name in texts(set)? {
        ensure!(document[&name].is_string(), "{name} has no value");
        dimensions.insert(name);
    }
    let metrics = directive["Metrics"].as_array().context("metrics")?;
    ensure!(!metrics.is_empty(), "the metric is not an object");
    metrics
        .iter()
        .map(|metric| {
            let name = metric["Name"].as_str().context("the metric has no name")?;
            let unit = metric["Unit"].as_str().context("the metric has no unit")?;
            let numbers = match &document[name] {
                Value::Array(values) => values.len() <= 100 && values.iter().all(Value::is_number),
                value => value.is_number(),
            };
            ensure!(numbers, "{name} has invalid values");
            Ok((name.to_owned(), unit.to_owned(), dimensions.clone()))
        })
        .collect()
}

fn texts(list: &Value) -> Result<Vec<String>> {
    let list = list.as_array().context("the value is not a list")?;
    let texts = list.iter().map(|text| text.as_str().map(str::to_owned));
    texts.collect::<Option<_>>().context("texts")
}

/// The rows of the table in `docs/operations.md`.
fn documented() -> Result<BTreeMap<String, Described>> {
    let page = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../docs/operations.md"
    ));
    let page = std::fs::read_to_string(page)?;
    let rows = page
        .lines()
        .skip_while(|line| !line.starts_with("| metric |"));
    let rows = rows.skip(2).take_while(|line| line.starts_with('|'));
    let described = rows.map(|row| {
        let cells: Vec<String> = row
            .split('|')
            .map(|cell| cell.trim().replace('`', ""))
            .collect();
        let [_, name, unit, dimensions, from, ..] = cells.as_slice() else {
            anyhow::bail!("{row}")
        };
        let listed = |cell: &str| -> BTreeSet<String> {
            let names = cell.split(',').map(|name| name.trim().to_owned());
            names.filter(|name| !name.is_empty()).collect()
        };
        let described = Described {
            unit: unit.clone(),
            dimensions: listed(dimensions),
            from: match from.as_str() {
                "every function" => From::Every,
                functions => From::These(listed(functions)),
            },
        };
        Ok((name.clone(), described))
    });
    described.collect()
}

/// A call to an app that starts slowly.
async fn slow_app_is_answered(fixture: &Fixture) -> Result<()> {
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = app.is_called().await?;
    sleep(SLOW_START).await;
    is_ready(&app, &id).await?;
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    talk.end(&app).await?;
    Ok(())
}

/// The phone is registered and rejects its leg every time.
async fn registered_phone_rejects(fixture: &Fixture) -> Result<()> {
    let app = fixture.app("1002").await?;
    let mut phone = fixture.registered_phone("1002").await?;
    let (caller, id) = app.is_called().await?;
    is_ready(&app, &id).await?;
    loop {
        tokio::select! {
            leg = phone.next_call(SOON) => {
                let leg = leg?;
                sleep(LEGS_APART).await;
                leg.reject(500).await?;
            }
            rejected = caller.rejected(SOON) => {
                rejected?;
                break;
            }
        }
    }
    let call = app.wait_for_status(&id, "failed").await?;
    assert_eq!(call["reason"], "phone_unreachable");
    Ok(())
}

/// The app hangs up before the PBX's report of the bridge arrives.
async fn bridge_is_reported_after_the_end(fixture: &Fixture) -> Result<()> {
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let (caller, id) = app.is_called().await?;
    is_ready(&app, &id).await?;
    let _leg = phone.next_call(SOON).await?;
    app.respond("hangup", &id).await?;
    caller.rejected(SOON).await?;
    app.wait_for_status(&id, "declined").await?;
    let channel = format!("ringback-{id}-1");
    let bridged = [("call_id", id.as_str()), ("channel_id", channel.as_str())];
    let (status, answer) = fixture.pbx_reports("bridged", &bridged).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    app.wait_for_status(&id, "completed").await?;
    Ok(())
}

/// A device reports once that it rings, and then not for 20 pushes.
async fn device_becomes_silent(fixture: &Fixture) -> Result<()> {
    fixture.delete_devices_of(&fixture.stack.phones).await?;
    let app = fixture.app("1001").await?;
    let number = fixture.number_of("1001");
    for push in 0..=20 {
        let sid = ringback_e2e::fixture::call_sid();
        let (status, answer) = fixture.passthru(&sid, CALLER, number).await?;
        ensure!(status == StatusCode::OK, "{answer}");
        let id = answer["call_id"].as_str().context("the call's id")?;
        if push == 0 {
            let push = app.push("incoming_call").await?;
            let url = push["data"]["answer_url"].as_str().context("answer_url")?;
            let rings = json!({ "action": "ringing" });
            let answer = fixture.http.post(url).json(&rings).send().await?;
            ensure!(answer.status() == StatusCode::OK, "{answer:?}");
        }
        let (status, answer) = app.respond("decline", id).await?;
        ensure!(status == StatusCode::OK, "{answer}");
    }
    Ok(())
}

async fn pushes_fail(fixture: &Fixture) -> Result<()> {
    // Devices of earlier calls would ring.
    fixture.delete_devices_of(&fixture.stack.phones).await?;
    let app = fixture.app("1001").await?;
    let refused = json!({ "tokens": { (app.push_token.as_str()): "INVALID_ARGUMENT" } });
    fixture.fcm_behaves(&refused).await?;
    let sid = ringback_e2e::fixture::call_sid();
    let (status, answer) = fixture
        .passthru(&sid, CALLER, fixture.number_of("1001"))
        .await?;
    assert_eq!(status, StatusCode::OK);
    let id = answer["call_id"]
        .as_str()
        .context("the push has no call id")?;
    let call = app.wait_for_status(id, "failed").await?;
    assert_eq!(call["reason"], "push_failed");
    fixture.fcm_behaves(&json!({})).await
}

/// One domestic number, and one in a country that is not allowed.
async fn call_telephones(fixture: &Fixture) -> Result<()> {
    let token = &fixture
        .stack
        .phone("1001")
        .context("1001 has no phone")?
        .token;
    let mut client = Client::connect(&fixture.stack.ws_url, token).await?;
    for (number, answer) in [
        ("+919876543210", "call_initiated"),
        ("+442071838750", "error"),
    ] {
        let message = json!({ "type": "incoming_call", "recipientId": number });
        client.send(message).await?;
        while client.next(SOON).await?["type"] != answer {}
    }
    Ok(())
}

async fn is_ready(app: &App<'_>, call: &str) -> Result<()> {
    let (status, answer) = app.respond("accept_ready", call).await?;
    ensure!(status == StatusCode::OK, "{answer}");
    Ok(())
}
