//! The calls that a client has heard of, and how they stand once it has been away.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// How long an answer over HTTP may take.
const ANSWERING: Duration = Duration::from_secs(10);
/// How many calls are asked about at a time.
const AT_A_TIME: usize = 8;
/// How a call is over, in the words of S1 and S2.
const OVER: [&str; 7] = [
    "completed",
    "declined",
    "timed_out",
    "busy",
    "no-answer",
    "failed",
    "canceled",
];

/// `GET /api/calls/{id}`.
#[derive(Debug, Clone)]
pub struct HttpApi {
    url: String,
    token: SecretString,
    http: reqwest::Client,
}

/// How a call stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) call_id: String,
    /// Its status, or why there is none to be had.
    pub(crate) says: String,
    /// Nothing more is to be heard of it.
    pub(crate) is_over: bool,
}

impl HttpApi {
    /// The HTTP API at `url`, asked with an app's bearer token.
    ///
    /// # Errors
    /// When TLS cannot be set up on this machine.
    pub fn new(url: &str, token: SecretString) -> Result<Self, reqwest::Error> {
        Ok(Self {
            url: url.trim_end_matches('/').to_owned(),
            token,
            http: reqwest::Client::builder().timeout(ANSWERING).build()?,
        })
    }

    /// How each of the calls stands, in the order of the answers.
    pub(crate) async fn standings(&self, calls: &SeenCalls) -> Vec<Standing> {
        stream::iter(calls.ids())
            .map(|call_id| self.standing(call_id))
            .buffer_unordered(AT_A_TIME)
            .collect()
            .await
    }

    async fn standing(&self, call_id: String) -> Standing {
        match self.ask(&call_id).await {
            Ok((200, call)) => {
                let says = call["status"].as_str().unwrap_or("nothing").to_owned();
                let is_over = OVER.contains(&says.as_str());
                Standing {
                    call_id,
                    says,
                    is_over,
                }
            }
            Ok((status, answer)) => Standing {
                call_id,
                says: format!("{status} {}", answer["error"].as_str().unwrap_or_default()),
                // Not a call, not there any more, or not ours.
                is_over: [400, 403, 404].contains(&status),
            },
            Err(error) => Standing {
                call_id,
                says: format!("no answer: {error}"),
                is_over: false,
            },
        }
    }

    async fn ask(&self, call_id: &str) -> Result<(u16, Value), reqwest::Error> {
        let answer = self
            .http
            .get(format!("{}/api/calls/{call_id}", self.url))
            .bearer_auth(self.token.expose_secret())
            .send()
            .await?;
        Ok((answer.status().as_u16(), answer.json().await?))
    }
}

/// The calls heard of that are not over, as far as is known.
#[derive(Debug, Default)]
pub(crate) struct SeenCalls(BTreeSet<String>);

impl SeenCalls {
    /// Reads what a message tells of a call.
    pub(crate) fn hear(&mut self, message: &Value) {
        let data = &message["data"];
        // The call's own id where there is one: S2's callSid may be Exotel's.
        let id = ["call_id", "server_call_id", "callSid"]
            .iter()
            .find_map(|name| data[name].as_str());
        let Some(id) = id.filter(|id| is_id(id)) else {
            return;
        };
        if data["status"]
            .as_str()
            .is_some_and(|status| OVER.contains(&status))
        {
            self.forget(id);
        } else {
            self.0.insert(id.to_owned());
        }
    }

    pub(crate) fn forget(&mut self, call_id: &str) {
        self.0.remove(call_id);
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.0.iter().cloned().collect()
    }
}

/// Whether it can stand in a path as it is.
fn is_id(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn after(messages: &[Value]) -> Vec<String> {
        let mut seen = SeenCalls::default();
        for message in messages {
            seen.hear(message);
        }
        seen.ids()
    }

    fn update(call_id: &str, status: &str) -> Value {
        let data = json!({"call_id": call_id, "callSid": "sid", "status": status});
        json!({"type": "call_status_update", "data": data})
    }

    #[test]
    fn a_call_is_remembered_until_it_is_over() {
        assert_eq!(
            after(&[update("a", "initiated"), update("b", "ringing")]),
            ["a", "b"]
        );
        assert_eq!(
            after(&[update("a", "ringing"), update("a", "no-answer")]),
            [""; 0]
        );
    }

    #[test]
    fn a_call_without_an_id_of_its_own_goes_by_its_sid() {
        let message = json!({"type": "call_initiated", "data": {"callSid": "6f3c-1a"}});
        assert_eq!(after(&[message]), ["6f3c-1a"]);
    }

    #[test]
    fn what_is_no_id_is_not_asked_about() {
        assert_eq!(
            after(&[update("../devices", "ringing"), update("", "ringing")]),
            [""; 0]
        );
        assert_eq!(
            after(&[json!({"type": "pong"}), json!("text"), json!(null)]),
            [""; 0]
        );
    }
}
