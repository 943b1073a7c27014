//! The stack with fault injection, the subscribers that take part in calls, and an operator who receives all status
//! updates.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use ringback_client::Client;
use ringback_local::faults::rule::{Line, System};
use ringback_sip::Trunk;
use serde_json::Value;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;

use crate::faults::Faults;
use crate::seat::Seat;
use ringback_e2e::fixture::Fixture;

/// The test harness of this binary.
pub(crate) struct Stage {
    pub(crate) fixture: Fixture,
    pub(crate) faults: Faults,
    pub(crate) trunk: Trunk,
    pub(crate) heard: Heard,
    seats: AsyncMutex<Vec<Seat>>,
    callers: AtomicU32,
    /// The number of calls that have started.
    pub(crate) begun: AtomicU32,
}

impl Stage {
    /// Takes the stack and prepares this many subscribers.
    pub(crate) async fn open(seats: usize) -> Result<Arc<Self>> {
        let fixture = Fixture::open().await?;
        let stack = &fixture.stack;
        let described = stack
            .faults
            .as_ref()
            .context("a stack that was started with FAULTS=yes")?;
        fixture.forget_devices_of(&described.phones).await?;
        let mut taken = Vec::new();
        for (number, extension) in described.numbers.iter().take(seats) {
            let account = described
                .phones
                .iter()
                .find(|it| it.extension == *extension);
            let account = account.context("each of the crowd has a phone")?;
            taken.push(Seat::take(stack, account, number).await?);
        }
        let faults = Faults::at(&described.control);
        // An aborted test may have left a system disconnected.
        for system in System::ALL {
            faults.switch(system, Line::Open).await?;
        }
        let trunk = Trunk::bind(&format!("{}:0", stack.sip.trunk_source)).await?;
        let heard = Heard::by_operator(&stack.ws_url, &stack.operator.token).await?;
        Ok(Arc::new(Self {
            faults,
            trunk,
            heard,
            seats: AsyncMutex::new(taken),
            callers: AtomicU32::new(fastrand::u32(..1_000_000)),
            begun: AtomicU32::new(0),
            fixture,
        }))
    }

    /// A free subscriber. There are as many as concurrent calls.
    pub(crate) async fn seat(&self) -> Result<Seat> {
        self.seats.lock().await.pop().context("a free seat")
    }

    pub(crate) async fn leave(&self, seat: Seat) {
        self.seats.lock().await.push(seat);
    }

    /// Unregisters the devices that the last calls used.
    pub(crate) async fn clear(&self) -> Result<()> {
        for seat in self.seats.lock().await.iter() {
            for device in &seat.devices {
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
    pub(crate) fn marks(seats: &[&Seat], caller: &str) -> BTreeSet<String> {
        let mut marks = BTreeSet::from([caller.to_owned()]);
        for seat in seats {
            let extension = &seat.account.extension;
            marks.insert(format!("EXTENSION#{extension}"));
            marks.insert(format!("FOR#{extension}"));
            marks.insert(format!("PJSIP/{extension}"));
            marks.insert(seat.account.mobile_number.clone());
            marks.insert(format!("+91{}", seat.number.trim_start_matches('0')));
        }
        marks
    }
}

/// All status updates that an operator received, in order.
#[derive(Clone)]
pub(crate) struct Heard {
    told: Arc<Mutex<HashMap<String, Vec<Value>>>>,
    _listening: Arc<Listening>,
}

struct Listening(JoinHandle<()>);

impl Drop for Listening {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Heard {
    async fn by_operator(url: &str, token: &str) -> Result<Self> {
        let mut client = Client::connect(url, token).await?;
        let told: Arc<Mutex<HashMap<String, Vec<Value>>>> = Arc::default();
        let (telling, url, token) = (Arc::clone(&told), url.to_owned(), token.to_owned());
        let listening = tokio::spawn(async move {
            loop {
                match client.receive().await {
                    Ok(message) => note(&telling, message),
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
            told,
            _listening: Arc::new(Listening(listening)),
        })
    }

    /// The status updates of a call, in the order in which they arrived.
    pub(crate) fn of(&self, call: &str) -> Vec<Value> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        told.get(call).cloned().unwrap_or_default()
    }

    /// The calls from or to a number.
    pub(crate) fn with(&self, caller: &str) -> Vec<String> {
        let told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_meant = |updates: &&Vec<Value>| {
            updates
                .iter()
                .any(|it| it["from"] == caller || it["to"] == caller)
        };
        told.iter()
            .filter(|(_, updates)| is_meant(updates))
            .map(|(id, _)| id.clone())
            .collect()
    }
}

fn note(told: &Mutex<HashMap<String, Vec<Value>>>, mut message: Value) {
    if message["type"] != "call_status_update" {
        return;
    }
    let data = message["data"].take();
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(id) = data["callId"].as_str() {
        told.entry(id.to_owned()).or_default().push(data);
    }
}
