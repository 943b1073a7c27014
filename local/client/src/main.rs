//! `ringback-client`: the WebSocket API by hand.

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use ringback_client::stack::Stack;
use ringback_client::typed::{self, Typed, Typist};
use ringback_client::{Credential, Endpoint, Happened, HttpApi, Loss, Pace, Session};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, mpsc};

/// The extension that speaks when nothing says otherwise; the local stack has it.
const EXTENSION: &str = "1001";
/// As in the API's own messages, with milliseconds.
const UTC: &[BorrowedFormatItem] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Connects to Ringback's WebSocket API, sends what is typed, prints what arrives.
///
/// Without --url it connects to the local stack of this checkout, as --extension.
#[derive(Debug, Parser)]
#[command(name = "ringback-client", version, after_help = typed::HELP)]
struct Arguments {
    /// The WebSocket API, such as wss://…/exotel-stream
    #[arg(long)]
    url: Option<String>,
    /// An app's bearer token; may be left out where the URL has a ?secret=
    #[arg(long)]
    token: Option<SecretString>,
    /// Send the token in the Authorization header rather than in the query
    #[arg(long)]
    header: bool,
    /// The HTTP API, to ask after a reconnect how the calls stand
    #[arg(long)]
    http_url: Option<String>,
    /// Whose calls to answer; the token's own unless given, and on the local stack 1001
    #[arg(long)]
    extension: Option<String>,
    /// The device that answers, for an extension with several
    #[arg(long)]
    device_id: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match converse(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn converse(arguments: Arguments) -> Result<()> {
    let (endpoint, typist) = settle(arguments)?;
    eprintln!("connecting to {}", without_query(&endpoint.url));
    let reader_gone = Arc::new(Notify::new());
    let gone = Arc::clone(&reader_gone);
    let tell = move |since: Duration, happened: Happened| {
        if print(since, &happened).is_err() {
            gone.notify_one();
        }
    };
    let mut stopped = std::pin::pin!(stopped()?);
    let mut session = tokio::select! {
        session = Session::connect(endpoint, Pace::default(), tell) => session?,
        () = &mut stopped => return Ok(()),
    };
    let mut outgoing = read_lines(typist);
    let outcome = tokio::select! {
        outcome = session.run(&mut outgoing) => outcome,
        () = stopped => Ok(()),
        () = reader_gone.notified() => Ok(()),
    };
    session.close().await;
    Ok(outcome?)
}

/// Where to connect and as whom, from the arguments and, for what they leave out, from the running stack.
fn settle(mut arguments: Arguments) -> Result<(Endpoint, Typist)> {
    let url = match arguments.url.take() {
        Some(url) => url,
        None => fill_in(&mut arguments, running_stack()?)?,
    };
    let token = arguments.token;
    let extension = arguments
        .extension
        .or_else(|| extension_of(token.as_ref()?))
        .unwrap_or_else(|| EXTENSION.to_owned());
    let http = match (arguments.http_url, &token) {
        (Some(url), Some(token)) => Some(HttpApi::new(&url, token.clone())?),
        _ => None,
    };
    let credential = match token {
        None => Credential::InUrl,
        Some(token) if arguments.header => Credential::InHeader(token),
        Some(token) => Credential::InQuery(token),
    };
    let endpoint = Endpoint {
        url,
        credential,
        http,
    };
    let typist = Typist {
        extension,
        device_id: arguments.device_id,
    };
    Ok((endpoint, typist))
}

/// What the arguments leave out, as the stack has it; gives its WebSocket API.
fn fill_in(arguments: &mut Arguments, stack: Stack) -> Result<String> {
    if arguments.token.is_none() {
        let extension = arguments.extension.as_deref().unwrap_or(EXTENSION);
        arguments.token = Some(token_in(&stack, extension)?);
    }
    arguments.http_url.get_or_insert(stack.http_url);
    Ok(stack.ws_url)
}

fn running_stack() -> Result<Stack> {
    Stack::load(&Stack::path())
        .context("target/local/stack.json cannot be used")?
        .context("no local stack is running: start one with `make up`, or give --url and --token")
}

fn token_in(stack: &Stack, extension: &str) -> Result<SecretString> {
    let token = stack.token(extension).cloned();
    token.with_context(|| {
        let known: Vec<&str> = stack.extensions().collect();
        format!(
            "the local stack has no extension {extension}, only {}",
            known.join(", ")
        )
    })
}

/// The extension that a token speaks for. Whether it may is the server's business.
fn extension_of(token: &SecretString) -> Option<String> {
    let claims = token.expose_secret().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims["extension"].as_str().map(str::to_owned)
}

/// The query may hold a secret.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(address, _)| address)
}

/// Reads standard input on a thread of its own: a read that is under way can only be left behind, and tokio would
/// wait for it at the end.
fn read_lines(typist: Typist) -> mpsc::Receiver<Value> {
    let (sender, outgoing) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let now_ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
            match typed::parse(&line, &typist, i64::try_from(now_ms).unwrap_or_default()) {
                Ok(Typed::Send(message)) => {
                    if sender.blocking_send(message).is_err() {
                        return;
                    }
                }
                Ok(Typed::Help) => eprintln!("{}", typed::HELP),
                Ok(Typed::Nothing) => {}
                Err(mistyped) => eprintln!("{mistyped}"),
            }
        }
    });
    outgoing
}

/// Ends when somebody wants this to stop. From the call on, a signal no longer kills.
fn stopped() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

fn print(since: Duration, happened: &Happened) -> Result<()> {
    let utc = OffsetDateTime::now_utc().format(UTC)?;
    let since = since.as_secs_f64();
    let what = in_words(happened);
    Ok(writeln!(std::io::stdout(), "{utc} {since:9.3} s  {what}")?)
}

fn in_words(happened: &Happened) -> String {
    match happened {
        Happened::Connected => "-- connected".to_owned(),
        Happened::Renewed => {
            "-- a fresh connection, before the 2 hours of the old one are over".to_owned()
        }
        Happened::Sent(message) => format!("-> {message}"),
        Happened::NotSent(message) => format!("-- not connected, NOT SENT: {message}"),
        Happened::Received(message) => format!("<- {message}"),
        Happened::Unreadable(text) => format!("<- no JSON: {text}"),
        Happened::Lost(Loss::Gone(error)) => format!("-- connection lost: {error}"),
        Happened::Lost(Loss::Deaf) => "-- connection lost: no answer to a ping".to_owned(),
        Happened::Waiting(wait) => format!("-- connecting again in {:.1} s", wait.as_secs_f64()),
        Happened::NotConnected(error) => format!("-- no new connection: {error}"),
        Happened::Stands { call_id, says } => format!("-- call {call_id} by now: {says}"),
        Happened::Unknown(calls) => format!(
            "-- these calls may have changed meanwhile, and --http-url is not given to ask: {}",
            calls.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(arguments: &[&str]) -> (Endpoint, Typist) {
        let all = [
            "ringback-client",
            "--url",
            "ws://127.0.0.1:1/exotel-stream?secret=x",
        ];
        let arguments = Arguments::try_parse_from(all.iter().chain(arguments)).unwrap();
        settle(arguments).unwrap()
    }

    /// A token as an app has it; nobody checks its signature here.
    fn token(extension: &str) -> String {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"extension":"{extension}","exp":1}}"#));
        format!("header.{claims}.signature")
    }

    #[test]
    fn the_token_says_whose_calls_are_answered() {
        assert_eq!(given(&["--token", &token("1002")]).1.extension, "1002");
        assert_eq!(
            given(&["--token", &token("1002"), "--extension", "1003"])
                .1
                .extension,
            "1003"
        );
        assert_eq!(given(&["--token", "opaque"]).1.extension, EXTENSION);
    }

    #[test]
    fn the_local_stack_gives_what_the_arguments_leave_out() {
        let stack = || -> Stack {
            let json = r#"{"http_url":"http://h","ws_url":"ws://w","sip":{},"phones":[
                {"extension":"1001","token":"one"},{"extension":"1002","token":"two"}]}"#;
            serde_json::from_str(json).unwrap()
        };
        let filled = |arguments: &[&str]| {
            let arguments = ["ringback-client"].iter().chain(arguments);
            let mut arguments = Arguments::try_parse_from(arguments).unwrap();
            fill_in(&mut arguments, stack()).map(|url| (url, arguments))
        };
        let (url, arguments) = filled(&[]).unwrap();
        assert_eq!(url, "ws://w");
        assert_eq!(arguments.http_url.as_deref(), Some("http://h"));
        assert_eq!(arguments.token.unwrap().expose_secret(), "one");
        let second = filled(&["--extension", "1002"]).unwrap().1;
        assert_eq!(second.token.unwrap().expose_secret(), "two");
        assert!(filled(&["--extension", "1003"]).is_err());
    }

    #[test]
    fn the_token_goes_where_it_is_told_to() {
        assert!(matches!(
            given(&["--token", "t"]).0.credential,
            Credential::InQuery(_)
        ));
        assert!(matches!(
            given(&["--token", "t", "--header"]).0.credential,
            Credential::InHeader(_)
        ));
        assert!(matches!(given(&[]).0.credential, Credential::InUrl));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let (endpoint, _) = given(&["--token", "hidden", "--http-url", "http://127.0.0.1:1"]);
        assert!(!format!("{endpoint:?}").contains("hidden"));
        assert_eq!(
            without_query(&endpoint.url),
            "ws://127.0.0.1:1/exotel-stream"
        );
    }
}
