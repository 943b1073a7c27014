//! The world with somebody in it: an extension with a phone, a number that leads to it, a connected client; and the events of
//! calls to it.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use ringback_local::runtime_api::{RunningFunction, TimedAnswer};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::functions::Places;
use crate::world::{HOOK_SECRET, Item, Table, WEBHOOK_SECRET, World};

/// The number that leads to the extension 1001.
const NUMBER: &str = "+918047491899";

/// The stage.
#[derive(Debug)]
pub struct Stage {
    /// What is around the functions.
    pub world: World,
    /// Where everything is.
    pub places: Places,
    variables: BTreeMap<String, String>,
    empty: Table,
    calls: u32,
}

impl Stage {
    /// Sets it up.
    ///
    /// # Errors
    /// When a function that is needed for it does not do its part.
    pub async fn set(places: &Places) -> Result<Self> {
        let world = World::start(places.scratch()).await?;
        let variables = world.variables();
        let mut stage = Self {
            world,
            places: places.clone(),
            variables,
            empty: Table::default(),
            calls: 0,
        };
        stage.world.table().put(item(json!({
            "pk": { "S": format!("NUMBER#{NUMBER}") }, "sk": { "S": "ROUTE" }, "extension": { "S": "1001" },
        })))?;
        for (function, event) in [("devices", "devices-put"), ("ws-connect", "ws-connect")] {
            let mut function = stage.start(function).await?;
            good(&function.invoke(&places.event(event)?).await?)?;
        }
        stage.empty = stage.world.table().clone();
        Ok(stage)
    }

    /// Takes all calls away.
    pub fn clear(&self) {
        self.restore(&self.empty);
    }

    /// Makes the table what it was.
    pub fn restore(&self, table: &Table) {
        *self.world.table() = table.clone();
    }

    /// What the functions find in their environment.
    #[must_use]
    pub const fn variables(&self) -> &BTreeMap<String, String> {
        &self.variables
    }

    /// Starts a function in this world.
    ///
    /// # Errors
    /// When it has not been built.
    pub async fn start(&self, function: &str) -> Result<RunningFunction> {
        self.places.start(function, &self.variables).await
    }

    /// A CallSid that has not been used.
    pub fn call_sid(&mut self) -> String {
        self.calls += 1;
        format!("bench{:027}", self.calls)
    }

    /// Exotel tells of a caller: nobody has called from this number before.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn passthru(&mut self) -> Result<Value> {
        let sid = self.call_sid();
        self.passthru_of(&sid)
    }

    /// Exotel tells of the caller of this call.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn passthru_of(&self, sid: &str) -> Result<Value> {
        let mut event = self.places.event("exotel-webhook-passthru-get")?;
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

    /// The PBX tells that the caller of this call waits there.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn arrival(&self, sid: &str) -> Result<Value> {
        let fields = [
            ("channel_id", leg(sid)),
            ("caller", caller(sid)),
            ("number", NUMBER.to_owned()),
            ("call_sid", sid.to_owned()),
        ];
        self.hook("asterisk-incoming-incoming", &fields)
    }

    /// The PBX tells that the legs of a call talk.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn bridged(&self, sid: &str, call: &str) -> Result<Value> {
        self.report("asterisk-incoming-bridged", sid, call)
    }

    /// The PBX tells that the caller's leg is gone.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn ended(&self, sid: &str, call: &str) -> Result<Value> {
        self.report("asterisk-incoming-ended", sid, call)
    }

    fn report(&self, example: &str, sid: &str, call: &str) -> Result<Value> {
        let fields = [
            ("channel_id", leg(sid)),
            ("call_id", call.to_owned()),
            ("caller", caller(sid)),
            ("number", NUMBER.to_owned()),
            ("cause", "16".to_owned()),
        ];
        self.hook(example, &fields)
    }

    fn hook(&self, example: &str, fields: &[(&str, String)]) -> Result<Value> {
        let mut event = self.places.event(example)?;
        event["headers"]["x-ringback-secret"] = HOOK_SECRET.into();
        event["headers"]["content-type"] = "application/x-www-form-urlencoded".into();
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        event["body"] = form.finish().into();
        event["isBase64Encoded"] = false.into();
        Ok(event)
    }

    /// The app says that it is ready.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn accept_ready(&self, call: &str) -> Result<Value> {
        let mut event = self.places.event("call-response-accept-ready")?;
        event["body"] = accept_ready(call).to_string().into();
        Ok(event)
    }

    /// The app says the same over its WebSocket.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn accept_ready_by_websocket(&self, call: &str) -> Result<Value> {
        let mut event = self.places.event("ws-message-call-response")?;
        let mut message = accept_ready(call);
        message["type"] = "call_response".into();
        event["body"] = message.to_string().into();
        Ok(event)
    }

    /// The app asks how a call stands.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn status(&self, call: &str) -> Result<Value> {
        let mut event = self.places.event("call-status")?;
        event["rawPath"] = format!("/api/calls/{call}").into();
        event["pathParameters"]["id"] = call.into();
        Ok(event)
    }

    /// A call's timer fires.
    ///
    /// # Errors
    /// When the example is not there.
    pub fn timer(&self, call: &str) -> Result<Value> {
        let mut event = self.places.event("call-timeout-sqs")?;
        event["Records"][0]["body"] = json!({ "call_id": call }).to_string().into();
        Ok(event)
    }

    /// The ring of a call is over.
    ///
    /// # Errors
    /// When there is no such call.
    pub fn ring_out(&self, call: &str) -> Result<()> {
        let mut table = self.world.table();
        // Without the check field of the id.
        let key = call.get(..call.len().saturating_sub(8)).context("an id")?;
        let key = format!("CALL#{key}");
        let found = table.partitions(&key).next().cloned();
        let mut item = found.context("no such call")?;
        let ago = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000 - 1_000;
        item.insert("rings_until".to_owned(), json!({ "N": ago.to_string() }));
        table.put(item)
    }
}

fn accept_ready(call: &str) -> Value {
    json!({ "server_call_id": call, "extension": "1001", "action": "accept_ready", "timestamp": 1_795_149_005_000_u64 })
}

/// The caller's number, made from the call's id.
fn caller(sid: &str) -> String {
    let digits: String = sid.chars().rev().take(8).collect();
    format!("+9198{}", digits.chars().rev().collect::<String>())
}

fn leg(sid: &str) -> String {
    format!("{sid}.1")
}

/// An item, of its JSON.
#[must_use]
pub fn item(value: Value) -> Item {
    match value {
        Value::Object(item) => item,
        _ => Item::new(),
    }
}

/// A call's id, in an HTTP answer.
///
/// # Errors
/// When it is none.
pub fn call_id(answered: &TimedAnswer) -> Result<String> {
    good(&answered.answer)?;
    let body = answered.answer["body"].as_str().context("no body")?;
    let body: Value = serde_json::from_str(body)?;
    Ok(body["call_id"].as_str().context("no call_id")?.to_owned())
}

/// Whether an answer is one of a function that has done what it was asked to.
///
/// # Errors
/// When it is not.
pub fn good(answer: &Value) -> Result<()> {
    let is_good = match &answer["statusCode"] {
        Value::Null => answer["batchItemFailures"]
            .as_array()
            .is_none_or(Vec::is_empty),
        status => status == 200,
    };
    let body = answer["body"].as_str().unwrap_or_default();
    ensure!(is_good && !body.contains(r#""type":"error""#), "{answer}");
    Ok(())
}
