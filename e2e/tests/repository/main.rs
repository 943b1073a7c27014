//! Checks of the repository itself: the template, the documents and the scripts agree with each other and with the code.
//! They need no running stack.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod operations;
mod prerequisites;
mod template;
mod workspace;
