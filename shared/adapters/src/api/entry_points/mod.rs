//! All parsers of input from outside, by name, for the fuzzers (`fuzz/`) and the tests.
//!
//! An entry point takes any bytes and must not panic. Each also checks the properties that other code relies on: no name contains
//! syntax, a form and JSON with the same fields are equal, and a stored value is read back unchanged.

pub mod mutation;

use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api::admin::Expectation;
use crate::api::answer::Answer;
use crate::api::call_response::CallResponse;
use crate::api::do_not_disturb;
use crate::api::new_call::{Address, CallRequest};
use crate::api::registration::Registration;
use crate::api::request::{GatewayEvent, Request as HttpRequest};
use crate::api::status_update::StatusUpdate;
use crate::api::websocket::{Connecting, Request};
use crate::asterisk::PbxList;
use crate::asterisk::dialplan_report::DialplanReport;
use crate::auth::{self, Bearer};
use crate::exotel::dial_rules::DialRules;
use crate::exotel::{ExotelWebhook, StreamFrame};
use crate::form_fields::{BadBody, FormFields};
use crate::platform::config::Environment;
use crate::store::devices::Device;
use crate::store::directories::{Directory, EntryKey, Position};
use crate::store::streams::AudioStream;
use crate::timers::TimerMessage;
use crate::{asterisk, exotel, push};
use ringback_core::call::Call;
use ringback_core::ids::Extension;
use ringback_core::phone_number::{Caller, PhoneNumber};
use ringback_core::timestamp::Timestamp;

/// A parser of input from outside, with its properties.
#[derive(Clone, Copy, Debug)]
pub struct EntryPoint {
    /// The name of its fuzz target and of its folder in `fuzz/seeds`.
    pub name: &'static str,
    /// Parses the bytes.
    ///
    /// # Panics
    /// When one of the properties does not hold.
    pub read: fn(&[u8]),
}

/// The parsers of requests and of other systems' answers.
pub const ENTRY_POINTS: [EntryPoint; 18] = [
    entry_point("webhook_query", webhook_form),
    entry_point("webhook_form", webhook_form),
    entry_point("webhook_multipart", webhook_multipart),
    entry_point("webhook_json", webhook_json),
    entry_point("hook_report", hook_report),
    entry_point("call_response", call_response),
    entry_point("answer", answer),
    entry_point("call_request", call_request),
    entry_point("registration", registration),
    entry_point("do_not_disturb", do_not_disturb),
    entry_point("admin_request", admin_request),
    entry_point("websocket_event", websocket_event),
    entry_point("stream_frame", stream_frame),
    entry_point("http_event", http_event),
    entry_point("bearer_token", bearer_token),
    entry_point("ari_answer", asterisk::read_any_answer),
    entry_point("exotel_answer", exotel::read_any_answer),
    entry_point("push_answer", push::fcm::read_any_answer),
];

/// The parsers of stored items.
pub const STORED: [EntryPoint; 1] = [entry_point("stored_item", stored_item)];

/// The boundary of the multipart bodies in `fuzz/seeds`.
pub const BOUNDARY: &str = "x";

/// The secret that signs the tokens in `fuzz/seeds`.
pub const JWT_SECRET: &str = "ringback-events-jwt-secret-not-for-any-deployment";

const COUNTRY: &str = "IN";

const fn entry_point(name: &'static str, read: fn(&[u8])) -> EntryPoint {
    EntryPoint { name, read }
}

/// Parses the bytes with the entry point of this name.
///
/// # Panics
/// When there is no such entry point, or one of its properties does not hold.
pub fn read(name: &str, bytes: &[u8]) {
    let mut all = ENTRY_POINTS.iter().chain(&STORED);
    let found = all.find(|entry| entry.name == name);
    assert!(found.is_some(), "there is no entry point {name}");
    if let Some(entry) = found {
        (entry.read)(bytes);
    }
}

fn webhook_form(bytes: &[u8]) {
    let fields = FormFields::from_form(bytes);
    assert_eq!(
        fields,
        as_json(bytes),
        "a form and JSON with the same fields"
    );
    webhook(&fields);
}

fn webhook_multipart(bytes: &[u8]) {
    let content_type = format!("Multipart/Form-Data; boundary={BOUNDARY}");
    if let Ok(fields) = body(&content_type, bytes) {
        webhook(&fields);
    }
}

fn webhook_json(bytes: &[u8]) {
    if let Ok(fields) = body("Application/JSON; charset=utf-8", bytes) {
        webhook(&fields);
    }
}

fn webhook(fields: &FormFields) {
    let Ok(webhook) = ExotelWebhook::parse(fields, COUNTRY) else {
        return;
    };
    assert_plain(webhook.call_sid.as_str());
    assert_caller(&webhook.caller);
    if let Some(number) = &webhook.to {
        assert_number(number);
    }
    let events = (webhook.end_event(), webhook.progress_event());
    let _shown = format!("{webhook:?} {events:?}");
}

fn hook_report(bytes: &[u8]) {
    let Ok(pbxs) = PbxList::parse("pbx1=https://a/ari,pbx2=https://b/ari") else {
        return;
    };
    let json = body("application/json", bytes).ok();
    for fields in [Some(FormFields::from_form(bytes)), json]
        .into_iter()
        .flatten()
    {
        let Ok(report) = DialplanReport::parse(&fields, COUNTRY, &pbxs) else {
            continue;
        };
        assert_plain(report.leg.channel.as_str());
        assert_plain(report.leg.pbx.as_str());
        assert_caller(&report.caller);
        if let Some(extension) = &report.extension {
            assert_plain(extension.as_str());
        }
        let events = (
            report.reported_call(),
            report.arrival_event(),
            report.leg_ended_event(),
        );
        let _shown = format!("{report:?} {events:?}");
    }
}

fn call_response(bytes: &[u8]) {
    if let Ok(response) = CallResponse::parse(bytes) {
        assert_plain(response.extension.as_str());
        let again = serde_json::json!({
            "server_call_id": response.call_id, "extension": response.extension,
            "action": response.action.as_str(), "device_id": response.device,
        });
        let again = CallResponse::parse(again.to_string().as_bytes());
        assert_eq!(again, Ok(response));
    }
}

/// The body of an answer without a login, and the content of its token.
fn answer(bytes: &[u8]) {
    let _shown = format!("{:?}", Answer::parse(bytes));
    auth::read_any_grant(bytes);
}

fn call_request(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
        return;
    };
    let Ok(own) = Extension::try_from("1001") else {
        return;
    };
    if let Ok(request) = CallRequest::parse(&message, &own, COUNTRY) {
        for address in request.caller.iter().chain([&request.recipient]) {
            match address {
                Address::App(extension) => assert_plain(extension.as_str()),
                Address::Telephone(number) => assert_number(number),
            }
        }
        if let Some(reference) = &request.reference {
            assert_plain(reference.as_str());
        }
    }
}

fn registration(bytes: &[u8]) {
    if let Ok(registration) = Registration::parse(bytes) {
        assert_plain(registration.extension.as_str());
        assert!(registration.addresses.len() <= 3);
        for (_, token) in &registration.addresses {
            let token = token.as_str();
            assert!(token.len() <= 4096 && token.bytes().all(|byte| byte.is_ascii_graphic()));
        }
    }
}

fn do_not_disturb(bytes: &[u8]) {
    let now = Timestamp::from_millis(1_795_149_000_000);
    if let Ok(Some(until)) = do_not_disturb::parse(bytes, now) {
        assert!(until > now && until.since(now) <= Duration::from_secs(365 * 24 * 60 * 60));
    }
}

/// The bytes as the key of an entry, as the body that changes it, as a condition, and as a place in a list.
fn admin_request(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let environment = Environment::of(|_| None);
    let Ok(rules) = DialRules::from_environment(&environment, COUNTRY.to_owned()) else {
        return;
    };
    for directory in [Directory::Numbers, Directory::Extensions] {
        if let Ok(key) = EntryKey::parse(directory, &text, COUNTRY) {
            assert_plain(key.as_str());
        }
        let key = EntryKey::parse(directory, "1001", COUNTRY);
        if let Ok(value) = key.map(|key| key.parse_value(bytes, COUNTRY, &rules)) {
            assert_plain(&value.unwrap_or_default());
        }
    }
    let _condition = Expectation::parse(Some(&text), None);
    let _position = Position::try_from(&*text);
}

/// API Gateway's event of a message, or of a client that connects.
fn websocket_event(bytes: &[u8]) {
    if let Ok(connecting) = serde_json::from_slice::<Connecting>(bytes) {
        let _shown = format!("{:?}", connecting.credentials());
    }
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let _shown = format!("{:?} {:?}", request.client(), request.connection());
        let text = request.body.as_deref().unwrap_or_default().as_bytes();
        call_request(text);
        call_response(text);
        stream_frame(text);
    }
}

fn stream_frame(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(frame) = StreamFrame::parse(text)
    {
        if let StreamFrame::Start { call_sid, .. } | StreamFrame::Stop { call_sid, .. } = &frame {
            assert_plain(call_sid.as_str());
        }
        let _shown = format!("{frame:?}");
    }
}

/// API Gateway's event of a request. API Gateway encodes Base64 bodies itself, so invalid Base64 cannot come from a client.
fn http_event(bytes: &[u8]) {
    let Ok(mut event) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
        return;
    };
    event.insert("isBase64Encoded".to_owned(), false.into());
    let Ok(event) = serde_json::from_value::<GatewayEvent>(event.into()) else {
        return;
    };
    let Ok(request) = HttpRequest::try_from(event) else {
        return;
    };
    webhook(&request.query());
    let content_type = request.header("content-type").unwrap_or_default();
    if let Ok(bytes) = request.body()
        && let Ok(fields) = body(content_type, bytes)
    {
        webhook(&fields);
    }
    let _path = request.path();
}

/// Reads the bytes as a token, as the claims of a signed token, and as an issuer's keys.
fn bearer_token(bytes: &[u8]) {
    let header = std::str::from_utf8(bytes).ok();
    let shown = header.and_then(|header| auth::read_any_token(header, JWT_SECRET));
    let claimed = serde_json::from_slice(bytes)
        .ok()
        .and_then(|claims| auth::read_any_claims(&claims));
    for party in shown.iter().chain(&claimed).filter_map(Bearer::party) {
        assert_plain(party.extension.as_str());
    }
    auth::read_any_keys(bytes);
}

/// An item of DynamoDB's stream. Only its key says whether it is a device, a stream, a timer or a call.
fn stored_item(bytes: &[u8]) {
    if let Some(call) = read_back::<Call>(bytes) {
        assert_caller(&call.caller());
        assert_plain(call.extension.as_str());
        if let Some(update) = StatusUpdate::of(None, call) {
            let _messages = (update.for_participants(), update.for_others());
        }
    }
    read_back::<Device>(bytes);
    read_back::<AudioStream>(bytes);
    let _timer = serde_json::from_slice::<TimerMessage>(bytes);
}

/// Checks that a stored value is read back unchanged.
fn read_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let item: serde_dynamo::Item = serde_json::from_slice(bytes).ok()?;
    let read: T = serde_dynamo::from_item(item).ok()?;
    let again: Option<T> = serde_dynamo::to_item(&read)
        .ok()
        .and_then(|item: serde_dynamo::Item| serde_dynamo::from_item(item).ok());
    assert_eq!(again.as_ref(), Some(&read));
    Some(read)
}

/// The whole body is in memory, so the future is ready at once.
fn body(content_type: &str, bytes: &[u8]) -> Result<FormFields, BadBody> {
    let read = FormFields::from_body(content_type, bytes).now_or_never();
    read.unwrap_or(Err(BadBody::Multipart))
}

/// The fields of a form as JSON.
fn as_json(form: &[u8]) -> FormFields {
    let mut object = Map::new();
    for (name, value) in form_urlencoded::parse(form) {
        object
            .entry(name)
            .or_insert_with(|| value.into_owned().into());
    }
    let text = Value::Object(object).to_string();
    FormFields::from_json(text.as_bytes()).unwrap_or_default()
}

fn assert_caller(caller: &Caller) {
    if let Some(number) = &caller.number {
        assert_number(number);
    }
    if let Some(name) = &caller.name {
        let name = name.as_str();
        assert!((1..=64).contains(&name.chars().count()) && !name.contains(char::is_control));
    }
    assert_plain(caller.shown());
}

fn assert_number(number: &PhoneNumber) {
    let text = number.as_str();
    let digits = text.strip_prefix('+').unwrap_or(text);
    assert!((1..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()));
}

/// Checks that a name contains no syntax of the systems that get it.
fn assert_plain(name: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-_.:@".contains(&byte);
    assert!(name.len() <= 128 && name.bytes().all(is_plain), "{name:?}");
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::mutation::Mutations;
    use super::*;

    /// All entry points together take about a second without optimization.
    const MUTATIONS: usize = 500;

    fn folder(of: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/seeds")
            .join(of)
    }

    fn seeds(entry: &EntryPoint) -> Vec<Vec<u8>> {
        let mut paths: Vec<PathBuf> = std::fs::read_dir(folder(entry.name))
            .unwrap()
            .map(|file| file.unwrap().path())
            .collect();
        paths.sort();
        paths
            .iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect()
    }

    fn all() -> impl Iterator<Item = &'static EntryPoint> {
        ENTRY_POINTS.iter().chain(&STORED)
    }

    #[test]
    fn every_entry_point_has_seeds_and_a_fuzz_target() {
        for entry in all() {
            assert!(!seeds(entry).is_empty(), "{}", entry.name);
            let target = folder("../fuzz_targets").join(format!("{}.rs", entry.name));
            let target = std::fs::read_to_string(target).unwrap();
            assert!(
                target.contains(&format!("\"{}\"", entry.name)),
                "{}",
                entry.name
            );
        }
    }

    #[test]
    fn no_mutated_seed_breaks_an_entry_point() {
        for entry in all() {
            let seeds = seeds(entry);
            seeds.iter().for_each(|seed| (entry.read)(seed));
            for bytes in Mutations::of(&seeds, 1).take(MUTATIONS) {
                (entry.read)(&bytes);
            }
        }
    }
}
