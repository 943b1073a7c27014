//! What becomes of calls when something fails: functions that die at any moment, systems that refuse, are silent or
//! late, messages that come twice. Real legs through a real Asterisk, the real functions, and faults on the way between
//! them. Needs a stack that was started with `FAULTS=yes`; `make chaos` has one, and writes what came of it all into
//! `docs/promises.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod crash;
mod faults;
mod page;
mod pbx;
mod play;
mod queues;
mod report;
mod restart;
mod seat;
mod short;
mod silence;
mod soak;
mod stack_wide;
mod stage;
mod systems;
