//! Decides which faults a request gets.
//!
//! Many calls run at the same time, so a rule can be limited to one scenario. A scenario starts with marks, such as its
//! extension and the caller's number. A request that contains a mark belongs to the scenario, and the ids in it (of the
//! call and its legs) become marks too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;

use super::operation::id_at_start;
use super::rule::{Fault, TestCall, Rule, RuleStatus, RequestStep, System};

/// The parts of a request that rules look at.
#[derive(Debug)]
pub(super) struct ObservedRequest<'a> {
    pub(super) system: System,
    pub(super) function: &'a str,
    pub(super) operation: &'a str,
    /// The URI and the body.
    pub(super) text: &'a str,
}

/// All scenarios and rules.
#[derive(Debug, Default)]
pub(super) struct FaultRegistry {
    pages: Mutex<RegistryState>,
}

#[derive(Debug, Default)]
struct RegistryState {
    plays: BTreeMap<String, TestCall>,
    rules: BTreeMap<String, RuleStatus>,
}

impl FaultRegistry {
    fn pages(&self) -> MutexGuard<'_, RegistryState> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self, name: String, marks: BTreeSet<String>) {
        let steps = Vec::new();
        self.pages().plays.insert(name, TestCall { marks, steps });
    }

    /// Ends a scenario and deletes its rules. Returns its requests.
    pub(super) fn end(&self, name: &str) -> Option<TestCall> {
        let mut pages = self.pages();
        pages
            .rules
            .retain(|_, standing| standing.rule.play.as_deref() != Some(name));
        pages.plays.remove(name)
    }

    pub(super) fn make(&self, name: String, rule: Rule) {
        let standing = RuleStatus {
            rule,
            met: 0,
            hits: 0,
            between: None,
        };
        self.pages().rules.insert(name, standing);
    }

    pub(super) fn rule(&self, name: &str) -> Option<RuleStatus> {
        self.pages().rules.get(name).cloned()
    }

    pub(super) fn drop_rule(&self, name: &str) -> Option<RuleStatus> {
        self.pages().rules.remove(name)
    }

    /// Records a request, and returns the faults that apply to it.
    pub(super) fn faults_of(&self, asked: &ObservedRequest<'_>) -> Vec<Fault> {
        let mut pages = self.pages();
        let plays = pages.note(asked);
        let rules = pages.rules.values_mut();
        rules
            .filter(|standing| standing.rule.is_for(asked, &plays))
            .filter_map(RuleStatus::take)
            .collect()
    }
}

impl RegistryState {
    fn note(&mut self, asked: &ObservedRequest<'_>) -> Vec<String> {
        let mut whose = Vec::new();
        for (name, play) in &mut self.plays {
            if play.marks.iter().any(|mark| asked.text.contains(mark)) {
                play.marks.extend(ids_in(asked.text));
                let step = RequestStep {
                    system: asked.system,
                    function: asked.function.to_owned(),
                    operation: asked.operation.to_owned(),
                    nth: 0,
                };
                let is_same = |other: &&RequestStep| {
                    other.function == step.function && other.operation == step.operation
                };
                let nth = play.steps.iter().filter(is_same).count();
                play.steps.push(RequestStep {
                    nth: u32::try_from(nth).unwrap_or(u32::MAX),
                    ..step
                });
                whose.push(name.clone());
            }
        }
        whose
    }
}

impl Rule {
    fn is_for(&self, asked: &ObservedRequest<'_>, plays: &[String]) -> bool {
        let begins = |wanted: &String| asked.operation.starts_with(wanted.as_str());
        self.system == asked.system
            && self.operation.as_ref().is_none_or(begins)
            && self.function.as_ref().is_none_or(|it| it == asked.function)
            && self.play.as_ref().is_none_or(|it| plays.contains(it))
    }
}

impl RuleStatus {
    /// Counts a matching request, and returns the fault if it applies now.
    fn take(&mut self) -> Option<Fault> {
        self.met += 1;
        let used_up = self.rule.times.is_some_and(|times| self.hits >= times);
        let by_chance = self
            .rule
            .one_in
            .is_none_or(|many| fastrand::u32(..).is_multiple_of(many.max(1)));
        if self.met <= self.rule.skip || used_up || !by_chance {
            return None;
        }
        self.hits += 1;
        let now = now();
        self.between = Some((self.between.map_or(now, |(first, _)| first), now));
        Some(self.rule.fault.clone())
    }
}

fn now() -> i64 {
    let millis = OffsetDateTime::now_utc().unix_timestamp_nanos() / 1_000_000;
    i64::try_from(millis).unwrap_or(i64::MAX)
}

/// A call is stored under its id without the check field, which is the last 8 of 36 characters. The shorter mark
/// matches both forms.
const LONGEST_MARK: usize = 28;

fn ids_in(text: &str) -> Vec<String> {
    let mut ids = Vec::new();
    let mut place = 0;
    let starts_word =
        |place: usize| place == 0 || !text.as_bytes()[place - 1].is_ascii_alphanumeric();
    while place < text.len() {
        let length = match text.is_char_boundary(place) && starts_word(place) {
            true => id_at_start(&text[place..]),
            false => 0,
        };
        if length > 0 {
            ids.push(text[place..place + length.min(LONGEST_MARK)].to_owned());
        }
        place += length.max(1);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::super::rule::KillPoint;
    use super::*;

    fn asked<'a>(operation: &'a str, text: &'a str) -> ObservedRequest<'a> {
        ObservedRequest {
            system: System::Aws,
            function: "call-response",
            operation,
            text,
        }
    }

    fn kill(skip: u32) -> Rule {
        Rule {
            system: System::Aws,
            operation: Some("update".to_owned()),
            function: None,
            test_call: Some("one".to_owned()),
            skip,
            times: Some(1),
            one_in: None,
            fault: Fault::Kill(KillPoint::Before),
        }
    }

    #[test]
    fn the_ids_in_a_plays_requests_are_its_marks_from_then_on() {
        let registry = FaultRegistry::default();
        registry.begin("one".into(), BTreeSet::from(["EXTENSION#1101".to_owned()]));
        let id = "0f0e3c80-7bb5-4f2c-8d0e-3f4d7d0c9a11";
        let key = &id[..LONGEST_MARK];
        registry.faults_of(&asked("update", &format!("CALL#{key}")));
        registry.faults_of(&asked(
            "create",
            &format!("EXTENSION#1101 CALL#{key}, call {id} on 1732175943.12"),
        ));
        registry.faults_of(&asked("update", &format!("CALL#{key}")));
        registry.faults_of(&asked("delete", "/channels/1732175943.12"));
        let steps = registry.end("one").unwrap().steps;
        let operations: Vec<_> = steps.iter().map(|step| step.operation.as_str()).collect();
        assert_eq!(operations, ["create", "update", "delete"]);
    }

    #[test]
    fn a_rule_meets_the_nth_request_of_its_play_and_no_other() {
        let registry = FaultRegistry::default();
        for (play, mark) in [("one", "first"), ("other", "second")] {
            registry.begin(play.into(), BTreeSet::from([mark.to_owned()]));
        }
        registry.make("rule".into(), kill(1));
        let happens = |text: &str| !registry.faults_of(&asked("update", text)).is_empty();
        assert!(!happens("second"));
        assert!(!happens("first"));
        assert!(!happens("second"));
        assert!(happens("first"));
        assert!(!happens("first"));
        assert_eq!(registry.rule("rule").unwrap().hits, 1);
    }
}
