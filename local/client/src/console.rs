//! The lines that a person types: short commands for the common messages, and JSON for all others.

use serde_json::{Value, json};

/// The list of commands.
pub const HELP: &str = "\
ping                            {\"type\":\"ping\"}
call FROM TO [voice|video]      start a call; TO is a phone number or an extension
accept ID, accept_ready ID,
decline ID, hangup ID           send a call_response for this call id
{…}                             send any JSON message
help                            show this list
Ctrl-D                          close the connection and exit";

/// The sender of a `call_response`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responder {
    /// The extension that answers.
    pub extension: String,
    /// The device that answers, for an extension with several devices.
    pub device_id: Option<String>,
}

/// The meaning of a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Send this message.
    Send(Value),
    /// Print the help.
    Help,
    /// Do nothing: the line is empty.
    Empty,
}

/// The line is not a command.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// The line starts like JSON but is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An unknown command, or the wrong number of arguments.
    #[error("unknown command {0:?}; `help` lists the commands")]
    UnknownCommand(String),
}

/// Parses a line typed at `now_ms`, in milliseconds since the Unix epoch.
///
/// # Errors
/// When the line is not a command and not JSON.
pub fn parse(line: &str, responder: &Responder, now_ms: i64) -> Result<Input, InputError> {
    let line = line.trim();
    if line.starts_with('{') {
        return Ok(Input::Send(serde_json::from_str(line)?));
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] => Ok(Input::Empty),
        ["help"] => Ok(Input::Help),
        ["ping"] => Ok(Input::Send(ping())),
        ["call", from, to] => Ok(Input::Send(call(from, to, "voice", now_ms))),
        ["call", from, to, kind @ ("voice" | "video")] => {
            Ok(Input::Send(call(from, to, kind, now_ms)))
        }
        [
            action @ ("accept" | "accept_ready" | "decline" | "hangup"),
            call_id,
        ] => Ok(Input::Send(call_response(
            action, call_id, responder, now_ms,
        ))),
        _ => Err(InputError::UnknownCommand(line.to_owned())),
    }
}

/// A `ping`, which keeps the connection open. The server answers `pong`.
#[must_use]
pub fn ping() -> Value {
    json!({"type": "ping"})
}

/// The `clientReference` makes a repeated message start one call only.
fn call(from: &str, to: &str, kind: &str, now_ms: i64) -> Value {
    json!({
        "type": "incoming_call", "callerId": from, "recipientId": to, "callType": kind,
        "clientReference": format!("console-{now_ms}"),
    })
}

fn call_response(action: &str, call_id: &str, responder: &Responder, now_ms: i64) -> Value {
    let mut message = json!({
        "type": "call_response",
        "server_call_id": call_id,
        "extension": responder.extension,
        "action": action,
        "timestamp": now_ms,
    });
    if let Some(device_id) = &responder.device_id {
        message["device_id"] = json!(device_id);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Input, InputError> {
        let responder = Responder {
            extension: "1001".into(),
            device_id: None,
        };
        parse(line, &responder, 1_732_175_943_000)
    }

    fn sent(line: &str) -> Value {
        match parsed(line) {
            Ok(Input::Send(message)) => message,
            other => panic!("{line:?} sends nothing: {other:?}"),
        }
    }

    #[test]
    fn a_call_is_a_voice_call_by_default() {
        let voice = json!({
            "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "voice",
            "clientReference": "console-1732175943000",
        });
        assert_eq!(sent("call 1001 1002"), voice);
        assert_eq!(sent("  call 1001   1002 voice "), voice);
        assert_eq!(sent("call 1001 1002 video")["callType"], "video");
    }

    #[test]
    fn a_call_response_contains_the_extension_and_the_time() {
        let accept = json!({
            "type": "call_response", "server_call_id": "abc", "extension": "1001",
            "action": "accept_ready", "timestamp": 1_732_175_943_000_i64,
        });
        assert_eq!(sent("accept_ready abc"), accept);
        for action in ["accept", "decline", "hangup"] {
            assert_eq!(sent(&format!("{action} abc"))["action"], action);
        }
    }

    #[test]
    fn a_call_response_contains_the_device_if_there_is_one() {
        let responder = Responder {
            extension: "1001".into(),
            device_id: Some("my-pixel-8".into()),
        };
        let Ok(Input::Send(message)) = parse("decline abc", &responder, 0) else {
            panic!("no message");
        };
        assert_eq!(message["device_id"], "my-pixel-8");
    }

    #[test]
    fn json_is_sent_unchanged() {
        let start = json!({"event": "start", "start": {"call_sid": "x"}});
        assert_eq!(sent(&start.to_string()), start);
        assert_eq!(sent("ping"), sent(r#"{"type":"ping"}"#));
    }

    #[test]
    fn an_invalid_line_is_not_sent() {
        for line in [
            "call 1001",
            "call 1001 1002 fax",
            "accept",
            "ping ping",
            "hello",
            "{\"type\":",
        ] {
            assert!(parsed(line).is_err(), "{line:?} was accepted");
        }
        assert_eq!(parsed("  ").unwrap(), Input::Empty);
        assert_eq!(parsed("help").unwrap(), Input::Help);
    }
}
