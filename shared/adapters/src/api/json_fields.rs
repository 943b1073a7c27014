//! FormFields of a JSON object that a client has sent.

use serde_json::{Map, Value};

use ringback_core::ids::BadName;

/// Reads a body that must be a JSON object.
pub(super) fn object(body: &[u8]) -> Result<Map<String, Value>, BadName> {
    serde_json::from_slice(body).map_err(|_| BadName {
        what: "the body",
        rule: "must be a JSON object",
    })
}

/// A field that must exist and must be text.
pub(super) fn text<'a>(
    fields: &'a Map<String, Value>,
    name: &'static str,
) -> Result<&'a str, BadName> {
    fields.get(name).and_then(Value::as_str).ok_or(BadName {
        what: name,
        rule: "must be a string",
    })
}
