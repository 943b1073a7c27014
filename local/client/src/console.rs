//! The lines that a person types: short commands for the common messages, and JSON for all others.

use serde_json::{Value, json};

/// The list of commands.
pub const HELP: &str = "\
ping                            {\"type\":\"ping\"}
call FROM TO [voice|video]      start a call; TO is a phone number or an extension
accept ID, accept_ready ID,
decline ID, hangup ID           answer the call of that id
{…}                             any other message, as JSON
help                            this
Ctrl-D                          leave";

/// The sender of a `call_response`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Typist {
    /// The extension that answers.
    pub extension: String,
    /// The device that answers, for an extension with several devices.
    pub device_id: Option<String>,
}

/// The meaning of a line.
#[derive(Debug, Clone, PartialEq)]
pub enum Typed {
    /// Send this message.
    Send(Value),
    /// Print the help.
    Help,
    /// Do nothing: the line is empty.
    Nothing,
}

/// The line is not a command.
#[derive(Debug, thiserror::Error)]
pub enum Mistyped {
    /// The line starts like JSON but is not JSON.
    #[error("not JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// An unknown command, or the wrong number of arguments.
    #[error("{0:?} cannot be sent; `help` lists what can be typed")]
    Words(String),
}

/// Parses a line typed at `now_ms`, in milliseconds since the Unix epoch.
///
/// # Errors
/// When the line is neither a command nor JSON.
pub fn parse(line: &str, typist: &Typist, now_ms: i64) -> Result<Typed, Mistyped> {
    let line = line.trim();
    if line.starts_with('{') {
        return Ok(Typed::Send(serde_json::from_str(line)?));
    }
    let words: Vec<&str> = line.split_whitespace().collect();
    match words[..] {
        [] => Ok(Typed::Nothing),
        ["help"] => Ok(Typed::Help),
        ["ping"] => Ok(Typed::Send(ping())),
        ["call", from, to] => Ok(Typed::Send(call(from, to, "voice", now_ms))),
        ["call", from, to, kind @ ("voice" | "video")] => {
            Ok(Typed::Send(call(from, to, kind, now_ms)))
        }
        [
            action @ ("accept" | "accept_ready" | "decline" | "hangup"),
            call_id,
        ] => Ok(Typed::Send(call_response(action, call_id, typist, now_ms))),
        _ => Err(Mistyped::Words(line.to_owned())),
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
        "clientReference": format!("typed-{now_ms}"),
    })
}

fn call_response(action: &str, call_id: &str, typist: &Typist, now_ms: i64) -> Value {
    let mut message = json!({
        "type": "call_response",
        "server_call_id": call_id,
        "extension": typist.extension,
        "action": action,
        "timestamp": now_ms,
    });
    if let Some(device_id) = &typist.device_id {
        message["device_id"] = json!(device_id);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(line: &str) -> Result<Typed, Mistyped> {
        let typist = Typist {
            extension: "1001".into(),
            device_id: None,
        };
        parse(line, &typist, 1_732_175_943_000)
    }

    fn sends(line: &str) -> Value {
        match typed(line) {
            Ok(Typed::Send(message)) => message,
            other => panic!("{line:?} sends nothing: {other:?}"),
        }
    }

    #[test]
    fn a_call_is_a_voice_call_unless_it_is_said_to_be_video() {
        let voice = json!({
            "type": "incoming_call", "callerId": "1001", "recipientId": "1002", "callType": "voice",
            "clientReference": "typed-1732175943000",
        });
        assert_eq!(sends("call 1001 1002"), voice);
        assert_eq!(sends("  call 1001   1002 voice "), voice);
        assert_eq!(sends("call 1001 1002 video")["callType"], "video");
    }

    #[test]
    fn an_answer_says_for_whom_and_when() {
        let accept = json!({
            "type": "call_response", "server_call_id": "abc", "extension": "1001",
            "action": "accept_ready", "timestamp": 1_732_175_943_000_i64,
        });
        assert_eq!(sends("accept_ready abc"), accept);
        for action in ["accept", "decline", "hangup"] {
            assert_eq!(sends(&format!("{action} abc"))["action"], action);
        }
    }

    #[test]
    fn an_answer_names_the_device_where_there_is_one() {
        let typist = Typist {
            extension: "1001".into(),
            device_id: Some("my-pixel-8".into()),
        };
        let Ok(Typed::Send(message)) = parse("decline abc", &typist, 0) else {
            panic!("nothing to send");
        };
        assert_eq!(message["device_id"], "my-pixel-8");
    }

    #[test]
    fn json_is_sent_as_it_is() {
        let start = json!({"event": "start", "start": {"call_sid": "x"}});
        assert_eq!(sends(&start.to_string()), start);
        assert_eq!(sends("ping"), sends(r#"{"type":"ping"}"#));
    }

    #[test]
    fn what_means_nothing_is_not_sent() {
        for line in [
            "call 1001",
            "call 1001 1002 fax",
            "accept",
            "ping ping",
            "hello",
            "{\"type\":",
        ] {
            assert!(typed(line).is_err(), "{line:?} was understood");
        }
        assert_eq!(typed("  ").unwrap(), Typed::Nothing);
        assert_eq!(typed("help").unwrap(), Typed::Help);
    }
}
