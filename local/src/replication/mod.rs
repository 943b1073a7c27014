//! Simulates a DynamoDB global table between two regions, which the local AWS does not support. Each change is copied
//! to the other region after a delay, the whole item at once, and the later of two versions wins. Both streams show it.
//!
//! As on AWS, a condition is checked only against the local table, and an overwritten version is region_down.

mod table;
mod table_state;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cloud::region::Region;
use table::Table;
use table_state::{ItemKey, ItemVersion, Resolution, TableState};

/// How often the streams are read, which is also the smallest delay.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The state of the replication, and its settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplicationState {
    /// The delay of each change in milliseconds.
    pub lag_ms: u64,
    /// Replication is stopped, and changes wait.
    pub cut: bool,
    /// One of the regions is down, so replication waits until it is back.
    pub region_down: bool,
    /// Changes that wait to be copied, in both directions.
    pub pending: usize,
    /// Changes that have been copied.
    pub replicated: u64,
    /// Changes that were dropped because the other region had a later version.
    pub superseded: u64,
}

impl ReplicationState {
    const fn is_open(self) -> bool {
        !self.cut && !self.region_down
    }
}

/// The replication between two tables. Dropping it stops it.
#[derive(Debug)]
pub struct Replication {
    state: Arc<Mutex<ReplicationState>>,
    task: JoinHandle<()>,
}

impl Replication {
    /// Starts at the beginning of both streams.
    pub async fn start(regions: [Region; 2], table: &str) -> Result<Self> {
        let [one, other] = regions;
        let sides = [
            ReplicatedRegion::new(Table::open(one, table).await?),
            ReplicatedRegion::new(Table::open(other, table).await?),
        ];
        let state = Arc::new(Mutex::new(ReplicationState::default()));
        let task = tokio::spawn(replicate(sides, Arc::clone(&state)));
        Ok(Self { state, task })
    }

    /// The current state.
    #[must_use]
    pub fn state(&self) -> ReplicationState {
        read(&self.state)
    }

    /// Changes the settings.
    pub fn change(&self, change: impl FnOnce(&mut ReplicationState)) {
        change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read(state: &Mutex<ReplicationState>) -> ReplicationState {
    *state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One region: its table, its known state, and the changes that wait for the other region.
struct ReplicatedRegion {
    table: Table,
    state: TableState,
    outgoing: VecDeque<(ItemKey, ItemVersion)>,
}

impl ReplicatedRegion {
    fn new(table: Table) -> Self {
        let state = TableState::new(table.region().name);
        Self {
            table,
            state,
            outgoing: VecDeque::new(),
        }
    }

    async fn read_stream(&mut self) -> Result<()> {
        for record in self.table.records().await? {
            self.outgoing.extend(self.state.on_stream_record(record));
        }
        Ok(())
    }

    /// Applies a version from the other region. Returns whether it won.
    async fn apply(&mut self, key: ItemKey, version: ItemVersion) -> Result<bool> {
        loop {
            let Resolution::Replaces(current) = self.state.resolve(&key, &version) else {
                return Ok(false);
            };
            let image = version.image.as_ref();
            if current == image || self.table.replace(&key, current, image).await? {
                self.state.on_replicated(key, version);
                return Ok(true);
            }
            // The item has changed in the meantime. Read the stream and compare again.
            self.read_stream().await?;
        }
    }
}

async fn replicate(mut sides: [ReplicatedRegion; 2], state: Arc<Mutex<ReplicationState>>) {
    loop {
        sleep(POLL_INTERVAL).await;
        // The streams keep what is not read now.
        if !read(&state).is_open() {
            continue;
        }
        if let Err(error) = replicate_once(&mut sides, &state).await
            && read(&state).is_open()
        {
            eprintln!("replication: {error:#}");
        }
    }
}

async fn replicate_once(
    sides: &mut [ReplicatedRegion; 2],
    state: &Mutex<ReplicationState>,
) -> Result<()> {
    for side in &mut *sides {
        side.read_stream().await?;
    }
    let [one, other] = sides;
    let (copied, superseded) = copy_due(one, other, state).await?;
    let (copied_back, superseded_back) = copy_due(other, one, state).await?;
    let pending = one.outgoing.len() + other.outgoing.len();
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    state.replicated += copied + copied_back;
    state.superseded += superseded + superseded_back;
    state.pending = pending;
    Ok(())
}

/// Copies the changes that are due, in the order of writing. Returns how many were copied and how many were dropped.
async fn copy_due(
    from: &mut ReplicatedRegion,
    to: &mut ReplicatedRegion,
    state: &Mutex<ReplicationState>,
) -> Result<(u64, u64)> {
    let (mut copied, mut superseded) = (0, 0);
    while let Some((key, version)) = from.outgoing.front().cloned() {
        let state = read(state);
        if !state.is_open() || version.stamp.at_ms + state.lag_ms > now_ms() {
            break;
        }
        if to.apply(key, version).await? {
            copied += 1;
        } else {
            superseded += 1;
        }
        from.outgoing.pop_front();
    }
    Ok((copied, superseded))
}

fn now_ms() -> u64 {
    let since_1970 = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    u64::try_from(since_1970).unwrap_or(0)
}
