//! Sequential calls by callers, apps and phones that behave like real ones when a region does not answer: Exotel and
//! the apps switch to the other region.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use reqwest::{Client, StatusCode};
use ringback_local::stack::Stack;
use ringback_sip::{CallStage, Caller, OutgoingCall, Phone, Trunk};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How long an app or Exotel waits for a connection, and for a response, before it switches to the other region.
const TO_CONNECT: Duration = Duration::from_secs(1);
const TO_ANSWER: Duration = Duration::from_secs(3);
/// How long after the end of a ring some calls end.
const JUST_AFTER: Duration = Duration::from_millis(300);
/// The shortest conversation.
const SHORT_TALK: Duration = Duration::from_secs(1);
/// The pause between two rounds over both regions.
const PAUSE: Duration = Duration::from_millis(300);

/// How a call ended for the caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Bridged,
    Busy,
    /// Neither within the timeout, or in another way than promised.
    Lost(String),
}

/// A finished call. Times are in seconds since the first call.
#[derive(Clone, Debug)]
pub(crate) struct CallOutcome {
    pub(crate) number: usize,
    pub(crate) call: Option<String>,
    pub(crate) placed: Instant,
    /// From the INVITE until the caller was answered or heard busy.
    pub(crate) waited: Duration,
    pub(crate) over: Instant,
    pub(crate) end: End,
    /// How many times the phone was called.
    pub(crate) legs: usize,
    /// The region that took the accept, and when.
    pub(crate) accepted: Option<(String, Instant)>,
}

/// The state that all calls share.
pub(crate) struct FailoverClients {
    regions: [Stack; 2],
    http: Client,
    trunk: Trunk,
    apps: HashMap<String, ExtensionApp>,
    /// Chosen so that callers differ from those of other runs.
    first_caller: usize,
    /// The call id in the push, by the caller's number.
    pushed: Mutex<HashMap<String, String>>,
    /// How many times a phone was called, by the caller's number.
    legs: Mutex<HashMap<String, usize>>,
}

/// The app of one extension.
struct ExtensionApp {
    token: String,
    device: String,
}

/// How long two people talk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TalkLength {
    For(Duration),
    /// Until the ring would have ended. The timer of the region that took the call over fires a little later, when the legs
    /// are gone and the PBX may still wait for the lost region to take its reports.
    UntilAfterTheRing,
}

/// The timing of one call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CallPlan {
    pub(crate) number: usize,
    /// How long the person takes to accept.
    pub(crate) taps_after: Duration,
    pub(crate) talks: TalkLength,
    /// The ring timeout: no caller hears busy earlier.
    pub(crate) rings_for: Duration,
    /// How much later than that a caller may hear busy.
    pub(crate) grace: Duration,
}

impl CallPlan {
    /// How long people talk who are connected now, if the caller dialled at this moment.
    fn talks_for(&self, placed: Instant) -> Duration {
        match self.talks {
            TalkLength::For(length) => length,
            TalkLength::UntilAfterTheRing => {
                let over = placed + self.rings_for + JUST_AFTER;
                over.saturating_duration_since(Instant::now())
                    .max(SHORT_TALK)
            }
        }
    }
}

impl FailoverClients {
    pub(crate) async fn on(stack: &Stack) -> Result<Arc<Self>> {
        let fallback = stack
            .fallback
            .as_deref()
            .context("the stack has no second region")?;
        let http = Client::builder()
            .connect_timeout(TO_CONNECT)
            .timeout(TO_ANSWER)
            .build()?;
        let trunk = Trunk::bind(&format!("{}:0", stack.sip.trunk_source)).await?;
        let mut apps = HashMap::new();
        for phone in stack.plain_phones() {
            let unique = uuid::Uuid::new_v4().simple().to_string();
            let device = format!("device-{unique}");
            let url = format!("{}/api/devices/{device}", stack.http_url);
            let body = json!({ "extension": phone.extension, "platform": "fcm", "token": format!("token-{unique}") });
            let request = http.put(url).bearer_auth(&phone.token).json(&body);
            request.send().await?.error_for_status()?;
            let token = phone.token.clone();
            apps.insert(phone.extension.clone(), ExtensionApp { token, device });
        }
        Ok(Arc::new(Self {
            regions: [stack.clone(), fallback.clone()],
            http,
            trunk,
            apps,
            first_caller: 10_000_000 + usize::from(uuid::Uuid::new_v4().as_fields().1) * 1_000,
            pushed: Mutex::default(),
            legs: Mutex::default(),
        }))
    }

    /// Runs phones that accept every call, and reads the pushes, until the returned set is dropped.
    pub(crate) async fn run_phones(self: &Arc<Self>) -> Result<JoinSet<()>> {
        let mut tasks = JoinSet::new();
        for one in self.regions[0].plain_phones() {
            let pbx = self.regions[0].sip.address.parse()?;
            let mut phone = Phone::new(pbx, &one.extension, &one.sip_password).await?;
            phone.register().await?;
            let this = Arc::clone(self);
            tasks.spawn(async move { this.take_calls(phone).await });
        }
        let this = Arc::clone(self);
        tasks.spawn(async move {
            loop {
                // A failure is ignored: the next poll comes soon.
                let _ = this.read_pushes().await;
                sleep(Duration::from_millis(200)).await;
            }
        });
        Ok(tasks)
    }

    async fn take_calls(&self, mut phone: Phone) {
        let mut taken = Vec::new();
        while let Ok(call) = phone.next_call(Duration::from_secs(3_600)).await {
            let caller = call.caller().number.clone();
            *lock(&self.legs).entry(caller).or_default() += 1;
            if call.answer().await.is_ok() {
                // Dropping a call would hang it up.
                taken.push(call);
            }
        }
    }

    async fn read_pushes(&self) -> Result<()> {
        let requests = self.http.get(&self.regions[0].requests.fcm).send().await?;
        let requests: Vec<Value> = requests.json().await?;
        let mut pushed = lock(&self.pushed);
        for request in &requests {
            let data = &request["body"]["message"]["data"];
            if let (Some("incoming_call"), Some(caller), Some(call)) = (
                data["type"].as_str(),
                data["caller_number"].as_str(),
                data["server_call_id"].as_str(),
            ) {
                pushed.insert(caller.to_owned(), call.to_owned());
            }
        }
        Ok(())
    }

    /// Runs one call from its Passthru request to its end.
    pub(crate) async fn call(self: Arc<Self>, plan: CallPlan) -> CallOutcome {
        let caller = format!("+9198{:08}", self.first_caller + plan.number);
        let numbers = self.regions[0].numbers.iter();
        let numbers: Vec<_> = numbers
            .filter(|(_, extension)| self.apps.contains_key(*extension))
            .collect();
        let (did, extension) = numbers[plan.number % numbers.len()];
        let sid = uuid::Uuid::new_v4().simple().to_string();
        // In Exotel's flow, the Passthru applet comes before the trunk is dialled.
        self.passthru(&sid, &caller, did).await;
        let placed = Instant::now();
        let answering = tokio::spawn({
            let (this, caller, extension) = (Arc::clone(&self), caller.clone(), extension.clone());
            async move { this.answer(&caller, &extension, plan).await }
        });
        let waiting = self.wait(did, &caller, &sid, plan).await;
        let (end, waited, talking) = match waiting {
            Ok((end, talking)) => (end, placed.elapsed(), talking),
            Err(error) => (End::Lost(format!("{error:#}")), placed.elapsed(), None),
        };
        let mut end = end;
        if let Some(talking) = talking {
            // The conversation must not end before the caller hangs up.
            if talking.ended(plan.talks_for(placed)).await.is_ok() {
                end = End::Lost("cut off during the conversation".to_owned());
            }
            let _ = talking.hang_up().await;
        }
        answering.abort();
        let accepted = answering.await.ok().flatten();
        CallOutcome {
            number: plan.number,
            call: lock(&self.pushed).get(&caller).cloned(),
            placed,
            waited,
            over: Instant::now(),
            end,
            legs: lock(&self.legs).get(&caller).copied().unwrap_or(0),
            accepted,
        }
    }

    /// Waits until the caller is answered or hears busy.
    async fn wait(
        &self,
        did: &str,
        caller: &str,
        sid: &str,
        plan: CallPlan,
    ) -> Result<(End, Option<OutgoingCall>)> {
        let pbx = self.regions[0].sip.address.parse()?;
        let call = self
            .trunk
            .call(pbx, did, Caller::number(caller), Some(sid))
            .await?;
        let is_it =
            |stage: &CallStage| matches!(stage, CallStage::Answered | CallStage::Rejected { .. });
        let events = call.events();
        let in_time = plan.rings_for..=plan.rings_for + plan.grace;
        // A caller who hears busy much later is lost too, but reported differently.
        let much_later = 3 * *in_time.end();
        let waiting = events.wait_for("answered, rejected or ended", much_later, is_it);
        let Ok(event) = waiting.await else {
            return Ok((End::Lost("received nothing".to_owned()), None));
        };
        let waited = event.at.since(call.placed());
        Ok(match event.stage {
            CallStage::Answered if waited <= *in_time.end() => (End::Bridged, Some(call)),
            CallStage::Rejected { code: 486, .. } if in_time.contains(&waited) => (End::Busy, None),
            CallStage::Rejected { code: 486, .. } => {
                (End::Lost(format!("busy after {waited:.1?}")), None)
            }
            other => (End::Lost(format!("{other:?}")), None),
        })
    }

    /// Exotel requests its primary URL, then its fallback URL. Its flow continues in any case.
    async fn passthru(&self, sid: &str, caller: &str, did: &str) {
        for region in &self.regions {
            let query = format!(
                "&CallSid={sid}&CallFrom={}&CallTo={did}&Direction=incoming&CallType=call-attempt",
                caller.replace('+', "%2B")
            );
            let asked = self
                .http
                .get(format!("{}{query}", region.exotel_webhook_url))
                .send();
            if asked.await.is_ok_and(|answer| answer.status().is_success()) {
                return;
            }
        }
    }

    /// The app receives the push, the person accepts, and the app asks both regions until one decides.
    async fn answer(
        &self,
        caller: &str,
        extension: &str,
        plan: CallPlan,
    ) -> Option<(String, Instant)> {
        let deadline = Instant::now() + plan.rings_for + plan.grace;
        let call = loop {
            if let Some(call) = lock(&self.pushed).get(caller).cloned() {
                break call;
            }
            if Instant::now() > deadline {
                return None;
            }
            sleep(Duration::from_millis(50)).await;
        };
        sleep(plan.taps_after).await;
        while Instant::now() < deadline {
            for region in &self.regions {
                match self.accept(region, extension, &call).await {
                    Ok(StatusCode::OK) => return Some((region.aws.region.clone(), Instant::now())),
                    Ok(StatusCode::CONFLICT) => return None,
                    // The region is down, or fails, or does not know the call. The other one may.
                    _ => {}
                }
            }
            sleep(PAUSE).await;
        }
        None
    }

    async fn accept(&self, region: &Stack, extension: &str, call: &str) -> Result<StatusCode> {
        let Some(app) = self.apps.get(extension) else {
            bail!("no app for {extension}");
        };
        let body = json!({
            "server_call_id": call,
            "extension": extension,
            "action": "accept_ready",
            "timestamp": 1_732_175_943_000_u64,
            "device_id": app.device,
        });
        let url = format!("{}/api/call-response", region.http_url);
        let asked = self.http.post(url).bearer_auth(&app.token).json(&body);
        Ok(timeout(TO_ANSWER + TO_CONNECT, asked.send())
            .await??
            .status())
    }
}

fn lock<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
