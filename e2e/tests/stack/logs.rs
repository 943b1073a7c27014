//! The logs of the functions: they tell the story of a call by its id, and contain nothing private. The deployed
//! functions' logs are read from the local AWS; the local stack must be running.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::StatusCode;
use ringback_client::Client;
use ringback_e2e::fixture::{App, Conversation, Fixture, call_sid};
use ringback_e2e::log_lines::{LogLine, log_lines};
use ringback_e2e::observed_function::{ObservedFunction, example, passthru};
use ringback_e2e::private_values::PrivateValues;
use ringback_sip::Caller;
use serde_json::{Value, json};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

const NUMBER: &str = "+919812345067";
const IN_NATIONAL_FORM: &str = "09812345067";
const NAME: &str = "Padmavathi Venkataraman";

/// The minimum log of [`complete_call`], at the default level.
const STORY: [(&str, &str); 3] = [
    ("asterisk-incoming", "FCM request sent again"),
    ("ws-message", "request rejected"),
    ("broadcast", "call ended"),
];
/// The history in the line of the ended call. The PBX may report either leg first.
const HISTORY: [&str; 5] = [
    "0.00 ring (pbx1/",
    "push_sent (2 devices)",
    "accept_ready (1001/",
    "bridged",
    "_leg_ended (answered=true",
];
/// The functions that only handle calls.
const OF_CALLS: [&str; 5] = [
    "asterisk-incoming",
    "exotel-webhook",
    "call-response",
    "call-timeout",
    "broadcast",
];
/// A function's lines appear a little later than its effects, and the timer fires at the end of the ring: `make e2e`
/// sets it to 10 s.
const STORY_TIMEOUT: Duration = Duration::from_secs(20);
/// The local AWS waits 50 ms for a function's log. On a busy machine it reads the rest with the next invocation of the
/// same process. So if lines are missing, another call brings them or logs its own.
const CALLS: usize = 3;

#[tokio::test(flavor = "multi_thread")]
async fn the_logs_tell_the_story_of_a_call_and_nothing_private() -> Result<()> {
    let fixture = Fixture::open().await?;
    let began = OffsetDateTime::now_utc();
    let of_this_run = lines_with_a_story(&fixture, began).await?;

    let lines = log_lines(&fixture, "").await?;
    let stories = of_this_run.iter().map(|line| &line.json);
    let stories = stories.filter_map(|line| line["history"].as_str());
    let is_whole = |story: &&str| HISTORY.iter().all(|part| story.contains(part));
    let stories: Vec<&str> = stories.collect();
    assert!(stories.iter().any(is_whole), "{stories:#?}");

    let no_json: Vec<&LogLine> = lines.iter().filter(|line| !line.json.is_object()).collect();
    assert!(no_json.is_empty(), "{no_json:#?}");
    let private = PrivateValues::of(&fixture, &[NUMBER, NAME]).await?;
    let leaks: Vec<String> = lines
        .iter()
        .flat_map(|line| private.found_in(line))
        .collect();
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));

    let of_no_call: Vec<&LogLine> = of_this_run
        .iter()
        .filter(|line| OF_CALLS.contains(&line.function.as_str()))
        .filter(|line| !line.json["call_id"].is_string())
        // Metrics count all calls together, without an id.
        .filter(|line| line.json["_aws"].is_null())
        // An earlier test replaced and restored secrets, and a process may fetch one before it knows the call.
        .filter(|line| line.json["target"] != "ringback::platform::secrets")
        .filter(|line| line.json["target"] != "ringback::telemetry::requests")
        // A client of an earlier test may connect just now.
        .filter(|line| line.json["target"] != "ringback::store::connections")
        // A leg of an earlier test may end just now, when its call is gone.
        .filter(|line| line.json["code"] != "no_such_call")
        .collect();
    assert!(of_no_call.is_empty(), "{of_no_call:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_level_reveals_anything_private() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut webhook = ObservedFunction::start(&fixture, "exotel-webhook", "trace").await?;
    let mut hook = ObservedFunction::start(&fixture, "asterisk-incoming", "trace").await?;
    let mut response = ObservedFunction::start(&fixture, "call-response", "trace").await?;

    let sid = call_sid();
    let ring = passthru(&fixture, IN_NATIONAL_FORM, &sid, "1001")?;
    let (answer, _) = webhook.invoke(&ring).await?;
    let id = answer["call_id"].as_str().context("the call has no id")?;
    let (answer, _) = hook.invoke(&incoming(&fixture, &sid)?).await?;
    assert_eq!(answer["call_id"], id);
    let (answer, _) = response.invoke(&declines(&app, id)?).await?;
    assert_eq!(answer["status"], "declined");

    let private = PrivateValues::of(&fixture, &[NUMBER, NAME]).await?;
    for (name, function) in [
        ("exotel-webhook", webhook),
        ("asterisk-incoming", hook),
        ("call-response", response),
    ] {
        let log = function.log()?;
        assert!(log.contains(id), "{name}: {log}");
        let leaks: Vec<String> = log
            .lines()
            .map(|text| LogLine::of(name, text))
            .flat_map(|line| private.found_in(&line))
            .collect();
        assert!(leaks.is_empty(), "{}", leaks.join("\n"));
    }
    Ok(())
}

/// The request of the dialplan when the caller has reached the PBX.
fn incoming(fixture: &Fixture, sid: &str) -> Result<Value> {
    let mut event = example("asterisk-incoming-incoming")?;
    for (name, value) in &fixture.stack.headers.asterisk {
        event["headers"][name.to_ascii_lowercase()] = value.as_str().into();
    }
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("channel_id", &format!("logs.{sid}"))
        .append_pair("caller", NUMBER)
        .append_pair("caller_name", NAME)
        .append_pair("number", fixture.number_of("1001"))
        .append_pair("call_sid", sid);
    event["isBase64Encoded"] = false.into();
    event["body"] = form.finish().into();
    Ok(event)
}

fn declines(app: &App<'_>, call: &str) -> Result<Value> {
    let mut event = example("call-response-decline")?;
    event["headers"]["authorization"] = format!("Bearer {}", app.token).into();
    let says = json!({ "server_call_id": call, "extension": app.extension, "action": "decline" });
    event["body"] = says.to_string().into();
    Ok(event)
}

/// All lines since then, as soon as they contain a complete story of a call.
async fn lines_with_a_story(fixture: &Fixture, began: OffsetDateTime) -> Result<Vec<LogLine>> {
    let mut calls = Vec::new();
    while calls.len() < CALLS {
        calls.push(complete_call(fixture).await?);
        let deadline = Instant::now() + STORY_TIMEOUT;
        while Instant::now() < deadline {
            let lines = log_lines(fixture, ("", began)).await?;
            if calls.iter().any(|id| missing_lines(id, &lines).is_empty()) {
                return Ok(lines);
            }
            sleep(Duration::from_millis(500)).await;
        }
    }
    let lines = log_lines(fixture, ("", began)).await?;
    let missing: Vec<_> = calls
        .iter()
        .map(|id| (id, missing_lines(id, &lines)))
        .collect();
    bail!("the logs lack {missing:?}");
}

/// The expected lines that are missing for this call.
fn missing_lines(id: &str, lines: &[LogLine]) -> Vec<(&'static str, &'static str)> {
    let is_logged = |(function, what): &(&str, &str)| {
        lines
            .iter()
            .filter(|line| line.json["call_id"] == id && line.function == *function)
            .any(|line| line.json["message"] == *what)
    };
    STORY.into_iter().filter(|part| !is_logged(part)).collect()
}

/// A call that Exotel and the PBX both report, with a retried push, an accept, a conversation, its end, and a late app
/// that responds by HTTP and by WebSocket.
async fn complete_call(fixture: &Fixture) -> Result<String> {
    let (app, late) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let mut phone = fixture.registered_phone("1001").await?;
    let sid = call_sid();
    fixture
        .fcm_behaves(&json!({ "send": [{ "status": 503, "retry_after": 1 }] }))
        .await?;
    let who = Caller::number(NUMBER).named(NAME);
    let caller = fixture.dial_as("1001", who, Some(&sid)).await?;
    let id = app.receives_call().await?;
    let (status, answer) = fixture
        .passthru(&sid, IN_NATIONAL_FORM, fixture.number_of("1001"))
        .await?;
    assert_eq!(
        (status, &answer["call_id"]),
        (StatusCode::OK, &id.as_str().into())
    );
    assert_eq!(app.respond("accept_ready", &id).await?.0, StatusCode::OK);
    assert_eq!(late.respond("accept", &id).await?.0, StatusCode::CONFLICT);
    let mut connected = Client::connect(&fixture.stack.ws_url, &late.token).await?;
    let accepts = json!({
        "type": "call_response", "server_call_id": id, "extension": "1001", "action": "accept",
        "timestamp": 1, "device_id": late.device,
    });
    connected.send(accepts).await?;
    let talk = Conversation::join(&app, &mut phone, caller, id).await?;
    push_is_saved(&app, &talk.id).await?;
    talk.end(&app).await
}

/// Waits until the call's history has the push. FCM's second answer may come after the accept.
async fn push_is_saved(app: &App<'_>, id: &str) -> Result<()> {
    let deadline = Instant::now() + STORY_TIMEOUT;
    while Instant::now() < deadline {
        let call = app.call(id).await?;
        let history = call["history"].as_array().context("no history")?;
        if history.iter().any(|line| line["event"] == "push_sent") {
            return Ok(());
        }
        sleep(Duration::from_millis(100)).await;
    }
    bail!("call {id} has no push in its history");
}
