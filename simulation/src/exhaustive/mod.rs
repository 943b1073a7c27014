//! Explores every interleaving of a small scope: one call, one or two devices and regions, and at most one fault.
//!
//! The rules are the real ones. The rest is a model with states that can be compared, so that each is visited once:
//!
//! 1. `scope`: what people do, and how many regions and faults there are.
//! 2. `state`: everything that decides what can happen next.
//! 3. `rules`: the real rules, asked once for each call, event and time.
//! 4. `step`: one step. `steps`: which can happen next. `deliver`, `effects`, `people` and `faults` carry them out in a `world`, and
//!    `describe` puts them into words.
//! 5. `check`: what must be true. `search`: goes through all states, and keeps the shortest path to each broken promise.
//!    `fingerprint`: which states are equal.
//!
//! Time: a step takes no time, and the clock moves to the next timer only when nothing else can happen. One fault may hold a
//! message or a process back for up to [`state::HELD_FOR`]. Just before the ring's deadline, the clock may move at any moment.
//!
//! An event is handled in one step: the process reads, decides and writes until its conditional write succeeds, so nothing can
//! come between the state that it decided on and its write. Crashes come before and after it, and between any two effects.
//!
//! Some scopes were not completed, such as `two-accept-2` with one fault: at two million states, paths of 23 steps were explored.
//! `explore` then says `CUT OFF`, and no finding means only that no shorter path breaks a promise.
//!
//! Not in the model: clocks that differ, several PBXs, phones that register late, and reports of Exotel. The random simulation has
//! these.

mod check;
mod deliver;
mod describe;
mod effects;
mod faults;
mod fingerprint;
mod people;
mod rules;
mod scope;
mod search;
mod state;
mod step;
mod steps;
mod world;

pub use scope::Scope;
pub use search::{Explored, Finding, explore};
