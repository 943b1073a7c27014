//! Explores the scopes that are small enough for each test run. The program `explore` explores all of them.

use ringback_simulation::exhaustive::{Scope, explore};

/// No scope of these tests has more states.
const MOST_STATES: usize = 1_000_000;

/// Scopes with the faults that they allow here, and the promises that the present rules still break in them.
///
/// One open promise needs a scope that is too large for this test: a phone rings for an ended call if the answer of the request that
/// dials it is lost, or its process crashes then (`explore slow-phone`).
const SCOPES: [(&str, u8, &[&str]); 10] = [
    ("accept", 1, &[]),
    ("two-accept", 1, &[]),
    ("accept-decline", 1, &[]),
    ("accept-deadline", 1, &[]),
    ("slow-phone", 0, &[]),
    ("accept-caller-leaves", 0, &[]),
    ("app-call", 0, &[]),
    ("accept-2", 0, &[]),
    ("accept-decline-2", 0, &[]),
    ("two-accept-2", 0, &[]),
];

#[test]
fn no_interleaving_breaks_a_promise_but_the_open_ones() {
    for (name, faults, open) in SCOPES {
        let scope = Scope::named(name).unwrap();
        let scope = Scope { faults, ..scope };
        let explored = explore(scope, MOST_STATES).unwrap();
        assert!(
            !explored.is_cut_off,
            "{name}: more than {MOST_STATES} states"
        );
        assert!(explored.ends > 0, "{name}: no end");
        for finding in &explored.findings {
            assert!(
                open.contains(&finding.promise),
                "{name}: {}\n{}\nreproduce: cargo run --bin explore -- {name} --faults {faults} --show '{}'",
                finding.promise,
                finding.timeline.join("\n"),
                finding.promise,
            );
        }
        // An open promise that no path breaks any more is mended, and leaves the list.
        for promise in open {
            let is_broken = explored
                .findings
                .iter()
                .any(|found| found.promise == *promise);
            assert!(is_broken, "{name}: {promise} holds");
        }
        println!("{name}, {faults} faults: {} states", explored.states);
    }
}
