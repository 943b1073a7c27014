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

const TOKEN: &str = "a-token-that-nobody-is-to-see";

/// The running command, with its standard input and output.
struct Running {
    child: Child,
    printed: Lines<BufReader<ChildStdout>>,
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
        let printed = BufReader::new(child.stdout.take().context("no output")?).lines();
        let peer = server.accept().await?;
        let mut running = Self { child, printed };
        running.prints("-- connected").await?;
        Ok((running, peer))
    }

    async fn types(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no input")?;
        Ok(stdin.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// Reads lines until one contains these words.
    async fn prints(&mut self, words: &str) -> Result<String> {
        loop {
            let line = timeout(SOON, self.printed.next_line())
                .await
                .context("nothing printed")??;
            let line = line.with_context(|| format!("ended without {words:?}"))?;
            ensure!(!line.contains(TOKEN), "the token is printed: {line}");
            if line.contains(words) {
                return Ok(line);
            }
        }
    }

    /// Checks that the connection is closed with a close frame and that the command exits with 0.
    async fn ends(mut self, peer: Peer) -> Result<()> {
        peer.sees_it_closed().await?;
        let status = timeout(SOON, self.child.wait())
            .await
            .context("it goes on")??;
        ensure!(status.success(), "{status}");
        Ok(())
    }
}

#[tokio::test]
async fn what_is_typed_is_sent_and_what_arrives_is_printed_with_its_time() -> Result<()> {
    let server = Server::start().await?;
    let (mut running, mut peer) = Running::start(&server, None).await?;
    running.types("ping").await?;
    assert_eq!(peer.hears().await?, json!({"type": "ping"}));
    peer.says(&json!({"type": "pong"})).await?;
    running.prints(r#"-> {"type":"ping"}"#).await?;
    let line = running.prints(r#"<- {"type":"pong"}"#).await?;
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
async fn the_end_of_input_ends_it() -> Result<()> {
    let server = Server::start().await?;
    let (mut running, peer) = Running::start(&server, None).await?;
    drop(running.child.stdin.take());
    running.ends(peer).await
}

#[tokio::test]
async fn ctrl_c_ends_it() -> Result<()> {
    let server = Server::start().await?;
    let (running, peer) = Running::start(&server, None).await?;
    let pid = running.child.id().context("it has ended already")?;
    kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGINT)?;
    running.ends(peer).await
}

#[tokio::test]
async fn it_reconnects_by_itself() -> Result<()> {
    let server = Server::start().await?;
    let (mut running, peer) = Running::start(&server, None).await?;
    drop(peer);
    running.prints("-- connection lost").await?;
    let mut peer = server.accept().await?;
    running.prints("-- connected").await?;
    running.types("ping").await?;
    assert_eq!(peer.hears().await?, json!({"type": "ping"}));
    Ok(())
}

#[tokio::test]
async fn over_tls_only_a_server_with_a_trusted_certificate_is_talked_to() -> Result<()> {
    let (tls, authority) = certified()?;
    let file = std::env::temp_dir().join(format!("ringback-client-{}.pem", std::process::id()));
    std::fs::write(&file, authority)?;
    let server = Server::start_with_tls(tls).await?;
    let (mut running, mut peer) = Running::start(&server, Some(&file)).await?;
    running.types("ping").await?;
    assert_eq!(peer.hears().await?, json!({"type": "ping"}));
    assert!(Running::start(&server, None).await.is_err());
    Ok(std::fs::remove_file(file)?)
}

/// A TLS acceptor, and the certificate authority (PEM) that signed its certificate.
fn certified() -> Result<(TlsAcceptor, String)> {
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
