//! The test fixture: a running stack with one caller on the trunk, apps with their phones, and the requests that the
//! stand-ins for FCM and Exotel recorded.

use std::collections::HashMap;
use std::fs::File;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::Credentials;
use aws_sdk_dynamodb::types::AttributeValue;
use reqwest::{Client, Method, StatusCode};
use ringback::platform::aws::AwsHttpClient;
use ringback_local::settings::{STACK_NAME, Settings, Transport};
use ringback_local::stack::{Phone as Account, Stack};
use ringback_sip::{Caller, IncomingCall, OutgoingCall, Phone, Trunk};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// A timeout for what takes a few requests. The local cloud needs about 0.1 s for each.
pub const SOON: Duration = Duration::from_secs(5);

/// How long `broadcast` may take to note a conversation. Among crashes, other changes are before it in the stream.
const NOTED_WITHIN: Duration = Duration::from_secs(40);

/// The number of the caller on the trunk.
pub const CALLER: &str = "+919876543210";

/// Exclusive access to the running stack. No device is registered at the start.
pub struct Fixture {
    /// The state file of the running stack.
    pub stack: Stack,
    /// An HTTP client that follows no redirects.
    pub http: Client,
    /// The configuration of AWS clients for the local AWS.
    pub aws: SdkConfig,
    /// The simulated trunk of Exotel.
    pub trunk: Trunk,
    /// The SIP address of the PBX that the trunk and the phones use.
    pub pbx: SocketAddr,
    /// A file lock, held until the fixture is dropped: all tests share the same extensions.
    lock: File,
}

impl Fixture {
    /// Waits for exclusive access to the stack and resets what earlier tests left.
    pub async fn open() -> Result<Self> {
        let settings = Settings::from_environment();
        let stack = Stack::load(&settings.state_dir())?;
        let lock = File::create(settings.state("fixture.lock"))?;
        tokio::task::block_in_place(|| lock.lock())?;
        let fixture = Self::on(stack, lock).await?;
        fixture.delete_devices().await?;
        fixture.exotel_behaves(&json!({})).await?;
        fixture.delete_correlation_claims().await?;
        Ok(fixture)
    }

    /// The same stack, seen from its second region.
    pub async fn in_fallback_region(&self) -> Result<Self> {
        let fallback = self.stack.fallback.as_deref();
        let stack = fallback.context("the stack has one region: `make regions` has two")?;
        Self::on(stack.clone(), self.lock.try_clone()?).await
    }

    async fn on(stack: Stack, lock: File) -> Result<Self> {
        let aws = aws_config(&stack).await;
        Ok(Self {
            http: Client::builder()
                .redirect(reqwest::redirect::Policy::none())
                .build()?,
            trunk: Trunk::bind(&format!("{}:0", stack.sip.trunk_source)).await?,
            pbx: stack.sip.address.parse()?,
            aws,
            stack,
            lock,
        })
    }

    /// Dials the number of an extension from [`CALLER`] with a new CallSid. Waits until it rings.
    pub async fn dial(&self, extension: &str) -> Result<OutgoingCall> {
        self.dial_as(extension, Caller::number(CALLER), Some(&call_sid()))
            .await
    }

    /// Dials with this caller and CallSid. Waits until it rings.
    pub async fn dial_as(
        &self,
        extension: &str,
        caller: Caller,
        sid: Option<&str>,
    ) -> Result<OutgoingCall> {
        let call = self
            .trunk
            .call(self.pbx, self.number_of(extension), caller, sid)
            .await?;
        call.ringing(SOON).await?;
        Ok(call)
    }

    /// Dials a number and does not wait.
    pub async fn dial_number(&self, number: &str) -> Result<OutgoingCall> {
        Ok(self
            .trunk
            .call(self.pbx, number, Caller::number(CALLER), Some(&call_sid()))
            .await?)
    }

    /// The phone number that is routed to an extension.
    pub fn number_of(&self, extension: &str) -> &str {
        let mut numbers = self.stack.numbers.iter();
        numbers
            .find(|(_, of)| *of == extension)
            .map(|(number, _)| number.as_str())
            .unwrap()
    }

    /// A new app of `extension` on a new device, registered for pushes.
    pub async fn app(&self, extension: &str) -> Result<App<'_>> {
        let app = self.unregistered_app(extension);
        app.register_for_push().await?;
        Ok(app)
    }

    /// A new app of `extension` on a new device, not registered for pushes.
    pub fn unregistered_app(&self, extension: &str) -> App<'_> {
        let unique = uuid::Uuid::new_v4().simple().to_string();
        App {
            fixture: self,
            extension: extension.to_owned(),
            token: self.stack.phone(extension).unwrap().token.clone(),
            device: format!("device-{unique}"),
            push_token: format!("token-{unique}"),
        }
    }

    /// A phone that has not registered yet. It uses the transport of its account.
    pub async fn phone(&self, extension: &str) -> Result<Phone> {
        let Account {
            sip_password,
            transport,
            ..
        } = self.stack.phone(extension).unwrap();
        Ok(match transport {
            Transport::Udp => Phone::new(self.pbx, extension, sip_password).await?,
            Transport::Tls => {
                let (pbx, ca_pem) = (self.pbx_over_tls()?, &self.stack.ari.ca_pem);
                Phone::over_tls(pbx, extension, sip_password, ca_pem).await?
            }
            Transport::Wss => bail!("{extension} is a WebRTC phone, which only a browser can play"),
        })
    }

    /// The TLS address of [`Self::pbx`].
    pub fn pbx_over_tls(&self) -> Result<SocketAddr> {
        let address = self.pbx.to_string();
        let mut pbxs = self.stack.pbxs.iter();
        let pbx = pbxs.find(|pbx| pbx.sip.address == address);
        Ok(pbx.context("no such PBX")?.sip.tls.parse()?)
    }

    /// A phone that has registered.
    pub async fn registered_phone(&self, extension: &str) -> Result<Phone> {
        let mut phone = self.phone(extension).await?;
        phone.register().await?;
        Ok(phone)
    }

    /// Sends the request of Exotel's Passthru applet to the webhook.
    pub async fn passthru(&self, sid: &str, from: &str, to: &str) -> Result<(StatusCode, Value)> {
        let url = &self.stack.exotel_webhook_url;
        self.passthru_at(url, sid, from, to).await
    }

    /// Sends the Passthru request to another URL, for example with another secret.
    pub async fn passthru_at(
        &self,
        url: &str,
        sid: &str,
        from: &str,
        to: &str,
    ) -> Result<(StatusCode, Value)> {
        let query = format!(
            "&CallSid={sid}&CallFrom={from}&CallTo={to}&Direction=incoming&CallType=call-attempt"
        );
        let answer = self.http.get(format!("{url}{query}")).send().await?;
        status_and_body(answer).await
    }

    /// Posts a form to one of the PBX's webhooks, as the dialplan does.
    pub async fn pbx_reports(
        &self,
        what: &str,
        form: &[(&str, &str)],
    ) -> Result<(StatusCode, Value)> {
        let mut request = self
            .http
            .post(format!("{}/asterisk/{what}", self.stack.http_url))
            .form(form);
        for (name, value) in &self.stack.headers.asterisk {
            request = request.header(name, value);
        }
        status_and_body(request.send().await?).await
    }

    /// The value of a secret of the deployment, which ends with this name.
    pub async fn secret(&self, name: &str) -> Result<Value> {
        let manager = aws_sdk_secretsmanager::Client::new(&self.aws);
        let secret = manager.get_secret_value().secret_id(secret_id(name));
        let secret = secret.send().await?;
        let text = secret
            .secret_string()
            .context("the value is not a string")?;
        Ok(serde_json::from_str(text)?)
    }

    /// Replaces the value of a secret.
    pub async fn put_secret(&self, name: &str, text: &str) -> Result<()> {
        let manager = aws_sdk_secretsmanager::Client::new(&self.aws);
        let put = manager.put_secret_value().secret_id(secret_id(name));
        put.secret_string(text).send().await?;
        Ok(())
    }

    /// Sets the behaviour of the FCM stand-in.
    pub async fn fcm_behaves(&self, behaviour: &Value) -> Result<()> {
        let url = self.stack.requests.fcm.replace("/requests", "/behaviour");
        let answer = self.http.put(url).json(behaviour).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// Sets the behaviour of the Exotel stand-in.
    pub async fn exotel_behaves(&self, behaviour: &Value) -> Result<()> {
        let url = self.exotel("behaviour");
        let answer = self.http.put(url).json(behaviour).send().await?;
        answer.error_for_status()?;
        Ok(())
    }

    /// The CallSids that the Exotel stand-in has assigned to one of our calls.
    pub async fn exotel_call_sids(&self, call: &str) -> Result<Vec<String>> {
        let url = format!("{}?custom_field={call}", self.exotel("calls"));
        let calls: Vec<Value> = self.http.get(url).send().await?.json().await?;
        let sids = calls.iter().filter_map(|call| call["call_sid"].as_str());
        Ok(sids.map(ToOwned::to_owned).collect())
    }

    /// Waits until the table says that this extension talks, or does not.
    pub async fn notes_talk(&self, extension: &str, talks: bool) -> Result<()> {
        let table = aws_sdk_dynamodb::Client::new(&self.aws);
        let partition = AttributeValue::S(format!("EXTENSION#{extension}"));
        let deadline = Instant::now() + NOTED_WITHIN;
        loop {
            let hints = table
                .query()
                .table_name(&self.stack.aws.table)
                .key_condition_expression("pk = :pk AND begins_with(sk, :hint)")
                .expression_attribute_values(":pk", partition.clone())
                .expression_attribute_values(":hint", AttributeValue::S("DURING-CALL#".to_owned()));
            if hints.send().await?.items().is_empty() != talks {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("not noted: {talks}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Simulates an event of a call at Exotel, which then reports it. Returns what the webhook answered.
    pub async fn exotel_event(&self, sid: &str, event: Value) -> Result<Value> {
        let url = format!("{}/{sid}/events", self.exotel("calls"));
        let answer = self.http.post(url).json(&event).send().await?;
        Ok(answer.error_for_status()?.json().await?)
    }

    fn exotel(&self, what: &str) -> String {
        self.stack.requests.exotel.replace("requests", what)
    }

    /// The bodies of all pushes to a token, oldest first.
    pub async fn pushes_to(&self, token: &str) -> Result<Vec<Value>> {
        let requests: Vec<Value> = self
            .http
            .get(&self.stack.requests.fcm)
            .send()
            .await?
            .json()
            .await?;
        let messages = requests
            .into_iter()
            .map(|request| request["body"]["message"].clone());
        Ok(messages
            .filter(|message| message["token"] == token)
            .collect())
    }

    /// How many access tokens were requested from Google.
    pub async fn access_token_requests(&self) -> Result<usize> {
        let asked = self.http.get(&self.stack.requests.fcm).send().await?;
        let asked: Vec<Value> = asked.json().await?;
        Ok(asked
            .iter()
            .filter(|request| request["path"] == "/token")
            .count())
    }

    /// The requests that Exotel received, newest last.
    pub async fn exotel_requests(&self) -> Result<Vec<Value>> {
        let asked = self.http.get(&self.stack.requests.exotel).send().await?;
        Ok(asked.error_for_status()?.json().await?)
    }

    async fn delete_devices(&self) -> Result<()> {
        self.delete_devices_of(&self.stack.phones).await
    }

    /// Deletes the devices that earlier tests registered, and the connections that have not ended yet: they would ring too. Deletes the
    /// count of missed calls, and what is left of the list of calls in progress.
    pub async fn delete_devices_of(&self, phones: &[Account]) -> Result<()> {
        for phone in phones {
            let pk = format!("EXTENSION#{}", phone.extension);
            for kind in ["DEVICE#", "CONNECTION#", "LIVE#", "MISSED"] {
                self.delete_all(&pk, kind).await?;
            }
        }
        Ok(())
    }

    /// Deletes the correlation claims of earlier tests. A new call from the same number would match them.
    async fn delete_correlation_claims(&self) -> Result<()> {
        for phone in &self.stack.phones {
            for caller in [CALLER, "anonymous"] {
                self.delete_all(&format!("CALLER#{caller}#FOR#{}", phone.extension), "")
                    .await?;
            }
        }
        Ok(())
    }

    async fn delete_all(&self, pk: &str, kind: &str) -> Result<()> {
        let client = aws_sdk_dynamodb::Client::new(&self.aws);
        let table = &self.stack.aws.table;
        let items = client
            .query()
            .table_name(table)
            .key_condition_expression("pk = :pk")
            .expression_attribute_values(":pk", AttributeValue::S(pk.to_owned()))
            .send()
            .await?;
        let is_meant = |item: &&HashMap<String, AttributeValue>| {
            item["sk"].as_s().is_ok_and(|sk| sk.starts_with(kind))
        };
        for item in items.items().iter().filter(is_meant) {
            let (pk, sk) = (item["pk"].clone(), item["sk"].clone());
            client
                .delete_item()
                .table_name(table)
                .key("pk", pk)
                .key("sk", sk)
                .send()
                .await?;
        }
        Ok(())
    }
}

/// A phone app on one device.
pub struct App<'a> {
    fixture: &'a Fixture,
    /// Its extension.
    pub extension: String,
    /// Its bearer token.
    pub token: String,
    /// The id of its device.
    pub device: String,
    /// The push token of its device.
    pub push_token: String,
}

impl App<'_> {
    /// The same app, connected to another region.
    pub fn in_region<'a>(&self, fixture: &'a Fixture) -> App<'a> {
        App {
            fixture,
            extension: self.extension.clone(),
            token: self.token.clone(),
            device: self.device.clone(),
            push_token: self.push_token.clone(),
        }
    }

    /// Registers the device for pushes.
    pub async fn register_for_push(&self) -> Result<()> {
        let (status, answer) = self.register(json!({})).await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {answer}");
        Ok(())
    }

    /// Registers the device for pushes with more fields, and returns the answer.
    pub async fn register(&self, more: Value) -> Result<(StatusCode, Value)> {
        let mut body =
            json!({ "extension": self.extension, "platform": "fcm", "token": self.push_token });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let path = format!("/api/devices/{}", self.device);
        self.ask(Method::PUT, &path, Some(body)).await
    }

    /// Unregisters the device, so that later calls do not ring there.
    pub async fn unregister(&self) -> Result<()> {
        let path = format!("/api/devices/{}", self.device);
        let (status, answer) = self.ask(Method::DELETE, &path, None).await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {answer}");
        Ok(())
    }

    /// Dials the app's extension and waits for the push. Returns the caller's leg and the call id.
    pub async fn is_called(&self) -> Result<(OutgoingCall, String)> {
        let caller = self.fixture.dial(&self.extension).await?;
        Ok((caller, self.receives_call().await?))
    }

    /// Waits for the push of an incoming call and returns the call id.
    pub async fn receives_call(&self) -> Result<String> {
        self.receives_call_within(SOON).await
    }

    /// The same with a timeout.
    pub async fn receives_call_within(&self, time: Duration) -> Result<String> {
        let push = self.push_within("incoming_call", time).await?;
        Ok(push["data"]["server_call_id"]
            .as_str()
            .context("the push has no call id")?
            .to_owned())
    }

    /// Waits for a push of this type.
    pub async fn push(&self, kind: &str) -> Result<Value> {
        self.push_within(kind, SOON).await
    }

    async fn push_within(&self, kind: &str, time: Duration) -> Result<Value> {
        let deadline = Instant::now() + time;
        loop {
            let pushes = self.fixture.pushes_to(&self.push_token).await?;
            if let Some(push) = pushes.into_iter().find(|push| push["data"]["type"] == kind) {
                return Ok(push);
            }
            if Instant::now() > deadline {
                bail!("no push {kind} within {time:?}");
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The number of pushes of this type so far, without notices of missed calls.
    pub async fn count_pushes(&self, kind: &str) -> Result<usize> {
        let pushes = self.fixture.pushes_to(&self.push_token).await?;
        Ok(pushes
            .iter()
            .filter(|push| push["data"]["type"] == kind)
            .filter(|push| push["android"]["collapse_key"] != "missed_calls")
            .count())
    }

    /// Sends a call response that names the device.
    pub async fn respond(&self, action: &str, call: &str) -> Result<(StatusCode, Value)> {
        self.respond_with(action, call, json!({ "device_id": self.device }))
            .await
    }

    /// Sends a call response without a device, as older clients do.
    pub async fn respond_without_device(
        &self,
        action: &str,
        call: &str,
    ) -> Result<(StatusCode, Value)> {
        self.respond_with(action, call, json!({})).await
    }

    async fn respond_with(
        &self,
        action: &str,
        call: &str,
        more: Value,
    ) -> Result<(StatusCode, Value)> {
        let mut body = json!({
            "server_call_id": call,
            "extension": self.extension,
            "action": action,
            "timestamp": 1_732_175_943_000_u64,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.ask(Method::POST, "/api/call-response", Some(body))
            .await
    }

    /// The current state of the call.
    pub async fn call(&self, id: &str) -> Result<Value> {
        let (status, call) = self
            .ask(Method::GET, &format!("/api/calls/{id}"), None)
            .await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {call}");
        Ok(call)
    }

    /// Waits until the call has this status.
    pub async fn wait_for_status(&self, id: &str, status: &str) -> Result<Value> {
        self.wait_for_status_within(id, status, SOON).await
    }

    /// The same with a timeout.
    pub async fn wait_for_status_within(
        &self,
        id: &str,
        status: &str,
        within: Duration,
    ) -> Result<Value> {
        let deadline = Instant::now() + within;
        loop {
            let call = self.call(id).await?;
            if call["status"] == status {
                return Ok(call);
            }
            if Instant::now() > deadline {
                bail!("not {status} within {within:?}: {call:#}");
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Sends a request to the HTTP API. Returns its status and body.
    pub async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> Result<(StatusCode, Value)> {
        let url = format!("{}{path}", self.fixture.stack.http_url);
        let mut request = self
            .fixture
            .http
            .request(method, url)
            .bearer_auth(&self.token);
        if let Some(body) = body {
            request = request.json(&body);
        }
        status_and_body(request.send().await?).await
    }
}

/// An answered call: both legs are up.
pub struct Conversation {
    /// The call id.
    pub id: String,
    /// The caller's leg.
    pub caller: OutgoingCall,
    /// The phone's leg.
    pub callee: IncomingCall,
}

impl Conversation {
    /// A caller dials, the app receives the push, its phone registers and answers.
    pub async fn start(app: &App<'_>, phone: &mut Phone) -> Result<Self> {
        let (caller, id) = app.is_called().await?;
        phone.register().await?;
        let (status, answer) = app.respond("accept_ready", &id).await?;
        anyhow::ensure!(status == StatusCode::OK, "{status}: {answer}");
        Self::join(app, phone, caller, id).await
    }

    /// The app has accepted: its phone receives the call and answers.
    pub async fn join(
        app: &App<'_>,
        phone: &mut Phone,
        caller: OutgoingCall,
        id: String,
    ) -> Result<Self> {
        let callee = phone.next_call(SOON).await?;
        callee.answer().await?;
        caller.answered(SOON).await?;
        app.wait_for_status(&id, "in_progress").await?;
        Ok(Self { id, caller, callee })
    }

    /// The caller hangs up. Returns the call id.
    pub async fn end(self, app: &App<'_>) -> Result<String> {
        self.caller.hang_up().await?;
        app.wait_for_status(&self.id, "completed").await?;
        Ok(self.id)
    }

    /// Checks that both parties hear each other.
    pub async fn both_hear(&self) -> Result<()> {
        self.caller.media().hears(self.callee.media(), SOON).await?;
        self.callee.media().hears(self.caller.media(), SOON).await?;
        Ok(())
    }
}

/// The configuration of AWS clients for the stack's local AWS.
pub async fn aws_config(stack: &Stack) -> SdkConfig {
    aws_config::defaults(BehaviorVersion::latest())
        .endpoint_url(&stack.aws.endpoint)
        .http_client(AwsHttpClient::default())
        .region(Region::new(stack.aws.region.clone()))
        .credentials_provider(Credentials::new("test", "test", None, None, "local stack"))
        .load()
        .await
}

/// An Indian mobile number that no other call has used.
pub fn unused_mobile_number() -> String {
    format!("+9198{:08}", uuid::Uuid::new_v4().as_u128() % 100_000_000)
}

/// A new CallSid.
pub fn call_sid() -> String {
    uuid::Uuid::new_v4().simple().to_string()
}

/// The status and the JSON body of a response.
pub async fn status_and_body(answer: reqwest::Response) -> Result<(StatusCode, Value)> {
    let status = answer.status();
    let text = answer.text().await?;
    let body = serde_json::from_str(&text)
        .with_context(|| format!("{status} with a body that is not JSON: {text}"))?;
    Ok((status, body))
}

fn secret_id(name: &str) -> String {
    format!("{STACK_NAME}/{name}")
}
