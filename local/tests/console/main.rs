//! The console, as a person has it: the page in a real Chromium, on a running stack (`make up`), with real SIP legs.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod access;
mod board;
#[path = "../support/browser.rs"]
mod browser;
mod deployed;
mod page;
mod phone;
#[path = "../calls/scene.rs"]
#[allow(dead_code, reason = "shared with calls/, which does more on its stage")]
mod scene;
