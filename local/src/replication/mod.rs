//! Simulates a DynamoDB global table between two regions, which the local AWS does not support. Each change is copied
//! to the other region after a delay, the whole item at once, and the later of two versions wins. Both streams show it.
//!
//! As on AWS, a condition is checked only against the local table, and an overwritten version is lost.

mod table_state;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cloud::region::Region;
use table_state::{Resolution, ItemKey, TableState, ItemVersion};
use table::Table;

/// How often the streams are read, which is also the smallest delay.
const EVERY: Duration = Duration::from_millis(100);

/// The state of the replication, and its settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ReplicationState {
    /// The delay of each change in milliseconds.
    pub lag_ms: u64,
    /// Replication is stopped, and changes wait.
    pub cut: bool,
    /// One of the regions is down, so replication waits until it is back.
    pub lost: bool,
    /// Changes that wait to be copied, in both directions.
    pub on_the_way: usize,
    /// Changes that have been copied.
    pub arrived: u64,
    /// Changes that were dropped because the other region had a later version.
    pub overtaken: u64,
}

impl ReplicationState {
    const fn is_open(self) -> bool {
        !self.cut && !self.lost
    }
}

/// The replication between two tables. Dropping it stops it.
#[derive(Debug)]
pub struct Replication {
    link: Arc<Mutex<ReplicationState>>,
    task: JoinHandle<()>,
}

impl Replication {
    /// Starts at the beginning of both streams.
    pub async fn start(regions: [Region; 2], table: &str) -> Result<Self> {
        let [one, other] = regions;
        let sides = [
            ReplicatedRegion::of(Table::open(one, table).await?),
            ReplicatedRegion::of(Table::open(other, table).await?),
        ];
        let link = Arc::new(Mutex::new(ReplicationState::default()));
        let task = tokio::spawn(replicate(sides, Arc::clone(&link)));
        Ok(Self { link, task })
    }

    /// The current state.
    #[must_use]
    pub fn link(&self) -> ReplicationState {
        read(&self.link)
    }

    /// Changes the settings.
    pub fn change(&self, change: impl FnOnce(&mut ReplicationState)) {
        change(&mut self.link.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read(link: &Mutex<ReplicationState>) -> ReplicationState {
    *link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One region: its table, its known state, and the changes that wait for the other region.
struct ReplicatedRegion {
    table: Table,
    table_state: TableState,
    leaving: VecDeque<(ItemKey, ItemVersion)>,
}

impl ReplicatedRegion {
    fn of(table: Table) -> Self {
        let table_state = TableState::of(table.region().name);
        Self {
            table,
            table_state,
            leaving: VecDeque::new(),
        }
    }

    async fn look(&mut self) -> Result<()> {
        for record in self.table.records().await? {
            self.leaving.extend(self.table_state.on_stream_record(record));
        }
        Ok(())
    }

    /// Applies a version from the other region. Returns whether it won.
    async fn take(&mut self, key: ItemKey, version: ItemVersion) -> Result<bool> {
        loop {
            let Resolution::Replaces(standing) = self.table_state.resolve(&key, &version) else {
                return Ok(false);
            };
            let image = version.image.as_ref();
            if standing == image || self.table.replace(&key, standing, image).await? {
                self.table_state.on_replicated(key, version);
                return Ok(true);
            }
            // The item has changed in the meantime. Read the stream and compare again.
            self.look().await?;
        }
    }
}

async fn replicate(mut sides: [ReplicatedRegion; 2], link: Arc<Mutex<ReplicationState>>) {
    loop {
        sleep(EVERY).await;
        // The streams keep what is not read now.
        if !read(&link).is_open() {
            continue;
        }
        if let Err(error) = pass_on(&mut sides, &link).await
            && read(&link).is_open()
        {
            eprintln!("replication: {error:#}");
        }
    }
}

async fn pass_on(sides: &mut [ReplicatedRegion; 2], link: &Mutex<ReplicationState>) -> Result<()> {
    for side in &mut *sides {
        side.look().await?;
    }
    let [one, other] = sides;
    let (came, overtaken) = hand_over(one, other, link).await?;
    let (went, late) = hand_over(other, one, link).await?;
    let on_the_way = one.leaving.len() + other.leaving.len();
    let mut link = link.lock().unwrap_or_else(PoisonError::into_inner);
    link.arrived += came + went;
    link.overtaken += overtaken + late;
    link.on_the_way = on_the_way;
    Ok(())
}

/// Copies the changes that are due, in the order of writing. Returns how many were copied and how many were dropped.
async fn hand_over(from: &mut ReplicatedRegion, to: &mut ReplicatedRegion, link: &Mutex<ReplicationState>) -> Result<(u64, u64)> {
    let (mut came, mut overtaken) = (0, 0);
    while let Some((key, version)) = from.leaving.front().cloned() {
        let state = read(link);
        if !state.is_open() || version.stamp.at_ms + state.lag_ms > now_ms() {
            break;
        }
        if to.take(key, version).await? {
            came += 1;
        } else {
            overtaken += 1;
        }
        from.leaving.pop_front();
    }
    Ok((came, overtaken))
}

fn now_ms() -> u64 {
    let since_1970 = time::OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    u64::try_from(since_1970).unwrap_or(0)
}
