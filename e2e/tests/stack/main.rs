//! End-to-end tests on the running local stack (`make up`; `make test` starts one): real SIP calls through a real
//! Asterisk, the real functions deployed from the real template, and stand-ins only for FCM and Exotel.
//!
//! All tests share the stack's extensions, so they run one at a time: nextest puts them into one test group
//! (`.config/nextest.toml`), and `cargo test` needs `--test-threads 1`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod access;
mod admin;
mod broadcast;
mod browsers;
mod call_cost;
mod calls;
mod cli;
mod console;
mod doctor;
mod events;
mod hostile;
mod iphones;
mod limits;
mod logs;
mod mutated;
mod pbx_access;
mod pbxs;
mod release;
mod requests;
mod rotation;
mod sip_accounts;
mod telemetry;
mod template_lint;
mod webrtc;
