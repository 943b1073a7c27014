//! The simulated SIP phones of the console. They register, ring, and answer after the person accepts.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringback_sip::{CallStage, IncomingCall, Media, Phone};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::settings::Transport;
use crate::stack::{Phone as Account, Stack};

/// How long after the person accepts a ringing phone is answered.
const ANSWER_WINDOW: Duration = Duration::from_secs(20);
/// The duration of a registration. A phone that is not used again lets it expire.
const REGISTRATION_TIME: Duration = Duration::from_secs(600);

/// The phones by extension.
#[derive(Clone, Default)]
pub(super) struct Handsets(Arc<Mutex<BTreeMap<String, Handset>>>);

struct Handset {
    leg: Arc<Mutex<Option<IncomingCall>>>,
    answer_until: Arc<Mutex<Option<Instant>>>,
    registered_at: Instant,
    task: JoinHandle<()>,
}

impl Drop for Handset {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Handsets {
    /// Registers the phone of an extension, again if it is registered already, as an app does when a push wakes it.
    pub(super) async fn register(&self, stack: &Stack, extension: &str) -> Result<()> {
        let account = stack
            .phone(extension)
            .with_context(|| format!("unknown phone {extension}"))?;
        let mut phone = phone(stack, account).await?;
        phone.register().await?;
        let handset = Handset::new(phone);
        // Keep the phone's current call, which continues on the old registration.
        let mut handsets = self.handsets();
        let leg = handsets
            .get(extension)
            .and_then(|before| lock(&before.leg).clone());
        *lock(&handset.leg) = leg;
        handsets.insert(extension.to_owned(), handset);
        Ok(())
    }

    /// Registers the phone, and answers the next call on it.
    pub(super) async fn answer_next(&self, stack: &Stack, extension: &str) -> Result<()> {
        self.register(stack, extension).await?;
        if let Some(handset) = self.handsets().get(extension) {
            *lock(&handset.answer_until) = Some(Instant::now() + ANSWER_WINDOW);
        }
        Ok(())
    }

    /// The media of each leg, with the leg's name.
    pub(super) fn legs(&self) -> Vec<(String, Media)> {
        let handsets = self.handsets();
        let legs = handsets.iter().filter_map(|(extension, handset)| {
            let leg = lock(&handset.leg);
            Some((name(extension), leg.as_ref()?.media().clone()))
        });
        legs.collect()
    }

    pub(super) fn to_json<'a>(
        &self,
        hears: impl Fn(&Media, &str) -> Vec<&'a str>,
    ) -> Map<String, Value> {
        let handsets = self.handsets();
        let phones = handsets.iter().map(|(extension, handset)| {
            let leg = lock(&handset.leg).clone();
            let leg = leg.map(|leg| {
                json!({ "stage": describe(&leg), "hears": hears(leg.media(), &name(extension)) })
            });
            let registered = handset.registered_at.elapsed() < REGISTRATION_TIME;
            (
                extension.clone(),
                json!({ "registered": registered, "leg": leg }),
            )
        });
        phones.collect()
    }

    fn handsets(&self) -> MutexGuard<'_, BTreeMap<String, Handset>> {
        lock(&self.0)
    }
}

impl Handset {
    fn new(phone: Phone) -> Self {
        let leg = Arc::default();
        let answer_until = Arc::default();
        let task = run_phone(phone, Arc::clone(&leg), Arc::clone(&answer_until));
        Self {
            leg,
            answer_until,
            registered_at: Instant::now(),
            task: tokio::spawn(task),
        }
    }
}

/// Creates the phone of an account. WebRTC phones exist only in browsers.
async fn phone(stack: &Stack, account: &Account) -> Result<Phone> {
    let Account {
        extension,
        sip_password,
        ..
    } = account;
    Ok(match account.transport {
        Transport::Udp => Phone::new(stack.sip.address.parse()?, extension, sip_password).await?,
        Transport::Tls => {
            let pbx = stack.sip.tls.parse()?;
            Phone::over_tls(pbx, extension, sip_password, &stack.ari.ca_pem).await?
        }
        Transport::Wss => bail!("{extension} is a WebRTC phone, which the demo does not simulate"),
    })
}

/// Rings for each call, and answers those that the person has accepted.
async fn run_phone(
    mut phone: Phone,
    leg: Arc<Mutex<Option<IncomingCall>>>,
    answer_until: Arc<Mutex<Option<Instant>>>,
) {
    while let Ok(call) = phone.next_call(REGISTRATION_TIME).await {
        *lock(&leg) = Some(call.clone());
        let accepted = lock(&answer_until)
            .take()
            .is_some_and(|until| Instant::now() < until);
        // The app that starts a call has its own phone called first, with `Answer-Mode: Auto` (RFC 5373).
        let automatic = call.header("Answer-Mode") == Some("Auto");
        if (accepted || automatic)
            && let Err(error) = call.answer().await
        {
            eprintln!("demo: the phone could not answer: {error}");
        }
    }
}

fn name(extension: &str) -> String {
    format!("phone {extension}")
}

fn describe(leg: &IncomingCall) -> &'static str {
    match leg.events().all().last().map(|event| event.stage.clone()) {
        None | Some(CallStage::Ringing { .. }) => "rings",
        Some(CallStage::Answered) => "talks",
        Some(CallStage::Rejected { .. }) => "refused",
        Some(CallStage::Ended { by_remote: true }) => "was hung up on",
        Some(CallStage::Ended { by_remote: false }) => "hung up",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
