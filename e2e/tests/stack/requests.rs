//! The number of requests in the two urgent paths of a call: from the first report of a caller to the push, and from
//! the accept to the originate. Counted at DynamoDB, ARI and the push service, with the real binaries in their
//! deployed environment. The local stack must be running.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ringback::auth::signing::Signing;
use ringback::platform::secrets::{Secret, SigningSecret};
use ringback_core::ids::CallId;
use ringback_e2e::fixture::{Fixture, SOON, call_sid, unused_mobile_number};
use ringback_e2e::observed_function::{ObservedFunction, example, passthru};
use ringback_e2e::timeline::{Goal, System, Timeline};
use ringback_local::settings::Settings;
use ringback_local::stack::Stack;
use serde_json::{Value, json};

const MOST_IN_SEQUENCE: usize = 2;

#[tokio::test(flavor = "multi_thread")]
async fn no_urgent_path_has_more_than_two_sequential_requests_to_any_system() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ways = [
        (
            "Exotel webhook with a route → push",
            webhook_to_push(&fixture, CalleeForm::ByNumber).await?,
        ),
        (
            "webhook, ?extension= → push",
            webhook_to_push(&fixture, CalleeForm::ByExtension).await?,
        ),
        (
            "PBX webhook with CallSid → push",
            hook_to_push(&fixture, PbxReport::KnowsCallSid).await?,
        ),
        (
            "PBX webhook without CallSid → push",
            hook_to_push(&fixture, PbxReport::KnowsCallerAlone).await?,
        ),
        (
            "accept_ready → originate",
            accept_ready_to_originate(&fixture).await?,
        ),
    ];
    std::io::stdout().write_all(table(&ways)?.as_bytes())?;

    for (way, runs) in &ways {
        for run in [&runs.cold, &runs.warm] {
            check(run).with_context(|| format!("{way}:\n{}", run.timeline))?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audio_of_a_stream_causes_no_request() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut function = ObservedFunction::start(&fixture, "ws-message", "info").await?;
    let media = example("ws-message-exotel-media")?;
    let around = [
        example("ws-message-exotel-connected")?,
        example("ws-message-exotel-mark")?,
    ];
    for frame in std::iter::repeat_n(&media, 40).chain(&around) {
        let (body, timeline) = function.invoke(frame).await?;
        ensure!(body.is_null(), "{body}");
        ensure!(timeline.is_empty(), "{timeline}");
    }
    Ok(())
}

/// The events in which an app names a call, one for each function.
const WAYS_TO_NAME_A_CALL: [&str; 3] = [
    "call-response-decline",
    "call-status",
    "ws-message-call-response",
];

#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_call_id_causes_no_request() -> Result<()> {
    let fixture = Fixture::open().await?;
    let made_up = |version: char| {
        let mut id = uuid::Uuid::new_v4().to_string();
        id.replace_range(14..15, version.encode_utf8(&mut [0; 4]));
        id
    };
    for event in WAYS_TO_NAME_A_CALL {
        let mut function = ObservedFunction::start(&fixture, function_of(event), "info").await?;
        let mut refuse = async |id: &str| {
            let (code, asked) = ask(&mut function, event, "1001", id).await?;
            ensure!(code == "no_such_call", "{event}, {id}: {code}");
            Ok(asked)
        };
        // A process fetches its keys once and checks for a new one at most once a minute.
        for version in ['4', '5', '7', '8'] {
            let asked = refuse(&made_up(version)).await?;
            let keys = asked.iter().all(|one| one == "GetSecretValue");
            ensure!(keys, "{event}, version {version}: {asked:?}");
        }
        for version in ['4', '5', '7', '8', '8', '8'] {
            let asked = refuse(&made_up(version)).await?;
            ensure!(asked.is_empty(), "{event}, version {version}: {asked:?}");
        }
        // In a single region, a valid id is looked up once.
        let asked = refuse(&unknown_id(&fixture).await?).await?;
        ensure!(of_the_table(&asked) == 1, "{event}: {asked:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_extension_waits_for_one_call_of_the_other_region_at_a_time() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut processes = Vec::new();
    for event in WAYS_TO_NAME_A_CALL {
        let function = function_of(event);
        let two_regions = [("OTHER_REGION", "ap-southeast-1")];
        let mut process = ObservedFunction::start_with(&fixture, function, &two_regions).await?;
        ask(
            &mut process,
            event,
            "1002",
            "38769b5f-dc86-51eb-90df-8b38ff063d1d",
        )
        .await?;
        processes.push((event, process, unknown_id(&fixture).await?));
    }
    let asking = processes.iter_mut().map(async |(event, process, id)| {
        let began = Instant::now();
        let (code, asked) = ask(process, event, "1002", id).await?;
        Ok::<_, anyhow::Error>((code, of_the_table(&asked), began.elapsed()))
    });
    let mut answers = Vec::new();
    for answer in futures::future::join_all(asking).await {
        answers.push(answer?);
    }
    answers.sort_by_key(|(_, requests, _)| *requests);
    // The call, and the permit to wait.
    for (code, requests, took) in &answers[..2] {
        ensure!(code == "try_again" && *requests == 2, "{answers:?}");
        ensure!(*took < Duration::from_secs(2), "{answers:?}");
    }
    let (code, requests, took) = &answers[2];
    ensure!(code == "no_such_call" && *requests == 8, "{answers:?}");
    ensure!(*took >= Duration::from_secs(3), "{answers:?}");
    Ok(())
}

/// `docs/operations.md` has these numbers.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_costs_two_requests_and_one_for_the_calls_in_progress() -> Result<()>
{
    let fixture = Fixture::open().await?;
    let requests = async |name: &str| {
        let mut function = ObservedFunction::start(&fixture, name, "info").await?;
        let (_, timeline) = function.invoke_full(&example(name)?).await?;
        anyhow::Ok(operations(&timeline))
    };
    let connect = requests("ws-connect").await?;
    let replay = requests("ws-replay").await?;
    requests("ws-disconnect").await?;
    assert_eq!(
        (connect, replay),
        (
            vec!["PutItem".to_owned(), "SendMessage".to_owned()],
            vec!["Query".to_owned()]
        )
    );
    Ok(())
}

fn function_of(event: &str) -> &str {
    ["call-response", "call-status", "ws-message"]
        .into_iter()
        .find(|function| event.starts_with(function))
        .unwrap_or(event)
}

/// The first call of a process fetches the credentials for Asterisk.
fn of_the_table(asked: &[String]) -> usize {
    asked.iter().filter(|one| *one != "GetSecretValue").count()
}

/// A validly signed id without a call.
async fn unknown_id(fixture: &Fixture) -> Result<String> {
    let secret: SigningSecret = serde_json::from_value(fixture.secret("signing").await?)?;
    let signing = Signing::new(Secret::known(secret));
    Ok(signing.sign(CallId::fresh()).await?.to_string())
}

/// An app of an extension names a call in this event. Returns the code of the answer and the operations of the AWS
/// requests.
async fn ask(
    function: &mut ObservedFunction,
    event: &str,
    extension: &str,
    id: &str,
) -> Result<(String, Vec<String>)> {
    let stack = Stack::load(&Settings::from_environment().state_dir())?;
    let token = &stack.phone(extension).context("1001 has no phone")?.token;
    let mut event = example(event)?;
    if event["headers"].is_object() {
        event["headers"]["authorization"] = format!("Bearer {token}").into();
    }
    event["requestContext"]["authorizer"]["extension"] = extension.into();
    if event["pathParameters"].is_object() {
        event["pathParameters"]["id"] = id.into();
    } else {
        let body = event["body"].as_str().context("the answer has no body")?;
        let mut body: Value = serde_json::from_str(body)?;
        body["server_call_id"] = id.into();
        body["extension"] = extension.into();
        event["body"] = body.to_string().into();
    }
    let (answer, timeline) = function.invoke_full(&event).await?;
    let body = answer["body"].as_str().context("the answer has no body")?;
    let body: Value = serde_json::from_str(body)?;
    let code = body["code"].as_str().with_context(|| body.to_string())?;
    ensure!(
        timeline.ari.is_empty() && timeline.push.is_empty(),
        "{timeline}"
    );
    Ok((code.to_owned(), operations(&timeline)))
}

/// The operations of the AWS requests.
fn operations(timeline: &Timeline) -> Vec<String> {
    let operation = |request: &ringback_e2e::recording_proxy::Request| {
        let target = request.headers.get("x-amz-target")?.to_str().ok()?;
        Some(target.rsplit('.').next()?.to_owned())
    };
    let asked = timeline.aws.iter();
    asked
        .map(|request| operation(request).unwrap_or_else(|| request.uri.to_string()))
        .collect()
}

/// Two runs of one path by the same process: with cold and with warm caches.
struct Runs {
    cold: Run,
    warm: Run,
}

struct Run {
    timeline: Timeline,
    goal: Goal,
}

fn table(ways: &[(&str, Runs)]) -> Result<String> {
    let mut table =
        "\nRequests up to and including the push or the originate: total and sequential\n\n"
            .to_owned();
    write!(table, "{:<34}{:<8}", "way", "process")?;
    for system in System::ALL {
        write!(table, "{:>10}", system.name())?;
    }
    for (way, runs) in ways {
        for (state, run) in [("cold", &runs.cold), ("warm", &runs.warm)] {
            write!(table, "\n{way:<34}{state:<8}")?;
            for system in System::ALL {
                let count = run.timeline.until(run.goal, system)?;
                write!(table, "{:>7}, {}", count.total, count.sequential)?;
            }
        }
    }
    table.push_str("\n\n");
    Ok(table)
}

fn check(run: &Run) -> Result<()> {
    for system in System::ALL {
        let count = run.timeline.until(run.goal, system)?;
        ensure!(
            count.sequential <= MOST_IN_SEQUENCE,
            "{} sequential to {}",
            count.sequential,
            system.name()
        );
    }
    ensure!(
        !run.timeline.lists_channels(),
        "all channels of the PBX are listed"
    );
    ensure!(!run.timeline.scans(), "a table is scanned");
    ensure!(
        !run.timeline.reads_call_until(run.goal)?,
        "the call is read before it is written"
    );
    Ok(())
}

/// How Exotel's webhook names the callee.
#[derive(Clone, Copy)]
enum CalleeForm {
    ByNumber,
    ByExtension,
}

async fn webhook_to_push(fixture: &Fixture, form: CalleeForm) -> Result<Runs> {
    let ring = |caller: &str, sid: &str| {
        let mut event = passthru(fixture, caller, sid, "1001")?;
        if let (CalleeForm::ByExtension, Some(query)) = (form, event["rawQueryString"].as_str()) {
            event["rawQueryString"] = format!("{query}&extension=1001").into();
        }
        Ok(event)
    };
    rings_to_push(fixture, "exotel-webhook", ring).await
}

/// What the PBX reports about the caller.
#[derive(Clone, Copy)]
enum PbxReport {
    KnowsCallSid,
    KnowsCallerAlone,
}

async fn hook_to_push(fixture: &Fixture, report: PbxReport) -> Result<Runs> {
    let mut event = example("asterisk-incoming-incoming")?;
    for (name, value) in &fixture.stack.headers.asterisk {
        event["headers"][name.to_ascii_lowercase()] = value.as_str().into();
    }
    event["isBase64Encoded"] = false.into();
    let ring = |caller: &str, sid: &str| {
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("channel_id", &format!("requests.{sid}"))
            .append_pair("caller", caller)
            .append_pair("number", fixture.number_of("1001"));
        if let PbxReport::KnowsCallSid = report {
            form.append_pair("call_sid", sid);
        }
        event["body"] = form.finish().into();
        Ok(event.clone())
    };
    rings_to_push(fixture, "asterisk-incoming", ring).await
}

/// Two calls that `ring` makes of a caller's number and a CallSid, each declined afterwards.
async fn rings_to_push(
    fixture: &Fixture,
    function: &str,
    mut ring: impl FnMut(&str, &str) -> Result<Value>,
) -> Result<Runs> {
    let app = fixture.app("1001").await?;
    let mut function = ObservedFunction::start(fixture, function, "info").await?;
    let mut runs = Vec::new();
    for _ in 0..2 {
        // A new caller each time: the correlation claim of the last call would match the same one.
        let (answer, timeline) = function
            .invoke(&ring(&unused_mobile_number(), &call_sid())?)
            .await?;
        let id = answer["call_id"].as_str().context("the call has no id")?;
        ensure!(answer["status"] == "waiting_for_mobile", "{answer}");
        app.respond("decline", id).await?;
        runs.push(Run {
            timeline,
            goal: Goal::Push,
        });
    }
    app.unregister().await?;
    both(runs)
}

/// Two calls from the trunk to a registered phone, each accepted by one of two devices, bridged and hung up.
async fn accept_ready_to_originate(fixture: &Fixture) -> Result<Runs> {
    let mut phone = fixture.registered_phone("1001").await?;
    let mut function = ObservedFunction::start(fixture, "call-response", "info").await?;
    let mut event = example("call-response-accept-ready")?;
    let mut runs = Vec::new();
    for _ in 0..2 {
        let (app, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
        let (caller, id) = app.is_called().await?;
        other.receives_call().await?;
        event["headers"]["authorization"] = format!("Bearer {}", app.token).into();
        let says = json!({
            "server_call_id": id,
            "extension": "1001",
            "action": "accept_ready",
            "device_id": app.device,
        });
        event["body"] = says.to_string().into();
        let (answer, timeline) = function.invoke(&event).await?;
        ensure!(answer["status"] == "mobile_ready", "{answer}");
        let callee = phone.next_call(SOON).await?;
        callee.answer().await?;
        caller.answered(SOON).await?;
        caller.hang_up().await?;
        app.wait_for_status(&id, "completed").await?;
        app.unregister().await?;
        other.unregister().await?;
        runs.push(Run {
            timeline,
            goal: Goal::Originate,
        });
    }
    both(runs)
}

fn both(runs: Vec<Run>) -> Result<Runs> {
    let [cold, warm] = <[Run; 2]>::try_from(runs)
        .ok()
        .context("one cold and one warm run are needed")?;
    Ok(Runs { cold, warm })
}
