//! Where bytes from outside are read, each by name: what the fuzzers (`fuzz/`) and the tests try to break.
//!
//! An entry point takes any bytes and must not panic. Beside that, each holds the properties that make what it has read
//! worth trusting: that no name carries syntax, that the four forms of a webhook say the same, that what is stored is
//! read back as it was.

pub mod mutation;

use std::fmt::Debug;

use futures::FutureExt;
use lambda_http::Context;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::api::call_action::CallResponse;
use crate::api::form::Fields;
use crate::api::http;
use crate::api::new_call::{Address, CallRequest};
use crate::api::registration::Registration;
use crate::api::status_update::StatusUpdate;
use crate::api::websocket::{Connecting, Request};
use crate::asterisk::Pbxs;
use crate::asterisk::hook::Report;
use crate::auth::{self, Bearer};
use crate::exotel::{ExotelWebhook, Frame};
use crate::store::devices::Device;
use crate::store::streams::Stream;
use crate::timers::Timer;
use crate::{asterisk, exotel, push};
use ringback_core::call::Call;
use ringback_core::phone_number::{Caller, PhoneNumber};

/// A place where bytes from outside are read.
#[derive(Clone, Copy, Debug)]
pub struct EntryPoint {
    /// Its name: a fuzz target's, and a folder's of `fuzz/seeds`.
    pub name: &'static str,
    /// Reads the bytes.
    ///
    /// # Panics
    /// When one of its properties does not hold.
    pub read: fn(&[u8]),
}

/// All of them.
pub const ENTRY_POINTS: [EntryPoint; 15] = [
    of("webhook_query", webhook_form),
    of("webhook_form", webhook_form),
    of("webhook_multipart", webhook_multipart),
    of("webhook_json", webhook_json),
    of("hook_report", hook_report),
    of("call_response", call_response),
    of("call_request", call_request),
    of("registration", registration),
    of("websocket_event", websocket_event),
    of("stream_frame", stream_frame),
    of("http_event", http_event),
    of("bearer_token", bearer_token),
    of("ari_answer", asterisk::read_any_answer),
    of("exotel_answer", exotel::read_any_answer),
    of("push_answer", push::fcm::read_any_answer),
];

/// The entry points by which what we have stored ourselves comes back.
pub const STORED: [EntryPoint; 1] = [of("stored_item", stored_item)];

/// The boundary of the multipart bodies in `fuzz/seeds`.
pub const BOUNDARY: &str = "x";

/// What signs the tokens in `fuzz/seeds`.
pub const JWT_SECRET: &str = "ringback-events-jwt-secret-not-for-any-deployment";

const COUNTRY: &str = "IN";

const fn of(name: &'static str, read: fn(&[u8])) -> EntryPoint {
    EntryPoint { name, read }
}

/// Reads the bytes at one of the entry points.
///
/// # Panics
/// When there is none of this name, or one of its properties does not hold.
pub fn read(name: &str, bytes: &[u8]) {
    let mut all = ENTRY_POINTS.iter().chain(&STORED);
    let found = all.find(|entry| entry.name == name);
    assert!(found.is_some(), "there is no entry point {name}");
    if let Some(entry) = found {
        (entry.read)(bytes);
    }
}

fn webhook_form(bytes: &[u8]) {
    let fields = Fields::from_form(bytes);
    assert_eq!(
        fields,
        as_json(bytes),
        "a form and JSON with the same fields"
    );
    notice(&fields);
}

fn webhook_multipart(bytes: &[u8]) {
    let content_type = format!("Multipart/Form-Data; boundary={BOUNDARY}");
    if let Ok(fields) = body(&content_type, bytes) {
        notice(&fields);
    }
}

fn webhook_json(bytes: &[u8]) {
    if let Ok(fields) = body("Application/JSON; charset=utf-8", bytes) {
        notice(&fields);
    }
}

fn notice(fields: &Fields) {
    let Ok(notice) = ExotelWebhook::parse(fields, COUNTRY) else {
        return;
    };
    plain(notice.call_sid.as_str());
    of_caller(&notice.caller);
    if let Some(number) = &notice.to {
        of_number(number);
    }
    let events = (notice.end(), notice.reported());
    let _shown = format!("{notice:?} {events:?}");
}

fn hook_report(bytes: &[u8]) {
    let Ok(pbxs) = Pbxs::listed("pbx1=https://a/ari,pbx2=https://b/ari") else {
        return;
    };
    let json = body("application/json", bytes).ok();
    for fields in [Some(Fields::from_form(bytes)), json].into_iter().flatten() {
        let Ok(report) = Report::parse(&fields, COUNTRY, &pbxs) else {
            continue;
        };
        plain(report.leg.channel.as_str());
        plain(report.leg.pbx.as_str());
        of_caller(&report.caller);
        if let Some(extension) = &report.extension {
            plain(extension.as_str());
        }
        let events = (report.which(), report.arrival(), report.end_of_leg());
        let _shown = format!("{report:?} {events:?}");
    }
}

fn call_response(bytes: &[u8]) {
    if let Ok(response) = CallResponse::parse(bytes) {
        plain(response.extension.as_str());
        let again = serde_json::json!({
            "server_call_id": response.call_id, "extension": response.extension,
            "action": response.action.as_str(), "device_id": response.device,
        });
        let again = CallResponse::parse(again.to_string().as_bytes());
        assert_eq!(again, Ok(response));
    }
}

fn call_request(bytes: &[u8]) {
    let Ok(message) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
        return;
    };
    if let Ok(request) = CallRequest::parse(&message, COUNTRY) {
        for address in request.caller.iter().chain([&request.recipient]) {
            match address {
                Address::App(extension) => plain(extension.as_str()),
                Address::Telephone(number) => of_number(number),
            }
        }
        if let Some(reference) = &request.reference {
            plain(reference.as_str());
        }
    }
}

fn registration(bytes: &[u8]) {
    if let Ok(registration) = Registration::parse(bytes) {
        plain(registration.extension.as_str());
        let token = registration.token.as_str();
        assert!(token.len() <= 4096 && token.bytes().all(|byte| byte.is_ascii_graphic()));
    }
}

/// What API Gateway hands on: a message, or somebody who connects.
fn websocket_event(bytes: &[u8]) {
    if let Ok(connecting) = serde_json::from_slice::<Connecting>(bytes) {
        let _shown = format!("{:?}", connecting.credentials());
    }
    if let Ok(request) = serde_json::from_slice::<Request>(bytes) {
        let _shown = format!("{:?} {:?}", request.who(), request.connection());
        let text = request.body.as_deref().unwrap_or_default().as_bytes();
        call_request(text);
        call_response(text);
        stream_frame(text);
    }
}

fn stream_frame(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(frame) = Frame::parse(text)
    {
        if let Frame::Start { call_sid, .. } | Frame::Stop { call_sid, .. } = &frame {
            plain(call_sid.as_str());
        }
        let _shown = format!("{frame:?}");
    }
}

/// A request as API Gateway tells of it. That a body in Base64 is in Base64 is its promise, not the client's.
fn http_event(bytes: &[u8]) {
    let Ok(mut event) = serde_json::from_slice::<Map<String, Value>>(bytes) else {
        return;
    };
    event.insert("isBase64Encoded".to_owned(), false.into());
    let Ok(event) = serde_json::from_value(event.into()) else {
        return;
    };
    let Ok(request) = http::request(event, Context::default()) else {
        return;
    };
    webhook_form(request.uri().query().unwrap_or_default().as_bytes());
    let content_type = http::header(&request, "content-type").unwrap_or_default();
    if let Ok(bytes) = http::body(&request)
        && let Ok(fields) = body(content_type, bytes)
    {
        notice(&fields);
    }
    let _path = http::path(&request);
}

/// Also what stands in a token, were it signed; and what an issuer may publish as its keys.
fn bearer_token(bytes: &[u8]) {
    let header = std::str::from_utf8(bytes).ok();
    let shown = header.and_then(|header| auth::read_any_token(header, JWT_SECRET));
    let claimed = serde_json::from_slice(bytes)
        .ok()
        .and_then(|claims| auth::read_any_claims(&claims));
    for party in shown.iter().chain(&claimed).filter_map(Bearer::party) {
        plain(party.extension.as_str());
    }
    auth::read_any_keys(bytes);
}

/// An item as DynamoDB's stream brings it. The same item is a device, a stream, a timer or a call only by its key.
fn stored_item(bytes: &[u8]) {
    if let Some(call) = read_back::<Call>(bytes) {
        of_caller(&call.caller());
        plain(call.extension.as_str());
        if let Some(update) = StatusUpdate::of(None, call) {
            let _told = (update.for_participants(), update.for_others());
        }
    }
    read_back::<Device>(bytes);
    read_back::<Stream>(bytes);
    let _timer = serde_json::from_slice::<Timer>(bytes);
}

/// What is stored is read back as it was.
fn read_back<T: Serialize + DeserializeOwned + PartialEq + Debug>(bytes: &[u8]) -> Option<T> {
    let item: serde_dynamo::Item = serde_json::from_slice(bytes).ok()?;
    let read: T = serde_dynamo::from_item(item).ok()?;
    let again: Option<T> = serde_dynamo::to_item(&read)
        .ok()
        .and_then(|item: serde_dynamo::Item| serde_dynamo::from_item(item).ok());
    assert_eq!(again.as_ref(), Some(&read));
    Some(read)
}

/// The bodies are there already, so nothing is waited for.
fn body(content_type: &str, bytes: &[u8]) -> Result<Fields, crate::api::form::BadBody> {
    let read = Fields::from_body(content_type, bytes).now_or_never();
    read.unwrap_or(Err(crate::api::form::BadBody::Multipart))
}

/// The fields of a form, sent as JSON.
fn as_json(form: &[u8]) -> Fields {
    let mut object = Map::new();
    for (name, value) in form_urlencoded::parse(form) {
        object
            .entry(name)
            .or_insert_with(|| value.into_owned().into());
    }
    let text = Value::Object(object).to_string();
    Fields::from_json(text.as_bytes()).unwrap_or_default()
}

fn of_caller(caller: &Caller) {
    if let Some(number) = &caller.number {
        of_number(number);
    }
    if let Some(name) = &caller.name {
        let name = name.as_str();
        assert!((1..=64).contains(&name.chars().count()) && !name.contains(char::is_control));
    }
    plain(caller.shown());
}

fn of_number(number: &PhoneNumber) {
    let text = number.as_str();
    let digits = text.strip_prefix('+').unwrap_or(text);
    assert!((1..=32).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()));
}

/// That a name holds nothing that means anything to whoever it is passed on to.
fn plain(name: &str) {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-_.:@".contains(&byte);
    assert!(name.len() <= 128 && name.bytes().all(is_plain), "{name:?}");
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::mutation::Mutations;
    use super::*;

    /// Together about a second, without optimization.
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
    fn nothing_that_comes_from_outside_breaks_an_entry_point() {
        for entry in all() {
            let seeds = seeds(entry);
            seeds.iter().for_each(|seed| (entry.read)(seed));
            for bytes in Mutations::of(&seeds, 1).take(MUTATIONS) {
                (entry.read)(&bytes);
            }
        }
    }
}
