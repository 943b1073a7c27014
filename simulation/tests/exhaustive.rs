//! Explores the scopes that are small enough for each test run. The program `explore` explores all of them.

use ringback_simulation::exhaustive::{Scope, explore};

/// No scope of these tests has more states.
const MOST_STATES: usize = 1_000_000;

/// Scopes, with the number of faults that they allow here.
const SCOPES: [(&str, u8); 10] = [
    ("accept", 1),
    ("two-accept", 1),
    ("accept-decline", 1),
    ("accept-deadline", 1),
    ("slow-phone", 0),
    ("accept-caller-leaves", 0),
    ("app-call", 0),
    ("accept-2", 0),
    ("accept-decline-2", 0),
    ("two-accept-2", 0),
];

#[test]
fn no_interleaving_breaks_a_promise() {
    for (name, faults) in SCOPES {
        let scope = Scope::named(name).unwrap();
        let scope = Scope { faults, ..scope };
        let explored = explore(scope, MOST_STATES).unwrap();
        assert!(
            !explored.is_cut_off,
            "{name}: more than {MOST_STATES} states"
        );
        assert!(explored.ends > 0, "{name}: no end");
        if let Some(finding) = explored.findings.first() {
            panic!(
                "{name}: {}\n{}\nreproduce: local/tools/run.sh explore {name} --faults {faults} --show '{}'",
                finding.promise,
                finding.timeline.join("\n"),
                finding.promise,
            );
        }
        println!("{name}, {faults} faults: {} states", explored.states);
    }
}
