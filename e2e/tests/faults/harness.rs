//! The stack with fault injection, the subscribers that take part in calls, and an operator who receives all status
//! updates.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use ringback_client::Client;
use ringback_local::faults::rule::{LinkState, System};
use ringback_sip::{Caller, Trunk};
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use crate::call_run::ring;
use crate::faults::Faults;
use crate::subscriber::Subscriber;
use ringback_e2e::fixture::{Conversation, Fixture};

/// The test harness of this binary.
pub(crate) struct Harness {
    pub(crate) fixture: Fixture,
    pub(crate) faults: Faults,
    pub(crate) trunk: Trunk,
    pub(crate) updates: OperatorUpdates,
    subscribers: AsyncMutex<Vec<Subscriber>>,
    callers: AtomicU32,
    /// The number of calls that have started.
    pub(crate) begun: AtomicU32,
}

impl Harness {
    /// Takes the stack and prepares this many subscribers.
    pub(crate) async fn open(subscribers: usize) -> Result<Arc<Self>> {
        let fixture = Fixture::open().await?;
        let stack = &fixture.stack;
        let described = stack
            .faults
            .as_ref()
            .context("the stack must run with FAULTS=yes")?;
        fixture.delete_devices_of(&described.phones).await?;
        let mut free = Vec::new();
        for (number, extension) in described.numbers.iter().take(subscribers) {
            let account = described
                .phones
                .iter()
                .find(|it| it.extension == *extension);
            let account = account.context("the extension has no phone account")?;
            free.push(Subscriber::new(stack, account, number).await?);
        }
        let faults = Faults::at(&described.control);
        // An aborted test may have left a system disconnected.
        for system in System::ALL {
            faults.switch(system, LinkState::Open).await?;
        }
        let trunk = Trunk::bind(&format!("{}:0", stack.sip.trunk_source)).await?;
        let updates = OperatorUpdates::connect(&stack.ws_url, &stack.operator.token).await?;
        Ok(Arc::new(Self {
            faults,
            trunk,
            updates,
            subscribers: AsyncMutex::new(free),
            callers: AtomicU32::new(fastrand::u32(..1_000_000)),
            begun: AtomicU32::new(0),
            fixture,
        }))
    }

    /// A free subscriber. There are as many as concurrent calls.
    pub(crate) async fn subscriber(&self) -> Result<Subscriber> {
        self.subscribers
            .lock()
            .await
            .pop()
            .context("no subscriber is free")
    }

    pub(crate) async fn put_back(&self, subscriber: Subscriber) {
        self.subscribers.lock().await.push(subscriber);
    }

    /// A caller on the trunk talks to this subscriber.
    pub(crate) async fn conversation(&self, subscriber: &mut Subscriber) -> Result<Conversation> {
        let pbx = self.fixture.stack.sip.address.parse()?;
        let caller = Caller::number(&self.new_caller());
        let caller = self
            .trunk
            .call(pbx, &subscriber.number, caller, None)
            .await?;
        let device = &subscriber.devices[0];
        let id = device.receives_call(ring()).await?.context("no push")?;
        device.respond("accept_ready", &id).await?;
        let callee = subscriber.phone.next_call(ring()).await?;
        callee.answer().await?;
        caller.answered(ring()).await?;
        Ok(Conversation { id, caller, callee })
    }

    /// The same, while other plays crash functions. A crash may hit this call, so it is tried three times.
    pub(crate) async fn conversation_among_crashes(
        &self,
        subscriber: &mut Subscriber,
    ) -> Result<Conversation> {
        for _ in 0..2 {
            if let Ok(talk) = self.conversation(subscriber).await {
                return Ok(talk);
            }
            subscriber.prepare(1).await?;
        }
        self.conversation(subscriber).await
    }

    /// Unregisters the devices that the last calls used.
    pub(crate) async fn clear(&self) -> Result<()> {
        for subscriber in self.subscribers.lock().await.iter() {
            for device in &subscriber.devices {
                device.unregister().await?;
            }
        }
        Ok(())
    }

    /// A caller's number that no other call has used.
    pub(crate) fn new_caller(&self) -> String {
        let number = self.callers.fetch_add(1, Ordering::Relaxed) % 1_000_000;
        format!("+9170{number:08}")
    }

    /// The texts that identify the requests of a call to these subscribers.
    pub(crate) fn marks(subscribers: &[&Subscriber], caller: &str) -> BTreeSet<String> {
        let mut marks = BTreeSet::from([caller.to_owned()]);
        for subscriber in subscribers {
            let extension = &subscriber.account.extension;
            marks.insert(format!("EXTENSION#{extension}"));
            marks.insert(format!("FOR#{extension}"));
            marks.insert(format!("PJSIP/{extension}"));
            // A client in the queue of `ws-replay`.
            marks.insert(format!(r#"\"app\":\"{extension}\""#));
            marks.insert(subscriber.account.mobile_number.clone());
            marks.insert(format!("+91{}", subscriber.number.trim_start_matches('0')));
        }
        marks
    }
}

/// All status updates that an operator received, in order.
#[derive(Clone)]
pub(crate) struct OperatorUpdates {
    updates: Arc<Mutex<HashMap<String, Vec<Value>>>>,
    _reader: Arc<Reader>,
}

struct Reader(JoinHandle<()>);

impl Drop for Reader {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl OperatorUpdates {
    async fn connect(url: &str, token: &str) -> Result<Self> {
        let mut client = Client::connect(url, token).await?;
        let updates: Arc<Mutex<HashMap<String, Vec<Value>>>> = Arc::default();
        let (sink, url, token) = (Arc::clone(&updates), url.to_owned(), token.to_owned());
        let reader = tokio::spawn(async move {
            loop {
                match client.receive().await {
                    Ok(message) => store_update(&sink, message),
                    Err(_) => {
                        tokio::time::sleep(Duration::from_millis(200)).await;
                        if let Ok(again) = Client::connect(&url, &token).await {
                            client = again;
                        }
                    }
                }
            }
        });
        Ok(Self {
            updates,
            _reader: Arc::new(Reader(reader)),
        })
    }

    /// The status updates of a call, in the order in which they arrived.
    pub(crate) fn of(&self, call: &str) -> Vec<Value> {
        let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        updates.get(call).cloned().unwrap_or_default()
    }

    /// The calls from or to a number.
    pub(crate) fn with(&self, caller: &str) -> Vec<String> {
        let updates = self.updates.lock().unwrap_or_else(PoisonError::into_inner);
        let matches = |call: &&Vec<Value>| {
            call.iter()
                .any(|it| it["from"] == caller || it["to"] == caller)
        };
        updates
            .iter()
            .filter(|(_, updates)| matches(updates))
            .map(|(id, _)| id.clone())
            .collect()
    }
}

fn store_update(updates: &Mutex<HashMap<String, Vec<Value>>>, mut message: Value) {
    if message["type"] != "call_status_update" {
        return;
    }
    let data = message["data"].take();
    let mut updates = updates.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = data["callId"].as_str() {
        updates.entry(id.to_owned()).or_default().push(data);
    }
}
