//! The limits of an extension: the real functions on the real table, some with limits that a test can exhaust. The
//! local stack must be running.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_e2e::observed_function::{ObservedFunction, example};
use serde_json::{Value, json};
use tokio::time::sleep;

/// Three calls at once, and one more every three seconds.
const BURST: usize = 3;
const INTERVAL: Duration = Duration::from_secs(3);
const FEW_CALLS: [(&str, &str); 2] = [("CALLS_PER_MINUTE", "20"), ("CALLS_AT_ONCE", "3")];

/// An app of `caller` sends `incoming_call` to an extension without a phone.
fn start_call(caller: &str, reference: &str) -> Result<Value> {
    let mut event = example("ws-message-incoming-call-app")?;
    event["requestContext"]["authorizer"]["extension"] = caller.into();
    let message = json!({
        "type": "incoming_call",
        "recipientId": format!("nobody-{caller}"),
        "clientReference": reference,
    });
    event["body"] = message.to_string().into();
    Ok(event)
}

/// An unused caller number.
fn unused_number() -> String {
    let unique = uuid::Uuid::new_v4().simple().to_string();
    format!("caller-{}", &unique[..8])
}

/// Starts these calls one after the other. Returns how many were accepted, and the answers of the others.
async fn start_all(
    function: &mut ObservedFunction,
    caller: &str,
    references: std::ops::Range<usize>,
) -> Result<(usize, Vec<Value>)> {
    let (mut begun, mut refused) = (0, Vec::new());
    for number in references {
        let (answer, _) = function
            .invoke(&start_call(caller, &format!("call-{number}"))?)
            .await?;
        if answer["code"] != "too_many_calls" {
            ensure!(
                answer["callId"].is_string(),
                "no call was started: {answer}"
            );
            begun += 1;
            continue;
        }
        refused.push(answer);
    }
    Ok((begun, refused))
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_together_start_no_more_calls_than_an_extension_may() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = unused_number();
    let mut one = ObservedFunction::start_with(&fixture, "ws-message", &FEW_CALLS).await?;
    let mut other = ObservedFunction::start_with(&fixture, "ws-message", &FEW_CALLS).await?;

    let began = Instant::now();
    let (of_one, of_other) = tokio::join!(
        start_all(&mut one, &caller, 0..5),
        start_all(&mut other, &caller, 5..10)
    );
    let (of_one, of_other) = (of_one?, of_other?);
    let most = BURST + began.elapsed().as_secs() as usize / INTERVAL.as_secs() as usize;
    let begun = of_one.0 + of_other.0;
    ensure!((BURST..=most).contains(&begun), "{begun} of at most {most}");

    let refused = of_one.1.into_iter().chain(of_other.1);
    let mut wait = Duration::ZERO;
    for answer in refused {
        ensure!(
            answer["type"] == "error" && answer["success"] == false,
            "{answer}"
        );
        ensure!(answer["clientReference"].is_string(), "{answer}");
        let seconds = answer["retryAfterSeconds"]
            .as_u64()
            .context("no retryAfterSeconds")?;
        ensure!((1..=INTERVAL.as_secs()).contains(&seconds), "{answer}");
        wait = Duration::from_secs(seconds);
    }
    ensure!(wait > Duration::ZERO, "no request was rejected");

    // Another extension is not affected.
    let (begun, _) = start_all(&mut one, &unused_number(), 0..1).await?;
    ensure!(begun == 1, "another extension's call was rejected");
    // After the retry time, the app may start a call again.
    sleep(wait).await;
    let (begun, _) = start_all(&mut other, &caller, 10..11).await?;
    ensure!(begun == 1, "rejected after the retry time");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_a_request_uses_no_allowance_and_a_rejection_costs_one_write() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = unused_number();
    let one_call = [("CALLS_PER_MINUTE", "1"), ("CALLS_AT_ONCE", "1")];
    let mut function = ObservedFunction::start_with(&fixture, "ws-message", &one_call).await?;
    let (first, _) = function.invoke(&start_call(&caller, "tap")?).await?;
    ensure!(first["callId"].is_string(), "{first}");
    for _ in 0..3 {
        let (again, _) = function.invoke(&start_call(&caller, "tap")?).await?;
        ensure!(again["callId"] == first["callId"], "{again}");
    }
    // By now, the pending effects of the call are completed.
    sleep(Duration::from_millis(500)).await;
    let (another, timeline) = function.invoke(&start_call(&caller, "tap-2")?).await?;
    ensure!(another["code"] == "too_many_calls", "{another}");
    let asked: Vec<&str> = timeline
        .aws
        .iter()
        .filter_map(|request| request.headers.get("x-amz-target")?.to_str().ok())
        .collect();
    ensure!(asked == ["DynamoDB_20120810.UpdateItem"], "{asked:?}");
    ensure!(
        timeline.ari.is_empty() && timeline.push.is_empty(),
        "{timeline}"
    );
    Ok(())
}

/// The phone number of extension 1001 in the stack's table.
const OWN_NUMBER: &str = "+919800001001";
const THERE: &str = "+919876543210";

/// An app of `extension` sends `incoming_call` to a telephone number.
fn call_number(extension: &str, caller_id: Option<&str>, recipient: &str) -> Result<Value> {
    let mut event = example("ws-message-incoming-call-number")?;
    event["requestContext"]["authorizer"]["extension"] = extension.into();
    let message = json!({
        "type": "incoming_call",
        "callerId": caller_id,
        "recipientId": recipient,
        "clientReference": uuid::Uuid::new_v4().to_string(),
    });
    event["body"] = message.to_string().into();
    Ok(event)
}

/// Whether Exotel accepted the call.
fn is_placed(answer: &Value) -> bool {
    answer["type"] == "call_initiated" && answer["data"]["callSid"].is_string()
}

/// The timers that one invocation armed in the queue and at the scheduler.
fn timers(timeline: &ringback_e2e::timeline::Timeline) -> usize {
    let arms = |request: &&ringback_e2e::recording_proxy::Request| {
        let target = request.headers.get("x-amz-target");
        let target = target.and_then(|target| target.to_str().ok());
        let in_queue = target == Some("AmazonSQS.SendMessage");
        let scheduled =
            request.method == Method::POST && request.uri.path().contains("/schedules/");
        in_queue || scheduled
    };
    timeline.aws.iter().filter(arms).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn repeating_a_request_for_an_active_call_arms_no_timer() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1002").await?;
    // The caller's phone rings and is not answered, so the call waits for the caller's leg.
    let _phone = fixture.registered_phone("1001").await?;
    let mut function = ObservedFunction::start(&fixture, "ws-message", "info").await?;
    let mut to_app = example("ws-message-incoming-call-app")?;
    let message = json!({
        "type": "incoming_call",
        "recipientId": "1002",
        "clientReference": uuid::Uuid::new_v4().to_string(),
    });
    to_app["body"] = message.to_string().into();
    for event in [to_app, call_number("1001", None, THERE)?] {
        let (first, timeline) = function.invoke(&event).await?;
        ensure!(first["type"] == "call_initiated", "{first}");
        ensure!(timers(&timeline) > 0, "the call has no timers");
        for _ in 0..8 {
            let (again, timeline) = function.invoke(&event).await?;
            ensure!(
                again["data"]["callId"] == first["data"]["callId"],
                "{again}"
            );
            ensure!(timers(&timeline) == 0, "{timeline}");
        }
        let id = first["data"]["callId"]
            .as_str()
            .context("the call has no id")?;
        if let Some(sid) = fixture.exotel_call_sids(id).await?.first() {
            let over = json!({ "status": "completed" });
            fixture.exotel_event(sid, over).await?;
        } else {
            app.respond("decline", id).await?;
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn by_default_an_app_calls_with_its_own_number_and_within_the_country() -> Result<()> {
    let fixture = Fixture::open().await?;
    let default = [("CALLER_ID_POLICY", "own"), ("ALLOWED_PREFIXES", "")];
    let mut function = ObservedFunction::start_with(&fixture, "ws-message", &default).await?;
    for own in [None, Some("1001"), Some("09800001001"), Some(OWN_NUMBER)] {
        let (answer, _) = function.invoke(&call_number("1001", own, THERE)?).await?;
        ensure!(is_placed(&answer), "{own:?}: {answer}");
        ensure!(answer["data"]["from"] == OWN_NUMBER, "{answer}");
        let sid = answer["data"]["callSid"].as_str().context("a CallSid")?;
        fixture
            .exotel_event(sid, json!({ "status": "completed" }))
            .await?;
    }
    for (caller_id, recipient) in [
        // Another extension's number, a foreign caller, a foreign recipient, a satellite phone, premium rate, shared
        // cost.
        (Some("+919800001002"), THERE),
        (Some("+442071838750"), THERE),
        (None, "+442071838750"),
        (None, "+870773111632"),
        (None, "+911861123456789"),
        (None, "+9118601234567"),
    ] {
        let event = call_number("1001", caller_id, recipient)?;
        let (answer, timeline) = function.invoke(&event).await?;
        let case = format!("{caller_id:?} → {recipient}: {answer}");
        ensure!(answer["code"] == "not_allowed", "{case}");
        ensure!(
            answer["success"] == false && answer["callId"].is_null(),
            "{case}"
        );
        let message = answer["error"].as_str().context("the error has no text")?;
        ensure!(!message.contains(char::is_numeric), "{case}");
        // At most one request: the lookup of the extension's number.
        ensure!(timeline.aws.len() <= 1, "{timeline}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_call_makes_room_for_another_concurrent_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = unused_number();
    let two_calls = [("CONCURRENT_CALLS_PER_EXTENSION", "2")];
    let mut function = ObservedFunction::start_with(&fixture, "ws-message", &two_calls).await?;
    let another = || call_number(&caller, Some(OWN_NUMBER), THERE);
    let mut sids = Vec::new();
    let mut last = Value::Null;
    for _ in 0..2 {
        last = another()?;
        let (answer, _) = function.invoke(&last).await?;
        ensure!(is_placed(&answer), "{answer}");
        let sid = answer["data"]["callSid"].as_str().context("a CallSid")?;
        sids.push(sid.to_owned());
    }
    let (refused, timeline) = function.invoke(&another()?).await?;
    ensure!(refused["code"] == "too_many_calls", "{refused}");
    ensure!(refused["retryAfterSeconds"].is_u64(), "{refused}");
    ensure!(timers(&timeline) == 0 && !timeline.scans(), "{timeline}");
    let (again, _) = function.invoke(&last).await?;
    ensure!(
        is_placed(&again),
        "the repeated request was rejected: {again}"
    );

    fixture
        .exotel_event(&sids[0], json!({ "status": "completed" }))
        .await?;
    let third = another()?;
    let deadline = Instant::now() + SOON;
    loop {
        // The index follows the table after a moment.
        let (answer, _) = function.invoke(&third).await?;
        if is_placed(&answer) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{answer}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_to_telephones_have_a_daily_limit() -> Result<()> {
    let fixture = Fixture::open().await?;
    let caller = unused_number();
    let one_a_day = [("PHONE_CALLS_PER_DAY", "1")];
    let mut function = ObservedFunction::start_with(&fixture, "ws-message", &one_a_day).await?;
    let first = call_number(&caller, Some(OWN_NUMBER), THERE)?;
    for _ in 0..2 {
        let (answer, _) = function.invoke(&first).await?;
        ensure!(is_placed(&answer), "{answer}");
    }
    let second = call_number(&caller, Some(OWN_NUMBER), THERE)?;
    let (refused, timeline) = function.invoke(&second).await?;
    ensure!(refused["code"] == "too_many_calls", "{refused}");
    let seconds = refused["retryAfterSeconds"].as_u64();
    ensure!(seconds > Some(86_000), "{refused}");
    ensure!(timers(&timeline) == 0, "{timeline}");
    let (to_app, _) = function.invoke(&start_call(&caller, "to-app")?).await?;
    ensure!(to_app["code"] == "no_device", "{to_app}");
    Ok(())
}

/// `PUT /api/devices/{device}` with an APNs alert token.
fn register(app: &App<'_>, device: &str, token: &str) -> Result<Value> {
    let mut event = example("devices-put")?;
    event["headers"]["authorization"] = format!("Bearer {}", app.token).into();
    event["pathParameters"]["device_id"] = device.into();
    let body = json!({ "extension": app.extension, "platform": "apns", "token": token });
    event["body"] = body.to_string().into();
    Ok(event)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_device_is_deleted_at_sns_and_registrations_are_limited() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1002");
    let sns = aws_sdk_sns::Client::new(&fixture.aws);
    let application = sns
        .create_platform_application()
        .name(unused_number())
        .platform("APNS")
        .attributes("PlatformCredential", "a key")
        .attributes("PlatformPrincipal", "a certificate")
        .send()
        .await?;
    let application = application.platform_application_arn.context("its ARN")?;
    let variables = [
        ("SNS_APNS_APPLICATION_ARN", application.as_str()),
        ("MAX_DEVICES_PER_EXTENSION", "1"),
        ("REGISTRATIONS_PER_MINUTE", "30"),
        ("REGISTRATIONS_AT_ONCE", "2"),
    ];
    let mut function = ObservedFunction::start_with(&fixture, "devices", &variables).await?;

    function
        .invoke(&register(&app, "old-phone", "a1a1")?)
        .await?;
    let new_phone = register(&app, "new-phone", "b2b2")?;
    let (_, timeline) = function.invoke(&new_phone).await?;
    let deletion = timeline.aws.iter().find_map(|request| {
        let form: HashMap<_, _> = form_urlencoded::parse(&request.body).collect();
        (form.get("Action")? == "DeleteEndpoint").then(|| form["EndpointArn"].to_string())
    });
    let deleted = deletion.context("no endpoint was deleted at SNS")?;
    let attributes = sns.get_endpoint_attributes().endpoint_arn(&deleted);
    ensure!(attributes.send().await.is_err(), "{deleted} still exists");

    let mut answers = Vec::new();
    // One registration becomes available every two seconds, which may be enough for one more on a slow machine.
    while answers.len() < 3 {
        answers.push(function.answer_to(&new_phone).await?);
    }
    let refused = answers.iter().find(|answer| answer["statusCode"] == 429);
    let refused = refused.with_context(|| format!("no registration was rejected: {answers:?}"))?;
    let body: Value =
        serde_json::from_str(refused["body"].as_str().context("the answer has no body")?)?;
    ensure!(body["code"] == "too_many_registrations", "{body}");
    let seconds = body["retryAfterSeconds"]
        .as_u64()
        .context("no retryAfterSeconds")?;
    ensure!((1..=2).contains(&seconds), "{body}");
    ensure!(
        refused["headers"]["retry-after"].as_str() == Some(&*seconds.to_string()),
        "{refused}"
    );

    let deletion = sns.delete_platform_application();
    deletion
        .platform_application_arn(&application)
        .send()
        .await?;
    Ok(())
}

/// Health checks are unauthenticated, so many clients may send them without limit.
#[tokio::test(flavor = "multi_thread")]
async fn each_process_pings_the_pbx_at_most_once_a_second_for_health() -> Result<()> {
    const PROCESSES: usize = 3;
    const ASKED: usize = 20;
    let fixture = Fixture::open().await?;
    let asking = (0..PROCESSES).map(async |_| {
        let mut process = ObservedFunction::start(&fixture, "health", "info").await?;
        let event = example("health")?;
        let began = Instant::now();
        let mut pings = 0;
        for _ in 0..ASKED {
            let (answer, timeline) = process.invoke(&event).await?;
            ensure!(answer["dependencies"]["asterisk"] == "ok", "{answer}");
            pings += timeline.ari.len();
        }
        Ok((pings, began.elapsed()))
    });
    for (pings, took) in try_join_all(asking).await? {
        println!("{ASKED} requests in {took:?}: {pings} pings");
        let promised = 1 + usize::try_from(took.as_secs())?;
        ensure!((1..=promised).contains(&pings), "{pings} pings in {took:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sixth_device_replaces_the_first() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut apps = Vec::new();
    for _ in 0..6 {
        apps.push(fixture.app("1002").await?);
    }
    let caller = fixture.dial("1002").await?;
    for app in &apps[1..] {
        app.receives_call().await?;
    }
    ensure!(
        apps[0].count_pushes("incoming_call").await? == 0,
        "all six devices ring"
    );
    caller.cancel().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_with_a_new_user_does_not_ring_for_the_previous_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let before = fixture.app("1001").await?;
    let mut now = fixture.unregistered_app("1002");
    now.push_token.clone_from(&before.push_token);
    now.register_for_push().await?;

    let caller = fixture.dial("1001").await?;
    let (status, _) = caller.rejected(SOON).await?;
    ensure!(
        status == 486,
        "the caller was rejected with {status}, expected 486"
    );
    // A late request of the previous app does not affect the new registration.
    let device = format!("/api/devices/{}", before.device);
    let (status, _) = before.ask(Method::DELETE, &device, None).await?;
    ensure!(status == StatusCode::OK, "{status}");
    let caller = fixture.dial("1002").await?;
    let deadline = Instant::now() + SOON;
    while fixture.pushes_to(&before.push_token).await?.is_empty() {
        ensure!(
            Instant::now() < deadline,
            "the phone does not ring for its new user"
        );
        sleep(Duration::from_millis(50)).await;
    }
    caller.cancel().await?;
    Ok(())
}
