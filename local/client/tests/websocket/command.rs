use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::server::{Peer, SOON, Server};

const TOKEN: &str = "a-secret-token";

/// The running command, with its standard input and output.
struct Running {
    child: Child,
    stdout: Lines<BufReader<ChildStdout>>,
}

impl Running {
    async fn start(server: &Server, authority: Option<&PathBuf>) -> Result<(Self, Peer)> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringback-client"));
        command
            .args(["--url", &server.url()?, "--token", TOKEN])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        if let Some(authority) = authority {
            command.env("SSL_CERT_FILE", authority);
        }
        let mut child = command.spawn()?;
        let stdout = BufReader::new(child.stdout.take().context("no output")?).lines();
        let peer = server.accept().await?;
        let mut running = Self { child, stdout };
        running.printed("-- connected").await?;
        Ok((running, peer))
    }

    async fn type_line(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no input")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Reads lines until one contains these words.
    async fn printed(&mut self, words: &str) -> Result<String> {
        loop {
            let line = timeout(SOON, self.stdout.next_line())
                .await
                .context("no output")??;
            let line = line.with_context(|| format!("the output ended before {words:?}"))?;
            ensure!(!line.contains(TOKEN), "the token is printed: {line}");
            if line.contains(words) {
                return Ok(line);
            }
        }
    }

    /// Checks that the connection is closed with a close frame and that the command exits with 0.
    async fn exits(mut self, peer: Peer) -> Result<()> {
        peer.expect_close().await?;
        let status = timeout(SOON, self.child.wait())
            .await
            .context("the command did not exit")??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

#[tokio::test]
async fn sent_and_received_messages_are_printed_with_the_time() -> Result<()> {
    let server = Server::start().await?;
    let (mut running, mut peer) = Running::start(&server, None).await?;
    running.type_line("ping").await?;
    assert_eq!(peer.receive().await?, json!({"type": "ping"}));
    peer.send(&json!({"type": "pong"})).await?;
    running.printed(r#"-> {"type":"ping"}"#).await?;
    let line = running.printed(r#"<- {"type":"pong"}"#).await?;
    let columns: Vec<&str> = line.split_whitespace().collect();
    assert!(
        columns[0].ends_with('Z') && columns[0].len() == "2024-03-14T12:00:00.000Z".len(),
        "{line}"
    );
    assert!(
        columns[1].parse::<f64>()? < 60.0 && columns[2] == "s",
        "{line}"
    );
    Ok(())
}

#[tokio::test]
async fn the_command_exits_at_the_end_of_the_input() -> Result<()> {
    let server = Server::start().await?;
    let (mut running, peer) = Running::start(&server, None).await?;
    drop(running.child.stdin.take());
    running.exits(peer).await
}

#[tokio::test]
async fn the_command_exits_on_ctrl_c() -> Result<()> {
    let server = Server::start().await?;
    let (running, peer) = Running::start(&server, None).await?;
    let pid = running.child.id().context("the command has exited")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
    running.exits(peer).await
}

#[tokio::test]
async fn a_lost_connection_is_an_error() -> Result<()> {
    let server = Server::start().await?;
    let (mut running, peer) = Running::start(&server, None).await?;
    // `wait` would close the input, and the end of the input is no error.
    let _input = running.child.stdin.take();
    drop(peer);
    let status = timeout(SOON, running.child.wait()).await??;
    ensure!(!status.success(), "{status}");
    assert!(!server.has_new_client().await);
    Ok(())
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused() -> Result<()> {
    let (tls, authority) = tls_with_authority()?;
    let file = std::env::temp_dir().join(format!("ringback-client-{}.pem", std::process::id()));
    std::fs::write(&file, authority)?;
    let server = Server::start_with_tls(tls).await?;
    let (mut running, mut peer) = Running::start(&server, Some(&file)).await?;
    running.type_line("ping").await?;
    assert_eq!(peer.receive().await?, json!({"type": "ping"}));
    assert!(Running::start(&server, None).await.is_err());
    Ok(std::fs::remove_file(file)?)
}

/// A TLS acceptor, and the certificate authority (PEM) that signed its certificate.
fn tls_with_authority() -> Result<(TlsAcceptor, String)> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = ca.self_signed(&ca_key)?.pem();
    let key = KeyPair::generate()?;
    let certificate = CertificateParams::new(vec!["127.0.0.1".into()])?
        .signed_by(&key, &Issuer::from_params(&ca, &ca_key))?;
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)?;
    Ok((TlsAcceptor::from(Arc::new(config)), authority))
}
