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
    Superseded,
    /// Write it, if the item still has this image.
    Replaces(Option<&'a Value>),
}

/// The known state of one region's table.
#[derive(Debug)]
pub(super) struct TableState {
    region: &'static str,
    versions: HashMap<ItemKey, ItemVersion>,
    /// Writes of the replication itself that the stream has not shown yet.
    own_writes: HashMap<ItemKey, VecDeque<Option<Value>>>,
}

impl TableState {
    pub(super) fn new(region: &'static str) -> Self {
        Self {
            region,
            versions: HashMap::new(),
            own_writes: HashMap::new(),
        }
    }

    /// Handles a stream record. Returns the version to send to the other region, or `None` for a write of the
    /// replication itself.
    pub(super) fn on_stream_record(
        &mut self,
        record: StreamRecord,
    ) -> Option<(ItemKey, ItemVersion)> {
        let StreamRecord { key, at_ms, image } = record;
        if let Some(writes) = self.own_writes.get_mut(&key)
            && writes.front() == Some(&image)
        {
            writes.pop_front();
            return None;
        }
        // This write replaced the current version, so it must be later, even if the other region's clock is ahead.
        let least = self
            .versions
            .get(&key)
            .map_or(0, |current| current.stamp.at_ms + 1);
        let stamp = VersionStamp {
            at_ms: at_ms.max(least),
            region: self.region,
        };
        let version = ItemVersion { stamp, image };
        self.versions.insert(key.clone(), version.clone());
        Some((key, version))
    }

    pub(super) fn resolve(&self, key: &ItemKey, version: &ItemVersion) -> Resolution<'_> {
        let current = self.versions.get(key);
        if current.is_some_and(|current| current.stamp >= version.stamp) {
            return Resolution::Superseded;
        }
        Resolution::Replaces(current.and_then(|current| current.image.as_ref()))
    }

    /// Records a write of the replication.
    pub(super) fn on_replicated(&mut self, key: ItemKey, version: ItemVersion) {
        let before = self.versions.insert(key.clone(), version.clone());
        // A stream shows no record when a write changes nothing.
        if before.and_then(|before| before.image) != version.image {
            self.own_writes
                .entry(key)
                .or_default()
                .push_back(version.image);
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
    struct TwoRegions {
        states: [TableState; 2],
        tables: [Option<Value>; 2],
        streams: [VecDeque<StreamRecord>; 2],
        in_transit: [VecDeque<(ItemKey, ItemVersion)>; 2],
    }

    impl TwoRegions {
        fn new() -> Self {
            Self {
                states: [TableState::new("a"), TableState::new("b")],
                tables: [None, None],
                streams: Default::default(),
                in_transit: Default::default(),
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
                self.in_transit[from].extend(self.states[from].on_stream_record(record));
            }
            let to = 1 - from;
            while let Some((key, version)) = self.in_transit[from].pop_front() {
                while let Some(record) = self.streams[to].pop_front() {
                    self.in_transit[to].extend(self.states[to].on_stream_record(record));
                }
                let Resolution::Replaces(current) = self.states[to].resolve(&key, &version) else {
                    continue;
                };
                assert_eq!(current, self.tables[to].as_ref());
                let at_ms = version.stamp.at_ms;
                let image = version.image.clone();
                self.states[to].on_replicated(key.clone(), version);
                self.write(to, StreamRecord { key, at_ms, image });
            }
        }

        fn replicate_all(&mut self) -> [Option<Value>; 2] {
            for _ in 0..4 {
                self.replicate(0);
                self.replicate(1);
            }
            assert!(self.in_transit.iter().all(VecDeque::is_empty));
            self.tables.clone()
        }
    }

    #[test]
    fn a_write_is_copied_to_the_other_region_and_not_back() {
        let mut two = TwoRegions::new();
        two.write(0, written(1, "waiting"));
        two.write(0, written(2, "ready"));
        let ready = written(0, "ready").image;
        assert_eq!(two.replicate_all(), [ready.clone(), ready]);
        two.write(1, deleted(3));
        assert_eq!(two.replicate_all(), [None, None]);
    }

    #[test]
    fn the_later_of_two_versions_wins_in_both_regions() {
        for (a, b, winner) in [(5, 6, "b"), (6, 5, "a"), (5, 5, "b")] {
            let mut two = TwoRegions::new();
            two.write(0, written(1, "waiting"));
            two.replicate_all();
            two.write(0, written(a, "a"));
            two.write(1, written(b, "b"));
            let winner = written(0, winner).image;
            assert_eq!(two.replicate_all(), [winner.clone(), winner], "{a} {b}");
        }
    }

    #[test]
    fn a_write_is_later_than_the_version_that_it_replaces() {
        let mut two = TwoRegions::new();
        two.write(0, written(9, "from the future"));
        two.replicate_all();
        two.write(1, written(5, "after it"));
        let after = written(0, "after it").image;
        assert_eq!(two.replicate_all(), [after.clone(), after]);
    }

    #[test]
    fn a_write_wins_over_an_earlier_delete_in_the_other_region() {
        let mut two = TwoRegions::new();
        two.write(0, written(1, "waiting"));
        two.replicate_all();
        two.write(0, deleted(5));
        two.write(1, written(6, "ready"));
        let ready = written(0, "ready").image;
        assert_eq!(two.replicate_all(), [ready.clone(), ready]);
    }
}
