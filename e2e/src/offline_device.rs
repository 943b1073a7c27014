//! What FCM delivers to a device that was offline while messages for it arrived.
//!
//! FCM keeps each message for its TTL, and of those with one collapse key only the last. It keeps four collapse keys for a device. Beyond
//! that it does not say which ones it keeps, so this keeps the oldest, because the last message matters most.
//! <https://firebase.google.com/docs/cloud-messaging/customize-messages/collapsible-message-types>

use anyhow::{Context, Result};
use serde_json::Value;

/// The number of collapse keys that FCM keeps for a device.
const KEYS: usize = 4;

/// Of these messages to one device, oldest first, those that it gets if it is online from `now` on (epoch ms).
pub fn delivered_at(messages: &[Value], now: u64) -> Result<Vec<Value>> {
    let mut held: Vec<&Value> = Vec::new();
    for message in messages {
        let sent_at = message["data"]["sent_at"].as_str().context("sent_at")?;
        let sent_at: u64 = sent_at.parse()?;
        held.retain(|held| expires_at(held).is_ok_and(|until| until > sent_at));
        held.retain(|held| held["android"]["collapse_key"] != message["android"]["collapse_key"]);
        if held.len() < KEYS {
            held.push(message);
        }
    }
    held.retain(|held| expires_at(held).is_ok_and(|until| until > now));
    Ok(held.into_iter().cloned().collect())
}

fn expires_at(message: &Value) -> Result<u64> {
    let sent_at: u64 = message["data"]["sent_at"]
        .as_str()
        .context("sent_at")?
        .parse()?;
    let ttl = message["android"]["ttl"].as_str().context("ttl")?;
    let seconds: u64 = ttl.trim_end_matches('s').parse()?;
    Ok(sent_at + seconds * 1000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(key: &str, sent_at: u64, seconds: u64) -> Value {
        json!({
            "android": { "collapse_key": key, "ttl": format!("{seconds}s") },
            "data": { "sent_at": sent_at.to_string() },
        })
    }

    fn sent_at(messages: &[Value], now: u64) -> Vec<String> {
        let delivered = delivered_at(messages, now).unwrap();
        let times = delivered.iter().map(|it| it["data"]["sent_at"].as_str());
        times.map(|time| time.unwrap().to_owned()).collect()
    }

    #[test]
    fn the_last_message_of_each_key_arrives_unless_it_has_expired() {
        let messages = [
            message("a", 0, 30),
            message("b", 1, 10),
            message("a", 2, 20),
        ];
        assert_eq!(sent_at(&messages, 5_000), ["1", "2"]);
        assert_eq!(sent_at(&messages, 15_000), ["2"]);
        assert!(sent_at(&messages, 25_000).is_empty());
    }

    #[test]
    fn a_fifth_key_finds_no_place_until_another_expires() {
        let mut messages: Vec<Value> = (0..5).map(|at| message(&at.to_string(), at, 10)).collect();
        assert_eq!(sent_at(&messages, 1_000), ["0", "1", "2", "3"]);
        messages.push(message("late", 11_000, 10));
        assert_eq!(sent_at(&messages, 12_000), ["11000"]);
    }
}
