//! Audio streams of calls, as Exotel's Stream and Voicebot applets send them.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::StatusCode;
use ringback_client::{Client, Credential, Error};
use serde_json::{Value, json};

use ringback_e2e::clients::next_of_type;
use ringback_e2e::fixture::{CALLER, Conversation, Fixture, SOON, call_sid, status_and_body};

/// How long a connection must stay silent. Other clients receive their messages within a few hundredths of this time.
const A_WHILE: Duration = Duration::from_secs(2);

/// The audio stream of one call.
struct Stream {
    connection: Client,
    sid: String,
}

impl Stream {
    /// Connects as Exotel does. The URL carries the webhook's secret.
    async fn connect(fixture: &Fixture, sid: &str) -> Result<Self> {
        let (_, secret) = fixture
            .stack
            .exotel_webhook_url
            .split_once('?')
            .context("the webhook's URL has no secret")?;
        Self::connect_at(&format!("{}?{secret}", fixture.stack.ws_url), sid).await
    }

    async fn connect_at(url: &str, sid: &str) -> Result<Self> {
        let mut stream = Self {
            connection: Client::connect_as(url, &Credential::InUrl).await?,
            sid: sid.to_owned(),
        };
        stream.send(json!({ "event": "connected" })).await?;
        Ok(stream)
    }

    async fn send(&mut self, frame: Value) -> Result<()> {
        Ok(self.connection.send(frame).await?)
    }

    async fn starts(&mut self) -> Result<()> {
        let start = json!({
            "stream_sid": "MZ1", "call_sid": self.sid, "account_sid": "acme",
            "from": CALLER, "to": "+918047491899", "custom_parameters": {},
            "media_format": { "encoding": "raw", "sample_rate": "8000", "bit_rate": "128" },
        });
        self.send(json!({ "event": "start", "sequence_number": "1", "stream_sid": "MZ1", "start": start }))
            .await
    }

    /// 100 ms of silence.
    async fn send_audio(&mut self) -> Result<()> {
        let media = json!({ "chunk": 2, "timestamp": "100", "payload": "A".repeat(2_136) });
        self.send(
            json!({ "event": "media", "sequence_number": 2, "stream_sid": "MZ1", "media": media }),
        )
        .await
    }

    async fn send_key(&mut self, digit: &str) -> Result<()> {
        let dtmf = json!({ "digit": digit, "duration": "200" });
        self.send(
            json!({ "event": "dtmf", "sequence_number": 7, "stream_sid": "MZ1", "dtmf": dtmf }),
        )
        .await
    }

    async fn stops(&mut self, reason: &str) -> Result<()> {
        let stop = json!({ "call_sid": self.sid, "account_sid": "acme", "reason": reason });
        self.send(
            json!({ "event": "stop", "sequence_number": 20, "stream_sid": "MZ1", "stop": stop }),
        )
        .await
    }

    /// Checks that the connection receives nothing: no answer, and no status update.
    async fn receives_nothing(&mut self) {
        let heard = self.connection.next(A_WHILE).await;
        assert!(matches!(heard, Err(Error::MessageTimeout(_))), "{heard:?}");
    }

    /// On a route with a route response, AWS is reported to send an empty message when the function returns no body.
    async fn receives_only_empty_messages(&mut self) {
        loop {
            match self.connection.next(A_WHILE).await {
                Err(Error::MessageTimeout(_)) => return,
                Err(Error::NotJson(_)) => {}
                heard => panic!("{heard:?}"),
            }
        }
    }
}

/// The client's messages up to and including the one in which the call has this value.
async fn until(client: &mut Client, call: &str, (name, value): (&str, &str)) -> Result<Vec<Value>> {
    let mut heard = Vec::new();
    loop {
        let message = client.next(SOON).await?;
        let is_it = message["data"]["callId"] == call && message["data"][name] == value;
        heard.push(message);
        if is_it {
            return Ok(heard);
        }
    }
}

fn has_happened(call: &Value, event: &str, by: Option<&str>) -> bool {
    let history = call["history"].as_array().unwrap();
    let is_it = |line: &Value| line["event"] == event && line["by"].as_str() == by;
    history.iter().any(is_it)
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_start_keys_and_stop_reach_the_right_clients() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let mut participant = fixture.client("1001").await?;
    let mut outsider = fixture.client("1002").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    let heard = until(&mut participant, &talk.id, ("status", "in-progress")).await?;
    let sid = heard.last().unwrap()["data"]["callSid"].as_str().unwrap();

    let mut stream = Stream::connect(&fixture, sid).await?;
    stream.starts().await?;
    let heard = until(&mut participant, &talk.id, ("stream", "started")).await?;
    let started = &heard.last().unwrap()["data"];
    assert_eq!(
        (&started["status"], &started["callSid"]),
        (&"in-progress".into(), &sid.into())
    );
    let call = app.call(&talk.id).await?;
    assert_eq!(call["status"], "in_progress");
    assert!(has_happened(&call, "stream_started", None), "{call:#}");

    stream.send_audio().await?;
    stream.send_key("5").await?;
    let key = next_of_type(&mut participant, "call_dtmf").await?["data"].clone();
    assert_eq!(
        (&key["callSid"], &key["callId"]),
        (&sid.into(), &talk.id.as_str().into())
    );
    assert_eq!(
        (&key["digit"], &key["durationMs"], &key["sequenceNumber"]),
        (&"5".into(), &200.into(), &7.into())
    );
    assert!(key["timestamp"].is_string());

    stream.stops("callended").await?;
    until(&mut participant, &talk.id, ("stream", "stopped")).await?;
    let heard = until(&mut outsider, &talk.id, ("stream", "stopped")).await?;
    assert!(
        heard.iter().all(|message| message["type"] != "call_dtmf"),
        "{heard:?}"
    );
    let call = app.call(&talk.id).await?;
    let stopped = has_happened(&call, "stream_stopped", Some("callended"));
    assert!(stopped, "{call:#}");
    stream.receives_nothing().await;
    talk.caller.hang_up().await?;
    app.wait_for_status(&talk.id, "completed").await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_an_unknown_call_affects_no_client() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut client = fixture.client("1001").await?;
    let sid = call_sid();
    let mut stream = Stream::connect(&fixture, &sid).await?;
    stream.starts().await?;
    for _ in 0..10 {
        stream.send_audio().await?;
    }
    stream.send_key("5").await?;
    stream.stops("stopped").await?;
    stream.receives_nothing().await;
    // A status update of another test's call may still arrive.
    loop {
        match client.next(Duration::from_millis(100)).await {
            Ok(heard) => assert_ne!(heard["data"]["callSid"], sid.as_str(), "{heard}"),
            Err(Error::MessageTimeout(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_the_secret_is_rejected() -> Result<()> {
    let fixture = Fixture::open().await?;
    for query in ["?secret=guess", "?secret=", "?secret", "?sample-rate=8000"] {
        let url = format!("{}{query}", fixture.stack.ws_url);
        let refused = Client::connect_as(&url, &Credential::InUrl).await;
        assert!(
            matches!(refused, Err(Error::Refused { status: 403, .. })),
            "{query}: {refused:?}"
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn apps_cannot_send_frames_and_exotel_cannot_send_messages() -> Result<()> {
    let fixture = Fixture::open().await?;
    let mut app = fixture.client("1001").await?;
    app.send(json!({ "event": "connected" })).await?;
    let answer = next_of_type(&mut app, "error").await?;
    assert_eq!(answer["code"], "not_your_frame");
    app.send(json!({ "type": "ping" })).await?;
    assert_eq!(next_of_type(&mut app, "pong").await?["type"], "pong");

    let mut stream = Stream::connect(&fixture, &call_sid()).await?;
    for message in [
        json!({ "event": "dance" }),
        json!({ "event": "media", "type": "audio" }),
        json!({ "type": "$connect" }),
        json!({ "type": null }),
        json!([]),
    ] {
        stream.send(message).await?;
    }
    stream.send_audio().await?;
    stream.receives_nothing().await;
    // Exotel's frames have no `type`. A frame that names one of the apps' routes reaches that route, and does nothing.
    for message in [
        json!({ "event": "media", "type": "ping" }),
        json!({ "type": "call_response", "server_call_id": call_sid(), "action": "decline" }),
        json!({ "type": "incoming_call", "recipientId": "1002" }),
    ] {
        stream.send(message).await?;
    }
    stream.receives_only_empty_messages().await;
    Ok(())
}

/// What an applet gets from the HTTPS URL that it is given in place of the address of a stream.
async fn voicebot(fixture: &Fixture, secret: &str, sid: &str) -> Result<(StatusCode, Value)> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs([
        ("secret", secret),
        ("CallSid", sid),
        ("CallFrom", "09876543210"),
        ("CallTo", "08047491899"),
        ("Direction", "incoming"),
    ]);
    let url = format!(
        "{}/exotel/voicebot?{}",
        fixture.stack.http_url,
        query.finish()
    );
    status_and_body(fixture.http.get(url).send().await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applet_gets_the_address_of_its_calls_stream_and_can_send_nothing_else() -> Result<()> {
    let fixture = Fixture::open().await?;
    let app = fixture.app("1001").await?;
    let mut phone = fixture.phone("1001").await?;
    let mut participant = fixture.client("1001").await?;
    let talk = Conversation::start(&app, &mut phone).await?;
    let heard = until(&mut participant, &talk.id, ("status", "in-progress")).await?;
    let sid = heard.last().unwrap()["data"]["callSid"].as_str().unwrap();
    let webhook = &fixture.stack.exotel_webhook_url;
    let (_, secret) = webhook.split_once("secret=").context("the secret")?;

    // The address for another call opens a stream, which cannot start for this call.
    let (status, answer) = voicebot(&fixture, secret, &call_sid()).await?;
    assert_eq!(status, 200, "{answer}");
    let url = answer["url"].as_str().context("no url")?;
    let mut other = Stream::connect_at(url, sid).await?;
    other.starts().await?;
    other.stops("callended").await?;
    other.receives_nothing().await;
    let call = app.call(&talk.id).await?;
    assert!(!has_happened(&call, "stream_started", None), "{call:#}");

    let (_, answer) = voicebot(&fixture, secret, sid).await?;
    let url = answer["url"].as_str().context("no url")?;
    // An applet appends its parameters.
    let mut stream = Stream::connect_at(&format!("{url}?sample-rate=8000"), sid).await?;
    stream.starts().await?;
    until(&mut participant, &talk.id, ("stream", "started")).await?;
    stream.send_audio().await?;
    stream.send_key("5").await?;
    let key = next_of_type(&mut participant, "call_dtmf").await?["data"].clone();
    assert_eq!((&key["callSid"], &key["digit"]), (&sid.into(), &"5".into()));
    for message in [
        json!({ "type": "ping" }),
        json!({ "type": "incoming_call", "recipientId": "1002" }),
        json!({ "type": "call_response", "server_call_id": talk.id, "extension": "1001", "action": "hangup" }),
    ] {
        stream.send(message).await?;
        let refused = next_of_type(&mut stream.connection, "error").await?;
        assert_eq!(refused["code"], "not_allowed", "{refused}");
    }
    stream.stops("callended").await?;
    until(&mut participant, &talk.id, ("stream", "stopped")).await?;
    talk.end(&app).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_of_a_stream_needs_the_secret_and_its_token_cannot_be_changed() -> Result<()> {
    let fixture = Fixture::open().await?;
    let webhook = &fixture.stack.exotel_webhook_url;
    let (_, secret) = webhook.split_once("secret=").context("the secret")?;
    let sid = call_sid();
    for (secret, sid, expected) in [
        ("", sid.as_str(), (401, "unauthorized")),
        ("guess", &sid, (401, "unauthorized")),
        (secret, "", (400, "bad_field")),
        (secret, "a/b", (400, "bad_field")),
    ] {
        let (status, answer) = voicebot(&fixture, secret, sid).await?;
        let code = answer["code"].as_str().unwrap_or_default();
        assert_eq!((status.as_u16(), code), expected, "{answer}");
    }
    let (_, answer) = voicebot(&fixture, secret, &sid).await?;
    let url = answer["url"].as_str().context("no url")?;
    let of_other_call = url.replace(&sid, &call_sid());
    for changed in [&of_other_call, &url[..url.len() - 1], &format!("{url}0")] {
        let refused = Client::connect_as(changed, &Credential::InUrl).await;
        let is_refused = matches!(refused, Err(Error::Refused { status: 403, .. }));
        assert!(is_refused, "{refused:?}");
    }
    Stream::connect_at(url, &sid).await?;
    Ok(())
}
