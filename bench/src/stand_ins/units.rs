//! The size of an item and the request units that DynamoDB charges, by its published rules.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>

use std::ops::AddAssign;

use serde_json::{Map, Value};

/// An item, in DynamoDB's JSON.
pub type Item = Map<String, Value>;

const KIB: usize = 1024;

/// Request units of one or more requests.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RequestUnits {
    /// Read request units. An eventually consistent read costs half.
    pub read: f64,
    /// Write request units.
    pub written: f64,
}

impl RequestUnits {
    /// Units of a read of so many bytes: one for each 4 KiB or part of it, half of that if eventually consistent.
    pub(super) fn of_read(bytes: usize, is_consistent: bool) -> Self {
        let units = count(bytes.div_ceil(4 * KIB).max(1));
        Self {
            read: if is_consistent { units } else { units / 2.0 },
            written: 0.0,
        }
    }

    /// Units of a write: one for each KiB or part of it of the larger of the item before and after.
    pub(super) fn of_write(bytes: usize) -> Self {
        Self {
            read: 0.0,
            written: count(bytes.div_ceil(KIB).max(1)),
        }
    }
}

impl AddAssign for RequestUnits {
    fn add_assign(&mut self, other: Self) {
        self.read += other.read;
        self.written += other.written;
    }
}

/// An item's size in bytes.
pub(super) fn size(item: &Item) -> usize {
    item.iter()
        .map(|(name, value)| name.len() + value_size(value))
        .sum()
}

fn value_size(value: &Value) -> usize {
    let Some((kind, inner)) = value.as_object().and_then(|typed| typed.iter().next()) else {
        return 0;
    };
    match (kind.as_str(), inner) {
        ("N", Value::String(digits)) => digits.len().div_ceil(2) + 1,
        ("M", Value::Object(map)) => 3 + map.len() + size(map),
        ("L", Value::Array(list)) => 3 + list.iter().map(|one| 1 + value_size(one)).sum::<usize>(),
        (_, Value::String(text)) => text.len(),
        (_, Value::Array(set)) => set.iter().filter_map(Value::as_str).map(str::len).sum(),
        _ => 1,
    }
}

fn count(units: usize) -> f64 {
    f64::from(u32::try_from(units).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_has_the_size_that_dynamodb_documents() {
        let item = json!({
            "pk": { "S": "CALL#1" }, "n": { "N": "1234" }, "yes": { "BOOL": true },
            "m": { "M": { "a": { "S": "b" } } }, "l": { "L": [{ "S": "x" }] },
        });
        let sizes = (2 + 6) + (1 + 3) + (3 + 1) + (1 + 3 + 1 + 2) + (1 + 3 + 2);
        assert_eq!(item.as_object().map(size), Some(sizes));
    }

    #[test]
    fn a_part_of_a_unit_counts_as_a_whole_one() {
        let written = |bytes| RequestUnits::of_write(bytes).written;
        assert_eq!([written(0), written(1024), written(1025)], [1.0, 1.0, 2.0]);
        assert_eq!(RequestUnits::of_read(4097, true).read, 2.0);
        assert_eq!(RequestUnits::of_read(100, false).read, 0.5);
    }
}
