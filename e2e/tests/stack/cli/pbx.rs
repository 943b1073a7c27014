//! `ringback pbx`: the site files that it writes, and each mistake that it finds in the second PBX of the running stack.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use axum::Router;
use axum::http::StatusCode;
use reqwest::Method;
use ringback_e2e::fixture::Fixture;
use ringback_e2e::pbx::{ChangedFile, asterisk_command, change_module, configuration_folder};
use ringback_local::settings::Settings;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use ringback_e2e::ringback_command::Ringback;

const PBX: usize = 1;
const DIALPLAN: &str = "ringback-site/dialplan.conf";
/// Reads the dialplan's files.
const PBX_CONFIG: Option<&str> = Some("pbx_config.so");

/// The second PBX, which `ringback pbx check` looks at.
struct Checked<'a> {
    fixture: &'a Fixture,
    ringback: Ringback,
    folder: PathBuf,
    asterisk: String,
}

impl Checked<'_> {
    /// The kinds of the mistakes that the command finds, and what it prints.
    async fn mistakes(&self) -> Result<(Vec<String>, String)> {
        let folder = self.folder.to_str().context("the folder is not UTF-8")?;
        let check = [
            "pbx",
            "check",
            "--json",
            "--config",
            folder,
            "--asterisk",
            &self.asterisk,
        ];
        let outcome = self.ringback.run(&check).await?;
        let document: Value =
            serde_json::from_str(&outcome.stdout).with_context(|| format!("{outcome:?}"))?;
        let mistakes = document["mistakes"].as_array().context("no list")?.iter();
        let kinds: Vec<String> = mistakes
            .filter_map(|mistake| mistake["kind"].as_str().map(str::to_owned))
            .collect();
        assert_eq!(outcome.code, i32::from(!kinds.is_empty()), "{outcome:?}");
        Ok((kinds, outcome.stdout))
    }

    /// Checks that this change of a file is the one mistake that is found.
    async fn finds(
        &self,
        kind: &str,
        file: &str,
        module: Option<&'static str>,
        change: impl Fn(&str) -> String,
    ) -> Result<()> {
        let changed = ChangedFile::change(self.fixture, PBX, file, module, change).await?;
        let found = self.mistakes().await;
        changed.undo().await?;
        let (kinds, printed) = found?;
        let is_it = !kinds.is_empty() && kinds.iter().all(|found| found == kind);
        ensure!(is_it, "not {kind}: {printed}");
        Ok(())
    }

    async fn finds_in_dialplan(&self, kind: &str, from: &str, to: &str) -> Result<()> {
        let change = |text: &str| text.replace(from, to);
        self.finds(kind, DIALPLAN, PBX_CONFIG, change).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_mistake_in_a_pbx_is_found() -> Result<()> {
    let fixture = Fixture::open().await?;
    let folder = configuration_folder(&fixture, PBX);
    let script = folder.join("check-site.sh");
    let pbx = Checked {
        asterisk: asterisk_command(&fixture, PBX)?,
        ringback: Ringback::with(None)?,
        fixture: &fixture,
        folder,
    };
    // An earlier run of this test has copied it.
    let _missing = std::fs::remove_file(&script);
    assert_eq!(pbx.mistakes().await?.0, ["site_check"]);
    let shipped = Settings::from_environment()
        .repository()
        .join("asterisk/check-site.sh");
    std::fs::copy(shipped, script)?;
    let (none, printed) = pbx.mistakes().await?;
    assert!(none.is_empty(), "{printed}");

    let transfers = |text: &str| format!("{text}\n[1001](+)\nallow_transfer = yes\n");
    pbx.finds("site_file", "ringback-site/phones.conf", None, transfers)
        .await?;
    let renamed = |text: &str| text.replace("[ringback-phones]", "[phones]");
    pbx.finds("contexts", "extensions.conf", PBX_CONFIG, renamed)
        .await?;
    let password = |text: &str| text.replace("password = ", "password = x");
    pbx.finds("ari_user", "ringback-site/ari.conf", None, password)
        .await?;
    let elsewhere = |text: &str| text.replace("bindport = ", "bindport = 1");
    pbx.finds("ari_port", "ringback-site/http.conf", None, elsewhere)
        .await?;
    let elsewhere = |text: &str| text.replace(":5071", ":5072");
    pbx.finds("port", "ringback-site/transports.conf", None, elsewhere)
        .await?;
    let expiring = expiring_certificate()?;
    pbx.finds("certificate", "tls.pem", None, |_| expiring.clone())
        .await?;
    pbx.finds("certificate", "tls-with-key.pem", None, |_| {
        "none\n".to_owned()
    })
    .await?;

    let (url, clock) = (&fixture.stack.http_url, with_another_clock().await?);
    let secret = ["RINGBACK_HOOK_SECRET = ", "RINGBACK_HOOK_SECRET = wrong"];
    pbx.finds_in_dialplan("hook_secret", secret[0], secret[1])
        .await?;
    pbx.finds_in_dialplan("hook_url", url, "http://127.0.0.1:9")
        .await?;
    let not_ringback = fixture.stack.requests.fcm.replace("/requests", "");
    pbx.finds_in_dialplan("hook_url", url, &not_ringback)
        .await?;
    pbx.finds_in_dialplan("pbx_name", "= pbx2", "= pbx9")
        .await?;
    pbx.finds_in_dialplan("clock", url, &clock).await?;

    let module = "res_pjsip_dtmf_info.so";
    change_module(&fixture, PBX, Method::DELETE, module).await?;
    let found = pbx.mistakes().await;
    change_module(&fixture, PBX, Method::POST, module).await?;
    let (kinds, printed) = found?;
    assert_eq!(kinds, ["modules"], "{printed}");
    assert!(printed.contains(module), "{printed}");

    let stopped = Checked {
        asterisk: "false".to_owned(),
        ..pbx
    };
    assert_eq!(stopped.mistakes().await?.0, ["asterisk"]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn site_files_are_written_once_and_complete() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let init = |more: &[&'static str]| {
        let mut words = vec![
            "pbx",
            "init",
            "--trunk",
            "203.0.113.7",
            "--extension",
            "1001",
        ];
        words.extend(more);
        words
    };
    ringback
        .run(&init(&[]))
        .await?
        .fails(2, "say which one this is");
    let wrong = ringback.run(&init(&["--name", "pbx9"])).await?;
    wrong.fails(2, "AriUrl lists no PBX pbx9");
    let loopback = ["pbx", "init", "--trunk", "127.0.0.1", "--name", "pbx2"];
    ringback.run(&loopback).await?.fails(2, "the PBX itself");
    let written = ringback.run(&init(&["--name", "pbx2"])).await?;
    assert!(written.succeeds().contains("Wrote 10 files"), "{written:?}");
    let again = ringback.run(&init(&["--name", "pbx2"])).await?;
    again.fails(1, "exists already, and nothing was written");

    let site = ringback.path("ringback-site");
    let script = Settings::from_environment()
        .repository()
        .join("asterisk/check-site.sh");
    let checked = std::process::Command::new(script).arg(&site).output()?;
    ensure!(checked.status.success(), "{checked:?}");
    let read = |name: &str| std::fs::read_to_string(site.join(name));
    let ari = &fixture.stack.ari;
    let expected = format!(
        "[{}]\ntype = user\nread_only = no\npassword = {}\n",
        ari.username, ari.password
    );
    assert!(read("ari.conf")?.ends_with(&expected));
    let dialplan = read("dialplan.conf")?;
    let secret = &fixture.stack.headers.asterisk["X-Ringback-Secret"];
    for line in [
        format!("RINGBACK_HOOK_SECRET = {secret}\n"),
        "\nRINGBACK_PBX = pbx2\n".to_owned(),
        format!("RINGBACK_HOOK_URL = {}\n", fixture.stack.http_url),
    ] {
        assert!(dialplan.contains(&line), "{line}");
    }
    assert!(read("trunk.conf")?.ends_with("match = 203.0.113.7\n"));
    assert!(read("phones.conf")?.contains("[1001](phone-auth)\nusername = 1001\npassword = "));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn new_credentials_of_ari_are_merged_into_the_secret() -> Result<()> {
    let fixture = Fixture::open().await?;
    let ringback = Ringback::with(Some(&fixture.stack))?;
    let before = fixture.secret("asterisk").await?.to_string();
    let kept = r#"{"ari_ca_pem":"kept"}"#;
    fixture.put_secret("asterisk", kept).await?;
    let init = [
        "pbx",
        "init",
        "--trunk",
        "203.0.113.7",
        "--name",
        "pbx1",
        "--set-secret",
    ];
    let written = ringback.run(&init).await;
    let after = fixture.secret("asterisk").await;
    fixture.put_secret("asterisk", &before).await?;
    written?.succeeds();
    let after = after?;
    let ari = std::fs::read_to_string(ringback.path("ringback-site/ari.conf"))?;
    let password = after["ari_password"].as_str().context("no password")?;
    ensure!(ari.contains(&format!("password = {password}\n")), "{ari}");
    assert_eq!(
        (&after["ari_username"], &after["ari_ca_pem"]),
        (&json!("ringback"), &json!("kept"))
    );
    Ok(())
}

/// A certificate that expires tomorrow.
fn expiring_certificate() -> Result<String> {
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ]);
    openssl.args(["-keyout", "/dev/null", "-subj", "/CN=pbx", "-days", "1"]);
    let made = openssl.output()?;
    ensure!(made.status.success(), "{made:?}");
    Ok(String::from_utf8(made.stdout)?)
}

/// The address of an API that accepts the hook's secret and has a wrong clock.
async fn with_another_clock() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("http://{}", listener.local_addr()?);
    let answer = async || {
        let date = [("date", "Wed, 01 Jan 2025 00:00:00 GMT")];
        (
            StatusCode::NOT_FOUND,
            date,
            axum::Json(json!({ "code": "no_such_call" })),
        )
    };
    let api = Router::new().fallback(answer);
    tokio::spawn(async move { axum::serve(listener, api).await });
    Ok(address)
}
