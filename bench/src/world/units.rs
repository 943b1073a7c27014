//! An item, and what DynamoDB charges for it, by its published rules.
//!
//! <https://docs.aws.amazon.com/amazondynamodb/latest/developerguide/CapacityUnitCalculations.html>

use serde_json::{Map, Value};

/// An item, in DynamoDB's JSON.
pub type Item = Map<String, Value>;

const KIB: usize = 1024;

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

/// Write request units: one for each KiB that was begun of the larger of the item before and after.
pub(super) fn write_units(bytes: usize) -> f64 {
    whole(bytes.div_ceil(KIB).max(1))
}

/// Read request units: one for each 4 KiB that were begun, half of that where the answer may be a little old.
pub(super) fn read_units(bytes: usize, consistent: bool) -> f64 {
    let units = whole(bytes.div_ceil(4 * KIB).max(1));
    if consistent { units } else { units / 2.0 }
}

fn whole(count: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_item_is_as_large_as_dynamodb_says() {
        let item = json!({
            "pk": { "S": "CALL#1" }, "n": { "N": "1234" }, "yes": { "BOOL": true },
            "m": { "M": { "a": { "S": "b" } } }, "l": { "L": [{ "S": "x" }] },
        });
        let sizes = (2 + 6) + (1 + 3) + (3 + 1) + (1 + 3 + 1 + 2) + (1 + 3 + 2);
        assert_eq!(item.as_object().map(size), Some(sizes));
    }

    #[test]
    fn units_are_begun_kibibytes() {
        assert_eq!(
            [write_units(0), write_units(1024), write_units(1025)],
            [1.0, 1.0, 2.0]
        );
        assert_eq!(read_units(4097, true), 2.0);
        assert_eq!(read_units(100, false), 0.5);
    }
}
