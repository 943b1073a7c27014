//! What a global table does between two regions, and the local AWS does not: each change of one region's table comes to
//! the other's a while later, the item as a whole, and of two versions the later stays. Both streams show it.
//!
//! As on AWS, a condition is checked against the region's own table alone, and what has been overwritten is gone.

mod memory;
mod table;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::cloud::region::Region;
use memory::{Arrival, Key, Memory, Version};
use table::Table;

/// How often the streams are read. What nobody has slowed down takes about this long.
const EVERY: Duration = Duration::from_millis(100);

/// How replication goes, and what is done to it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Link {
    /// How much later than it was made a change comes to the other region.
    pub lag_ms: u64,
    /// Nothing comes through. What was to come waits.
    pub cut: bool,
    /// One of the regions is lost: nothing leaves it, nor comes to it, until it is back.
    pub lost: bool,
    /// Changes that are on their way, in either direction.
    pub on_the_way: usize,
    /// Changes that have come to the other region so far.
    pub arrived: u64,
    /// Changes that came after a later version of the same item had been written there.
    pub overtaken: u64,
}

impl Link {
    const fn is_open(self) -> bool {
        !self.cut && !self.lost
    }
}

/// Replication between two tables, until it is dropped.
#[derive(Debug)]
pub struct Replication {
    link: Arc<Mutex<Link>>,
    task: JoinHandle<()>,
}

impl Replication {
    /// Begins with what is in the tables' streams already.
    pub async fn start(regions: [Region; 2], table: &str) -> Result<Self> {
        let [one, other] = regions;
        let sides = [
            Side::of(Table::open(one, table).await?),
            Side::of(Table::open(other, table).await?),
        ];
        let link = Arc::new(Mutex::new(Link::default()));
        let task = tokio::spawn(replicate(sides, Arc::clone(&link)));
        Ok(Self { link, task })
    }

    /// How it goes.
    #[must_use]
    pub fn link(&self) -> Link {
        read(&self.link)
    }

    /// Does something to it.
    pub fn change(&self, change: impl FnOnce(&mut Link)) {
        change(&mut self.link.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Replication {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read(link: &Mutex<Link>) -> Link {
    *link.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One region: its table, what stands in it, and what has yet to come to the other.
struct Side {
    table: Table,
    memory: Memory,
    leaving: VecDeque<(Key, Version)>,
}

impl Side {
    fn of(table: Table) -> Self {
        let memory = Memory::of(table.region().name);
        Self {
            table,
            memory,
            leaving: VecDeque::new(),
        }
    }

    async fn look(&mut self) -> Result<()> {
        for record in self.table.records().await? {
            self.leaving.extend(self.memory.saw(record));
        }
        Ok(())
    }

    /// Takes a version in. Says whether it stands here now.
    async fn take(&mut self, key: Key, version: Version) -> Result<bool> {
        loop {
            let Arrival::Replaces(standing) = self.memory.meets(&key, &version) else {
                return Ok(false);
            };
            let image = version.image.as_ref();
            if standing == image || self.table.replace(&key, standing, image).await? {
                self.memory.wrote(key, version);
                return Ok(true);
            }
            // Somebody has written here meanwhile: the stream says what.
            self.look().await?;
        }
    }
}

async fn replicate(mut sides: [Side; 2], link: Arc<Mutex<Link>>) {
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

async fn pass_on(sides: &mut [Side; 2], link: &Mutex<Link>) -> Result<()> {
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

/// Hands over what is due, in the order in which it was written. Says how much has come, and how much was overtaken.
async fn hand_over(from: &mut Side, to: &mut Side, link: &Mutex<Link>) -> Result<(u64, u64)> {
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
