//! The data around a call (an extension with a phone, a number that leads to it, a connected client) and the events of calls to
//! that extension.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ringback_local::runtime_api::{RunningFunction, TimedAnswer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::functions::Paths;
use crate::stand_ins::{HOOK_SECRET, Item, StandIns, StoredItems, Transport, WEBHOOK_SECRET};

/// The number that leads to the extension 1001.
pub const NUMBER: &str = "+918047491899";

/// The stand-ins with their data, and a source of events.
#[derive(Debug)]
pub struct Fixture {
    /// The systems that the functions use.
    pub stand_ins: StandIns,
    /// The files of the bench.
    pub paths: Paths,
    variables: BTreeMap<String, String>,
    without_calls: StoredItems,
    calls: u32,
}

impl Fixture {
    /// Starts the stand-ins, then registers the phone and connects the client through the real functions.
    ///
    /// # Errors
    /// When one of these functions fails.
    pub async fn start(paths: &Paths) -> Result<Self> {
        Self::start_with(paths, Transport::Tls).await
    }

    /// The same with another way to reach the stand-ins.
    ///
    /// # Errors
    /// When one of these functions fails.
    pub async fn start_with(paths: &Paths, transport: Transport) -> Result<Self> {
        let stand_ins = StandIns::start(paths.scratch(), transport).await?;
        let variables = stand_ins.variables();
        let mut fixture = Self {
            stand_ins,
            paths: paths.clone(),
            variables,
            without_calls: StoredItems::default(),
            calls: 0,
        };
        fixture.stand_ins.items().put(item(json!({
            "pk": { "S": "NUMBERS" }, "sk": { "S": NUMBER }, "extension": { "S": "1001" },
        })))?;
        for (function, event) in [("devices", "devices-put"), ("ws-connect", "ws-connect")] {
            let mut function = fixture.start_function(function).await?;
            ensure_success(&function.invoke(&paths.event(event)?).await?)?;
        }
        fixture.without_calls = fixture.stand_ins.items().clone();
        Ok(fixture)
    }

    /// Removes all calls.
    pub fn remove_calls(&self) {
        self.restore(&self.without_calls);
    }

    /// Replaces all items by these.
    pub fn restore(&self, items: &StoredItems) {
        *self.stand_ins.items() = items.clone();
    }

    /// The environment variables of the functions.
    #[must_use]
    pub const fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Starts a function that uses the stand-ins.
    ///
    /// # Errors
    /// When its binary is missing.
    pub async fn start_function(&self, function: &str) -> Result<RunningFunction> {
        self.paths.start(function, &self.variables).await
    }

    /// A new `CallSid`.
    pub fn call_sid(&mut self) -> String {
        self.calls += 1;
        format!("bench{:027}", self.calls)
    }

    /// Exotel's webhook for a new call from a new caller.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn new_passthru(&mut self) -> Result<Value> {
        let sid = self.call_sid();
        self.passthru(&sid)
    }

    /// Exotel's webhook for this call.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn passthru(&self, sid: &str) -> Result<Value> {
        let mut event = self.paths.event("exotel-webhook-passthru-get")?;
        let mut query = form_urlencoded::Serializer::new(String::new());
        query
            .append_pair("secret", WEBHOOK_SECRET)
            .append_pair("CallSid", sid)
            .append_pair("CallFrom", &caller(sid))
            .append_pair("CallTo", NUMBER)
            .append_pair("Direction", "incoming")
            .append_pair("CallType", "call-attempt");
        event["queryStringParameters"].take();
        event["rawQueryString"] = query.finish().into();
        Ok(event)
    }

    /// The PBX's report that the caller's leg of this call has arrived.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn arrival(&self, sid: &str) -> Result<Value> {
        let fields = [
            ("channel_id", channel(sid)),
            ("caller", caller(sid)),
            ("number", NUMBER.to_owned()),
            ("call_sid", sid.to_owned()),
        ];
        self.hook("asterisk-incoming-incoming", &fields)
    }

    /// The PBX's report that the two legs are bridged.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn bridged(&self, call: &str) -> Result<Value> {
        let fields = [
            ("channel_id", format!("ringback-{call}-1")),
            ("call_id", call.to_owned()),
        ];
        self.hook("asterisk-incoming-bridged", &fields)
    }

    /// The PBX's report that the caller has hung up.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn ended(&self, sid: &str, call: &str) -> Result<Value> {
        let fields = [
            ("channel_id", channel(sid)),
            ("call_id", call.to_owned()),
            ("caller", caller(sid)),
            ("number", NUMBER.to_owned()),
            ("cause", "16".to_owned()),
            ("answered", "1".to_owned()),
        ];
        self.hook("asterisk-incoming-ended", &fields)
    }

    fn hook(&self, example: &str, fields: &[(&str, String)]) -> Result<Value> {
        let mut event = self.paths.event(example)?;
        event["headers"]["x-ringback-secret"] = HOOK_SECRET.into();
        event["headers"]["content-type"] = "application/x-www-form-urlencoded".into();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        event["body"] = form.finish().into();
        event["isBase64Encoded"] = false.into();
        Ok(event)
    }

    /// The app's `accept_ready` over HTTP.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn accept_ready(&self, call: &str) -> Result<Value> {
        let mut event = self.paths.event("call-response-accept-ready")?;
        event["body"] = accept_ready(call).to_string().into();
        Ok(event)
    }

    /// The app's `accept_ready` over its WebSocket.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn accept_ready_by_websocket(&self, call: &str) -> Result<Value> {
        let mut event = self.paths.event("ws-message-call-response")?;
        let mut message = accept_ready(call);
        message["type"] = "call_response".into();
        event["body"] = message.to_string().into();
        Ok(event)
    }

    /// The app's request for the status of a call.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn status(&self, call: &str) -> Result<Value> {
        let mut event = self.paths.event("call-status")?;
        event["rawPath"] = format!("/api/calls/{call}").into();
        event["pathParameters"]["id"] = call.into();
        Ok(event)
    }

    /// The ring timer of a call.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn timer(&self, call: &str) -> Result<Value> {
        let mut event = self.paths.event("call-timeout-sqs")?;
        event["Records"][0]["body"] = json!({ "call_id": call }).to_string().into();
        Ok(event)
    }

    /// A record of the table's stream: a call changes now. `broadcast` drops updates about older changes.
    ///
    /// # Errors
    /// When the example event is missing.
    pub fn change(&self) -> Result<Value> {
        let mut event = self.paths.event("broadcast-status")?;
        let history = &mut event["Records"][0]["dynamodb"]["NewImage"]["history"]["L"];
        let last = history
            .as_array_mut()
            .and_then(|history| history.last_mut());
        let now = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
        last.context("no history")?["M"]["at"]["N"] = now.to_string().into();
        Ok(event)
    }
}

fn accept_ready(call: &str) -> Value {
    json!({ "server_call_id": call, "extension": "1001", "action": "accept_ready", "timestamp": 1_795_149_005_000_u64 })
}

/// The caller's number, derived from the `CallSid`.
#[must_use]
pub fn caller(sid: &str) -> String {
    let digits: String = sid.chars().rev().take(8).collect();
    format!("+9198{}", digits.chars().rev().collect::<String>())
}

fn channel(sid: &str) -> String {
    format!("{sid}.1")
}

/// An item from its JSON.
#[must_use]
pub fn item(value: Value) -> Item {
    match value {
        Value::Object(item) => item,
        _ => Item::new(),
    }
}

/// The call id in a function's HTTP answer.
///
/// # Errors
/// When the answer is an error or has no call id.
pub fn call_id(answered: &TimedAnswer) -> Result<String> {
    ensure_success(&answered.answer)?;
    let body = answered.answer["body"].as_str().context("no body")?;
    let body: Value = serde_json::from_str(body)?;
    Ok(body["call_id"].as_str().context("no call_id")?.to_owned())
}

/// Checks that a function has answered with success.
///
/// # Errors
/// When it has not.
pub fn ensure_success(answer: &Value) -> Result<()> {
    let is_success = match &answer["statusCode"] {
        Value::Null => answer["batchItemFailures"]
            .as_array()
            .is_none_or(Vec::is_empty),
        status => status == 200,
    };
    let body = answer["body"].as_str().unwrap_or_default();
    ensure!(
        is_success && !body.contains(r#""type":"error""#),
        "{answer}"
    );
    Ok(())
}
