//! Goes through all states, nearest first, so that the first path to a broken promise is a shortest one.

use std::collections::{BTreeMap, HashSet};

use ringback_core::ids::BadName;

use super::describe::describe;
use super::fingerprint::fingerprint;
use super::scope::Scope;
use super::state::State;
use super::world::World;

/// All states of a scope.
#[derive(Debug)]
pub struct Explored {
    /// How many states there are.
    pub states: usize,
    /// How many steps lead from one to another.
    pub steps: usize,
    /// How many states are ends.
    pub ends: usize,
    /// How many steps the longest of the shortest paths has.
    pub depth: usize,
    /// Whether the scope has more states than the limit.
    pub is_cut_off: bool,
    /// The broken promises.
    pub findings: Vec<Finding>,
}

/// A broken promise.
#[derive(Debug)]
pub struct Finding {
    pub promise: &'static str,
    /// What happened, in the order of time. No shorter timeline breaks this promise.
    pub timeline: Vec<String>,
}

/// How a state was reached: from which one, and by which of its steps.
#[derive(Clone, Copy)]
struct Reached {
    from: u32,
    step: u16,
}

/// Explores a scope, up to so many states.
///
/// # Errors
/// Never in practice: the names in this crate are valid.
pub fn explore(scope: Scope, most_states: usize) -> Result<Explored, BadName> {
    let mut world = World::new(scope)?;
    let start = world.start();
    let mut seen = HashSet::from([fingerprint(&world, &start)]);
    let mut paths = vec![Reached { from: 0, step: 0 }];
    let mut level = vec![(0_u32, start)];
    let mut broken: BTreeMap<&'static str, u32> = BTreeMap::new();
    let (mut steps, mut ends, mut depth) = (0, 0, 0);
    while !level.is_empty() && seen.len() < most_states {
        let mut next_level = Vec::new();
        for (place, state) in level {
            if let Some(promise) = state.truth.broken {
                broken.entry(promise).or_insert(place);
                continue;
            }
            let possible = if world.is_over(&state) {
                Vec::new()
            } else {
                world.steps(&state)
            };
            if possible.is_empty() {
                ends += 1;
                for promise in world.broken_at_end(&state) {
                    broken.entry(promise).or_insert(place);
                }
            }
            for (number, step) in possible.into_iter().enumerate() {
                steps += 1;
                let next = world.after(&state, step);
                if seen.insert(fingerprint(&world, &next)) {
                    let reached = u32::try_from(paths.len()).unwrap_or(u32::MAX);
                    paths.push(Reached {
                        from: place,
                        step: u16::try_from(number).unwrap_or(u16::MAX),
                    });
                    next_level.push((reached, next));
                }
            }
        }
        level = next_level;
        depth += 1;
    }
    let findings = broken.into_iter().map(|(promise, place)| Finding {
        promise,
        timeline: timeline(&mut world, &paths, place),
    });
    Ok(Explored {
        findings: findings.collect(),
        states: seen.len(),
        steps,
        ends,
        depth,
        is_cut_off: !level.is_empty(),
    })
}

/// Goes the path again, from the start.
fn timeline(world: &mut World, paths: &[Reached], mut place: u32) -> Vec<String> {
    let mut numbers = Vec::new();
    while place != 0 {
        let Reached { from, step } = paths[place as usize];
        numbers.push(usize::from(step));
        place = from;
    }
    let mut state = world.start();
    let mut lines = Vec::new();
    for number in numbers.into_iter().rev() {
        let step = world.steps(&state)[number];
        lines.push(describe(world, &state, step));
        let next = world.after(&state, step);
        for region in 0..2 {
            let status = |state: &State| {
                let version = state.stored[region]?;
                let call = world.rules.call(version.call);
                Some((call.status, call.end_reason()))
            };
            if status(&state) != status(&next)
                && let Some((status, reason)) = status(&next)
            {
                let reason = reason.map_or_else(String::new, |reason| format!(" ({reason:?})"));
                lines.push(format!("          - region {region}: {status:?}{reason}"));
            }
        }
        state = next;
    }
    lines
}
