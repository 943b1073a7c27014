//! `ringback smoke`: a real call without a telephone. A PBX calls itself as a caller on the trunk does. This command is the app, which
//! accepts the call. Then the PBX calls itself again, as the app's phone.

use std::time::Duration;

use clap::Args;
use ringback::asterisk::{SMOKE_EXTENSION, SMOKE_NUMBER};
use ringback::platform::clock;
use ringback::store::directories::Directory;
use ringback_client::{Client, Error};
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use crate::api::{Api, Expects, Refusal, encoded};
use crate::call;
use crate::deployment::{Deployment, sentence};
use crate::directory;
use crate::failure::{Failure, Result};
use crate::lambda;
use crate::output::Output;
use crate::pbx;
use crate::tail;
use crate::token::{self, Claims, Role};
use crate::words;

/// How long each step may take. Functions that start cold, one after another, take a few seconds.
const STEP: Duration = Duration::from_secs(15);
/// How often to read the call while its last reports arrive.
const POLL: Duration = Duration::from_millis(250);

pub(crate) const HELP: &str = "\
The PBX calls itself, so no telephone rings and the call costs nothing at Exotel. For the time of the call, the number 000000 leads to the
extension ringback-smoke, which has one device. The PBX needs ringback-site/smoke.conf. You need lambda:InvokeFunction on STACK-smoke.

Exit codes: 0 passed, 1 failed, 2 wrong use, 3 not reachable";

#[derive(Args, Debug)]
pub(crate) struct SmokeArguments {
    /// The PBX, as AriUrl names it; the default is the first one
    #[arg(long, value_name = "NAME")]
    pbx: Option<String>,
    /// The app's token, for the extension ringback-smoke; by default a new one. Other users of this machine see arguments: use the variable
    #[arg(
        long,
        value_name = "TOKEN",
        env = "RINGBACK_APP_TOKEN",
        hide_env_values = true
    )]
    app_token: Option<SecretString>,
}

/// The test call of this command, with the app's connection.
struct Test<'a> {
    deployment: &'a Deployment,
    /// As an admin.
    api: &'a Api,
    /// As the app.
    app_api: &'a Api,
    device: String,
    call_sid: String,
    /// Known as soon as the app has heard of the call.
    call_id: Option<String>,
    /// The steps that left something to clean up.
    has_device: bool,
    has_route: bool,
}

/// Runs `ringback smoke`.
pub(crate) async fn run(
    deployment: &Deployment,
    given: Option<&SecretString>,
    arguments: SmokeArguments,
    output: Output,
) -> Result<()> {
    if let Some(name) = &arguments.pbx {
        pbx::check_name(deployment, name)?;
    }
    let admin = token::for_command(deployment, given, Claims::of_role(Role::Admin)).await?;
    let app = Claims::of_extension(SMOKE_EXTENSION);
    let token = token::for_command(deployment, arguments.app_token.as_ref(), app).await?;
    let api = Api::new(deployment, admin)?;
    let app_api = Api::new(deployment, token.clone())?;
    let id = Uuid::new_v4().simple();
    let mut test = Test {
        deployment,
        api: &api,
        app_api: &app_api,
        device: format!("smoke-{id}"),
        call_sid: format!("smoke-{id}"),
        call_id: None,
        has_device: false,
        has_route: false,
    };
    let passed = tokio::select! {
        passed = test.run(&token, arguments.pbx.as_deref()) => passed,
        _ = tokio::signal::ctrl_c() => Err(Failure::refused("The test was stopped.")),
    };
    let story = test.story().await;
    let cleaned = test.clean_up().await;
    match passed.and(cleaned) {
        Ok(()) => {
            let call = story.unwrap_or_default();
            let text = format!(
                "{}\n\nPassed: the call was bridged, and both legs were up.",
                call::story(&call)
            );
            output.print(&json!({ "passed": true, "call": call }), &text)
        }
        Err(failure) => {
            if let Some(call) = story {
                output.note(&format!("{}\n", call::story(&call)));
            }
            Err(failure)
        }
    }
}

impl Test<'_> {
    /// The steps of the call, each with what to look at if it fails.
    async fn run(&mut self, token: &SecretString, pbx: Option<&str>) -> Result<()> {
        self.lead_number_here().await.map_err(in_step("route"))?;
        self.register_device().await.map_err(in_step("device"))?;
        let app = tail::connect(self.deployment, token.clone()).await;
        let app = &mut app.map_err(in_step("connect"))?;
        self.begin(pbx).await.map_err(in_step("originate"))?;
        self.hear_of_call(app).await?;
        let talked = self.talk(app).await;
        if talked.is_err() {
            // Otherwise the call would ring until its deadline.
            let _already_failed = self.send(app, "hangup").await;
        }
        talked
    }

    /// Accepts the call. The caller hangs up after 2 s.
    async fn talk(&self, app: &mut Client) -> Result<()> {
        let sent = self.send(app, "accept_ready").await;
        sent.map_err(in_step("accept"))?;
        let bridged = self.wait_until_bridged(app).await;
        bridged.map_err(in_step("bridge"))?;
        self.check_legs().await.map_err(in_step("legs"))
    }

    /// Leads the test's number to the test's extension. Another destination may be a person's phone.
    async fn lead_number_here(&mut self) -> Result<()> {
        let before = directory::find(self.api, Directory::Numbers, SMOKE_NUMBER).await?;
        if let Some(entry) = &before
            && entry.value != SMOKE_EXTENSION
        {
            return Err(Failure::refused(format!(
                "The number {SMOKE_NUMBER} leads to {}: remove it with `ringback route remove {SMOKE_NUMBER}`. No call was made.",
                entry.value
            )));
        }
        self.has_route = true;
        self.write_route(before.as_ref(), Some(SMOKE_EXTENSION))
            .await
    }

    async fn write_route(
        &self,
        before: Option<&directory::Entry>,
        value: Option<&str>,
    ) -> Result<()> {
        let numbers = Directory::Numbers;
        let written = directory::write(self.api, numbers, SMOKE_NUMBER, before, value).await?;
        written.map(drop).map_err(Refusal::into_failure)
    }

    /// Registers the app without a push address. Such an app learns of calls over the WebSocket.
    async fn register_device(&mut self) -> Result<()> {
        let body = json!({ "extension": SMOKE_EXTENSION, "addresses": [] });
        self.has_device = true;
        self.write_device(Some(&body)).await
    }

    async fn write_device(&self, body: Option<&Value>) -> Result<()> {
        let path = format!("/api/devices/{}", self.device);
        let written = self.app_api.write(&path, body, &Expects::Anything).await?;
        written.map(drop).map_err(Refusal::into_failure)
    }

    async fn begin(&self, pbx: Option<&str>) -> Result<()> {
        let request = json!({ "pbx": pbx, "call_sid": self.call_sid });
        let answer = lambda::invoke(self.deployment, "smoke", &request).await?;
        if answer["success"] == true {
            return Ok(());
        }
        let pbx = pbx.unwrap_or("the first PBX");
        let error = sentence(answer["error"].as_str().unwrap_or("no reason"));
        Err(match answer["code"].as_str() {
            Some("no_endpoint") => Failure::refused(format!(
                "Asterisk has no endpoint {SMOKE_EXTENSION} ({pbx}): copy ringback-site/smoke.conf.example to smoke.conf, and the new \
                 pjsip.conf and extensions.conf, and restart Asterisk."
            )),
            Some("unknown_pbx") => Failure::wrong_use(error),
            _ => Failure::refused(format!("{error} `ringback doctor` says what fixes it.")),
        })
    }

    /// Waits until the app learns of this call. Another test may run at the same time.
    async fn hear_of_call(&mut self, app: &mut Client) -> Result<()> {
        let deadline = Instant::now() + STEP;
        let mut offered = Vec::new();
        loop {
            let message = match next(app, deadline).await {
                Ok(message) => message,
                Err(failure) if self.call_id.is_some() => {
                    return Err(in_step("ring")(failure.and(
                        "The call is stored, but the connected app was not told of it: look at the log of asterisk-incoming.",
                    )));
                }
                Err(failure) => {
                    return Err(in_step("arrive")(failure.and(
                        "The PBX has called itself, but the deployment knows no such call. Look at Asterisk's log for `attempt 1 of 3 to reach \
                         /asterisk/incoming failed` (RINGBACK_HOOK_URL and RINGBACK_HOOK_SECRET in ringback-site/dialplan.conf), and at \
                         `pjsip show endpoint ringback-smoke`.",
                    )));
                }
            };
            let data = &message["data"];
            match message["type"].as_str() {
                Some("incoming_call") => {
                    offered.extend(data["call_id"].as_str().map(str::to_owned))
                }
                Some("call_status_update") if data["callSid"] == *self.call_sid => {
                    self.call_id = data["callId"].as_str().map(str::to_owned);
                    if let Some(reason) = data["reason"].as_str() {
                        return Err(in_step("ring")(ended(reason)));
                    }
                }
                _ => {}
            }
            if self.call_id.as_ref().is_some_and(|id| offered.contains(id)) {
                return Ok(());
            }
        }
    }

    /// Sends what an app sends. The answer is one of the next messages.
    async fn send(&self, app: &mut Client, action: &str) -> Result<()> {
        let response = json!({
            "type": "call_response", "action": action, "server_call_id": self.call_id, "extension": SMOKE_EXTENSION,
            "device_id": self.device, "timestamp": clock::now().as_millis(),
        });
        app.send(response)
            .await
            .map_err(|error| tail::failure(&error))
    }

    async fn wait_until_bridged(&self, app: &mut Client) -> Result<()> {
        let deadline = Instant::now() + STEP + STEP;
        loop {
            let message = next(app, deadline).await.map_err(|failure| {
                failure.and("The app was ready, but the legs were not bridged: look at Asterisk's log, and at `pjsip show endpoint ringback-smoke`.")
            })?;
            let data = &message["data"];
            match (message["type"].as_str(), data["status"].as_str()) {
                // An update from before, or of another call.
                _ if data["callId"].as_str() != self.call_id.as_deref()
                    && message["type"] != "error" => {}
                (Some("error"), _) => {
                    let error = message["error"].as_str().unwrap_or("no reason");
                    return Err(Failure::refused(format!(
                        "The deployment refused: {}",
                        sentence(error)
                    )));
                }
                (_, Some("in-progress")) => return Ok(()),
                (_, Some("initiated" | "ringing")) => {}
                _ => return Err(ended(data["reason"].as_str().unwrap_or("no reason"))),
            }
        }
    }

    /// Waits for the two reports which prove that both legs were up. An answered phone reports the bridge. A caller who was answered hangs
    /// up, and the report of the leg that arrives first ends the call.
    async fn check_legs(&self) -> Result<()> {
        let deadline = Instant::now() + STEP;
        loop {
            let call = self.read().await?;
            let history = call["history"].as_array().into_iter().flatten();
            let history: Vec<&Value> = history.collect();
            let is_bridged = history.iter().any(|line| line["event"] == "bridged");
            let ended = history.iter().find(|line| {
                matches!(
                    line["event"].as_str(),
                    Some("caller_leg_ended" | "phone_leg_ended")
                )
            });
            let by = ended.map(|line| line["by"].as_str().unwrap_or_default());
            match by {
                Some(by) if is_bridged && by.contains("answered=true") => return Ok(()),
                Some(by) => {
                    return Err(Failure::refused(format!(
                        "A leg was not up, or the PBX has not reported the bridge (/asterisk/bridged): {by}."
                    )));
                }
                None if Instant::now() >= deadline => {
                    return Err(Failure::refused(
                        "The caller hung up after 2 s, but the PBX has not reported it (/asterisk/ended): look at Asterisk's log.",
                    ));
                }
                None => sleep(POLL).await,
            }
        }
    }

    async fn read(&self) -> Result<Value> {
        let id = self.call_id.as_deref().unwrap_or(&self.call_sid);
        self.api.read(&format!("/api/calls/{}", encoded(id))).await
    }

    /// The call, if it has come so far.
    async fn story(&self) -> Option<Value> {
        self.read().await.ok()
    }

    /// Removes the device and the route.
    async fn clean_up(&self) -> Result<()> {
        if self.has_device {
            self.write_device(None).await.map_err(in_step("clean up"))?;
        }
        if self.has_route {
            let entry = directory::find(self.api, Directory::Numbers, SMOKE_NUMBER).await?;
            if let Some(entry) = entry.filter(|entry| entry.value == SMOKE_EXTENSION) {
                let removed = self.write_route(Some(&entry), None).await;
                removed.map_err(in_step("clean up"))?;
            }
        }
        Ok(())
    }
}

/// The next message. A wait that takes too long is a failed step.
async fn next(app: &mut Client, deadline: Instant) -> Result<Value> {
    loop {
        return match timeout_at(deadline, app.receive()).await {
            Ok(Ok(message)) => Ok(message),
            Ok(Err(Error::NotJson(_))) => continue,
            Ok(Err(error)) => Err(tail::failure(&error)),
            Err(_) => Err(Failure::refused("Nothing more happened in time.")),
        };
    }
}

fn ended(reason: &str) -> Failure {
    Failure::refused(format!(
        "The call ended before it was bridged: {}.",
        words::reason(reason)
    ))
}

/// Names the step that failed.
fn in_step(step: &'static str) -> impl Fn(Failure) -> Failure {
    move |failure| failure.in_step(step)
}
