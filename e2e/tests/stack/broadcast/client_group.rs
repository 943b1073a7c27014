//! Many WebSocket clients and the status updates that each one receives.

use ringback::platform::clock;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ringback_client::Client;
use ringback_core::timestamp::Timestamp;
use ringback_local::stack::Stack;
use serde_json::Value;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// How many clients connect or disconnect at a time. The local cloud serves streams, queues and disconnects from one
/// process, which hundreds of disconnects at once would block.
const AT_ONCE: usize = 16;
/// One in this many clients takes part in the call.
const PARTICIPANTS: usize = 10;
const PARTICIPANT: &str = "1001";
const OUTSIDER: &str = "1002";

/// Connected clients. Each one reads all the time.
pub(crate) struct ClientGroup {
    url: String,
    tokens: [String; 2],
    members: Vec<GroupMember>,
    listening: JoinSet<()>,
    heard: mpsc::UnboundedReceiver<(usize, Update)>,
    hears: mpsc::UnboundedSender<(usize, Update)>,
    /// Each permit lets one client disconnect.
    way_out: Arc<Semaphore>,
}

/// One client and the updates that it received.
pub(crate) struct GroupMember {
    pub(crate) extension: &'static str,
    updates: Vec<Update>,
}

/// A `call_status_update`, as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Update {
    pub(crate) data: Value,
    at: Timestamp,
}

impl ClientGroup {
    pub(crate) fn of(stack: &Stack) -> Result<Self> {
        let token = |extension| {
            let phone = stack.phone(extension).context("the extension has no phone");
            phone.map(|phone| phone.token.clone())
        };
        let (hears, heard) = mpsc::unbounded_channel();
        Ok(Self {
            url: stack.ws_url.clone(),
            tokens: [token(PARTICIPANT)?, token(OUTSIDER)?],
            members: Vec::new(),
            listening: JoinSet::new(),
            heard,
            hears,
            way_out: Arc::new(Semaphore::new(0)),
        })
    }

    pub(crate) fn members(&self) -> &[GroupMember] {
        &self.members
    }

    /// Connects clients up to this number.
    pub(crate) async fn grow_to(&mut self, size: usize) -> Result<()> {
        let door = Arc::new(Semaphore::new(AT_ONCE));
        let mut connecting = JoinSet::new();
        for number in self.members.len()..size {
            let (url, door) = (self.url.clone(), Arc::clone(&door));
            let (extension, token) = self.identity(number);
            connecting.spawn(async move {
                let _through = door.acquire().await?;
                let client = Client::connect(&url, &token).await;
                Ok::<_, anyhow::Error>((extension, client.context("no client is connected")?))
            });
        }
        while let Some(connected) = connecting.join_next().await {
            let (extension, client) = connected??;
            self.take_in(extension, client);
        }
        Ok(())
    }

    fn identity(&self, number: usize) -> (&'static str, String) {
        let [participant, outsider] = &self.tokens;
        if number.is_multiple_of(PARTICIPANTS) {
            (PARTICIPANT, participant.clone())
        } else {
            (OUTSIDER, outsider.clone())
        }
    }

    fn take_in(&mut self, extension: &'static str, mut client: Client) {
        let number = self.members.len();
        self.members.push(GroupMember {
            extension,
            updates: Vec::new(),
        });
        let (hears, way_out) = (self.hears.clone(), Arc::clone(&self.way_out));
        self.listening.spawn(async move {
            tokio::select! {
                // A client that loses its connection is noticed because it misses updates.
                _ = listen(number, &mut client, hears) => {}
                Ok(mine) = way_out.acquire() => {
                    mine.forget();
                    client.close().await;
                }
            }
        });
    }

    /// Waits until all clients have received this status of a call. Returns the time from the change to each delivery,
    /// shortest first.
    pub(crate) async fn hears(
        &mut self,
        call: &str,
        status: &str,
        within: Duration,
    ) -> Result<Vec<Duration>> {
        let deadline = Instant::now() + within;
        let is_meant =
            |update: &Update| update.is_of(call) && update.data["status"].as_str() == Some(status);
        let mut waiting: HashSet<usize> = (0..self.members.len()).collect();
        waiting.retain(|number| !self.members[*number].updates.iter().any(is_meant));
        while !waiting.is_empty() {
            let Ok(Some((number, update))) = timeout_at(deadline, self.heard.recv()).await else {
                let (missing, all) = (waiting.len(), self.members.len());
                bail!("{missing} of {all} clients received no update {status} within {within:?}");
            };
            if is_meant(&update) {
                waiting.remove(&number);
            }
            self.members[number].updates.push(update);
        }
        let updates = self.members.iter().flat_map(|member| &member.updates);
        let mut took = updates
            .filter(|update| is_meant(update))
            .map(Update::took)
            .collect::<Result<Vec<_>>>()?;
        took.sort();
        Ok(took)
    }

    /// Reads the updates that still arrive, so that duplicates are noticed.
    pub(crate) async fn settles(&mut self, for_so_long: Duration) {
        let until = Instant::now() + for_so_long;
        while let Ok(Some((number, update))) = timeout_at(until, self.heard.recv()).await {
            self.members[number].updates.push(update);
        }
    }

    /// Lets this many clients disconnect.
    pub(crate) fn leave(&mut self, leaving: usize) {
        self.way_out.add_permits(leaving);
        self.members.truncate(self.members.len() - leaving);
    }

    /// Waits until these clients have disconnected.
    pub(crate) async fn wait_until_gone(mut self) {
        while self.listening.join_next().await.is_some() {}
    }
}

impl GroupMember {
    pub(crate) fn has_part(&self) -> bool {
        self.extension == PARTICIPANT
    }

    /// The status updates of one call, in order of arrival.
    pub(crate) fn status_updates(&self, call: &str) -> Vec<&Value> {
        let of_call = self.updates.iter().filter(|update| update.is_of(call));
        of_call.map(|update| &update.data).collect()
    }
}

impl Update {
    fn is_of(&self, call: &str) -> bool {
        self.data["callId"].as_str() == Some(call)
    }

    fn took(&self) -> Result<Duration> {
        let changed = self.data["timestamp"]
            .as_str()
            .context("the update has no timestamp")?;
        let changed =
            time::OffsetDateTime::parse(changed, &time::format_description::well_known::Rfc3339)?;
        let changed = u64::try_from(changed.unix_timestamp_nanos() / 1_000_000)?;
        Ok(Duration::from_millis(
            self.at.as_millis().saturating_sub(changed),
        ))
    }
}

async fn listen(
    number: usize,
    client: &mut Client,
    hears: mpsc::UnboundedSender<(usize, Update)>,
) -> Result<()> {
    loop {
        let mut message = client.receive().await?;
        let at = clock::now();
        if message["type"] == "call_status_update" {
            let data = message["data"].take();
            hears.send((number, Update { data, at }))?;
        }
    }
}
