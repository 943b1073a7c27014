//! Starts the whole stack, keeps it running, stops it: in the foreground (`run`), in the background (`up`,
//! `down`), or around another command (`test-env`).

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::cloud::deploy::{self, Outputs};
use crate::cloud::template::Template;
use crate::cloud::{apis, build, emulator, endpoint, seed};
use crate::credentials::Credentials;
use crate::gateway::{Gateway, Upstream, WEBSOCKET_PATH};
use crate::pbx::server::{self, Pbx, ari_url};
use crate::pbx::{configuration, source};
use crate::process::{Daemon, PidFile};
use crate::progress::{Progress, tail};
use crate::settings::{LOOPBACK, NUMBERS, PORTS, REGION, Settings, TRUNK_SOURCE};
use crate::stack::{Ari, Aws, Headers, Phone, Requests, Sip, Stack};
use crate::tools::{Tools, make_dir};
use crate::{prerequisites, stand_in};

/// The pid file of the process that holds the stack.
const HOLDER: &str = "stack";
/// How long a child may take to end before it is ended.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long stopping the whole stack may take.
const STOPPING: Duration = Duration::from_secs(20);
/// How long the first health check may fail: the functions start cold.
const HEALTHY_WITHIN: Duration = Duration::from_secs(15);

/// A stack with all its parts running.
#[derive(Debug)]
struct Running {
    description: Stack,
    cloud: Daemon,
    pbx: Pbx,
    _gateway: Gateway,
    _stand_ins: [JoinHandle<()>; 2],
}

/// `run`: until Ctrl-C, or SIGTERM.
pub async fn in_foreground(settings: &Settings) -> Result<()> {
    let claim = claim(settings).await?;
    let outcome = hold(settings).await;
    claim.give_up(settings);
    outcome
}

/// `up`: in the background; comes back when the stack is ready, or says why it never will be.
pub async fn up(settings: &Settings) -> Result<()> {
    if holder(settings).running().is_some() {
        println!("already running:");
        print!("{}", summary(&Stack::load(&settings.state_dir())?));
        return Ok(());
    }
    make_dir(&settings.state_dir())?;
    // What a killed stack left must not be taken for the new one's.
    Stack::remove(&settings.state_dir());
    let log = settings.state("stack.log");
    let out = File::create(&log).with_context(|| format!("could not create {}", log.display()))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("run")
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out);
    // A group of its own: the terminal's Ctrl-C is not meant for it.
    let mut child = command
        .process_group(0)
        .spawn()
        .context("could not start the stack in the background")?;
    tokio::select! {
        outcome = wait_until_ready(settings, &mut child, &log) => outcome,
        () = asked_to_stop() => {
            stop_holder(settings).await?;
            bail!("stopped before it was ready")
        }
    }
}

/// Shows the background stack's progress as if it were ours.
async fn wait_until_ready(settings: &Settings, child: &mut Child, log: &Path) -> Result<()> {
    let mut shown = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        shown = show_new(log, shown);
        if let Some(status) = child.try_wait()? {
            show_new(log, shown);
            bail!(
                "the stack did not start ({status}); all of it is in {}",
                log.display()
            );
        }
        if Stack::load(&settings.state_dir()).is_ok() {
            // The last lines come right after the description.
            tokio::time::sleep(Duration::from_millis(200)).await;
            show_new(log, shown);
            return Ok(());
        }
    }
}

/// `down`: stops whatever runs, and clears away what a killed stack left behind.
pub async fn down(settings: &Settings) -> Result<()> {
    let was_running = stop_holder(settings).await?;
    let mut leftovers = Vec::new();
    for name in [server::NAME, emulator::NAME] {
        if PidFile::new(&settings.state_dir(), name)
            .end_leftover(PATIENCE)
            .await
        {
            leftovers.push(name);
        }
    }
    Stack::remove(&settings.state_dir());
    match (was_running, leftovers.is_empty()) {
        (true, true) => println!("stopped"),
        (false, true) => println!("nothing was running"),
        (_, false) => println!(
            "stopped what an earlier stack left running: {}",
            leftovers.join(", ")
        ),
    }
    Ok(())
}

/// `test-env`: a stack around one command, whose exit status is ours.
pub async fn around(settings: &Settings, command: &[String]) -> Result<i32> {
    let claim = claim(settings).await?;
    let outcome = run_within(settings, command).await;
    claim.give_up(settings);
    outcome
}

async fn run_within(settings: &Settings, command: &[String]) -> Result<i32> {
    let (program, arguments) = command.split_first().context("no command to run")?;
    let progress = Progress::start();
    let mut running = start(settings, progress).await?;
    let mut child = Command::new(program)
        .args(arguments)
        .current_dir(settings.repository())
        .kill_on_drop(true)
        .spawn()?;
    let outcome = tokio::select! {
        status = child.wait() => Ok(status?.code().unwrap_or(1)),
        error = running.part_ended() => Err(error),
        () = asked_to_stop() => Err(anyhow::anyhow!("stopped")),
    };
    running.stop(settings, progress).await;
    outcome
}

async fn hold(settings: &Settings) -> Result<()> {
    let progress = Progress::start();
    let mut running = tokio::select! {
        running = start(settings, progress) => running?,
        () = asked_to_stop() => {
            progress.say("stopped before it was ready");
            clear_leftovers(settings).await;
            return Ok(());
        }
    };
    progress.say("ready");
    print!("{}", summary(&running.description));
    let outcome = tokio::select! {
        () = asked_to_stop() => Ok(()),
        error = running.part_ended() => Err(error),
    };
    running.stop(settings, progress).await;
    outcome
}

impl Running {
    async fn part_ended(&mut self) -> anyhow::Error {
        tokio::select! {
            error = self.cloud.ended() => error,
            error = self.pbx.ended() => error,
        }
    }

    async fn stop(self, settings: &Settings, progress: Progress) {
        Stack::remove(&settings.state_dir());
        progress.say("stopping");
        tokio::join!(self.pbx.stop(), self.cloud.stop(PATIENCE));
        progress.say("stopped");
    }
}

/// Brings everything up, side by side where that saves time.
async fn start(settings: &Settings, progress: Progress) -> Result<Running> {
    let template = Template::read(&settings.repository().join("template.yaml"))?;
    let token_uri = format!("http://{LOOPBACK}:{}/token", PORTS.fcm);
    let tools = Tools::at(settings);

    let prepare_cloud = async {
        install_and_build(settings, progress, &tools, &template).await?;
        let cloud = progress
            .step(
                "start the local AWS",
                None,
                emulator::start(settings, &tools),
            )
            .await?;
        let outputs = deploy_application(settings, progress, &tools, &template).await;
        stop_if_failed(cloud, outputs).await
    };
    let prepare_pbx = obtain_asterisk(settings, progress);
    let make_credentials = async {
        let made = tokio::task::spawn_blocking(move || Credentials::generate(&token_uri)).await?;
        made?.overridden(settings)
    };
    let ((cloud, outputs), asterisk, credentials) =
        tokio::try_join!(prepare_cloud, prepare_pbx, make_credentials)?;

    let rest = finish(settings, progress, &outputs, asterisk, &credentials).await;
    let (cloud, (pbx, gateway, stand_ins, description)) = stop_if_failed(cloud, rest).await?;
    Ok(Running {
        description,
        cloud,
        pbx,
        _gateway: gateway,
        _stand_ins: stand_ins,
    })
}

/// Hands on what came after the local AWS was started, or stops it.
async fn stop_if_failed<T>(cloud: Daemon, outcome: Result<T>) -> Result<(Daemon, T)> {
    match outcome {
        Ok(value) => Ok((cloud, value)),
        Err(error) => {
            cloud.stop(PATIENCE).await;
            Err(error)
        }
    }
}

/// Compiling needs only one of the tools, so the others are installed meanwhile.
async fn install_and_build(
    settings: &Settings,
    progress: Progress,
    tools: &Tools,
    template: &Template,
) -> Result<()> {
    let binaries = template.binaries();
    let name = format!("compile the {} functions", binaries.len());
    let compile = progress.step(
        &name,
        Some(build::log(settings)),
        build::functions(settings, tools, &binaries),
    );
    if tools.are_installed() {
        return compile.await;
    }
    progress
        .step(
            "install cargo-lambda into target/tools",
            Some(tools.log()),
            tools.install_compiler(),
        )
        .await?;
    let install = progress.step(
        "install the other tools into target/tools",
        Some(tools.log()),
        tools.install_rest(),
    );
    tokio::try_join!(install, compile)?;
    Ok(())
}

async fn obtain_asterisk(settings: &Settings, progress: Progress) -> Result<source::Source> {
    match source::work_ahead(settings) {
        Some(work) => {
            progress
                .step(work, Some(source::log(settings)), source::obtain(settings))
                .await
        }
        None => source::obtain(settings).await,
    }
}

async fn deploy_application(
    settings: &Settings,
    progress: Progress,
    tools: &Tools,
    template: &Template,
) -> Result<Outputs> {
    let path = settings.state("template.yaml");
    std::fs::write(
        &path,
        template.with_builds_in(&build::builds_dir(settings))?,
    )?;
    let parameters = parameters(settings, &template.parameters());
    let deployment = deploy::deploy(settings, tools, &path, &parameters);
    progress
        .step(
            "deploy template.yaml",
            Some(deploy::log(settings)),
            deployment,
        )
        .await
}

/// The stack's own settings for the template, and over them whatever the environment says.
fn parameters(settings: &Settings, declared: &[String]) -> BTreeMap<String, String> {
    let own = [
        (
            "Architecture",
            if cfg!(target_arch = "aarch64") {
                "arm64"
            } else {
                "x86_64"
            }
            .to_owned(),
        ),
        ("AriUrl", ari_url()),
        ("FcmBaseUrl", format!("http://{LOOPBACK}:{}", PORTS.fcm)),
        (
            "ExotelBaseUrl",
            format!("http://{LOOPBACK}:{}", PORTS.exotel),
        ),
        ("LocalApiGatewayUrl", apis()),
    ];
    let mut parameters: BTreeMap<String, String> = own
        .into_iter()
        .filter(|(name, _)| declared.iter().any(|declared| declared == name))
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
    parameters.extend(settings.parameters_from_environment(declared));
    parameters
}

type Front = (Pbx, Gateway, [JoinHandle<()>; 2], Stack);

/// Everything that needs the deployed application's names.
async fn finish(
    settings: &Settings,
    progress: Progress,
    outputs: &Outputs,
    asterisk: source::Source,
    credentials: &Credentials,
) -> Result<Front> {
    let stand_ins = [
        stand_in::serve(
            stand_in::fcm::router(&credentials.service_account)?,
            PORTS.fcm,
        )
        .await?,
        stand_in::serve(stand_in::exotel::router(&credentials.exotel), PORTS.exotel).await?,
    ];
    progress
        .step(
            "put the secrets and the numbers' routes",
            None,
            seed::fill(outputs, credentials),
        )
        .await?;
    let upstream = Upstream::in_local_aws(
        outputs.require("HttpApiId")?,
        outputs.optional("WebSocketApiId"),
    )?;
    let gateway = Gateway::start(upstream, PORTS.gateway).await?;
    let configuration = configuration::write(settings, &asterisk, credentials, &http_url())?;
    let starting = Pbx::start(settings, asterisk, configuration, credentials);
    let pbx = progress.step("start Asterisk", None, starting).await?;
    check_health(progress).await;
    let description = describe(settings, outputs, credentials)?;
    description.write(&settings.state_dir())?;
    Ok((pbx, gateway, stand_ins, description))
}

fn http_url() -> String {
    format!("http://{LOOPBACK}:{}", PORTS.gateway)
}

/// Says how the application finds itself. An unhealthy stack is left running: it is there to be looked at.
async fn check_health(progress: Progress) {
    let deadline = tokio::time::Instant::now() + HEALTHY_WITHIN;
    loop {
        let answer = match reqwest::get(format!("{}/health", http_url())).await {
            Ok(answer) if answer.status().is_success() => return progress.say("health: 200"),
            Ok(answer) => format!(
                "{}: {}",
                answer.status(),
                answer.text().await.unwrap_or_default()
            ),
            Err(error) => error.to_string(),
        };
        if tokio::time::Instant::now() >= deadline {
            return progress.say(&format!("health: NOT WELL, {answer}"));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

fn describe(settings: &Settings, outputs: &Outputs, credentials: &Credentials) -> Result<Stack> {
    let phones: Result<Vec<Phone>> = credentials
        .sip_passwords
        .iter()
        .map(|(extension, password)| {
            let token = credentials.app_token(extension)?;
            Ok(Phone {
                extension: extension.clone(),
                sip_password: password.clone(),
                token,
            })
        })
        .collect();
    let requests = |port| format!("http://{LOOPBACK}:{port}/requests");
    Ok(Stack {
        http_url: http_url(),
        ws_url: format!("ws://{LOOPBACK}:{}{WEBSOCKET_PATH}", PORTS.gateway),
        exotel_webhook_url: format!(
            "{}/exotel/webhook?secret={}",
            http_url(),
            credentials.webhook_secret
        ),
        asterisk_incoming_url: format!("{}/asterisk/incoming", http_url()),
        headers: Headers {
            asterisk: BTreeMap::from([(
                "X-Ringback-Secret".to_owned(),
                credentials.hook_secret.clone(),
            )]),
        },
        aws: Aws {
            endpoint: endpoint(),
            region: REGION.to_owned(),
            table: outputs.require("TableName")?.to_owned(),
        },
        ari: Ari {
            url: settings.override_or("ARI_URL", ari_url()),
            username: credentials.ari_username.clone(),
            password: credentials.ari_password.clone(),
            ca_pem: credentials.ari_ca_pem.clone(),
        },
        sip: Sip {
            address: format!("{LOOPBACK}:{}", PORTS.sip),
            trunk_source: TRUNK_SOURCE.to_owned(),
        },
        phones: phones?,
        numbers: NUMBERS
            .iter()
            .map(|(number, extension)| ((*number).into(), (*extension).into()))
            .collect(),
        requests: Requests {
            fcm: requests(PORTS.fcm),
            exotel: requests(PORTS.exotel),
        },
    })
}

fn summary(stack: &Stack) -> String {
    let numbers: Vec<String> = stack
        .numbers
        .iter()
        .map(|(number, extension)| format!("{number} rings {extension}"))
        .collect();
    format!(
        "
  HTTP API      {}      (try {}/health)
  Exotel hook   {}
  SIP           {} (the trunk calls from {}; {})
  ARI           {}
  local AWS     {} ({})
  pushes        {}
  all of it     target/local/stack.json, logs beside it

`make call` places a call. `make down`, or Ctrl-C where `make run` runs, stops the stack.
",
        stack.http_url,
        stack.http_url,
        stack.exotel_webhook_url,
        stack.sip.address,
        stack.sip.trunk_source,
        numbers.join(", "),
        stack.ari.url,
        stack.aws.endpoint,
        stack.aws.region,
        stack.requests.fcm,
    )
}

/// This process's right to the stack of this checkout. The lock ends with the process, however that ends.
struct Claim {
    holder: PidFile,
    _lock: File,
}

impl Claim {
    fn give_up(self, settings: &Settings) {
        Stack::remove(&settings.state_dir());
        self.holder.remove();
    }
}

fn holder(settings: &Settings) -> PidFile {
    PidFile::new(&settings.state_dir(), HOLDER)
}

/// Makes this process the one that holds the stack, after checking that it can be started at all.
async fn claim(settings: &Settings) -> Result<Claim> {
    make_dir(&settings.state_dir())?;
    let lock = File::create(settings.state("stack.lock"))?;
    let holder = holder(settings);
    if lock.try_lock().is_err() {
        let pid = holder
            .running()
            .map_or_else(String::new, |pid| format!(" (pid {pid})"));
        bail!("a stack of this checkout is already running{pid}; `make down` stops it");
    }
    clear_leftovers(settings).await;
    prerequisites::check(settings)?;
    holder.write(std::process::id())?;
    Ok(Claim {
        holder,
        _lock: lock,
    })
}

/// A stack that was killed could not stop its children.
async fn clear_leftovers(settings: &Settings) {
    Stack::remove(&settings.state_dir());
    for name in [server::NAME, emulator::NAME] {
        PidFile::new(&settings.state_dir(), name)
            .end_leftover(PATIENCE)
            .await;
    }
}

async fn stop_holder(settings: &Settings) -> Result<bool> {
    let holder = holder(settings);
    let Some(pid) = holder.running() else {
        holder.remove();
        return Ok(false);
    };
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)
        .context("could not ask the stack to stop")?;
    if !holder.wait_until_gone(STOPPING).await {
        holder.end_leftover(Duration::ZERO).await;
    }
    Ok(true)
}

async fn asked_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (
        signal(SignalKind::interrupt()),
        signal(SignalKind::terminate()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

/// Prints what has been added to a log, and gives its new length in lines.
fn show_new(log: &Path, shown: usize) -> usize {
    let lines = tail(log, usize::MAX);
    for line in &lines[shown.min(lines.len())..] {
        println!("{line}");
    }
    lines.len()
}
