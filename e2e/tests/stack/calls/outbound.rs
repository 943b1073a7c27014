//! An app calls a telephone: Exotel connects the two numbers, and clients receive the status updates.

use std::time::Duration;

use anyhow::{Context, Result};
use ringback_client::Client;
use serde_json::{Value, json};

use ringback_e2e::clients::{next_of_type, status_updates, statuses_of};
use ringback_e2e::fixture::{self, Fixture};

const HERE: &str = "+919800001001";
const THERE: &str = "+919876543210";

/// The statuses of a call that is answered at both ends.
const WORDS: [&str; 4] = ["initiated", "ringing", "in-progress", "completed"];

fn wants(reference: &str) -> Value {
    json!({
        "type": "incoming_call", "callerId": HERE, "recipientId": "09876543210", "callType": "voice",
        "clientReference": reference,
    })
}

/// A call that an app has started and Exotel has accepted.
struct Placed {
    id: String,
    sid: String,
}

async fn place(fixture: &Fixture, client: &mut Client) -> Result<Placed> {
    client.send(wants(&unique())).await?;
    let data = next_of_type(client, "call_initiated").await?["data"].clone();
    let id = data["callId"].as_str().unwrap().to_owned();
    assert_eq!(
        (&data["status"], &data["to"]),
        (&"initiated".into(), &THERE.into())
    );
    let sid = fixture.exotel_call_sids(&id).await?.remove(0);
    assert_eq!(data["callSid"], sid.as_str());
    Ok(Placed { id, sid })
}

fn unique() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_receive_the_progress_for_all_forms_and_repeats_of_exotels_reports() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut own = fixture.client("1001").await?;
    let mut others = [fixture.client("1002").await?, fixture.client("1002").await?];
    let call = place(&fixture, &mut own).await?;
    // The first telephone has answered, the second one is ringing.
    let ringing = json!({ "status": "in-progress", "legs": ["in-progress", null] });
    fixture.exotel_event(&call.sid, ringing).await?;
    for (status, format) in [
        ("in-progress", "multipart"),
        ("in-progress", "json"),
        ("completed", "form"),
        ("completed", "json"),
        // The reports arrive late, and one after the end.
        ("in-progress", "form"),
        ("ringing", "json"),
        ("busy", "multipart"),
    ] {
        let event = json!({ "status": status, "format": format, "times": 2, "event": null });
        let answers = fixture.exotel_event(&call.sid, event).await?["answers"].clone();
        for answer in answers.as_array().unwrap() {
            assert_eq!(answer["status"], 200, "{status} as {format}: {answer}");
        }
    }
    let updates = status_updates(&mut own, &call.id).await?;
    assert_eq!(statuses_of(&updates), WORDS);
    assert!(
        updates
            .iter()
            .all(|data| data["from"] == HERE && data["to"] == THERE),
        "{updates:?}"
    );
    assert_eq!(updates[1]["callSid"], call.sid.as_str());
    for client in &mut others {
        let updates = status_updates(client, &call.id).await?;
        assert_eq!(statuses_of(&updates), WORDS);
        for data in updates {
            assert_eq!(
                (&data["from"], &data["to"]),
                (&"***********01".into(), &"***********10".into())
            );
        }
    }
    let state = fixture.unregistered_app("1001").call(&call.id).await?;
    assert_eq!(
        (&state["status"], &state["reason"]),
        (&"completed".into(), &"hung_up".into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_arrives_before_the_answer_is_final() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    for (status, word, reason) in [
        ("no-answer", "no-answer", "no_answer"),
        ("busy", "busy", "number_busy"),
        ("failed", "failed", "network_failed"),
        ("canceled", "canceled", "caller_hung_up"),
    ] {
        let call = place(&fixture, &mut client).await?;
        fixture
            .exotel_event(&call.sid, json!({ "status": status }))
            .await?;
        fixture
            .exotel_event(&call.sid, json!({ "status": "in-progress" }))
            .await?;
        let updates = status_updates(&mut client, &call.id).await?;
        assert_eq!(statuses_of(&updates), ["initiated", word]);
        assert_eq!(updates[1]["reason"], reason);
    }
    Ok(())
}

/// Exotel sends its reports to the callback URL that it got, so the reports in the other tests use its token.
#[tokio::test(flavor = "multi_thread")]
async fn a_callback_url_contains_no_secret_and_reports_only_its_own_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut client = fixture.client("1001").await?;
    let [one, other] = [
        place(&fixture, &mut client).await?,
        place(&fixture, &mut client).await?,
    ];
    let asked = Value::from(fixture.exotel_requests().await?).to_string();
    let (_, secret) = fixture
        .stack
        .exotel_webhook_url
        .split_once("secret=")
        .unwrap();
    assert!(asked.contains(&one.id) && !asked.contains(secret));

    let url = callback_of(&fixture, &one).await?;
    let with = |name: &str, value: &str| {
        let mut changed = url.clone();
        let fields: Vec<(String, String)> = url.query_pairs().into_owned().collect();
        let kept = fields.into_iter().filter(|(kept, _)| kept != name);
        changed.query_pairs_mut().clear().extend_pairs(kept);
        changed.query_pairs_mut().append_pair(name, value);
        changed
    };
    let token = "0123456789abcdef0123456789abcdef";
    for (what, url, status, code) in [
        (
            "another call was expected",
            with("CustomField", &other.id),
            403,
            "not_your_call",
        ),
        (
            "a caller",
            with("Direction", "incoming"),
            403,
            "not_your_call",
        ),
        (
            "a forged token",
            with("call_token", token),
            403,
            "not_your_call",
        ),
        ("no token", with("call_token", ""), 401, "unauthorized"),
        ("no call", with("CustomField", ""), 401, "unauthorized"),
    ] {
        let report = [
            ("CallSid", other.sid.as_str()),
            ("Status", "completed"),
            ("EventType", "terminal"),
            ("CallFrom", THERE),
            ("CallTo", fixture.number_of("1001")),
        ];
        for url in [&url_with(&url, &report), &url] {
            let asking = fixture.http.post(url.clone()).form(&report).send().await?;
            let (answered, answer) = fixture::status_and_body(asking).await?;
            assert_eq!(
                (answered.as_u16(), &answer["code"]),
                (status, &code.into()),
                "{what}"
            );
        }
    }
    // With another call's token and this call's CallSid, Exotel's report is rejected.
    let report = [("CallSid", other.sid.as_str()), ("Status", "completed")];
    fixture.http.post(url).form(&report).send().await?;
    for call in [&one, &other] {
        let state = fixture.unregistered_app("1001").call(&call.id).await?;
        assert_eq!(state["status"], "initiated", "{state}");
        fixture
            .exotel_event(&call.sid, json!({ "status": "completed" }))
            .await?;
        let updates = status_updates(&mut client, &call.id).await?;
        assert_eq!(statuses_of(&updates).last(), Some(&"completed"));
    }
    assert_eq!(app.count_pushes("incoming_call").await?, 0);
    Ok(())
}

/// The callback URL that Exotel got for a call.
async fn callback_of(fixture: &Fixture, call: &Placed) -> Result<reqwest::Url> {
    let asked = fixture.exotel_requests().await?;
    let mut urls = asked.iter().filter_map(|request| {
        let form = &request["body"];
        let url =
            (form["CustomField"] == call.id.as_str()).then(|| form["StatusCallback"].as_str());
        url.flatten()
    });
    Ok(urls
        .next()
        .context("a request with the call's id")?
        .parse()?)
}

fn url_with(url: &reqwest::Url, fields: &[(&str, &str)]) -> reqwest::Url {
    let mut url = url.clone();
    url.query_pairs_mut().extend_pairs(fields);
    url
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_with_the_same_reference_is_the_same_call() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let reference = unique();
    let mut ids = Vec::new();
    for _ in 0..3 {
        client.send(wants(&reference)).await?;
        let data = next_of_type(&mut client, "call_initiated").await?["data"].clone();
        assert_eq!(data["clientReference"], reference.as_str());
        ids.push(data["callId"].as_str().unwrap().to_owned());
    }
    ids.dedup();
    assert_eq!(ids.len(), 1);
    assert_eq!(fixture.exotel_call_sids(&ids[0]).await?.len(), 1);
    let mut another = wants(&reference);
    another["recipientId"] = "+919876543211".into();
    client.send(another).await?;
    let error = next_of_type(&mut client, "error").await?;
    assert_eq!(
        (&error["code"], &error["callId"]),
        (&"reference_used".into(), &ids[0].as_str().into())
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_exotel_rejects_fails_at_once_and_clients_are_notified() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut own = fixture.client("1001").await?;
    // The status update may arrive before the response that `own` waits for.
    let mut listener = fixture.client("1001").await?;
    let mut other = fixture.client("1002").await?;
    for (status, code) in [
        (400, "exotel_refused"),
        (402, "exotel_no_balance"),
        (403, "exotel_refused"),
        (429, "exotel_too_many"),
        (500, "exotel_unavailable"),
        (503, "exotel_unavailable"),
    ] {
        fixture
            .exotel_behaves(&json!({ "connect": [{ "status": status, "retry_after": 1 }] }))
            .await?;
        own.send(wants(&format!("refused-{}", unique()))).await?;
        let error = next_of_type(&mut own, "error").await?;
        assert_eq!(
            (&error["code"], &error["status"]),
            (&code.into(), &"failed".into()),
            "{status}"
        );
        assert!(
            error["clientReference"]
                .as_str()
                .unwrap()
                .starts_with("refused-")
        );
        let id = error["callId"].as_str().unwrap();
        for client in [&mut listener, &mut other] {
            assert_eq!(
                statuses_of(&status_updates(client, id).await?),
                ["failed"],
                "{status}"
            );
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_exotel_placed_without_a_response_continues_when_it_reports() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let mut listener = fixture.client("1001").await?;
    fixture
        .exotel_behaves(&json!({ "connect": [{ "status": 504, "placed": true }] }))
        .await?;
    let message = wants(&unique());
    client.send(message.clone()).await?;
    let error = next_of_type(&mut client, "error").await?;
    assert_eq!(
        (&error["code"], &error["status"]),
        (&"exotel_silent".into(), &"initiated".into())
    );
    // The app repeats its request: no telephone rings twice.
    client.send(message).await?;
    assert_eq!(
        next_of_type(&mut client, "error").await?["code"],
        "exotel_silent"
    );
    let id = error["callId"].as_str().unwrap();
    let sids = fixture.exotel_call_sids(id).await?;
    assert_eq!(sids.len(), 1);
    fixture
        .exotel_event(&sids[0], json!({ "status": "in-progress" }))
        .await?;
    fixture
        .exotel_event(&sids[0], json!({ "status": "completed" }))
        .await?;
    assert_eq!(
        statuses_of(&status_updates(&mut listener, id).await?),
        ["in-progress", "completed"]
    );
    Ok(())
}

/// Exotel answers after it has handed the first call to an operator.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_connect_is_not_a_lost_one() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let mut listener = fixture.client("1001").await?;
    fixture
        .exotel_behaves(&json!({ "delay_ms": 9_000 }))
        .await?;
    client.send(wants(&unique())).await?;
    let answer = loop {
        let message = client.next(Duration::from_secs(15)).await?;
        if message["type"] != "call_status_update" {
            break message;
        }
    };
    assert_eq!(answer["type"], "call_initiated", "{answer}");
    let id = answer["data"]["callId"].as_str().unwrap();
    let sids = fixture.exotel_call_sids(id).await?;
    assert_eq!(sids.len(), 1);
    assert_eq!(answer["data"]["callSid"], sids[0].as_str());
    fixture.exotel_behaves(&json!({})).await?;
    fixture
        .exotel_event(&sids[0], json!({ "status": "completed" }))
        .await?;
    assert_eq!(
        statuses_of(&status_updates(&mut listener, id).await?),
        ["initiated", "completed"]
    );
    Ok(())
}

/// The test stack looks such calls up every 10 s.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_without_a_final_report_is_looked_up_at_exotel() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let mut client = fixture.client("1001").await?;
    let call = place(&fixture, &mut client).await?;
    fixture
        .exotel_event(&call.sid, json!({ "status": "in-progress" }))
        .await?;
    fixture
        .exotel_event(&call.sid, json!({ "status": "completed", "silent": true }))
        .await?;
    assert_eq!(app.call(&call.id).await?["status"], "in_progress");
    let state = app
        .wait_for_status_within(&call.id, "completed", Duration::from_secs(25))
        .await?;
    let events: Vec<&str> = state["history"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    assert!(events.contains(&"timer_fired"), "{events:?}");
    assert_eq!(
        statuses_of(&status_updates(&mut client, &call.id).await?),
        ["initiated", "in-progress", "completed"]
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_its_own_number_is_called_on_the_number_of_its_extension() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    for message in [
        json!({ "type": "incoming_call", "recipientId": THERE }),
        json!({ "type": "incoming_call", "callerId": "1001", "recipientId": THERE, "callType": "voice" }),
    ] {
        client.send(message).await?;
        let data = next_of_type(&mut client, "call_initiated").await?["data"].clone();
        assert_eq!(data["from"], HERE);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_cannot_be_called_is_rejected_with_a_hint() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    for (caller, recipient, kind, code) in [
        (HERE, THERE, "video", "no_video_to_a_telephone"),
        ("1002", THERE, "voice", "not_your_extension"),
        ("1002", "1003", "voice", "not_your_extension"),
        (HERE, "1002", "voice", "bad_field"),
        ("1001", "1001", "voice", "own_extension"),
        (HERE, "+12", "voice", "bad_field"),
        (HERE, "98765432109876543", "voice", "bad_field"),
        (HERE, THERE, "fax", "bad_field"),
        ("1001", "1009", "voice", "no_device"),
    ] {
        let message = json!({ "type": "incoming_call", "callerId": caller, "recipientId": recipient, "callType": kind });
        client.send(message).await?;
        assert_eq!(
            next_of_type(&mut client, "error").await?["code"],
            code,
            "{caller} → {recipient} {kind}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_cannot_hang_up_a_call_between_two_telephones() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.unregistered_app("1001");
    let mut client = fixture.client("1001").await?;
    let call = place(&fixture, &mut client).await?;
    let (status, answer) = app.respond("hangup", &call.id).await?;
    assert_eq!(
        (status.as_u16(), &answer["code"]),
        (409, &"ends_at_the_phones".into())
    );
    fixture
        .exotel_event(&call.sid, json!({ "status": "completed" }))
        .await?;
    assert_eq!(
        statuses_of(&status_updates(&mut client, &call.id).await?),
        ["initiated", "completed"]
    );
    assert_eq!(app.respond("hangup", &call.id).await?.0, 200);
    let (status, _) = fixture
        .unregistered_app("1002")
        .respond("hangup", &call.id)
        .await?;
    assert_eq!(status, 403);
    Ok(())
}
