//! `ringback call tail`: the updates of calls, over the WebSocket API. The connection is kept as every client must keep it: it pings,
//! reconnects after a loss with growing pauses, and stops when it is refused.

use std::time::Duration;

use ringback::platform::clock;
use ringback_client::{Client, Credential, Error};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout};

use crate::deployment::{Deployment, sentence};
use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::token::{self, Claims, Role};
use crate::words;

/// API Gateway closes a connection that is idle for 10 minutes.
const PING_EVERY: Duration = Duration::from_secs(5 * 60);
/// A lost network sends no error, but no answer to a ping either.
const ANSWER_WITHIN: Duration = Duration::from_secs(20);
/// The longest pause before the next attempt. A connection that lasted as long resets it.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Shows updates until the user stops it.
pub(crate) async fn run(
    deployment: &Deployment,
    given: Option<&SecretString>,
    extension: Option<&str>,
    output: Output,
) -> Result<()> {
    let stopped = async { tokio::signal::ctrl_c().await.is_ok() };
    tokio::select! {
        failure = follow(deployment, given, extension, output) => failure,
        _ = stopped => Ok(()),
    }
}

async fn follow(
    deployment: &Deployment,
    given: Option<&SecretString>,
    extension: Option<&str>,
    output: Output,
) -> Result<()> {
    let mut pause = Duration::from_secs(1);
    let mut was_connected = false;
    loop {
        let began = Instant::now();
        let lost = match connect_anew(deployment, given, extension).await {
            Ok(client) => {
                was_connected = true;
                output.note("connected");
                read(client, extension, output).await?.to_string()
            }
            Err(failure) if was_connected && failure.may_pass() => failure.to_string(),
            Err(failure) => return Err(failure),
        };
        if began.elapsed() >= LONGEST_PAUSE {
            pause = Duration::from_secs(1);
        }
        output.note(&format!(
            "connection lost, connecting again: {}",
            sentence(&lost)
        ));
        // At random, so that all clients do not come back at the same moment.
        sleep(pause.mul_f64(fastrand::f64())).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Connects with a new token, because a connection outlives one.
async fn connect_anew(
    deployment: &Deployment,
    given: Option<&SecretString>,
    extension: Option<&str>,
) -> Result<Client> {
    let claims = match extension {
        Some(extension) => Claims::of_extension(extension),
        None => Claims::of_role(Role::Operator),
    };
    let token = token::for_command(deployment, given, claims).await?;
    connect(deployment, token).await
}

/// Connects to the WebSocket API.
pub(crate) async fn connect(deployment: &Deployment, token: SecretString) -> Result<Client> {
    let client = Client::connect_as(&deployment.ws_url, &Credential::InHeader(token)).await;
    client.map_err(|error| failure(&error))
}

/// Prints updates until the connection is lost.
async fn read(mut client: Client, extension: Option<&str>, output: Output) -> Result<Error> {
    loop {
        let message = match timeout(PING_EVERY, client.receive()).await {
            Ok(message) => message,
            Err(_) => match client.send(json!({ "type": "ping" })).await {
                Ok(()) => client.next(ANSWER_WITHIN).await,
                Err(error) => Err(error),
            },
        };
        match message {
            Ok(message) if message["type"] == "call_status_update" => {
                let update = &message["data"];
                if extension.is_none_or(|extension| is_of(update, extension)) {
                    output.print(&message, &line(update, message["replay"] == true))?;
                }
            }
            Ok(_) | Err(Error::NotJson(_)) => {}
            Err(lost) => return Ok(lost),
        }
    }
}

/// Whether a call is one of the extension. A client sees the telephone numbers of other extensions' calls masked.
fn is_of(update: &Value, extension: &str) -> bool {
    let party = |name: &str| update[name].as_str().unwrap_or_default();
    let (from, to) = (party("from"), party("to"));
    let is_shown_number = |party: &str| party.starts_with('+');
    from == extension || to == extension || (is_shown_number(from) && is_shown_number(to))
}

/// One update as a line: its time, the call, the parties, the status.
fn line(update: &Value, is_replay: bool) -> String {
    let text = |name: &str| update[name].as_str().unwrap_or("-");
    let reason = update["reason"].as_str();
    let reason = reason.map_or_else(String::new, |name| format!(": {}", words::reason(name)));
    let replay = if is_replay { " (since before)" } else { "" };
    let now = words::utc(clock::now());
    let when = update["timestamp"].as_str().unwrap_or(&now);
    format!(
        "{when}  {}  {} → {}  {}{reason}{replay}",
        text("callId"),
        text("from"),
        text("to"),
        words::status(text("status")),
    )
}

/// Why there is no connection any more.
pub(crate) fn failure(error: &Error) -> Failure {
    match error {
        Error::InvalidAddress(_)
        | Error::Refused {
            status: 401 | 403, ..
        } => Failure::wrong_token(),
        Error::Refused { status, .. } => {
            Failure::not_reachable(format!("The WebSocket API answered {status}: try again."))
        }
        other => Failure::not_reachable(format!(
            "The WebSocket API cannot be reached: {}",
            sentence(&other.to_string())
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn update(from: &str, to: &str) -> Value {
        json!({
            "callId": "id", "from": from, "to": to, "status": "in-progress", "timestamp": "2026-11-21T08:00:00Z",
        })
    }

    #[test]
    fn an_extension_sees_its_own_calls() {
        for (from, to, expected) in [
            ("+919876543210", "1001", true),
            ("anonymous", "1001", true),
            ("1001", "1002", true),
            ("+919800001001", "+919876543210", true),
            ("***********10", "1002", false),
            ("***********01", "***********10", false),
            ("1002", "1003", false),
        ] {
            assert_eq!(is_of(&update(from, to), "1001"), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_line_says_what_a_call_is_now() {
        let mut ended = update("+919876543210", "1001");
        assert_eq!(
            line(&ended, true),
            "2026-11-21T08:00:00Z  id  +919876543210 → 1001  talking (since before)"
        );
        ended["status"] = "no-answer".into();
        ended["reason"] = "no_answer".into();
        let line = line(&ended, false);
        assert!(
            line.ends_with("not answered: nobody answered in time"),
            "{line}"
        );
    }

    #[test]
    fn only_a_refused_token_is_final() {
        let refused = |status| Error::Refused {
            status,
            body: String::new(),
        };
        for (status, may_pass) in [(401, false), (403, false), (429, true), (503, true)] {
            assert_eq!(failure(&refused(status)).may_pass(), may_pass, "{status}");
        }
    }
}
