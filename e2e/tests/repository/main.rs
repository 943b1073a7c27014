//! Checks of the repository itself: template, documents, scripts and code agree with each other. They need no running
//! stack.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod documents;
mod operations;
mod prerequisites;
mod template;
mod workspace;
