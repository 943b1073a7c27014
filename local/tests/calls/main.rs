//! Calls, end to end: real SIP legs through a real Asterisk, the real functions deployed from the real template, apps
//! that speak HTTP, and stand-ins for FCM and Exotel alone. Needs a running stack (`make up`); `make test` has one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "these are tests"
)]

mod answered;
mod between_apps;
mod clients;
mod encrypted;
mod ended;
mod outbound;
mod refused;
mod scene;
mod store;
mod streamed;
mod told;
mod unanswered;
mod witnessed;
