//! `/api/admin/…`: an admin lists, reads and changes the directories of numbers and extensions, lists devices, and reads the
//! audit trail.

use std::time::Duration;

use ringback::api::admin::{Decision, Expectation};
use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode, Request};
use ringback::auth::{Subject, Tokens};
use ringback::exotel::dial_rules::DialRules;
use ringback::platform::invocation::InvocationContext;
use ringback::start::Start;
use ringback::store::devices::{Device, Devices};
use ringback::store::directories::{
    Change, Directories, Directory, EntryKey, Page, Position, etag,
};
use ringback_core::ids::Extension;
use ringback_core::timestamp::Timestamp;
use serde_json::{Value, json};

/// How often a change is tried while other admins change the same entry.
const ATTEMPTS: u32 = 8;

struct AdminHandler {
    directories: Directories,
    devices: Devices,
    tokens: Tokens,
    country: String,
    rules: DialRules,
}

impl AdminHandler {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let now = invocation.now;
        let header = |name| request.header(name);
        let bearer = self.tokens.bearer(header("authorization"), now).await?;
        let admin = bearer.admin().ok_or(ApiErrorCode::NotAdmin)?;
        let kind = request.path_parameter("kind")?;
        let Ok(key) = request.path_parameter("key") else {
            return self.list(kind, &request).await;
        };
        if kind == "devices" && request.method() == "GET" {
            return self.devices_of(&Extension::try_from(key)?).await;
        }
        let directory = directory(kind).ok_or(ApiErrorCode::NoSuchRoute)?;
        let key = EntryKey::parse(directory, key, &self.country)?;
        let expectation = Expectation::parse(header("if-match"), header("if-none-match"));
        let value = match request.method() {
            "PUT" => {
                let body = request.body()?;
                Some(key.parse_value(body, &self.country, &self.rules)?)
            }
            "DELETE" => None,
            _ => {
                let value = self.directories.find(&key).await?;
                let value = value.ok_or(ApiErrorCode::NoSuchEntry)?;
                return Ok(entry_answer(&key, &value));
            }
        };
        self.change(&key, value, &expectation?, admin, now).await
    }

    /// The devices, without their push tokens and passwords.
    async fn devices_of(&self, extension: &Extension) -> Result<ApiAnswer, ApiError> {
        let devices = self.devices.latest_of(extension).await?;
        let device = |device: &Device| {
            let platforms = device.addresses().map(|address| address.platform.as_str());
            json!({
                "device_id": device.device_id,
                "platforms": platforms.collect::<Vec<_>>(),
                "sip_account": device.sip_account,
                "registered_at": device.registered_at,
            })
        };
        let devices: Vec<Value> = devices.iter().map(device).collect();
        Ok(ApiAnswer::ok(json!({ "devices": devices })))
    }

    async fn list(&self, kind: &str, request: &Request) -> Result<ApiAnswer, ApiError> {
        let next = request.query_parameter("next");
        let after = next.as_deref().map(Position::try_from).transpose()?;
        if let Some(directory) = directory(kind) {
            let page = self.directories.page(directory, after.as_ref()).await?;
            let entry = |(key, value): (String, String)| entry(directory, &key, &value);
            return Ok(page_answer(kind, page, entry));
        }
        if kind != "audit" {
            return Err(ApiErrorCode::NoSuchRoute.into());
        }
        let page = self.directories.changes(after.as_ref()).await?;
        Ok(page_answer("changes", page, |change| json!(change)))
    }

    /// Gives the entry this value, or deletes it. Several admins may do so at once: each attempt writes on condition that the entry is
    /// still as it was read, because the audit trail has the value before.
    async fn change(
        &self,
        key: &EntryKey,
        value: Option<String>,
        expectation: &Expectation,
        admin: &Subject,
        now: Timestamp,
    ) -> Result<ApiAnswer, ApiError> {
        for attempt in 1..=ATTEMPTS {
            let before = self.directories.find(key).await?;
            match expectation.decide(before.as_deref(), value.as_deref()) {
                Decision::Done => return Ok(changed_answer(key, value.as_deref())),
                Decision::Missing => return Err(ApiErrorCode::NoSuchEntry.into()),
                Decision::Refuse => {
                    let entry = |value: &String| entry(key.directory(), key.as_str(), value);
                    let current = before.as_ref().map_or(Value::Null, entry);
                    let error = ApiError::from(ApiErrorCode::Changed);
                    return Err(error.with_detail("current", Some(&current)));
                }
                Decision::Write => {}
            }
            let change = Change {
                at: now,
                by: admin.as_str().to_owned(),
                directory: key.directory(),
                key: key.as_str().to_owned(),
                before,
                after: value.clone(),
            };
            if self.directories.apply(key, &change).await? {
                tracing::info!(directory = ?key.directory(), "entry changed");
                return Ok(changed_answer(key, value.as_deref()));
            }
            tokio::time::sleep(Duration::from_millis(20) * attempt).await;
        }
        Err(ApiErrorCode::TryAgain.into())
    }
}

fn directory(kind: &str) -> Option<Directory> {
    match kind {
        "numbers" => Some(Directory::Numbers),
        "extensions" => Some(Directory::Extensions),
        _ => None,
    }
}

fn entry(directory: Directory, key: &str, value: &str) -> Value {
    json!({ directory.key_name(): key, directory.value_name(): value, "etag": etag(value) })
}

fn entry_answer(key: &EntryKey, value: &str) -> ApiAnswer {
    let entry = entry(key.directory(), key.as_str(), value);
    ApiAnswer::ok(entry).with_etag(etag(value))
}

fn changed_answer(key: &EntryKey, value: Option<&str>) -> ApiAnswer {
    match value {
        Some(value) => entry_answer(key, value),
        None => ApiAnswer::ok(json!({ key.directory().key_name(): key.as_str() })),
    }
}

fn page_answer<T>(name: &str, page: Page<T>, entry: impl Fn(T) -> Value) -> ApiAnswer {
    let entries: Vec<Value> = page.entries.into_iter().map(entry).collect();
    let next = page.next.as_ref().map(Position::token);
    ApiAnswer::ok(json!({ name: entries, "next": next }))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = AdminHandler {
        directories: start.directories()?,
        devices: start.devices()?,
        tokens: start.tokens()?,
        country: start.country(),
        rules: DialRules::from_environment(&start.environment, start.country())?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
