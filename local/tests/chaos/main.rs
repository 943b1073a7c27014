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

#[path = "../support/channels.rs"]
mod channels;
mod crash;
mod faults;
#[path = "../support/log_lines.rs"]
#[allow(
    dead_code,
    reason = "shared with logs.rs, which reads the lines as they are"
)]
mod log_lines;
#[path = "../support/memory.rs"]
#[allow(dead_code, reason = "shared with crowd.rs, which looks at the peak")]
mod memory;
#[path = "../support/outcomes.rs"]
mod outcomes;
mod page;
mod pbx;
mod play;
mod queues;
mod report;
mod restart;
#[path = "../calls/scene.rs"]
#[allow(dead_code, reason = "shared with calls/, which does more on its stage")]
mod scene;
mod seat;
mod short;
mod silence;
mod soak;
mod stack_wide;
mod stage;
mod systems;
