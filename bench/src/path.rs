//! What waited for what: the requests of one event, each held back for a while, so that those which do not wait for each other
//! are seen to overlap.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::world::{Seen, System};

/// So long is each request held back.
pub const HELD_BACK: Duration = Duration::from_millis(25);

/// What somebody waits for.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The push that rings the phone.
    Push,
    /// The request for the phone's leg.
    Originate,
}

impl Goal {
    fn is(self, seen: &Seen) -> bool {
        match self {
            Self::Push => seen.system == System::Fcm,
            Self::Originate => seen.system == System::Ari && seen.what.starts_with("POST "),
        }
    }
}

/// The longest row of requests of which each began when the one before it had been answered, up to the goal and with it.
/// `None` if the goal was not asked for.
#[must_use]
pub fn in_sequence(seen: &[Seen], goal: Goal) -> Option<usize> {
    let asked = seen.iter().find(|seen| goal.is(seen))?.began;
    Some(longest_row(seen, asked) + 1)
}

fn longest_row(seen: &[Seen], before: Instant) -> usize {
    let done = seen.iter().filter(|seen| seen.ended <= before);
    done.map(|last| longest_row(seen, last.began) + 1)
        .max()
        .unwrap_or_default()
}

/// For how long at least one of them was under way.
#[must_use]
pub fn under_way(seen: &[Seen]) -> Duration {
    let mut spans: Vec<(Instant, Instant)> =
        seen.iter().map(|seen| (seen.began, seen.ended)).collect();
    spans.sort();
    let mut total = Duration::ZERO;
    let mut covered: Option<Instant> = None;
    for (began, ended) in spans {
        let from = covered.map_or(began, |covered| covered.max(began));
        total += ended.saturating_duration_since(from);
        covered = covered.max(Some(ended));
    }
    total
}

/// One line a request: when it began and ended, in milliseconds since the first.
#[must_use]
pub fn drawn(seen: &[Seen]) -> String {
    let mut seen: Vec<&Seen> = seen.iter().collect();
    seen.sort_by_key(|seen| seen.began);
    let Some(first) = seen.first().map(|seen| seen.began) else {
        return String::new();
    };
    let mut text = String::new();
    for request in seen {
        let since = |moment: Instant| (moment - first).as_millis();
        let (began, ended) = (since(request.began), since(request.ended));
        let (system, what) = (request.system.name(), without_ids(&request.what));
        // Writing to a string does not fail.
        let _ = writeln!(text, "{began:>5} to {ended:<5} {system:<16} {what}");
    }
    text
}

/// Paths without what differs from call to call.
fn without_ids(what: &str) -> String {
    let parts = what.split('/');
    let parts = parts.map(|part| if part.len() > 20 { "…" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::Units;

    fn requests(spans: &[(u64, u64, System)]) -> Vec<Seen> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let seen = spans.iter().map(|(began, ended, system)| Seen {
            system: *system,
            what: "POST /x".to_owned(),
            began: at(*began),
            ended: at(*ended),
            units: Units::default(),
        });
        seen.collect()
    }

    #[test]
    fn what_overlaps_is_not_in_sequence() {
        let seen = requests(&[
            (0, 25, System::DynamoDb),
            (1, 26, System::DynamoDb),
            (27, 52, System::Fcm),
            (28, 53, System::Sqs),
        ]);
        assert_eq!(in_sequence(&seen, Goal::Push), Some(2));
        assert_eq!(in_sequence(&seen, Goal::Originate), None);
        assert_eq!(under_way(&seen), Duration::from_millis(52));
    }

    #[test]
    fn each_that_waits_for_another_counts() {
        let seen = requests(&[
            (0, 25, System::DynamoDb),
            (26, 51, System::Secrets),
            (52, 77, System::Ari),
        ]);
        assert_eq!(in_sequence(&seen, Goal::Originate), Some(3));
        assert_eq!(under_way(&seen), Duration::from_millis(75));
    }
}
