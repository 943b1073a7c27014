//! Decides which faults a request gets.
//!
//! Many calls run at the same time, so a rule can be limited to one test call. A test call starts with marks, such as its
//! extension and the caller's number. A request that contains a mark belongs to the test call, and the ids in it (of the
//! call and its legs) become marks too.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;

use super::operation::id_at_start;
use super::rule::{Fault, RequestStep, Rule, RuleStatus, System, TestCall};

/// The parts of a request that rules look at.
#[derive(Debug)]
pub(super) struct ObservedRequest<'a> {
    pub(super) system: System,
    pub(super) function: &'a str,
    pub(super) operation: &'a str,
    /// The URI and the body.
    pub(super) text: &'a str,
}

/// All test calls and rules.
#[derive(Debug, Default)]
pub(super) struct FaultRegistry {
    state: Mutex<RegistryState>,
}

#[derive(Debug, Default)]
struct RegistryState {
    test_calls: BTreeMap<String, TestCall>,
    rules: BTreeMap<String, RuleStatus>,
}

impl FaultRegistry {
    fn state(&self) -> MutexGuard<'_, RegistryState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin_test_call(&self, name: String, marks: BTreeSet<String>) {
        let steps = Vec::new();
        self.state()
            .test_calls
            .insert(name, TestCall { marks, steps });
    }

    /// Ends a test call and deletes its rules. Returns its requests.
    pub(super) fn end_test_call(&self, name: &str) -> Option<TestCall> {
        let mut state = self.state();
        state
            .rules
            .retain(|_, status| status.rule.test_call.as_deref() != Some(name));
        state.test_calls.remove(name)
    }

    pub(super) fn set_rule(&self, name: String, rule: Rule) {
        let status = RuleStatus {
            rule,
            matched: 0,
            applied: 0,
            first_and_last_ms: None,
        };
        self.state().rules.insert(name, status);
    }

    pub(super) fn rule(&self, name: &str) -> Option<RuleStatus> {
        self.state().rules.get(name).cloned()
    }

    pub(super) fn remove_rule(&self, name: &str) -> Option<RuleStatus> {
        self.state().rules.remove(name)
    }

    /// Records a request, and returns the faults that apply to it.
    pub(super) fn faults_of(&self, request: &ObservedRequest<'_>) -> Vec<Fault> {
        let mut state = self.state();
        let test_calls = state.record(request);
        let rules = state.rules.values_mut();
        rules
            .filter(|status| status.rule.matches(request, &test_calls))
            .filter_map(RuleStatus::next_fault)
            .collect()
    }
}

impl RegistryState {
    fn record(&mut self, request: &ObservedRequest<'_>) -> Vec<String> {
        let mut names = Vec::new();
        for (name, test_call) in &mut self.test_calls {
            if test_call
                .marks
                .iter()
                .any(|mark| request.text.contains(mark))
            {
                test_call.marks.extend(ids_in(request.text));
                let step = RequestStep {
                    system: request.system,
                    function: request.function.to_owned(),
                    operation: request.operation.to_owned(),
                    nth: 0,
                };
                let is_same = |other: &&RequestStep| {
                    other.function == step.function && other.operation == step.operation
                };
                let nth = test_call.steps.iter().filter(is_same).count();
                test_call.steps.push(RequestStep {
                    nth: u32::try_from(nth).unwrap_or(u32::MAX),
                    ..step
                });
                names.push(name.clone());
            }
        }
        names
    }
}

impl Rule {
    fn matches(&self, request: &ObservedRequest<'_>, test_calls: &[String]) -> bool {
        let has_prefix = |prefix: &String| request.operation.starts_with(prefix.as_str());
        self.system == request.system
            && self.operation.as_ref().is_none_or(has_prefix)
            && self
                .function
                .as_ref()
                .is_none_or(|it| it == request.function)
            && self
                .test_call
                .as_ref()
                .is_none_or(|it| test_calls.contains(it))
    }
}

impl RuleStatus {
    /// Counts a matching request, and returns the fault if it applies now.
    fn next_fault(&mut self) -> Option<Fault> {
        self.matched += 1;
        let used_up = self.rule.times.is_some_and(|times| self.applied >= times);
        let by_chance = self
            .rule
            .one_in
            .is_none_or(|many| fastrand::u32(..).is_multiple_of(many.max(1)));
        if self.matched <= self.rule.skip || used_up || !by_chance {
            return None;
        }
        self.applied += 1;
        let now = now();
        self.first_and_last_ms =
            Some((self.first_and_last_ms.map_or(now, |(first, _)| first), now));
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
    let mut at = 0;
    let starts_word = |at: usize| at == 0 || !text.as_bytes()[at - 1].is_ascii_alphanumeric();
    while at < text.len() {
        let length = match text.is_char_boundary(at) && starts_word(at) {
            true => id_at_start(&text[at..]),
            false => 0,
        };
        if length > 0 {
            ids.push(text[at..at + length.min(LONGEST_MARK)].to_owned());
        }
        at += length.max(1);
    }
    ids
}

#[cfg(test)]
mod tests {
    use super::super::rule::KillPoint;
    use super::*;

    fn request<'a>(operation: &'a str, text: &'a str) -> ObservedRequest<'a> {
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
    fn ids_in_the_requests_of_a_test_call_become_marks() {
        let registry = FaultRegistry::default();
        registry.begin_test_call("one".into(), BTreeSet::from(["EXTENSION#1101".to_owned()]));
        let id = "0f0e3c80-7bb5-4f2c-8d0e-3f4d7d0c9a11";
        let key = &id[..LONGEST_MARK];
        registry.faults_of(&request("update", &format!("CALL#{key}")));
        registry.faults_of(&request(
            "create",
            &format!("EXTENSION#1101 CALL#{key}, call {id} on 1732175943.12"),
        ));
        registry.faults_of(&request("update", &format!("CALL#{key}")));
        registry.faults_of(&request("delete", "/channels/1732175943.12"));
        let steps = registry.end_test_call("one").unwrap().steps;
        let operations: Vec<_> = steps.iter().map(|step| step.operation.as_str()).collect();
        assert_eq!(operations, ["create", "update", "delete"]);
    }

    #[test]
    fn a_rule_applies_to_the_nth_request_of_its_test_call_only() {
        let registry = FaultRegistry::default();
        for (test_call, mark) in [("one", "first"), ("other", "second")] {
            registry.begin_test_call(test_call.into(), BTreeSet::from([mark.to_owned()]));
        }
        registry.set_rule("rule".into(), kill(1));
        let applies = |text: &str| !registry.faults_of(&request("update", text)).is_empty();
        assert!(!applies("second"));
        assert!(!applies("first"));
        assert!(!applies("second"));
        assert!(applies("first"));
        assert!(!applies("first"));
        assert_eq!(registry.rule("rule").unwrap().applied, 1);
    }
}
