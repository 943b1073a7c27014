//! Ringback: a real Asterisk with the repository's configuration, and the real functions behind an HTTPS address.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response, StatusCode};
use reqwest::Client;
use ringback_local::credentials::Credentials;
use ringback_local::pbx::configuration::{self, HookSettings};
use ringback_local::pbx::server::{Pbx, ari_client, ari_url};
use ringback_local::pbx::source;
use ringback_local::process::output;
use ringback_local::runtime_api::RunningFunction;
use ringback_local::settings::{LOOPBACK, PBXS, PbxPorts, Settings};
use ringback_local::tools::make_dir;
use ringback_sip::{Caller, Phone, Trunk};
use serde_json::Value;
use tokio::sync::{Mutex, mpsc};

use super::{EXTENSION, SOON, TRUNK, WakeUp, give_up, push_of};
use crate::fixture::{Fixture, NUMBER, caller, ensure_success};
use crate::server::{self, Answers, Server};
use crate::stand_ins::{ARI_PASSWORD, ARI_USERNAME, HOOK_SECRET, System};

/// The PBX. Its name keeps its files apart from those of the local stack.
const PORTS: PbxPorts = PbxPorts {
    name: "bench",
    daemon: "bench-asterisk",
    proxy_daemon: "bench-haproxy",
    ..PBXS[0]
};

/// The functions, each with an example event for each of its paths.
const ROUTES: [(&str, &str); 4] = [
    ("asterisk-incoming", "asterisk-incoming-incoming"),
    ("asterisk-incoming", "asterisk-incoming-bridged"),
    ("asterisk-incoming", "asterisk-incoming-ended"),
    ("call-response", "call-response-accept-ready"),
];

/// The running PBX with its functions, a caller, a phone and its app.
pub(super) struct Ringback {
    pbx: Pbx,
    version: String,
    front: Server,
    requests: mpsc::UnboundedReceiver<FrontRequest>,
    trunk: Trunk,
    phone: Phone,
    app: Client,
}

/// A request that the front has answered.
struct FrontRequest {
    path: String,
    arrived: Instant,
    answer: Value,
}

impl Ringback {
    pub(super) async fn start(fixture: &Fixture) -> Result<Self> {
        let certificate = fixture.stand_ins.certificate();
        let (answered, requests) = mpsc::unbounded_channel();
        let front = Front::start(fixture, answered).await?;
        let front = Server::start(Some(server::tls(certificate)?), Arc::new(front)).await?;
        let credentials = Credentials {
            ari_username: ARI_USERNAME.to_owned(),
            ari_password: ARI_PASSWORD.to_owned(),
            ari_certificate: certificate.clone(),
            hook_secret: HOOK_SECRET.to_owned(),
            ..Credentials::generate(fixture.stand_ins.url(System::GoogleToken))?
        };
        let hooks = HookSettings {
            url: &front.url,
            fallback_url: None,
            ca_file: Some(fixture.stand_ins.ca_file()),
            name: None,
        };
        let (pbx, version) = start_pbx(&credentials, &hooks).await?;
        let address = format!("{LOOPBACK}:{}", PORTS.sip).parse()?;
        let mut accounts = credentials.sip_accounts.iter();
        let account = accounts
            .find(|account| account.extension == EXTENSION)
            .context("a SIP account")?;
        Ok(Self {
            pbx,
            version,
            front,
            requests,
            trunk: Trunk::bind(TRUNK).await?,
            phone: Phone::new(address, EXTENSION, &account.password).await?,
            app: ari_client(&certificate.ca_pem)?,
        })
    }

    pub(super) fn version(&self) -> &str {
        &self.version
    }

    pub(super) async fn stop(self) {
        self.pbx.stop().await;
    }

    /// One call. Also returns the time until the PBX's report arrived.
    pub(super) async fn call(&mut self, fixture: &mut Fixture) -> Result<(WakeUp, Duration)> {
        let sid = fixture.call_sid();
        fixture.stand_ins.start_recording();
        let number = Caller::number(&caller(&sid));
        let pbx = format!("{LOOPBACK}:{}", PORTS.sip).parse()?;
        let caller = self.trunk.call(pbx, NUMBER, number, Some(&sid)).await?;
        let report = self.next_request("/asterisk/incoming").await?;
        let push = push_of(&fixture.stand_ins.recorded()).context("no push")?;

        self.phone.register().await?;
        let body = report.answer["body"].as_str().context("no body")?;
        let body: Value = serde_json::from_str(body)?;
        let accept = fixture.accept_ready(body["call_id"].as_str().context("no call_id")?)?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let request = self
            .app
            .post(format!("{}{}", self.front.url, text(&accept["rawPath"])))
            .header("authorization", text(&accept["headers"]["authorization"]))
            .header("content-type", "application/json")
            .body(text(&accept["body"]));
        let woken = Instant::now();
        let (answer, call) = tokio::join!(request.send(), self.phone.next_call(SOON));
        answer?.error_for_status()?;
        let call = call?;
        give_up(&caller, &call).await?;
        // Both legs report their end.
        for _ in 0..2 {
            self.next_request("/asterisk/ended").await?;
        }
        let placed = caller.placed().instant;
        let times = WakeUp {
            push: push - placed,
            ring: call.arrived().instant - woken,
        };
        Ok((times, report.arrived - placed))
    }

    /// Waits until the front has answered the next request to this path. Passes over others.
    async fn next_request(&mut self, path: &str) -> Result<FrontRequest> {
        let next = async {
            loop {
                let request = self.requests.recv().await.context("no front")?;
                if request.path == path {
                    return Ok(request);
                }
            }
        };
        let request: Result<FrontRequest> = tokio::time::timeout(SOON, next)
            .await
            .with_context(|| format!("no request to {path}"))?;
        let request = request?;
        ensure_success(&request.answer)?;
        Ok(request)
    }
}

/// Starts Asterisk and the proxy in front of it. Returns its version, too.
async fn start_pbx(credentials: &Credentials, hooks: &HookSettings<'_>) -> Result<(Pbx, String)> {
    let settings = Settings::from_environment();
    make_dir(&settings.state_dir())?;
    let source = source::install(&settings).await?;
    let version = output(&mut source.asterisk(&PORTS, &["-V"])).await?;
    let version = version.trim().split(['+', '~']).next().unwrap_or_default();
    let written = configuration::write(&settings, &source, &PORTS, credentials, hooks)?;
    let pbx = Pbx::start(&settings, source, PORTS, written, credentials).await?;
    Ok((pbx, version.to_owned()))
}

/// Passes HTTPS requests on to functions, as API Gateway does.
#[derive(Debug)]
struct Front {
    functions: BTreeMap<&'static str, Mutex<RunningFunction>>,
    /// The function and the example event of each path.
    routes: BTreeMap<String, (&'static str, Value)>,
    answered: mpsc::UnboundedSender<FrontRequest>,
}

impl Front {
    async fn start(
        fixture: &Fixture,
        answered: mpsc::UnboundedSender<FrontRequest>,
    ) -> Result<Self> {
        let mut variables = fixture.variables().clone();
        variables.insert("ARI_URL".to_owned(), ari_url(&PORTS));
        let mut front = Self {
            functions: BTreeMap::new(),
            routes: BTreeMap::new(),
            answered,
        };
        for (function, example) in ROUTES {
            let event = fixture.paths.event(example)?;
            let path = event["rawPath"].as_str().context("no path")?.to_owned();
            front.routes.insert(path, (function, event));
            if !front.functions.contains_key(function) {
                let running = fixture.paths.start(function, &variables).await?;
                front.functions.insert(function, Mutex::new(running));
            }
        }
        Ok(front)
    }

    async fn pass_on(&self, request: Request<Incoming>) -> Result<Value> {
        let arrived = Instant::now();
        let (head, body) = request.into_parts();
        let path = head.uri.path().to_owned();
        let (function, example) = self.routes.get(&path).context("no such route")?;
        let mut event = example.clone();
        for (name, value) in &head.headers {
            event["headers"][name.as_str()] = value.to_str()?.into();
        }
        let body = server::whole(body).await;
        event["body"] = std::str::from_utf8(&body)?.into();
        event["isBase64Encoded"] = false.into();
        let function = self.functions.get(function).context("no function")?;
        let answer = function.lock().await.invoke(&event).await?;
        ensure!(answer["statusCode"].is_u64(), "no status: {answer}");
        // The receiver is gone when the bench has ended.
        let _ = self.answered.send(FrontRequest {
            path,
            arrived,
            answer: answer.clone(),
        });
        Ok(answer)
    }
}

impl Answers for Front {
    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let mut response = Response::default();
        match self.pass_on(request).await {
            Ok(answer) => {
                let status = answer["statusCode"].as_u64().unwrap_or_default();
                let status = u16::try_from(status).ok();
                let status = status.and_then(|status| StatusCode::from_u16(status).ok());
                *response.status_mut() = status.unwrap_or(StatusCode::BAD_GATEWAY);
                let body = answer["body"].as_str().unwrap_or_default().to_owned();
                *response.body_mut() = Full::new(Bytes::from(body));
            }
            Err(error) => {
                eprintln!("the front cannot pass a request on: {error:#}");
                *response.status_mut() = StatusCode::BAD_GATEWAY;
            }
        }
        response
    }
}
