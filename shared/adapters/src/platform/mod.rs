//! What every function needs, without knowledge of calls: clock, configuration, secrets, HTTPS clients.

pub mod aws;
pub mod clock;
pub mod config;
pub(crate) mod https;
pub mod invocation;
pub mod lazy_client;
pub mod secrets;
pub mod throttle;
