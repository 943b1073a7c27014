//! A subscriber: one extension with its phone and its app on two devices.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method};
use ringback::platform::clock;
use ringback_local::stack::{Phone as Account, Stack};
use ringback_sip::Phone;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long an app waits before it repeats a request that failed with 5xx or without an answer.
const RETRY_PAUSE: Duration = Duration::from_millis(700);
/// How long an app repeats a request.
const RETRY_FOR: Duration = Duration::from_secs(25);
/// How often a device polls for its pushes.
const POLL_INTERVAL: Duration = Duration::from_millis(150);

/// One extension. It takes part in one call at a time.
pub(crate) struct Subscriber {
    pub(crate) account: Account,
    pub(crate) number: String,
    pub(crate) phone: Phone,
    pub(crate) devices: [Device; 2],
}

/// The app on one device.
#[derive(Clone)]
pub(crate) struct Device {
    http: Client,
    url: String,
    requests: String,
    account: Account,
    id: String,
    pub(crate) token: String,
}

impl Subscriber {
    pub(crate) async fn new(stack: &Stack, account: &Account, number: &str) -> Result<Self> {
        let pbx = stack.sip.address.parse()?;
        let phone = Phone::new(pbx, &account.extension, &account.sip_password).await?;
        Ok(Self {
            account: account.clone(),
            number: number.to_owned(),
            phone,
            devices: [Device::of(stack, account)?, Device::of(stack, account)?],
        })
    }

    /// Registers the phone, and replaces the devices, so that late pushes of an earlier call do not count for this
    /// one.
    pub(crate) async fn prepare(&mut self, devices: usize) -> Result<()> {
        self.phone.register().await?;
        // Calls that are left from an earlier run.
        while self.phone.next_call(Duration::from_millis(1)).await.is_ok() {}
        for device in &mut self.devices {
            device.unregister().await?;
            let unique = uuid::Uuid::new_v4().simple();
            (device.id, device.token) = (format!("device-{unique}"), format!("token-{unique}"));
        }
        for device in self.devices.iter().take(devices) {
            device.register().await?;
        }
        Ok(())
    }
}

impl Device {
    fn of(stack: &Stack, account: &Account) -> Result<Self> {
        Ok(Self {
            http: Client::builder().timeout(Duration::from_secs(30)).build()?,
            url: stack.http_url.clone(),
            requests: stack.requests.fcm.clone(),
            account: account.clone(),
            id: "device-none".to_owned(),
            token: String::new(),
        })
    }

    async fn register(&self) -> Result<()> {
        let body =
            json!({ "extension": self.account.extension, "platform": "fcm", "token": self.token });
        let path = format!("/api/devices/{}", self.id);
        let (status, answer) = self
            .request_with_retries(Method::PUT, &path, Some(&body))
            .await?;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        Ok(())
    }

    pub(crate) async fn unregister(&self) -> Result<()> {
        let path = format!("/api/devices/{}", self.id);
        self.request_with_retries(Method::DELETE, &path, None)
            .await?;
        Ok(())
    }

    /// The pushes of this type so far.
    pub(crate) async fn pushes(&self, kind: &str) -> Result<Vec<Value>> {
        let url = format!("{}?token={}", self.requests, self.token);
        let requests: Vec<Value> = self.http.get(url).send().await?.json().await?;
        let messages = requests
            .into_iter()
            .map(|request| request["body"]["message"].clone());
        Ok(messages
            .filter(|message| {
                message["token"] == self.token.as_str() && message["data"]["type"] == kind
            })
            .collect())
    }

    /// Waits for the first push of this type.
    pub(crate) async fn push(&self, kind: &str, within: Duration) -> Result<Option<Value>> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(push) = self.pushes(kind).await?.into_iter().next() {
                return Ok(Some(push));
            }
            if Instant::now() > deadline {
                return Ok(None);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits for the push of an incoming call and returns the call id.
    pub(crate) async fn receives_call(&self, within: Duration) -> Result<Option<String>> {
        let push = self.push("incoming_call", within).await?;
        push.map(|push| {
            let id = push["data"]["server_call_id"].as_str();
            id.map(str::to_owned).context("the push has no call id")
        })
        .transpose()
    }

    /// Sends a call response, and repeats it until it is answered, as an app does.
    pub(crate) async fn respond(&self, action: &str, call: &str) -> Result<(u16, Value)> {
        let body = self.response(action, call);
        self.request_with_retries(Method::POST, "/api/call-response", Some(&body))
            .await
    }

    /// A call response, for HTTP and for the WebSocket.
    pub(crate) fn response(&self, action: &str, call: &str) -> Value {
        json!({
            "type": "call_response",
            "server_call_id": call,
            "extension": self.account.extension,
            "action": action,
            "timestamp": 1_732_175_943_000_u64,
            "device_id": self.id,
        })
    }

    /// The person wants no calls for this long, or wants calls again.
    pub(crate) async fn do_not_disturb(&self, lasts: Option<Duration>) -> Result<()> {
        let until = lasts.map(|lasts| clock::now() + lasts);
        let path = format!("/api/extensions/{}/do-not-disturb", self.account.extension);
        let body = json!({ "until": until });
        let (status, answer) = self
            .request_with_retries(Method::PUT, &path, Some(&body))
            .await?;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        Ok(())
    }

    /// The current state of the call, if it can be read.
    pub(crate) async fn call(&self, id: &str) -> Result<Option<Value>> {
        let answer = self
            .ask(Method::GET, &format!("/api/calls/{id}"), None)
            .await;
        Ok(answer
            .ok()
            .filter(|(status, _)| *status == 200)
            .map(|(_, call)| call))
    }

    async fn request_with_retries(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let until = Instant::now() + RETRY_FOR;
        loop {
            let answer = self.ask(method.clone(), path, body).await;
            let answered = answer.as_ref().is_ok_and(|(status, _)| *status < 500);
            if answered || Instant::now() > until {
                return answer;
            }
            sleep(RETRY_PAUSE).await;
        }
    }

    async fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Value)> {
        let url = format!("{}{path}", self.url);
        let mut request = self
            .http
            .request(method, url)
            .bearer_auth(&self.account.token);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        let text = answer.text().await?;
        Ok((
            status,
            serde_json::from_str(&text).unwrap_or(Value::String(text)),
        ))
    }
}
