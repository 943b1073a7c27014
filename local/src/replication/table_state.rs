//! The versions of a region's items, as known from its stream, and the rule that picks one of two versions.

use std::collections::{HashMap, VecDeque};

use serde_json::Value;

/// The primary key of an item.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct ItemKey {
    pub(super) pk: String,
    pub(super) sk: String,
}

/// The time and the region of a write. The order decides which version wins, the same in both regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct VersionStamp {
    pub(super) at_ms: u64,
    pub(super) region: &'static str,
}

/// A version of an item. The image is `None` when the item was deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ItemVersion {
    pub(super) stamp: VersionStamp,
    pub(super) image: Option<Value>,
}

/// A record of the table's stream.
#[derive(Debug, Clone)]
pub(super) struct StreamRecord {
    pub(super) key: ItemKey,
    pub(super) at_ms: u64,
    pub(super) image: Option<Value>,
}

/// What to do with a version from the other region.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Resolution<'a> {
    /// The version here is later. It is on its way to the other region, and wins there too.
    Overtaken,
    /// Write it, if the item still has this image.
    Replaces(Option<&'a Value>),
}

/// The known state of one region's table.
#[derive(Debug)]
pub(super) struct TableState {
    region: &'static str,
    standing: HashMap<ItemKey, ItemVersion>,
    /// Writes of the replication itself that the stream has not shown yet.
    own: HashMap<ItemKey, VecDeque<Option<Value>>>,
}

impl TableState {
    pub(super) fn of(region: &'static str) -> Self {
        Self {
            region,
            standing: HashMap::new(),
            own: HashMap::new(),
        }
    }

    /// Handles a stream record. Returns the version to send to the other region, or `None` for a write of the
    /// replication itself.
    pub(super) fn on_stream_record(&mut self, record: StreamRecord) -> Option<(ItemKey, ItemVersion)> {
        let StreamRecord { key, at_ms, image } = record;
        if let Some(own) = self.own.get_mut(&key)
            && own.front() == Some(&image)
        {
            own.pop_front();
            return None;
        }
        // This write replaced the current version, so it must be later, even if the other region's clock is ahead.
        let least = self
            .standing
            .get(&key)
            .map_or(0, |standing| standing.stamp.at_ms + 1);
        let stamp = VersionStamp {
            at_ms: at_ms.max(least),
            region: self.region,
        };
        let version = ItemVersion { stamp, image };
        self.standing.insert(key.clone(), version.clone());
        Some((key, version))
    }

    pub(super) fn resolve(&self, key: &ItemKey, version: &ItemVersion) -> Resolution<'_> {
        let standing = self.standing.get(key);
        if standing.is_some_and(|standing| standing.stamp >= version.stamp) {
            return Resolution::Overtaken;
        }
        Resolution::Replaces(standing.and_then(|standing| standing.image.as_ref()))
    }

    /// Records a write of the replication.
    pub(super) fn on_replicated(&mut self, key: ItemKey, version: ItemVersion) {
        let before = self.standing.insert(key.clone(), version.clone());
        // A stream shows no record when a write changes nothing.
        if before.and_then(|before| before.image) != version.image {
            self.own.entry(key).or_default().push_back(version.image);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn key() -> ItemKey {
        ItemKey {
            pk: "CALL#1".to_owned(),
            sk: "CALL".to_owned(),
        }
    }

    fn written(at_ms: u64, status: &str) -> StreamRecord {
        StreamRecord {
            key: key(),
            at_ms,
            image: Some(json!({ "status": { "S": status } })),
        }
    }

    fn deleted(at_ms: u64) -> StreamRecord {
        StreamRecord {
            key: key(),
            at_ms,
            image: None,
        }
    }

    /// Two regions with simulated tables and streams.
    struct Two {
        memories: [TableState; 2],
        tables: [Option<Value>; 2],
        streams: [VecDeque<StreamRecord>; 2],
        way: [VecDeque<(ItemKey, ItemVersion)>; 2],
    }

    impl Two {
        fn new() -> Self {
            Self {
                memories: [TableState::of("a"), TableState::of("b")],
                tables: [None, None],
                streams: Default::default(),
                way: Default::default(),
            }
        }

        fn write(&mut self, region: usize, record: StreamRecord) {
            if self.tables[region] != record.image {
                self.tables[region].clone_from(&record.image);
                self.streams[region].push_back(record);
            }
        }

        fn replicate(&mut self, from: usize) {
            while let Some(record) = self.streams[from].pop_front() {
                self.way[from].extend(self.memories[from].on_stream_record(record));
            }
            let to = 1 - from;
            while let Some((key, version)) = self.way[from].pop_front() {
                while let Some(record) = self.streams[to].pop_front() {
                    self.way[to].extend(self.memories[to].on_stream_record(record));
                }
                let Resolution::Replaces(standing) = self.memories[to].resolve(&key, &version) else {
                    continue;
                };
                assert_eq!(standing, self.tables[to].as_ref());
                let at_ms = version.stamp.at_ms;
                let image = version.image.clone();
                self.memories[to].on_replicated(key.clone(), version);
                self.write(to, StreamRecord { key, at_ms, image });
            }
        }

        fn settle(&mut self) -> [Option<Value>; 2] {
            for _ in 0..4 {
                self.replicate(0);
                self.replicate(1);
            }
            assert!(self.way.iter().all(VecDeque::is_empty));
            self.tables.clone()
        }
    }

    #[test]
    fn what_is_written_in_one_region_comes_to_the_other_and_not_back() {
        let mut two = Two::new();
        two.write(0, written(1, "waiting"));
        two.write(0, written(2, "ready"));
        let ready = written(0, "ready").image;
        assert_eq!(two.settle(), [ready.clone(), ready]);
        two.write(1, deleted(3));
        assert_eq!(two.settle(), [None, None]);
    }

    #[test]
    fn of_two_versions_the_later_stays_in_both_regions() {
        for (a, b, stays) in [(5, 6, "b"), (6, 5, "a"), (5, 5, "b")] {
            let mut two = Two::new();
            two.write(0, written(1, "waiting"));
            two.settle();
            two.write(0, written(a, "a"));
            two.write(1, written(b, "b"));
            let stays = written(0, stays).image;
            assert_eq!(two.settle(), [stays.clone(), stays], "{a} {b}");
        }
    }

    #[test]
    fn a_write_is_later_than_what_it_was_made_on() {
        let mut two = Two::new();
        two.write(0, written(9, "from the future"));
        two.settle();
        two.write(1, written(5, "after it"));
        let after = written(0, "after it").image;
        assert_eq!(two.settle(), [after.clone(), after]);
    }

    #[test]
    fn what_is_deleted_in_one_region_and_written_later_in_the_other_is_there() {
        let mut two = Two::new();
        two.write(0, written(1, "waiting"));
        two.settle();
        two.write(0, deleted(5));
        two.write(1, written(6, "ready"));
        let ready = written(0, "ready").image;
        assert_eq!(two.settle(), [ready.clone(), ready]);
    }
}
