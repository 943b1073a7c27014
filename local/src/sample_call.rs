//! `make call`: places one call from the trunk through the running stack, plays the phone, and prints each step.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, Method};
use ringback_sip::{CallEvents, CallStage, Caller, IncomingCall, OutgoingCall, Phone, Trunk};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use uuid::Uuid;

use crate::settings::Settings;
use crate::stack::Stack;

/// The caller's number.
const CALLER: &str = "+919876543210";
/// The device id of the app. The same one each time, so the stack does not collect devices.
const DEVICE: &str = "make-call";
/// A step takes well under a second. The timeout leaves room for a loaded machine.
const STEP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the app takes to start after the push, and the person to pick up.
const REACTION_TIME: Duration = Duration::from_millis(500);
/// How long the two talk.
const TALK_TIME: Duration = Duration::from_secs(2);

/// Places the call and prints its progress. Fails unless the call is bridged, has audio both ways, and is completed.
pub async fn place(settings: &Settings) -> Result<()> {
    let stack = Stack::load(&settings.state_dir())?;
    let (number, extension) = stack
        .numbers
        .first_key_value()
        .context("the stack has no phone numbers")?;
    let log = CallLog::start();
    let pbx = stack.sip.address.parse()?;
    let app = App::new(&stack, extension)?;

    let account = app.register().await?;
    log.print(
        "app",
        format!(
            "registers its push token for {extension}, gets the SIP account {}, and is terminated",
            account.username
        ),
    );
    let trunk = Trunk::bind(&format!("{}:0", stack.sip.trunk_source)).await?;
    let caller = dial(log, &trunk, pbx, number).await?;
    let watching = log.follow("caller", caller.events());
    let (call_id, mut phone) = wake_app(log, &app, &account).await?;
    let callee = pick_up(log, &mut phone).await?;
    caller.answered(STEP_TIMEOUT).await?;
    talk(log, &app, &call_id, &caller, &callee).await?;
    callee.hang_up().await?;
    log.print("phone", "hangs up".to_owned());
    caller.ended(STEP_TIMEOUT).await?;
    watching.await?;
    let status = app.wait_until_completed(&call_id).await?;
    log.print("call", format!("status {status}"));
    Ok(())
}

async fn dial(log: CallLog, trunk: &Trunk, pbx: SocketAddr, number: &str) -> Result<OutgoingCall> {
    let call_sid = Uuid::new_v4().simple().to_string();
    let caller = Caller::number(CALLER);
    let call = trunk.call(pbx, number, caller, Some(&call_sid)).await?;
    let from = trunk.address();
    log.print(
        "caller",
        format!("{CALLER} dials {number}: INVITE from {from}"),
    );
    Ok(call)
}

/// Waits for the push, registers the phone, and sends `accept_ready`.
async fn wake_app(log: CallLog, app: &App<'_>, account: &SipAccount) -> Result<(String, Phone)> {
    let push = app.wait_for_push().await?;
    let call_id = push["server_call_id"]
        .as_str()
        .context("call id")?
        .to_owned();
    log.print("push", format!("incoming_call received, call {call_id}"));
    let status = app.report_ringing(&push).await?;
    log.print("app", format!("rings; ringing -> {status}"));
    tokio::time::sleep(REACTION_TIME).await;
    let pbx = account.address()?;
    let mut phone = Phone::new(pbx, &account.username, &account.password).await?;
    phone.register().await?;
    let from = phone.address();
    log.print("app", format!("starts and registers its phone from {from}"));
    let body = app.accept_ready(&call_id);
    let (status, answer) = app
        .request(Method::POST, "/api/call-response", Some(body))
        .await?;
    ensure!(status == 200, "accept_ready failed with {status}: {answer}");
    let now = answer["status"].as_str().unwrap_or_default();
    log.print("app", format!("accept_ready -> {status} {now}"));
    Ok((call_id, phone))
}

async fn pick_up(log: CallLog, phone: &mut Phone) -> Result<IncomingCall> {
    let call = phone.next_call(STEP_TIMEOUT).await?;
    let caller = &call.caller().number;
    log.print("phone", format!("rings; the caller is {caller}"));
    tokio::time::sleep(REACTION_TIME).await;
    call.answer().await?;
    log.print("phone", "answers".to_owned());
    Ok(call)
}

async fn talk(
    log: CallLog,
    app: &App<'_>,
    call_id: &str,
    caller: &OutgoingCall,
    callee: &IncomingCall,
) -> Result<()> {
    caller.media().hears(callee.media(), STEP_TIMEOUT).await?;
    callee.media().hears(caller.media(), STEP_TIMEOUT).await?;
    let status = app.status(call_id).await?;
    log.print("call", format!("both hear each other; status {status}"));
    tokio::time::sleep(TALK_TIME).await;
    let to_phone = callee.media().received_from(caller.media());
    let to_caller = caller.media().received_from(callee.media());
    log.print(
        "call",
        format!("{to_phone} packets from caller to phone, {to_caller} from phone to caller"),
    );
    Ok(())
}

/// Prints each step with the time since the start.
#[derive(Clone, Copy)]
struct CallLog {
    started: Instant,
}

impl CallLog {
    fn start() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    fn print(self, party: &str, what: String) {
        self.print_at(Instant::now(), party, &what);
    }

    fn print_at(self, at: Instant, party: &str, what: &str) {
        println!(
            "{:7.3} s  {party:<7} {what}",
            at.saturating_duration_since(self.started).as_secs_f64()
        );
    }

    /// Prints the events of a leg as they happen.
    fn follow(self, party: &'static str, events: CallEvents) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut known = 0;
            while let Some(event) = events.after(known).await {
                self.print_at(event.at.instant, party, &describe(&event.stage));
                known += 1;
            }
        })
    }
}

fn describe(stage: &CallStage) -> String {
    match stage {
        CallStage::Ringing { code } => format!("hears ringing ({code})"),
        CallStage::Answered => "is answered (200)".to_owned(),
        CallStage::Rejected { code, reason } => format!("is rejected ({code} {reason})"),
        CallStage::Ended { by_remote: true } => "gets BYE".to_owned(),
        CallStage::Ended { by_remote: false } => "hangs up".to_owned(),
    }
}

/// The device's SIP account, as its registration returns it.
#[derive(Deserialize)]
struct SipAccount {
    username: String,
    password: String,
    servers: Vec<SipServer>,
}

#[derive(Deserialize)]
struct SipServer {
    uris: Vec<String>,
}

impl SipAccount {
    /// The UDP address of the first PBX.
    fn address(&self) -> Result<SocketAddr> {
        let mut uris = self.servers.iter().flat_map(|server| &server.uris);
        let address = uris.find_map(|uri| uri.strip_prefix("sip:")?.strip_suffix(";transport=udp"));
        let address = address.context(
            "the PBX is not the stack's own (ARI_URL is set), and this call knows no other: use `ringback --local smoke`",
        )?;
        Ok(address.parse()?)
    }
}

/// The phone app: the HTTP API with its bearer token, and the pushes that the stand-in for FCM recorded.
struct App<'a> {
    http: Client,
    stack: &'a Stack,
    extension: &'a str,
    token: &'a str,
    push_token: String,
}

impl<'a> App<'a> {
    fn new(stack: &'a Stack, extension: &'a str) -> Result<Self> {
        let phone = stack
            .phone(extension)
            .context("stack.json has no phone for the number")?;
        let push_token = format!("make-call-{}", Uuid::new_v4().simple());
        Ok(Self {
            http: Client::new(),
            stack,
            extension,
            token: &phone.token,
            push_token,
        })
    }

    /// Registers the device, and returns its SIP account. Its password is new each time.
    async fn register(&self) -> Result<SipAccount> {
        let body = json!({"extension": self.extension, "platform": "fcm", "token": self.push_token, "sip": true});
        let (status, mut answer) = self
            .request(Method::PUT, &format!("/api/devices/{DEVICE}"), Some(body))
            .await?;
        ensure!(
            status == 200,
            "registering the device failed with {status}: {answer}"
        );
        serde_json::from_value(answer["sip"].take()).context("the SIP account")
    }

    fn accept_ready(&self, call_id: &str) -> Value {
        json!({
            "server_call_id": call_id,
            "extension": self.extension,
            "action": "accept_ready",
            "timestamp": time::OffsetDateTime::now_utc().unix_timestamp() * 1_000,
            "device_id": DEVICE,
        })
    }

    /// Reports that the device rings, without a login. Returns the status code.
    async fn report_ringing(&self, push: &Value) -> Result<u16> {
        let url = push["answer_url"].as_str().context("answer_url")?;
        let rings = json!({ "action": "ringing" });
        let answer = self.http.post(url).json(&rings).send().await?;
        Ok(answer.status().as_u16())
    }

    /// Waits for the push, and returns its data.
    async fn wait_for_push(&self) -> Result<Value> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        while Instant::now() < deadline {
            let requests: Vec<Value> = self
                .http
                .get(&self.stack.requests.fcm)
                .send()
                .await?
                .json()
                .await?;
            let mut messages = requests.iter().map(|request| &request["body"]["message"]);
            let push = messages.find(|message| {
                message["token"] == self.push_token.as_str()
                    && message["data"]["type"] == "incoming_call"
            });
            if let Some(message) = push {
                return Ok(message["data"].clone());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        bail!(
            "no push within {} s; see target/local/cloud.log and asterisk.log",
            STEP_TIMEOUT.as_secs()
        )
    }

    async fn status(&self, call_id: &str) -> Result<String> {
        let (status, call) = self
            .request(Method::GET, &format!("/api/calls/{call_id}"), None)
            .await?;
        ensure!(
            status == 200,
            "reading the call failed with {status}: {call}"
        );
        Ok(call["status"].as_str().unwrap_or("nothing").to_owned())
    }

    /// Waits until the call is completed.
    async fn wait_until_completed(&self, call_id: &str) -> Result<String> {
        let deadline = Instant::now() + STEP_TIMEOUT;
        loop {
            let status = self.status(call_id).await?;
            if status == "completed" {
                return Ok(status);
            }
            ensure!(
                Instant::now() < deadline,
                "the call is still {status}, {} s after the phone hung up",
                STEP_TIMEOUT.as_secs()
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn request(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.stack.http_url);
        let mut request = self.http.request(method, url).bearer_auth(self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        let body = serde_json::from_str(&text)
            .with_context(|| format!("status {status}, and the answer is not JSON: {text}"))?;
        Ok((status, body))
    }
}
