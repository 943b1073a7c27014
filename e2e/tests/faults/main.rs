//! Calls while something fails: functions that crash at any request, systems that reject, hang or answer late,
//! messages that arrive twice. The calls are real SIP calls through a real Asterisk and the real functions; the faults
//! are injected between them. The stack must run with `FAULTS=yes` and `CALL_WAITING=busy`. `make chaos` starts one
//! and writes the results into `docs/promises.md`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod call_run;
mod crash;
mod faults;
mod harness;
mod page;
mod pbx;
mod queues;
mod report;
mod restart;
mod selection;
mod silence;
mod sip_accounts;
mod soak;
mod stack_wide;
mod subscriber;
mod systems;
mod timeouts;
