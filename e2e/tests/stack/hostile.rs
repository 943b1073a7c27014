//! Values with a special meaning for a system on their way (an ARI URL, the dialplan, SIP, DynamoDB, JSON, a form, a
//! log) are treated as text: on the real Asterisk, the real functions and the table. The local stack must be running.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use futures::future::try_join_all;
use reqwest::{Method, StatusCode};
use ringback::api::entry_points::mutation::HOSTILE;
use ringback_client::Client;
use ringback_e2e::fixture::{App, CALLER, Fixture, SOON, call_sid, status_and_body};
use ringback_e2e::log_lines::log_lines;
use ringback_local::settings::Settings;
use ringback_sip::Caller;
use serde_json::{Value, json};

/// The number of concurrent callers.
const AT_ONCE: usize = 6;

/// A file that exists only if a value was run as a command.
struct Canary(PathBuf);

impl Canary {
    fn set() -> Self {
        let path = Settings::from_environment().state("canary");
        let _none_yet = std::fs::remove_file(&path);
        Self(path)
    }

    /// Values that would create the file.
    fn commands(&self) -> Vec<String> {
        let path = self.0.display();
        [
            format!("${{SHELL(touch {path})}}"),
            format!("$(touch {path})"),
            format!("`touch {path}`"),
            format!("1,System(touch {path})"),
            format!("${{EVAL(${{SHELL(touch {path})}})}}"),
        ]
        .into()
    }

    fn is_alive(&self) -> Result<()> {
        ensure!(!self.0.exists(), "a value was run as a command");
        Ok(())
    }
}

fn values(canary: &Canary) -> Vec<String> {
    let table = HOSTILE.iter().map(|value| (*value).to_owned());
    let long = ["x".repeat(3_000), "9".repeat(40)];
    table.chain(canary.commands()).chain(long).collect()
}

/// The part of a name that may be shown; see `CallerName`. SIP itself carries no control characters.
fn shown(name: &str) -> Option<String> {
    let reaches_out = |c: &char| matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let kept = |c: &char| !c.is_control() && !reaches_out(c);
    let name: String = name.chars().filter(kept).take(64).collect();
    Some(name.trim().to_owned()).filter(|name| !name.is_empty())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_name_is_shown_unchanged_and_has_no_effect() -> Result<()> {
    let (fixture, canary) = (Fixture::open().await?, Canary::set());
    let app = fixture.app("1001").await?;
    let names = values(&canary);
    // The simulated trunk parses empty brackets as an address, and a datagram has a limited length.
    let can_be_sent = |name: &&String| name.len() < 200 && !name.contains("<>");
    let names: Vec<(usize, &String)> = names.iter().filter(can_be_sent).enumerate().collect();
    for some in names.chunks(AT_ONCE) {
        try_join_all(
            some.iter()
                .map(|(at, name)| named(&fixture, &app, *at, name)),
        )
        .await?;
    }
    canary.is_alive()
}

/// A caller with this name rings, the push contains the name, and the caller hangs up, which ends the call.
async fn named(fixture: &Fixture, app: &App<'_>, at: usize, name: &str) -> Result<()> {
    let number = format!("+9198120{at:05}");
    let caller = Caller::number(&number).named(name);
    let call = fixture.dial_as("1001", caller, Some(&call_sid())).await?;
    let data = push_about(fixture, app, "caller_number", &number).await?;
    let actual = data["caller_name"].as_str().unwrap_or_default();
    let expected = shown(name).unwrap_or(number);
    ensure!(
        actual == expected || (expected.len() > 60 && expected.starts_with(actual)),
        "{expected:?} became {actual:?}"
    );
    call.cancel().await?;
    let id = data["call_id"]
        .as_str()
        .context("the push has no call id")?;
    app.wait_for_status(id, "canceled").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn names_in_any_script_are_shown_on_the_phone() -> Result<()> {
    let (fixture, canary) = (Fixture::open().await?, Canary::set());
    let app = fixture.app("1001").await?;
    let mut phone = fixture.registered_phone("1001").await?;
    let command = canary.commands().remove(0);
    for name in [
        "👩‍👩‍👧‍👦 आशा 📞",
        "\u{200f}مريم (حيفا)",
        r#"O"Neil \ (sip:a@b); ${X}, $[1]"#,
        command.get(..60).unwrap_or(&command),
    ] {
        let caller = Caller::number(CALLER).named(name);
        let call = fixture.dial_as("1001", caller, Some(&call_sid())).await?;
        let data = push_about(&fixture, &app, "caller_name", name).await?;
        let id = data["call_id"]
            .as_str()
            .context("the push has no call id")?;
        assert_eq!(app.respond("accept_ready", id).await?.0, StatusCode::OK);
        let callee = phone.next_call(SOON).await?;
        assert_eq!(callee.caller().display_name.as_deref(), Some(name));
        assert_eq!(callee.caller().number, CALLER);
        callee.answer().await?;
        call.answered(SOON).await?;
        call.hang_up().await?;
        app.wait_for_status(id, "completed").await?;
    }
    canary.is_alive()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_number_is_withheld_and_its_callers_end_is_noticed() -> Result<()> {
    let (fixture, canary) = (Fixture::open().await?, Canary::set());
    let app = fixture.app("1002").await?;
    let means_something = |number: &&String| {
        number.len() < 80 && number.contains(['$', '(', ',', '^', '%', '"', '&', '@', ';', '\n'])
    };
    for number in values(&canary).iter().filter(means_something) {
        let before = pushes(&fixture, &app).await?.len();
        let caller = Caller::number(number);
        let dialled = fixture.dial_as("1002", caller, Some(&call_sid())).await;
        let call = dialled.with_context(|| format!("no call from {number:?}"))?;
        let push = loop {
            let pushes = pushes(&fixture, &app).await?;
            if let Some(push) = pushes.get(before) {
                break push.clone();
            }
        };
        let actual = push["caller_number"].as_str().unwrap_or_default();
        let digits = actual.trim_start_matches('+');
        ensure!(
            actual == "anonymous" || digits.bytes().all(|byte| byte.is_ascii_digit()),
            "{number:?} became {actual:?}"
        );
        call.cancel().await?;
        let id = push["call_id"]
            .as_str()
            .context("the push has no call id")?;
        app.wait_for_status(id, "canceled")
            .await
            .with_context(|| format!("{number:?} has not ended"))?;
    }
    canary.is_alive()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_call_sid_or_dialled_number_is_rejected() -> Result<()> {
    let (fixture, canary) = (Fixture::open().await?, Canary::set());
    let values = values(&canary);
    let refused = async |value: &String| {
        let value: String = value.chars().filter(|c| !c.is_control()).take(60).collect();
        let sid = fixture.dial_as("1001", Caller::number(CALLER), Some(&value));
        if let Ok(call) = sid.await
            && !value.trim().is_empty()
        {
            call.rejected(SOON)
                .await
                .with_context(|| format!("CallSid {value:?}"))?;
        }
        if let Ok(call) = fixture.dial_number(&format!("0{value}")).await {
            call.rejected(SOON)
                .await
                .with_context(|| format!("number {value:?}"))?;
        }
        anyhow::Ok(())
    };
    for some in values.chunks(AT_ONCE) {
        try_join_all(some.iter().map(&refused)).await?;
    }
    canary.is_alive()
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_values_in_requests_are_text_or_rejected() -> Result<()> {
    let (fixture, canary) = (Fixture::open().await?, Canary::set());
    let app = fixture.app("1002").await?;
    let token = &fixture
        .stack
        .phone("1002")
        .context("1001 has no phone")?
        .token;
    let mut client = Client::connect(&fixture.stack.ws_url, token).await?;
    for (at, value) in values(&canary).iter().enumerate() {
        let (webhook, hook, device, said) = tokio::join!(
            webhook(&fixture, at, value),
            hook(&fixture, at, value),
            device(&app, at, value),
            said(&app, at, value),
        );
        for (route, answer) in [
            ("webhook", webhook?),
            ("hook", hook?),
            ("device", device?),
            ("call-response", said?),
        ] {
            let (status, body) = answer;
            let is_fine = status == StatusCode::OK || status.is_client_error();
            ensure!(
                is_fine || status == StatusCode::FOUND,
                "{route}: {value:?} gets {status}: {body}"
            );
        }
        let name = ["callerId", "recipientId", "clientReference", "type"][at % 4];
        let mut message = json!({ "type": "incoming_call", "recipientId": "1009" });
        message[name] = value.as_str().into();
        client.send(message).await?;
        let answer = client.next(SOON).await?;
        ensure!(answer["code"] != "try_again", "{value:?} gets {answer}");
    }
    let lines = log_lines(&fixture, "").await?;
    let forged: Vec<_> = lines
        .iter()
        .filter(|line| !line.json.is_object() || line.text.contains('\u{1b}'))
        .collect();
    assert!(forged.is_empty(), "{forged:#?}");
    canary.is_alive()
}

async fn webhook(fixture: &Fixture, at: usize, value: &str) -> Result<(StatusCode, Value)> {
    let fields = [
        "CallSid",
        "CallFrom",
        "CallTo",
        "Direction",
        "Status",
        "CustomField",
        "CurrentTime",
    ];
    let mut body =
        json!({ "CallSid": call_sid(), "CallFrom": "0981", "CallTo": fixture.number_of("1001") });
    body[fields[at % fields.len()]] = value.into();
    let request = fixture.http.post(&fixture.stack.exotel_webhook_url);
    let request = if at.is_multiple_of(2) {
        request.json(&body)
    } else {
        request.form(&body)
    };
    status_and_body(request.send().await?).await
}

async fn hook(fixture: &Fixture, at: usize, value: &str) -> Result<(StatusCode, Value)> {
    let fields = [
        "channel_id",
        "caller",
        "number",
        "extension",
        "call_sid",
        "call_id",
        "cause",
    ];
    let field = fields[at % fields.len()];
    let route = ["incoming", "bridged", "ended"][at % 3];
    let usual = [("channel_id", "1.1"), ("caller", "0981")];
    let usual = usual.into_iter().filter(|(name, _)| *name != field);
    let form: Vec<(&str, &str)> = usual.chain([(field, value)]).collect();
    fixture.pbx_reports(route, &form).await
}

async fn device(app: &App<'_>, at: usize, value: &str) -> Result<(StatusCode, Value)> {
    let field = ["token", "platform", "extension", "id"][at % 4];
    let mut body = json!({ "extension": "1002", "platform": "fcm", "token": "t" });
    body[field] = value.into();
    let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
    // A slash ends a path segment even if it is encoded, and no route matches.
    let is_id = field == "id" && !value.contains(['/', '%']) && !value.trim_matches('.').is_empty();
    let id = if is_id { encoded.as_str() } else { "hostile" };
    app.ask(Method::PUT, &format!("/api/devices/{id}"), Some(body))
        .await
}

async fn said(app: &App<'_>, at: usize, value: &str) -> Result<(StatusCode, Value)> {
    let field = ["server_call_id", "extension", "action", "device_id"][at % 4];
    let mut body = json!({
        "server_call_id": "6f3c1a9e-0d5b-5c7e-9a51-2f1c7a6e4b10", "extension": "1002", "action": "hangup",
    });
    body[field] = value.into();
    app.ask(Method::POST, "/api/call-response", Some(body))
        .await
}

/// The data of all incoming call pushes to this app, oldest first.
async fn pushes(fixture: &Fixture, app: &App<'_>) -> Result<Vec<Value>> {
    let pushes = fixture.pushes_to(&app.push_token).await?;
    let data = pushes.into_iter().map(|push| push["data"].clone());
    Ok(data
        .filter(|data| data["type"] == "incoming_call")
        .collect())
}

async fn push_about(fixture: &Fixture, app: &App<'_>, field: &str, value: &str) -> Result<Value> {
    let found = async {
        loop {
            let pushes = pushes(fixture, app).await?;
            if let Some(push) = pushes.into_iter().find(|push| push[field] == value) {
                return anyhow::Ok(push);
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(2 * SOON, found)
        .await
        .with_context(|| format!("no push has {field} = {value:?}"))?
}
