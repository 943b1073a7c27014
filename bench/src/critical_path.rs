//! Which requests of one event run after each other. Each answer is delayed, so that independent requests overlap visibly.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::stand_ins::{AnsweredRequest, System};

/// The delay of each answer.
pub const ANSWER_DELAY: Duration = Duration::from_millis(25);

/// The request at the end of a critical path.
#[derive(Clone, Copy, Debug)]
pub enum PathGoal {
    /// The push that rings the phone.
    Push,
    /// The request for the phone's leg.
    Originate,
}

impl PathGoal {
    fn is(self, request: &AnsweredRequest) -> bool {
        match self {
            Self::Push => request.system == System::Fcm,
            Self::Originate => {
                request.system == System::Ari && request.operation.starts_with("POST ")
            }
        }
    }
}

/// The length of the longest chain of requests, each begun after the answer to the one before, that ends with the goal.
/// `None` if the goal was not requested.
#[must_use]
pub fn in_sequence(requests: &[AnsweredRequest], goal: PathGoal) -> Option<usize> {
    let last = requests.iter().find(|request| goal.is(request))?;
    Some(longest_chain(requests, last.began) + 1)
}

fn longest_chain(requests: &[AnsweredRequest], before: Instant) -> usize {
    let done = requests.iter().filter(|request| request.ended <= before);
    done.map(|last| longest_chain(requests, last.began) + 1)
        .max()
        .unwrap_or_default()
}

/// The time during which at least one request was under way.
#[must_use]
pub fn under_way(requests: &[AnsweredRequest]) -> Duration {
    let mut spans: Vec<(Instant, Instant)> = requests
        .iter()
        .map(|request| (request.began, request.ended))
        .collect();
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

/// One line per request: its begin and end, in milliseconds since the first.
#[must_use]
pub fn timeline(requests: &[AnsweredRequest]) -> String {
    let mut requests: Vec<&AnsweredRequest> = requests.iter().collect();
    requests.sort_by_key(|request| request.began);
    let Some(first) = requests.first().map(|request| request.began) else {
        return String::new();
    };
    let mut text = String::new();
    for request in requests {
        let since = |moment: Instant| (moment - first).as_millis();
        let (began, ended) = (since(request.began), since(request.ended));
        let (system, operation) = (request.system.name(), without_ids(&request.operation));
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{began:>5} to {ended:<5} {system:<16} {operation}");
    }
    text
}

/// An operation without the ids in its path, which differ from call to call.
#[must_use]
pub fn without_ids(operation: &str) -> String {
    let parts = operation.split('/');
    let parts = parts.map(|part| if part.len() > 20 { "…" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_ins::RequestUnits;

    fn requests(spans: &[(u64, u64, System)]) -> Vec<AnsweredRequest> {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let requests = spans.iter().map(|(began, ended, system)| AnsweredRequest {
            system: *system,
            operation: "POST /x".to_owned(),
            items: Vec::new(),
            began: at(*began),
            ended: at(*ended),
            units: RequestUnits::default(),
        });
        requests.collect()
    }

    #[test]
    fn overlapping_requests_are_not_in_sequence() {
        let recorded = requests(&[
            (0, 25, System::DynamoDb),
            (1, 26, System::DynamoDb),
            (27, 52, System::Fcm),
            (28, 53, System::Sqs),
        ]);
        assert_eq!(in_sequence(&recorded, PathGoal::Push), Some(2));
        assert_eq!(in_sequence(&recorded, PathGoal::Originate), None);
        assert_eq!(under_way(&recorded), Duration::from_millis(52));
    }

    #[test]
    fn each_request_that_waits_for_another_counts() {
        let recorded = requests(&[
            (0, 25, System::DynamoDb),
            (26, 51, System::Secrets),
            (52, 77, System::Ari),
        ]);
        assert_eq!(in_sequence(&recorded, PathGoal::Originate), Some(3));
        assert_eq!(under_way(&recorded), Duration::from_millis(75));
    }
}
