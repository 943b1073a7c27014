//! The command `ringback`, started as a user starts it: what it prints where, its exit codes, and what the deployment then has.

mod interceptor;
mod pbx;
mod smoke;

use std::panic::{AssertUnwindSafe, resume_unwind};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use reqwest::Method;
use ringback_e2e::fixture::{Fixture, SOON, unused_mobile_number};
use ringback_e2e::ringback_command::{Ringback, binary};
use serde_json::{Value, json};

use crate::access::tokens::{Secrets, claims_of, hs256, with};

#[tokio::test(flavor = "multi_thread")]
async fn a_minted_token_is_accepted_and_stands_alone_on_stdout() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let status = async |token: &str, path: &str| {
        let url = format!("{}{path}", fixture.stack.http_url);
        let request = fixture.http.get(url).bearer_auth(token);
        anyhow::Ok(request.send().await?.status().as_u16())
    };
    let app = ringback
        .run(&["token", "--extension", "1001", "--for", "1m"])
        .await?;
    let token = app.succeeds().trim();
    assert_eq!(app.stderr, "");
    assert_eq!(status(token, "/api/calls?extension=1001").await?, 200);
    assert_eq!(status(token, "/api/calls?extension=1002").await?, 403);
    assert_eq!(status(token, "/api/admin/numbers").await?, 403);
    let admin = ringback
        .run(&["token", "--role", "admin", "--json"])
        .await?;
    let admin = admin.document()?;
    let token = admin["token"].as_str().context("a token")?;
    assert_eq!(status(token, "/api/admin/numbers").await?, 200);

    let too_long = ["token", "--role", "admin", "--for", "2d"];
    ringback.run(&too_long).await?.fails(2, "at most 24h");
    let wrong = ["token", "--extension", "10 01"];
    ringback.run(&wrong).await?.fails(2, "extension");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_and_telephones_are_listed_set_and_removed() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let number = unused_mobile_number();
    let national = format!("0{}", &number[3..]);
    for (extension, printed) in [
        ("1001", format!("{number} → 1001\n")),
        ("1001", format!("{number} → 1001, as before\n")),
        ("1002", format!("{number} → 1002 (was 1001)\n")),
    ] {
        let set = ringback
            .run(&["route", "set", &national, extension])
            .await?;
        assert_eq!(set.succeeds(), printed);
    }
    let silent = ["route", "set", &national, "no-device"];
    let silent = ringback.run(&silent).await?;
    silent.succeeds();
    let warning = "no-device has no device: nothing rings until an app registers.\n";
    assert_eq!(silent.stderr, warning);
    let app = fixture.app("1002").await?;
    let rings = ["route", "set", &national, &app.extension];
    let rings = ringback.run(&rings).await?;
    assert_eq!((rings.succeeds().is_empty(), &*rings.stderr), (false, ""));
    let listed = ringback.run(&["route", "list"]).await?;
    let line = listed
        .succeeds()
        .lines()
        .find(|line| line.contains(&*number));
    assert!(
        line.is_some_and(|line| line.ends_with("  1002")),
        "{line:?}"
    );
    let removed = ringback.run(&["route", "remove", &number]).await?;
    assert_eq!(removed.succeeds(), format!("{number} removed (was 1002)\n"));
    let again = ringback.run(&["route", "remove", &number]).await?;
    again.fails(1, "There is no entry");
    let wrong = ringback.run(&["route", "set", "hello", "1001"]).await?;
    wrong.fails(1, "number must be a telephone number");

    let set = ["telephone", "set", "cli-test", "09800001099"];
    let set = ringback.run(&set).await?;
    assert_eq!(set.succeeds(), "cli-test → +919800001099\n");
    let forbidden = ["telephone", "set", "cli-test", "+14155550123"];
    let forbidden = ringback.run(&forbidden).await?;
    forbidden.fails(1, "must be one that apps may call");
    let removed = ["telephone", "remove", "cli-test", "--json"];
    let removed = ringback.run(&removed).await?.document()?;
    assert_eq!(removed["removed"]["number"], "+919800001099");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_is_applied_and_another_admins_change_is_not_undone() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let (one, two) = (unused_mobile_number(), unused_mobile_number());
    let set = ringback.run(&["route", "set", &two, "1002"]).await?;
    set.succeeds();
    let file = format!("numbers:\n  {one}: 1001\n  {two}: 1003\n");
    ringback.file("routes.yaml", &file)?;
    let apply = ["route", "apply", "routes.yaml"];

    let dry = ringback
        .run(&["route", "apply", "routes.yaml", "--dry-run"])
        .await?;
    for expected in [
        format!("add     route  {one}  → 1001\n"),
        format!("change  route  {two}  → 1003 (was 1002)\n"),
        "2 changes would be made".to_owned(),
    ] {
        assert!(dry.succeeds().contains(&expected), "{dry:?}");
    }
    let listed = ringback.run(&["route", "list"]).await?;
    assert!(!listed.succeeds().contains(&*one), "a dry run has written");

    let mut slow = fixture.stack.clone();
    slow.http_url = interceptor::start(&fixture.stack).await?;
    let slow = Ringback::with(Some(&slow))?;
    slow.file("routes.yaml", &file)?;
    let refused = slow.run(&apply).await?;
    refused.fails(1, "(it is 1009 now), so it was left as it is");
    refused.fails(1, "0 of 2 changes are made: run the command again");

    let applied = ringback.run(&apply).await?;
    assert!(applied.succeeds().contains("2 changes made"), "{applied:?}");
    let again = ["route", "apply", "routes.yaml", "--json"];
    let again = ringback.run(&again).await?.document()?;
    assert_eq!(
        (&again["changes"], &again["unchanged"]),
        (&json!([]), &json!(2))
    );
    for number in [&one, &two] {
        ringback.run(&["route", "remove", number]).await?.succeeds();
    }
    ringback.file("routes.yaml", "routes: []\n")?;
    ringback.run(&apply).await?.fails(2, "--help");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_told_in_words_listed_and_seen_as_it_happens() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let app = fixture.app("1001").await?;
    let mut tail = ringback.start(&["call", "tail", "--extension", "1001", "--json"])?;
    assert_eq!(tail.note(SOON).await?, "connected");
    let (_caller, id) = app.is_called().await?;
    loop {
        let update = tail.document(SOON).await?;
        assert_eq!(update["type"], "call_status_update");
        if update["data"]["callId"] == *id {
            break;
        }
    }
    app.respond("decline", &id).await?;
    app.wait_for_status(&id, "declined").await?;
    tail.stop().await?;

    let shown = ringback.run(&["call", "show", &id]).await?;
    for expected in [
        "+0.00 s  ",
        "a device declines",
        "Ended: the callee declined.",
    ] {
        assert!(shown.succeeds().contains(expected), "{shown:?}");
    }
    let unknown = ["call", "show", "0193512d-7f1c-8a10-b3c5-2f9d6c1e4a77"];
    ringback.run(&unknown).await?.fails(1, "404");
    // A new call is in the list about a second after it began.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let list = ["call", "list", "--extension", "1001", "--since", "10m"];
    let listed = ringback.run(&list).await?;
    assert!(listed.succeeds().contains(&*id), "{listed:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_read_from_stdin_merged_checked_and_rotated() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let before = fixture.secret("webhook").await?;
    let outcome = async {
        let set = ["secret", "set", "webhook", "webhook_secret_previous"];
        let changed = ringback.run_with_stdin(&set, "hush-0123456789\n").await?;
        let printed = "ringback-local/webhook: webhook_secret_previous changed.\n";
        assert_eq!(changed.succeeds(), printed);
        ensure!(changed.stderr.contains("after a minute"), "{changed:?}");
        let set = fixture.secret("webhook").await?;
        assert_eq!(set["webhook_secret_previous"], "hush-0123456789");
        assert_eq!(set["webhook_secret"], before["webhook_secret"]);

        let rotate = ["secret", "rotate", "webhook"];
        ringback.run(&rotate).await?.fails(1, "--finish");
        let finish = ["secret", "rotate", "webhook", "--finish"];
        ringback.run(&finish).await?.succeeds();
        let rotate = ["secret", "rotate", "webhook", "--print"];
        let printed = ringback.run(&rotate).await?;
        let rotated = fixture.secret("webhook").await?;
        assert_eq!(rotated["webhook_secret"], printed.succeeds().trim());
        assert_eq!(rotated["webhook_secret_previous"], before["webhook_secret"]);
        anyhow::Ok(())
    };
    // The other tests need the old secret, also if an assertion fails.
    let outcome = AssertUnwindSafe(outcome).catch_unwind().await;
    let original = before.to_string();
    fixture.put_secret("webhook", &original).await?;
    outcome.unwrap_or_else(|panic| resume_unwind(panic))?;

    let set = ["secret", "set", "fcm"];
    let malformed = ringback.run_with_stdin(&set, r#"{"key":"hush"}"#).await?;
    malformed.fails(2, "needs project_id");
    let set = ["secret", "set", "exotel", "sid"];
    let wrong_field = ringback.run_with_stdin(&set, "hush").await?;
    wrong_field.fails(2, "has no field sid");
    for outcome in [malformed, wrong_field] {
        assert!(!outcome.stderr.contains("hush"), "{outcome:?}");
    }
    let rotate = ["secret", "rotate", "exotel"];
    ringback.run(&rotate).await?.fails(2, "secret set exotel");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_the_other_side_refuses_is_set_and_reported() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let before = fixture.secret("asterisk").await?.to_string();
    let set = ["secret", "set", "asterisk", "ari_password"];
    let wrong = ringback.run_with_stdin(&set, "wrong").await;
    let after = fixture.secret("asterisk").await;
    let set = ["--json", "secret", "set", "asterisk"];
    let restored = ringback.run_with_stdin(&set, &before).await;
    let wrong = wrong?;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    for part in [
        "asterisk: ari_password changed.",
        "ari_password  pbx1\n",
        "`ringback --local secret set asterisk`",
    ] {
        assert!(wrong.stdout.contains(part), "{wrong:?}");
    }
    assert_eq!(after?["ari_password"], "wrong");
    let restored = restored?.document()?;
    assert_eq!(restored["changed"], json!(["ari_password"]));
    assert_eq!(restored["findings"], Value::Null);
    Ok(())
}

#[test]
fn a_reader_that_has_seen_enough_ends_the_command_quietly() -> Result<()> {
    let mut ringback = std::process::Command::new(binary()?)
        .args(["completions", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    drop(ringback.stdout.take());
    let ended = ringback.wait_with_output()?;
    let stderr = String::from_utf8(ended.stderr)?;
    assert_eq!((ended.status.code(), &*stderr), (Some(0), ""));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_has_a_sentence_on_stderr_and_its_exit_code() -> Result<()> {
    let fixture = Fixture::open().await?;
    let elsewhere = Ringback::with(None)?;
    let list = ["route", "list"];
    elsewhere
        .run(&list)
        .await?
        .fails(3, "Start it with `make up`");
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let unknown = ["--stack", "unknown", "route", "list"];
    let unknown = ringback.run(&unknown).await?;
    unknown.fails(3, "There is no stack unknown in ap-south-1: deploy it with");
    let elsewhere = ["--region", "eu-west-1", "route", "list"];
    let elsewhere = ringback.run(&elsewhere).await?;
    elsewhere.fails(2, "The local stack has no region eu-west-1");
    ringback
        .run(&["route", "lists"])
        .await?
        .fails(2, "unrecognized");

    let secrets = Secrets::of(&fixture).await?;
    let claims = claims_of(&fixture.stack.admin.token)?;
    let expired = with(&claims, "exp", json!(1_732_175_943));
    let expired = hs256(&expired, secrets.get("app", "jwt_secret")?)?;
    let expired = ["--json", "route", "list", "--token", &expired];
    let expired = ringback.run(&expired).await?;
    expired.fails(1, "ringback --local token");
    let error: Value = serde_json::from_str(&expired.stderr)?;
    assert_eq!(error["exit_code"], 1);
    let tail = ["call", "tail", "--token", "e30.e30.e30"];
    ringback
        .run(&tail)
        .await?
        .fails(1, "ringback --local token");

    let mut away = fixture.stack.clone();
    away.http_url = "http://127.0.0.1:9".to_owned();
    away.ws_url = "ws://127.0.0.1:9".to_owned();
    let away = Ringback::with(Some(&away))?;
    away.run(&list).await?.fails(3, "cannot be reached");
    away.run(&["call", "tail"])
        .await?
        .fails(3, "cannot be reached");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn devices_are_listed_and_a_test_push_says_what_the_service_answers() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let app = fixture.app("1001").await?;
    let list = ["device", "list", "--extension", "1001", "--json"];
    let listed = ringback.run(&list).await?;
    assert!(!listed.stdout.contains(&app.push_token), "{listed:?}");
    let document = listed.document()?;
    let devices = document["devices"].as_array().context("no devices")?;
    let device = devices.iter().find(|it| it["device_id"] == *app.device);
    assert_eq!(device.context("not listed")?["platforms"], json!(["fcm"]));

    let test = ["device", "push-test", "--extension", "1001", &app.device];
    let tested = ringback.run(&test).await?;
    assert_eq!(tested.succeeds(), "fcm  accepted by fcm\n");
    app.push("call_cancelled").await?;
    assert_eq!(app.count_pushes("incoming_call").await?, 0);

    let unregistered = json!({ "tokens": { (app.push_token.as_str()): "UNREGISTERED" } });
    fixture.fcm_behaves(&unregistered).await?;
    let refused = ringback.run(&test).await;
    fixture.fcm_behaves(&json!({})).await?;
    refused?.fails(1, "fcm: the push address has expired");
    let unknown = ["device", "push-test", "--extension", "1002", &app.device];
    let unknown = ringback.run(&unknown).await?;
    unknown.fails(1, "1002 has no device");

    let client = fixture.unregistered_app("1001");
    let path = format!("/api/devices/{}", client.device);
    let no_address = json!({ "extension": "1001", "addresses": [] });
    client.ask(Method::PUT, &path, Some(no_address)).await?;
    let without = ["device", "push-test", "--extension", "1001", &client.device];
    let without = ringback.run(&without).await?;
    without.fails(1, "has no push address to test");
    Ok(())
}
