//! The test kit of the end-to-end tests: a fixture for the running stack, clients, proxies that record requests, and
//! readers for logs and the template.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "only tests use this: a panic fails the test"
)]

pub mod baresip;
pub mod browser;
pub mod clients;
pub mod cloudformation;
pub mod exotel_flow;
pub mod fixture;
pub mod log_lines;
pub mod memory;
pub mod observed_function;
pub mod offline_device;
pub mod outcome_table;
pub mod pbx;
pub mod private_values;
pub mod recording_proxy;
pub mod ringback_command;
pub mod sip_account;
pub mod timeline;
