//! Killed apps answer with the URL in their push, without a login.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::future::join_all;
use reqwest::StatusCode;
use ringback_core::timestamp::Timestamp;
use ringback_e2e::fixture::{App, CALLER, Fixture, SOON, call_sid, status_and_body};
use ringback_e2e::observed_function::{ObservedFunction, example};
use serde_json::{Value, json};
use tokio::time::sleep;

/// The `answer_url` in the app's push.
async fn answer_url(app: &App<'_>) -> Result<String> {
    let push = app.push("incoming_call").await?;
    let url = push["data"]["answer_url"].as_str();
    Ok(url.context("the push has no answer_url")?.to_owned())
}

async fn answer(fixture: &Fixture, url: &str, action: &str) -> Result<(StatusCode, Value)> {
    let body = json!({ "action": action });
    status_and_body(fixture.http.post(url).json(&body).send().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_app_declines_and_the_caller_hears_busy() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    let url = answer_url(&app).await?;
    ensure!(url.starts_with(&fixture.stack.http_url), "{url}");
    for _ in 0..2 {
        let (status, body) = answer(&fixture, &url, "decline").await?;
        assert_eq!(
            (status, &body["status"]),
            (StatusCode::OK, &"declined".into())
        );
    }
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    let call = app.wait_for_status(&id, "declined").await?;
    assert_eq!(call["reason"], "callee_declined");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn each_device_that_rings_is_in_the_history_of_the_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (one, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let (caller, id) = one.is_called().await?;
    for app in [&one, &other] {
        let url = answer_url(app).await?;
        for _ in 0..3 {
            let (status, body) = answer(&fixture, &url, "ringing").await?;
            let expected = (StatusCode::OK, &"waiting_for_mobile".into());
            assert_eq!((status, &body["status"]), expected);
        }
    }
    let call = one.call(&id).await?;
    let history = call["history"].as_array().context("history")?;
    let rang: Vec<&str> = history
        .iter()
        .filter(|line| line["event"] == "ringing")
        .filter_map(|line| line["by"].as_str())
        .collect();
    let expected = [&one, &other].map(|app| format!("1001/{}", app.device));
    assert_eq!(rang, expected);
    let receipt = &call["ring_receipts"][one.device.as_str()];
    assert_eq!(receipt["platform"], "fcm");
    assert!(receipt["time_to_ring_ms"].as_u64().context("time")? < 5_000);
    caller.hang_up().await?;
    one.wait_for_status(&id, "canceled").await?;
    let (status, body) = answer(&fixture, &answer_url(&one).await?, "ringing").await?;
    let expected = (StatusCode::CONFLICT, &"canceled".into());
    assert_eq!((status, &body["status"]), expected);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_after_the_ring_gets_the_status() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (caller, id) = app.is_called().await?;
    let url = answer_url(&app).await?;
    let ends = app.call(&id).await?["expires_at"]
        .as_u64()
        .context("time")?;
    let ends = Timestamp::from_millis(ends);
    sleep(ends.since(ringback::platform::clock::now())).await;
    for action in ["decline", "ringing"] {
        let (status, body) = answer(&fixture, &url, action).await?;
        let expected = (StatusCode::CONFLICT, &"timed_out".into());
        assert_eq!((status, &body["status"]), expected, "{action}");
    }
    assert_eq!(caller.rejected(SOON).await?.0, 486);
    Ok(())
}

/// A token that this deployment did not sign causes no request to the table.
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_token_gets_403_before_the_table_is_asked() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let (_caller, _) = app.is_called().await?;
    let url = answer_url(&app).await?;
    let (base, token) = url.rsplit_once('/').context("a token")?;
    let mut function = ObservedFunction::start(&fixture, "call-response", "trace").await?;
    let foreign = example("call-response-answer-decline")?;
    let foreign = foreign["pathParameters"]["token"].as_str();
    let mut changed = token.to_owned();
    let middle = changed.len() / 2;
    let other = if changed.as_bytes()[middle] == b'A' {
        "B"
    } else {
        "A"
    };
    changed.replace_range(middle..=middle, other);
    let wrong = [foreign.context("a token")?, &changed, &token[1..], "x"];
    for wrong in wrong {
        for action in ["decline", "ringing"] {
            let (status, body) = answer(&fixture, &format!("{base}/{wrong}"), action).await?;
            let expected = (StatusCode::FORBIDDEN, &"bad_answer_token".into());
            assert_eq!((status, &body["code"]), expected, "{wrong}");
            let mut event = example("call-response-answer-decline")?;
            event["pathParameters"]["token"] = wrong.into();
            let (answer, requests) = function.invoke_full(&event).await?;
            assert_eq!(answer["statusCode"], 403);
            let requests = requests.to_string();
            ensure!(!requests.contains("DynamoDB"), "{requests}");
        }
    }
    // For `secrecy.rs`: a valid token does not appear in a log of level `trace` either.
    let mut event = example("call-response-answer-ringing")?;
    event["pathParameters"]["token"] = token.into();
    let path = json!(format!("/api/answers/{token}"));
    event["requestContext"]["http"]["path"] = path.clone();
    event["rawPath"] = path;
    function.invoke(&event).await?;
    let (status, body) = answer(&fixture, &url, "accept").await?;
    let expected = (StatusCode::BAD_REQUEST, &"bad_field".into());
    assert_eq!((status, &body["code"]), expected);
    assert_eq!(answer(&fixture, &url, "decline").await?.0, StatusCode::OK);
    Ok(())
}

/// One device declines with its push's URL while another one accepts.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_decline_by_token_and_an_accept_one_wins() -> Result<()> {
    const RACES: u64 = 50;
    let fixture = Fixture::open().await?;
    let (one, other) = (fixture.app("1001").await?, fixture.app("1001").await?);
    let mut accepts = 0;
    for race in 0..RACES {
        let sid = call_sid();
        let number = fixture.number_of("1001");
        let (status, answered) = fixture.passthru(&sid, CALLER, number).await?;
        ensure!(status == StatusCode::OK, "{answered}");
        let id = answered["call_id"].as_str().context("id")?.to_owned();
        let url = url_for(&fixture, &one, &id).await?;
        let (declined, accepted) = tokio::join!(
            async {
                sleep(Duration::from_millis(race % 5)).await;
                answer(&fixture, &url, "decline").await
            },
            async {
                sleep(Duration::from_millis(race / 10)).await;
                other.respond("accept_ready", &id).await
            },
        );
        let ((declined, _), (accepted, body)) = (declined?, accepted?);
        let status = one.call(&id).await?["status"].clone();
        let has_accepted = accepted != StatusCode::CONFLICT;
        accepts += u64::from(has_accepted);
        if has_accepted {
            assert_eq!(declined, StatusCode::CONFLICT, "{body}");
            assert_ne!(status, "declined");
            other.respond("hangup", &id).await?;
        } else {
            assert_eq!((declined, status), (StatusCode::OK, "declined".into()));
        }
    }
    println!("{accepts} of {RACES} races were won by the accept");
    Ok(())
}

async fn url_for(fixture: &Fixture, app: &App<'_>, call: &str) -> Result<String> {
    let pushes = fixture.pushes_to(&app.push_token).await?;
    let mut pushes = pushes.iter().map(|push| &push["data"]);
    let push = pushes.find(|data| data["call_id"] == call && data["type"] == "incoming_call");
    let url = push.and_then(|data| data["answer_url"].as_str());
    Ok(url.context("no push")?.to_owned())
}

/// Several devices report at the same moment.
#[tokio::test(flavor = "multi_thread")]
async fn devices_that_report_at_once_are_all_recorded() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut apps = Vec::new();
    for _ in 0..5 {
        apps.push(fixture.app("1001").await?);
    }
    let (caller, id) = apps[0].is_called().await?;
    let urls = join_all(apps.iter().map(answer_url)).await;
    let urls: Vec<String> = urls.into_iter().collect::<Result<_>>()?;
    let reports = urls.iter().map(|url| answer(&fixture, url, "ringing"));
    for report in join_all(reports).await {
        let (status, body) = report?;
        ensure!(status == StatusCode::OK, "{body}");
    }
    let call = apps[0].call(&id).await?;
    assert_eq!(
        call["ring_receipts"].as_object().map(serde_json::Map::len),
        Some(5)
    );
    caller.hang_up().await?;
    Ok(())
}
