//! `ringback smoke` on the real stack: a call passes, and each fault is found in the step that it breaks.

use anyhow::{Context, Result};
use ringback_e2e::fixture::Fixture;
use ringback_e2e::pbx::ChangedFile;
use ringback_local::settings::STACK_NAME;
use serde_json::{Value, json};

use ringback_e2e::ringback_command::{Outcome, Ringback};

/// The site file with the endpoint at which the PBX calls itself, and the module that reads it.
const SMOKE: (&str, &str) = ("ringback-site/smoke.conf", "res_pjsip.so");
const DIALPLAN: (&str, &str) = ("extensions.conf", "pbx_config.so");

/// One after another: the route and the PBX's endpoint are the same in all tests.
#[tokio::test(flavor = "multi_thread")]
async fn a_deployment_is_tested_with_a_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    passes_at_each_pbx(&ringback).await?;
    fails_if_the_number_leads_elsewhere(&ringback).await?;
    fails_without_the_endpoint(&fixture, &ringback).await?;
    fails_with_the_cause_if_ari_is_not_reached(&fixture, &ringback).await?;
    fails_if_the_phone_does_not_answer(&fixture, &ringback).await?;
    fails_if_the_hook_is_rejected(&fixture, &ringback).await
}

async fn passes_at_each_pbx(ringback: &Ringback) -> Result<()> {
    let passed = ringback.run(&["smoke"]).await?;
    for expected in [
        "voice call from Ringback smoke, 000000 to ringback-smoke",
        "an app accepts and is ready (ringback-smoke/smoke-",
        "the legs are bridged: both sides talk",
        "leg ends (answered",
        "Passed: ",
    ] {
        assert!(passed.succeeds().contains(expected), "{passed:?}");
    }
    let second = ringback.run(&["smoke", "--pbx", "pbx2", "--json"]).await?;
    let document = second.document()?;
    assert_eq!(document["passed"], true);
    assert_eq!(document["call"]["status"], "completed");
    leaves_nothing(ringback).await?;
    let unknown = ringback.run(&["smoke", "--pbx", "pbx9", "--json"]).await?;
    unknown.fails(2, "AriUrl lists no PBX pbx9, only pbx1, pbx2.");
    Ok(())
}

async fn fails_if_the_number_leads_elsewhere(ringback: &Ringback) -> Result<()> {
    let set = ["route", "set", "000000", "1009"];
    ringback.run(&set).await?.succeeds();
    let failed = ringback.run(&["smoke", "--json"]).await?;
    assert_eq!(failed_step(&failed, 1)?, "route");
    assert!(failed.stderr.contains("leads to 1009"), "{failed:?}");
    let remove = ["route", "remove", "000000"];
    let removed = ringback.run(&remove).await?;
    assert_eq!(removed.succeeds(), "000000 removed (was 1009)\n");
    Ok(())
}

async fn fails_without_the_endpoint(fixture: &Fixture, ringback: &Ringback) -> Result<()> {
    let (name, module) = SMOKE;
    let change = ChangedFile::change(fixture, 1, name, Some(module), |_| String::new()).await?;
    let failed = ringback.run(&["smoke", "--pbx", "pbx2", "--json"]).await;
    change.undo().await?;
    let failed = failed?;
    assert_eq!(failed_step(&failed, 1)?, "originate");
    assert!(failed.stderr.contains("smoke.conf.example"), "{failed:?}");
    leaves_nothing(ringback).await
}

async fn fails_with_the_cause_if_ari_is_not_reached(
    fixture: &Fixture,
    ringback: &Ringback,
) -> Result<()> {
    let endpoint = &fixture.stack.aws.endpoint;
    let url = format!("{endpoint}/2015-03-31/functions/{STACK_NAME}-smoke/configuration");
    let put = async |variables: &Value| {
        let body = json!({ "Environment": { "Variables": variables } });
        let answer = fixture.http.put(&url).json(&body).send().await?;
        anyhow::Ok(answer.error_for_status()?)
    };
    let before: Value = fixture.http.get(&url).send().await?.json().await?;
    let before = &before["Environment"]["Variables"];
    let mut after = before.clone();
    after["ARI_URL"] = "pbx1=https://127.0.0.1:9/ari".into();
    put(&after).await?;
    let failed = ringback.run(&["smoke", "--json"]).await;
    put(before).await?;
    let failed = failed?;
    assert_eq!(failed_step(&failed, 1)?, "originate");
    for part in ["Connection refused", "`ringback --local doctor`"] {
        assert!(failed.stderr.contains(part), "{failed:?}");
    }
    leaves_nothing(ringback).await
}

async fn fails_if_the_phone_does_not_answer(fixture: &Fixture, ringback: &Ringback) -> Result<()> {
    let (name, module) = DIALPLAN;
    let silent =
        |text: &str| text.replace("ringback-smoke,1,Answer()", "ringback-smoke,1,Hangup(20)");
    let change = ChangedFile::change(fixture, 1, name, Some(module), silent).await?;
    let failed = ringback.run(&["smoke", "--pbx", "pbx2", "--json"]).await;
    change.undo().await?;
    let failed = failed?;
    assert_eq!(failed_step(&failed, 1)?, "bridge");
    assert!(
        failed.stderr.contains("an app accepts and is ready"),
        "{failed:?}"
    );
    leaves_nothing(ringback).await
}

async fn fails_if_the_hook_is_rejected(fixture: &Fixture, ringback: &Ringback) -> Result<()> {
    let (name, module) = ("ringback-site/dialplan.conf", "pbx_config.so");
    let wrong =
        |text: &str| text.replace("RINGBACK_HOOK_SECRET = ", "RINGBACK_HOOK_SECRET = wrong");
    let change = ChangedFile::change(fixture, 1, name, Some(module), wrong).await?;
    let failed = ringback.run(&["smoke", "--pbx", "pbx2", "--json"]).await;
    change.undo().await?;
    let failed = failed?;
    assert_eq!(failed_step(&failed, 1)?, "arrive");
    assert!(failed.stderr.contains("RINGBACK_HOOK_SECRET"), "{failed:?}");
    leaves_nothing(ringback).await
}

/// The step in the error, which is the last line on stderr.
fn failed_step(failed: &Outcome, code: i32) -> Result<String> {
    assert_eq!(
        (failed.code, failed.stdout.as_str()),
        (code, ""),
        "{failed:?}"
    );
    let error: Value = serde_json::from_str(failed.stderr.lines().last().context("no error")?)?;
    assert_eq!(error["exit_code"], json!(code));
    Ok(error["step"].as_str().context("no step")?.to_owned())
}

async fn leaves_nothing(ringback: &Ringback) -> Result<()> {
    let listed = ringback.run(&["route", "list"]).await?;
    assert!(!listed.succeeds().contains("ringback-smoke"), "{listed:?}");
    Ok(())
}
