//! Stands in front of a local AWS, and carries out one request itself: the `UpdateStack` that gives a stack its second region.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use regex::Regex;
use reqwest::Client;
use ringback_local::settings::STACK_NAME;
use ringback_local::stack::Stack;
use tokio::net::TcpListener;

/// How often the stack is still in progress after the update.
const POLLS: u32 = 2;

pub(crate) struct UpdateStandIn {
    /// The description of the local stack, with this stand-in as its AWS.
    pub(crate) stack: Stack,
    shown: Arc<Mutex<Shown>>,
}

/// What `DescribeStacks` shows instead of the real state.
#[derive(Default)]
struct Shown {
    other_region: String,
    polls: u32,
}

#[derive(Clone)]
struct Proxy {
    aws: String,
    shown: Arc<Mutex<Shown>>,
}

impl UpdateStandIn {
    /// Starts it. The stack has no second region.
    pub(crate) async fn start(stack: &Stack) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let shown = Arc::new(Mutex::new(Shown::default()));
        let proxy = Proxy {
            aws: stack.aws.endpoint.clone(),
            shown: Arc::clone(&shown),
        };
        let mut stack = stack.clone();
        stack.aws.endpoint = format!("http://{}", listener.local_addr()?);
        let app = Router::new().fallback(answer).with_state(proxy);
        tokio::spawn(async move { axum::serve(listener, app).await });
        Ok(Self { stack, shown })
    }

    pub(crate) fn other_region(&self) -> String {
        locked(&self.shown).other_region.clone()
    }

    pub(crate) fn set(&self, other_region: &str) {
        other_region.clone_into(&mut locked(&self.shown).other_region);
    }
}

fn locked(shown: &Mutex<Shown>) -> std::sync::MutexGuard<'_, Shown> {
    shown.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn answer(
    State(proxy): State<Proxy>,
    method: Method,
    uri: Uri,
    mut headers: HeaderMap,
    body: Bytes,
) -> Result<(StatusCode, Bytes), StatusCode> {
    let form: HashMap<String, String> = form_urlencoded::parse(&body).into_owned().collect();
    let action = form.get("Action").map_or("", String::as_str);
    if action == "UpdateStack" {
        return Ok(update(&proxy.shown, &form));
    }
    headers.remove("host");
    let request = Client::new().request(method, format!("{}{uri}", proxy.aws));
    let answer = request.headers(headers).body(body).send().await;
    let answer = answer.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    if action != "DescribeStacks" {
        return Ok((status, body));
    }
    let text = String::from_utf8_lossy(&body);
    Ok((status, described(&proxy.shown, &text).into()))
}

/// Accepts only an update that changes nothing but the one parameter.
fn update(shown: &Mutex<Shown>, form: &HashMap<String, String>) -> (StatusCode, Bytes) {
    let value = |key: &str| form.get(key).map_or("", String::as_str);
    let (mut other, mut is_fit) = (None, true);
    let keys = form
        .iter()
        .filter(|(key, _)| key.ends_with(".ParameterKey"));
    let mut count = 0;
    for (key, name) in keys {
        count += 1;
        let field = |name: &str| value(&key.replace("ParameterKey", name)).to_owned();
        match name.as_str() {
            "OtherRegion" => other = Some(field("ParameterValue")),
            _ => {
                is_fit &= field("UsePreviousValue") == "true" && field("ParameterValue").is_empty()
            }
        }
    }
    is_fit &= value("StackName") == STACK_NAME && value("UsePreviousTemplate") == "true";
    // The template has dozens of parameters, and CloudFormation gives one that is not named its default.
    match other.filter(|_| is_fit && count > 50) {
        Some(other) => {
            let mut shown = locked(shown);
            shown.other_region = other;
            shown.polls = POLLS;
            let answer = "<UpdateStackResponse><UpdateStackResult><StackId>id</StackId></UpdateStackResult></UpdateStackResponse>";
            (StatusCode::OK, answer.into())
        }
        None => {
            let answer = "<ErrorResponse><Error><Code>ValidationError</Code><Message>unfit</Message></Error></ErrorResponse>";
            (StatusCode::BAD_REQUEST, answer.into())
        }
    }
}

fn described(shown: &Mutex<Shown>, text: &str) -> String {
    let mut shown = locked(shown);
    let parameter = Regex::new(
        r"(<ParameterKey>OtherRegion</ParameterKey>\s*<ParameterValue>)[^<]*(</ParameterValue>)",
    );
    let status = Regex::new(r"(<StackStatus>)[^<]*(</StackStatus>)");
    let with = |regex: Result<Regex, regex::Error>, text: &str, value: &str| {
        let regex = regex.expect("a regular expression");
        assert!(regex.is_match(text), "{text}");
        regex
            .replace(text, format!("${{1}}{value}${{2}}"))
            .into_owned()
    };
    let text = with(parameter, text, &shown.other_region);
    if shown.polls == 0 {
        return text;
    }
    shown.polls -= 1;
    with(status, &text, "UPDATE_IN_PROGRESS")
}
