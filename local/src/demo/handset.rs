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
const SOON: Duration = Duration::from_secs(20);
/// The duration of a registration. A phone that is not used again lets it expire.
const REGISTERED: Duration = Duration::from_secs(600);

/// The phones by extension.
#[derive(Clone, Default)]
pub(super) struct Handsets(Arc<Mutex<BTreeMap<String, Handset>>>);

struct Handset {
    leg: Arc<Mutex<Option<IncomingCall>>>,
    picks_up_until: Arc<Mutex<Option<Instant>>>,
    registered_at: Instant,
    answering: JoinHandle<()>,
}

impl Drop for Handset {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Handsets {
    /// Registers the phone of an extension, again if it is registered already, as an app does when a push wakes it.
    pub(super) async fn register(&self, stack: &Stack, extension: &str) -> Result<()> {
        let account = stack
            .phone(extension)
            .with_context(|| format!("there is no phone {extension}"))?;
        let mut phone = phone(stack, account).await?;
        phone.register().await?;
        let handset = Handset::with(phone);
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
    pub(super) async fn pick_up(&self, stack: &Stack, extension: &str) -> Result<()> {
        self.register(stack, extension).await?;
        if let Some(handset) = self.handsets().get(extension) {
            *lock(&handset.picks_up_until) = Some(Instant::now() + SOON);
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

    pub(super) fn shown<'a>(
        &self,
        hears: impl Fn(&Media, &str) -> Vec<&'a str>,
    ) -> Map<String, Value> {
        let handsets = self.handsets();
        let shown = handsets.iter().map(|(extension, handset)| {
            let leg = lock(&handset.leg).clone();
            let leg = leg.map(|leg| {
                json!({ "stage": in_words(&leg), "hears": hears(leg.media(), &name(extension)) })
            });
            let registered = handset.registered_at.elapsed() < REGISTERED;
            (
                extension.clone(),
                json!({ "registered": registered, "leg": leg }),
            )
        });
        shown.collect()
    }

    fn handsets(&self) -> MutexGuard<'_, BTreeMap<String, Handset>> {
        lock(&self.0)
    }
}

impl Handset {
    fn with(phone: Phone) -> Self {
        let leg = Arc::default();
        let picks_up_until = Arc::default();
        let answering = answer(phone, Arc::clone(&leg), Arc::clone(&picks_up_until));
        Self {
            leg,
            picks_up_until,
            registered_at: Instant::now(),
            answering: tokio::spawn(answering),
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
        Transport::Wss => bail!("{extension} is a WebRTC phone, which this page does not play"),
    })
}

/// Rings for each call, and answers those that the person has accepted.
async fn answer(
    mut phone: Phone,
    leg: Arc<Mutex<Option<IncomingCall>>>,
    picks_up_until: Arc<Mutex<Option<Instant>>>,
) {
    while let Ok(call) = phone.next_call(REGISTERED).await {
        *lock(&leg) = Some(call.clone());
        let accepted = lock(&picks_up_until)
            .take()
            .is_some_and(|until| Instant::now() < until);
        // The app that starts a call has its own phone called first, with `Answer-Mode: Auto` (RFC 5373).
        let by_itself = call.header("Answer-Mode") == Some("Auto");
        if (accepted || by_itself)
            && let Err(error) = call.answer().await
        {
            eprintln!("demo: the phone could not pick up: {error}");
        }
    }
}

fn name(extension: &str) -> String {
    format!("phone {extension}")
}

fn in_words(leg: &IncomingCall) -> &'static str {
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
