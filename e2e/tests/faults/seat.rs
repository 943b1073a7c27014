//! One extension of the crowd: its phone, its app on two devices, and what they were told.

use std::time::Duration;

use anyhow::{Context, Result};
use reqwest::{Client, Method};
use ringback_local::stack::{Phone as Account, Stack};
use ringback_sip::Phone;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// What an app waits before it says again what was not answered, or with a 5xx.
const AGAIN_AFTER: Duration = Duration::from_millis(700);
/// How long it goes on saying it.
const GOES_ON_FOR: Duration = Duration::from_secs(25);
/// How often a device looks for its pushes.
const LOOKS_EVERY: Duration = Duration::from_millis(150);

/// A place at the table: one call at a time.
pub(crate) struct Seat {
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

impl Seat {
    pub(crate) async fn take(stack: &Stack, account: &Account, number: &str) -> Result<Self> {
        let pbx = stack.sip.address.parse()?;
        let phone = Phone::new(pbx, &account.extension, &account.sip_password).await?;
        Ok(Self {
            account: account.clone(),
            number: number.to_owned(),
            phone,
            devices: [Device::of(stack, account)?, Device::of(stack, account)?],
        })
    }

    /// New devices, so that what an earlier call still sends is not taken for this one's, and a phone that is there.
    pub(crate) async fn get_ready(&mut self, devices: usize) -> Result<()> {
        self.phone.register().await?;
        // What rang for an earlier call.
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
        let (status, answer) = self.insist(Method::PUT, &path, Some(&body)).await?;
        anyhow::ensure!(status == 200, "{status}: {answer}");
        Ok(())
    }

    pub(crate) async fn unregister(&self) -> Result<()> {
        let path = format!("/api/devices/{}", self.id);
        self.insist(Method::DELETE, &path, None).await?;
        Ok(())
    }

    /// The pushes of this kind so far.
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

    /// Waits for the first push of this kind.
    pub(crate) async fn push(&self, kind: &str, within: Duration) -> Result<Option<Value>> {
        let patience = Instant::now() + within;
        loop {
            if let Some(push) = self.pushes(kind).await?.into_iter().next() {
                return Ok(Some(push));
            }
            if Instant::now() > patience {
                return Ok(None);
            }
            sleep(LOOKS_EVERY).await;
        }
    }

    /// Waits to be told of a call, and gives its id.
    pub(crate) async fn woken(&self, within: Duration) -> Result<Option<String>> {
        let push = self.push("incoming_call", within).await?;
        push.map(|push| {
            let id = push["data"]["server_call_id"].as_str();
            id.map(str::to_owned).context("a push without a call's id")
        })
        .transpose()
    }

    /// Says something of a call, again and again while it is not heard, as an app does.
    pub(crate) async fn says(&self, action: &str, call: &str) -> Result<(u16, Value)> {
        let body = json!({
            "server_call_id": call,
            "extension": self.account.extension,
            "action": action,
            "timestamp": 1_732_175_943_000_u64,
            "device_id": self.id,
        });
        self.insist(Method::POST, "/api/call-response", Some(&body))
            .await
    }

    /// The call as it stands, if it can be told.
    pub(crate) async fn call(&self, id: &str) -> Result<Option<Value>> {
        let answer = self
            .ask(Method::GET, &format!("/api/calls/{id}"), None)
            .await;
        Ok(answer
            .ok()
            .filter(|(status, _)| *status == 200)
            .map(|(_, call)| call))
    }

    async fn insist(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<(u16, Value)> {
        let until = Instant::now() + GOES_ON_FOR;
        loop {
            let answer = self.ask(method.clone(), path, body).await;
            let heard = answer.as_ref().is_ok_and(|(status, _)| *status < 500);
            if heard || Instant::now() > until {
                return answer;
            }
            sleep(AGAIN_AFTER).await;
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
