//! A real softphone that is not ours: baresip, without a sound card. It plays a tone of 440 Hz.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use ringback_local::settings::Settings;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};
use tokio::time::{sleep, timeout};

use crate::fixture::{Fixture, SOON};

/// A running baresip, with the account of one extension. Dropping it kills it.
pub struct Baresip {
    /// It ends with the process that has it.
    _process: Child,
    control: TcpStream,
    unread: Vec<u8>,
}

impl Baresip {
    /// Starts baresip and waits until it is registered over UDP. It prefers Opus.
    pub async fn register(fixture: &Fixture, extension: &str) -> Result<Self> {
        // Another program may take a free port before baresip does, and baresip then ends.
        match Self::start(fixture, extension).await {
            Err(_) => Self::start(fixture, extension).await,
            started => started,
        }
    }

    async fn start(fixture: &Fixture, extension: &str) -> Result<Self> {
        let folder = Settings::from_environment().state("baresip");
        tokio::fs::create_dir_all(&folder).await?;
        let (sip, control) = free_ports().await?;
        let modules = modules().context("baresip's modules are missing")?;
        let config = format!(
            "poll_method poll\nsip_listen {sip}\nnet_interface 127.0.0.1\ncall_local_timeout 120\n\
             audio_player aubridge,ear\naudio_source ausine,440\nausrc_srate 48000\nausrc_channels 2\naudio_alert aubridge,alert\n\
             module_path {}\nmodule opus.so\nmodule g711.so\nmodule aubridge.so\nmodule ausine.so\nmodule_tmp uuid.so\n\
             module_tmp account.so\nmodule_app menu.so\nmodule_app ctrl_tcp.so\nctrl_tcp_listen {control}\n",
            modules.display()
        );
        let password = &fixture.stack.phone(extension).unwrap().sip_password;
        let account = format!(
            "<sip:{extension}@{};transport=udp>;auth_pass={password};audio_codecs=opus/48000/2,pcmu\n",
            fixture.pbx
        );
        for (name, text) in [("config", config), ("accounts", account)] {
            tokio::fs::write(folder.join(name), text).await?;
        }
        let log = std::fs::File::create(folder.join("baresip.log"))?;
        let mut process = Command::new("baresip")
            .arg("-f")
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .context("baresip does not start")?;
        let control = async {
            loop {
                match TcpStream::connect(control).await {
                    Ok(control) => return Ok(control),
                    Err(_) => sleep(Duration::from_millis(50)).await,
                }
                if let Some(status) = process.try_wait()? {
                    bail!("baresip has ended: {status}");
                }
            }
        };
        let control = timeout(SOON, control)
            .await
            .context("baresip's control port is closed")??;
        let mut this = Self {
            _process: process,
            control,
            unread: Vec::new(),
        };
        // The registration may have ended before this connection.
        for _ in 0..50 {
            let accounts = this.run("reginfo").await?;
            if accounts["data"]
                .as_str()
                .is_some_and(|text| text.contains("OK"))
            {
                return Ok(this);
            }
            sleep(Duration::from_millis(100)).await;
        }
        bail!("baresip does not register; see target/local/baresip/baresip.log")
    }

    /// Runs a command of its menu, such as `accept`, `hold`, `resume`, `mute` (on and off) or `hangup`.
    pub async fn run(&mut self, command: &str) -> Result<Value> {
        let message = json!({ "command": command, "token": command }).to_string();
        let message = format!("{}:{message},", message.len());
        self.control.write_all(message.as_bytes()).await?;
        let answer = self.message(|message| message["token"] == command).await?;
        ensure!(answer["ok"] == true, "{command}: {answer}");
        Ok(answer)
    }

    /// Waits for an event, such as `CALL_INCOMING`.
    pub async fn event(&mut self, kind: &str) -> Result<Value> {
        let is_meant = |message: &Value| message["event"] == true && message["type"] == kind;
        let event = self.message(is_meant).await;
        event.with_context(|| format!("no {kind}"))
    }

    /// The next message of this kind. Others are dropped. Each is a netstring: its length, a colon, the text, a comma.
    async fn message(&mut self, is_meant: impl Fn(&Value) -> bool) -> Result<Value> {
        let read = async {
            loop {
                while let Some(text) = take_netstring(&mut self.unread) {
                    let message: Value = serde_json::from_slice(&text)?;
                    if is_meant(&message) {
                        return Ok(message);
                    }
                }
                ensure!(
                    self.control.read_buf(&mut self.unread).await? > 0,
                    "baresip has ended"
                );
            }
        };
        timeout(SOON, read).await?
    }
}

fn take_netstring(bytes: &mut Vec<u8>) -> Option<Vec<u8>> {
    let colon = bytes.iter().position(|byte| *byte == b':')?;
    let length: usize = std::str::from_utf8(&bytes[..colon]).ok()?.parse().ok()?;
    let text = bytes.get(colon + 1..colon + 1 + length)?.to_vec();
    bytes.drain(..(colon + 2 + length).min(bytes.len()));
    Some(text)
}

/// Two free ports. Baresip listens over UDP and TCP; over TCP, closed connections still occupy many ports.
async fn free_ports() -> Result<(SocketAddr, SocketAddr)> {
    let one = TcpListener::bind("127.0.0.1:0").await?;
    let other = TcpListener::bind("127.0.0.1:0").await?;
    Ok((one.local_addr()?, other.local_addr()?))
}

/// The folder with baresip's modules: installed, or unpacked by `local/tools/prerequisites.sh`.
fn modules() -> Option<PathBuf> {
    let unpacked = Settings::from_environment()
        .tools_dir()
        .join("packages/usr/lib");
    let installed = std::env::split_paths(&std::env::var_os("PATH")?)
        .map(|programs| programs.join("../lib"))
        .collect::<Vec<_>>();
    let mut folders = installed.into_iter().chain([unpacked]);
    folders
        .find(|libraries| has_modules(libraries))
        .map(|libraries| libraries.join("baresip/modules"))
}

fn has_modules(libraries: &Path) -> bool {
    libraries.join("baresip/modules/ctrl_tcp.so").exists()
}
