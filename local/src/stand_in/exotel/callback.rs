//! Sends StatusCallbacks.

use std::time::Duration;

use anyhow::Result;
use reqwest::multipart::Form;
use reqwest::redirect::Policy;
use reqwest::{Client, RequestBuilder};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// How long Exotel waits for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);

/// The events that a StatusCallback can report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum EventType {
    /// A phone was answered.
    Answered,
    /// The call is over.
    Terminal,
}

/// The format of a StatusCallback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CallbackFormat {
    Json,
    Multipart,
    Form,
}

/// Where to report a call, and which events.
#[derive(Debug, Clone, Serialize)]
pub(super) struct StatusCallback {
    pub(super) url: String,
    pub(super) events: Vec<EventType>,
    pub(super) format: CallbackFormat,
}

/// An HTTP client that follows no redirects, like Exotel's.
pub(super) fn client() -> Result<Client> {
    Ok(Client::builder()
        .redirect(Policy::none())
        .timeout(ANSWER_TIMEOUT)
        .build()?)
}

/// Sends a report once. Returns the answer as `{"status","body"}`, or `{"error"}` if there was none.
pub(super) async fn send(
    client: &Client,
    url: &str,
    format: CallbackFormat,
    report: &Value,
) -> Value {
    match answer(write(client.post(url), format, report)).await {
        Ok(answer) => answer,
        Err(error) => json!({"error": format!("{:#}", anyhow::Error::from(error.without_url()))}),
    }
}

async fn answer(request: RequestBuilder) -> reqwest::Result<Value> {
    let answer = request.send().await?;
    let status = answer.status().as_u16();
    let text = answer.text().await?;
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Ok(json!({"status": status, "body": body}))
}

fn write(request: RequestBuilder, format: CallbackFormat, report: &Value) -> RequestBuilder {
    match format {
        CallbackFormat::Json => request.json(report),
        CallbackFormat::Form => request.form(&fields(report)),
        CallbackFormat::Multipart => {
            let fields = fields(report).into_iter();
            request
                .multipart(fields.fold(Form::new(), |form, (name, value)| form.text(name, value)))
        }
    }
}

/// Flattens JSON into form fields, such as `Legs[0][Status]`.
fn fields(report: &Value) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for (name, value) in report.as_object().into_iter().flatten() {
        flatten(name.clone(), value, &mut fields);
    }
    fields
}

fn flatten(name: String, value: &Value, fields: &mut Vec<(String, String)>) {
    match value {
        Value::Object(object) => object
            .iter()
            .for_each(|(key, value)| flatten(format!("{name}[{key}]"), value, fields)),
        Value::Array(values) => (0..)
            .zip(values)
            .for_each(|(index, value)| flatten(format!("{name}[{index}]"), value, fields)),
        Value::Null => fields.push((name, String::new())),
        Value::String(text) => fields.push((name, text.clone())),
        Value::Bool(_) | Value::Number(_) => fields.push((name, value.to_string())),
    }
}
