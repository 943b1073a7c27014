//! How a function starts: clock, configuration, secrets, HTTPS clients.

pub mod clock;
pub mod config;
pub(crate) mod https;
pub mod lazy_client;
pub mod secrets;
pub mod seldom;
pub mod start;
