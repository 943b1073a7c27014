//! The simulated SIP phones that the console plays: each registers, rings, and picks up when its person has accepted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringback_sip::{IncomingCall, Media, Phone, Stage};
use serde_json::{Map, Value, json};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::settings::Transport;
use crate::stack::{Phone as Account, Stack};

/// What a person has accepted rings here within so long, or not at all.
const SOON: Duration = Duration::from_secs(20);
/// A registration lasts 600 s. A phone that nobody uses any longer lets it end.
const REGISTERED: Duration = Duration::from_secs(600);

/// The phones, by extension.
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
    /// Registers the extension's phone, anew where it is already: as an app that was woken does.
    pub(super) async fn register(&self, stack: &Stack, extension: &str) -> Result<()> {
        let account = stack
            .phone(extension)
            .with_context(|| format!("there is no phone {extension}"))?;
        let mut phone = phone(stack, account).await?;
        phone.register().await?;
        let handset = Handset::with(phone);
        // A call that the phone is on goes on, and ends, where it is.
        let mut handsets = self.handsets();
        let leg = handsets
            .get(extension)
            .and_then(|before| lock(&before.leg).clone());
        *lock(&handset.leg) = leg;
        handsets.insert(extension.to_owned(), handset);
        Ok(())
    }

    /// Registers it, and has it pick up what rings there next.
    pub(super) async fn pick_up(&self, stack: &Stack, extension: &str) -> Result<()> {
        self.register(stack, extension).await?;
        if let Some(handset) = self.handsets().get(extension) {
            *lock(&handset.picks_up_until) = Some(Instant::now() + SOON);
        }
        Ok(())
    }

    /// The legs by their names.
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

/// The phone of an account. WebRTC is spoken by browsers alone.
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

/// Lets calls ring, one at a time, and picks up those that are meant to be.
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
        // The app that calls has its own phone called first, which is to pick up by itself.
        let by_itself = call.header("Answer-Mode") == Some("Auto");
        if (accepted || by_itself)
            && let Err(error) = call.answer().await
        {
            eprintln!("playground: the phone could not pick up: {error}");
        }
    }
}

fn name(extension: &str) -> String {
    format!("phone {extension}")
}

fn in_words(leg: &IncomingCall) -> &'static str {
    match leg.events().all().last().map(|event| event.stage.clone()) {
        None | Some(Stage::Ringing { .. }) => "rings",
        Some(Stage::Answered) => "talks",
        Some(Stage::Rejected { .. }) => "refused",
        Some(Stage::Ended { by_remote: true }) => "was hung up on",
        Some(Stage::Ended { by_remote: false }) => "hung up",
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
