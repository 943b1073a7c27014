//! The list of an extension's recent calls.

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{App, Fixture, SOON};
use ringback_e2e::observed_function::{ObservedFunction, example};

/// Waits until the newest calls of the app's extension are these, and returns them. The list follows the table's stream.
async fn newest(app: &App<'_>, ids: &[&str]) -> Result<Vec<Value>> {
    let path = format!("/api/calls?extension={}&limit={}", app.extension, ids.len());
    let deadline = Instant::now() + SOON;
    loop {
        let (status, answer) = app.ask(Method::GET, &path, None).await?;
        ensure!(status == StatusCode::OK, "{status}: {answer}");
        let calls = answer["calls"].as_array().context("no calls")?;
        if calls.iter().map(|call| &call["call_id"]).eq(ids) {
            return Ok(calls.clone());
        }
        if Instant::now() > deadline {
            bail!("not {ids:?}: {answer:#}");
        }
        sleep(std::time::Duration::from_millis(50)).await;
    }
}

/// A call that its caller gives up.
async fn missed_call(app: &App<'_>) -> Result<String> {
    let (caller, id) = app.is_called().await?;
    caller.cancel().await?;
    app.wait_for_status(&id, "canceled").await?;
    Ok(id)
}

#[tokio::test(flavor = "multi_thread")]
async fn recent_calls_come_newest_first_in_pages_and_in_the_form_of_a_single_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    // The next call must find no push of this one.
    let ids = [
        missed_call(&fixture.app("1001").await?).await?,
        missed_call(&fixture.app("1001").await?).await?,
        missed_call(&fixture.app("1001").await?).await?,
    ];
    let app = fixture.unregistered_app("1001");
    let [oldest, middle, latest] = ids.each_ref().map(String::as_str);
    let calls = newest(&app, &[latest, middle, oldest]).await?;
    for call in &calls {
        let mut alone = app.call(call["call_id"].as_str().unwrap()).await?;
        alone.as_object_mut().unwrap().remove("success");
        assert_eq!(*call, alone);
    }

    let mut next = String::new();
    for id in [latest, middle, oldest] {
        let path = format!("/api/calls?extension=1001&limit=1{next}");
        let (status, answer) = app.ask(Method::GET, &path, None).await?;
        assert_eq!((status, &answer["success"]), (StatusCode::OK, &true.into()));
        assert_eq!(answer["calls"].as_array().map(Vec::len), Some(1));
        assert_eq!(answer["calls"][0]["call_id"], id);
        if let Some(token) = answer["next"].as_str() {
            next = format!("&next={token}");
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_between_two_extensions_is_in_both_lists_while_it_rings() -> Result<()> {
    let fixture = Fixture::open().await?;
    let (caller, callee) = (fixture.app("1001").await?, fixture.app("1002").await?);
    let _phone = fixture.registered_phone("1001").await?;
    let mut client = fixture.client("1001").await?;
    client
        .send(json!({ "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "voice" }))
        .await?;
    let initiated = next_of_type(&mut client, "call_initiated").await?;
    let id = initiated["data"]["callId"].as_str().context("no id")?;
    for app in [&caller, &callee] {
        let calls = newest(app, &[id]).await?;
        assert_eq!(calls[0]["status"], "waiting_for_mobile");
        assert_eq!(calls[0]["caller_number"], "1001");
        assert_eq!(calls[0]["extension"], "1002");
    }
    assert_eq!(caller.respond("hangup", id).await?.0, StatusCode::OK);
    let calls = newest(&callee, &[id]).await?;
    assert_eq!(calls[0]["status"], "canceled");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invalid_request_for_a_list_is_refused_with_the_reason() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    for (query, status, field) in [
        ("", 400, "extension"),
        ("?extension=10/01", 400, "extension"),
        ("?extension=1001&limit=0", 400, "limit"),
        ("?extension=1001&limit=101", 400, "limit"),
        ("?extension=1001&limit=ten", 400, "limit"),
        ("?extension=1001&next=", 400, "next"),
        ("?extension=1001&next=REVWSUNFI3g", 400, "next"),
        ("?extension=1002", 403, "extension"),
    ] {
        let path = format!("/api/calls{query}");
        let (found, answer) = app.ask(Method::GET, &path, None).await?;
        assert_eq!(found, status, "{query}: {answer}");
        let error = answer["error"].as_str().context("no error")?;
        ensure!(error.contains(field), "{query}: {error}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_costs_one_query_and_one_read_of_its_calls() -> Result<()> {
    let fixture = Fixture::open().await?;
    let first = missed_call(&fixture.app("1001").await?).await?;
    let app = fixture.app("1001").await?;
    let second = missed_call(&app).await?;
    newest(&app, &[&second, &first]).await?;
    let mut function = ObservedFunction::start(&fixture, "call-status", "info").await?;
    let mut event = example("call-status-list")?;
    event["headers"]["authorization"] = format!("Bearer {}", app.token).into();
    event["rawQueryString"] = "extension=1001&limit=1".into();
    // The newest calls reset the count of missed calls.
    let expected: [&[&str]; 2] = [
        &["BatchGetItem", "DeleteItem", "Query"],
        &["BatchGetItem", "Query"],
    ];
    for expected in expected {
        let (answer, timeline) = function.invoke_full(&event).await?;
        ensure!(answer["statusCode"] == 200, "{answer}");
        let targets = timeline.aws.iter().filter_map(|request| {
            let target = request.headers.get("x-amz-target")?.to_str().ok()?;
            target.strip_prefix("DynamoDB_20120810.")
        });
        let mut targets: Vec<_> = targets.collect();
        targets.sort_unstable();
        assert_eq!(targets, expected);
        let body: Value = serde_json::from_str(answer["body"].as_str().context("body")?)?;
        let next = body["next"].as_str().context("no next page")?;
        event["rawQueryString"] = format!("extension=1001&limit=1&next={next}").into();
    }
    Ok(())
}
