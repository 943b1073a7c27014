//! `ringback-client`: uses the WebSocket API by hand.

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use clap::Parser;
use ringback_client::console::{self, Input, Responder};
use ringback_client::stack::Stack;
use ringback_client::{Client, Credential, Error};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval_at};

/// The default extension. The local stack has it.
const EXTENSION: &str = "1001";
/// API Gateway closes a connection that is idle for 10 minutes.
const PING_EVERY: Duration = Duration::from_secs(5 * 60);
/// The time format of the API's messages, with milliseconds.
const UTC: &[BorrowedFormatItem] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Connects to Ringback's WebSocket API, sends what you type, and prints what arrives.
///
/// Without --url it connects to the local stack of this checkout, as --extension.
#[derive(Debug, Parser)]
#[command(name = "ringback-client", version, after_help = console::HELP)]
struct Arguments {
    /// The WebSocket API, such as wss://…/exotel-stream
    #[arg(long)]
    url: Option<String>,
    /// The app's bearer token; not needed if the URL contains ?secret=
    #[arg(long)]
    token: Option<SecretString>,
    /// Send the token in the Authorization header instead of the query
    #[arg(long)]
    header: bool,
    /// The extension that answers calls; the default is the token's, or 1001
    #[arg(long)]
    extension: Option<String>,
    /// The device that answers calls, for an extension with several devices
    #[arg(long)]
    device_id: Option<String>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<()> {
    let (url, credential, responder) = connection_settings(arguments)?;
    eprintln!("connecting to {}", without_query(&url));
    let mut stop = std::pin::pin!(stop_signal()?);
    let client = tokio::select! {
        client = Client::connect_as(&url, &credential) => client?,
        () = &mut stop => return Ok(()),
    };
    let mut connection = Connection {
        client,
        since: Instant::now(),
    };
    connection.print("-- connected")?;
    let mut typed = read_lines(responder);
    tokio::select! {
        result = connection.converse(&mut typed) => result?,
        () = stop => {}
    }
    connection.close().await
}

/// An open connection, and the time when it was opened.
struct Connection {
    client: Client,
    since: Instant,
}

impl Connection {
    /// Sends the typed messages and prints the received ones, until the input ends.
    async fn converse(&mut self, typed: &mut mpsc::Receiver<Value>) -> Result<()> {
        let mut ping = interval_at(self.since + PING_EVERY, PING_EVERY);
        loop {
            tokio::select! {
                received = self.client.receive() => match received {
                    Ok(message) => self.print(&format!("<- {message}"))?,
                    Err(Error::NotJson(text)) => self.print(&format!("<- not JSON: {text}"))?,
                    Err(error) => return Err(error.into()),
                },
                message = typed.recv() => match message {
                    Some(message) => self.send(message).await?,
                    None => return Ok(()),
                },
                _ = ping.tick() => self.send(console::ping()).await?,
            }
        }
    }

    async fn send(&mut self, message: Value) -> Result<()> {
        self.client.send(message.clone()).await?;
        self.print(&format!("-> {message}"))
    }

    fn print(&self, line: &str) -> Result<()> {
        print(self.since, line)
    }

    async fn close(self) -> Result<()> {
        let Self { client, since } = self;
        // Messages may arrive until the server answers the close frame.
        for message in client.close().await {
            print(since, &format!("<- {message}"))?;
        }
        Ok(())
    }
}

/// Prints a line with the time in UTC and since the connection was opened.
fn print(since: Instant, line: &str) -> Result<()> {
    let utc = OffsetDateTime::now_utc().format(UTC)?;
    let since = since.elapsed().as_secs_f64();
    Ok(writeln!(std::io::stdout(), "{utc} {since:9.3} s  {line}")?)
}

/// The URL, the credential and the answering extension, from the arguments and the running local stack.
fn connection_settings(mut arguments: Arguments) -> Result<(String, Credential, Responder)> {
    let url = match arguments.url.take() {
        Some(url) => url,
        None => fill_in(&mut arguments, running_stack()?)?,
    };
    let token = arguments.token;
    let extension = arguments
        .extension
        .or_else(|| extension_in(token.as_ref()?))
        .unwrap_or_else(|| EXTENSION.to_owned());
    let credential = match token {
        None => Credential::InUrl,
        Some(token) if arguments.header => Credential::InHeader(token),
        Some(token) => Credential::InQuery(token),
    };
    let responder = Responder {
        extension,
        device_id: arguments.device_id,
    };
    Ok((url, credential, responder))
}

/// Adds the stack's token if the arguments have none, and returns the URL of its WebSocket API.
fn fill_in(arguments: &mut Arguments, stack: Stack) -> Result<String> {
    if arguments.token.is_none() {
        let extension = arguments.extension.as_deref().unwrap_or(EXTENSION);
        arguments.token = Some(token_in(&stack, extension)?);
    }
    Ok(stack.ws_url)
}

fn running_stack() -> Result<Stack> {
    Stack::load(&Stack::path())
        .context("target/local/stack.json cannot be read")?
        .context("no local stack is running: start one with `make up`, or give --url and --token")
}

fn token_in(stack: &Stack, extension: &str) -> Result<SecretString> {
    let token = stack.token(extension).cloned();
    token.with_context(|| {
        let known: Vec<&str> = stack.extensions().collect();
        let known = known.join(", ");
        format!("the local stack has no extension {extension}, only {known}")
    })
}

/// The extension in a token's claims. The server verifies the token.
fn extension_in(token: &SecretString) -> Option<String> {
    let claims = token.expose_secret().split('.').nth(1)?;
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
    claims["extension"].as_str().map(str::to_owned)
}

/// The URL without its query, which may contain a secret.
fn without_query(url: &str) -> &str {
    url.split_once('?').map_or(url, |(address, _)| address)
}

/// Reads standard input in a separate thread. A pending read cannot be cancelled, and the runtime would wait for it.
fn read_lines(responder: Responder) -> mpsc::Receiver<Value> {
    let (sender, typed) = mpsc::channel(16);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let now_ms = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
            match console::parse(&line, &responder, i64::try_from(now_ms).unwrap_or_default()) {
                Ok(Input::Send(message)) => {
                    if sender.blocking_send(message).is_err() {
                        return;
                    }
                }
                Ok(Input::Help) => eprintln!("{}", console::HELP),
                Ok(Input::Empty) => {}
                Err(error) => eprintln!("{error}"),
            }
        }
    });
    typed
}

/// Completes on SIGINT or SIGTERM. After this call, these signals no longer kill the process.
fn stop_signal() -> std::io::Result<impl Future<Output = ()>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const URL: &str = "ws://127.0.0.1:1/exotel-stream?secret=x";

    fn settings(arguments: &[&str]) -> (String, Credential, Responder) {
        let all = ["ringback-client", "--url", URL];
        let arguments = Arguments::try_parse_from(all.iter().chain(arguments)).unwrap();
        connection_settings(arguments).unwrap()
    }

    /// A token with an invalid signature, which the client does not check.
    fn token(extension: &str) -> String {
        let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"extension":"{extension}","exp":1}}"#));
        format!("header.{claims}.signature")
    }

    #[test]
    fn the_extension_comes_from_the_argument_or_the_token_or_the_default() {
        let extension = |arguments: &[&str]| settings(arguments).2.extension;
        let token = token("1002");
        assert_eq!(extension(&["--token", &token]), "1002");
        assert_eq!(
            extension(&["--token", &token, "--extension", "1003"]),
            "1003"
        );
        assert_eq!(extension(&["--token", "opaque"]), EXTENSION);
    }

    #[test]
    fn the_local_stack_provides_the_missing_arguments() {
        let stack = || -> Stack {
            let json = r#"{"ws_url":"ws://w","sip":{},"phones":[
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
        assert_eq!(arguments.token.unwrap().expose_secret(), "one");
        let second = filled(&["--extension", "1002"]).unwrap().1;
        assert_eq!(second.token.unwrap().expose_secret(), "two");
        assert!(filled(&["--extension", "1003"]).is_err());
    }

    #[test]
    fn the_token_goes_into_the_query_or_the_header() {
        let credential = |arguments: &[&str]| settings(arguments).1;
        assert!(matches!(
            credential(&["--token", "t"]),
            Credential::InQuery(_)
        ));
        let in_header = credential(&["--token", "t", "--header"]);
        assert!(matches!(in_header, Credential::InHeader(_)));
        assert!(matches!(credential(&[]), Credential::InUrl));
    }

    #[test]
    fn no_secret_is_printed() {
        let (url, credential, _) = settings(&["--token", "hidden"]);
        assert!(!format!("{credential:?}").contains("hidden"));
        assert_eq!(without_query(&url), "ws://127.0.0.1:1/exotel-stream");
    }
}
