//! Real Asterisks with the configuration of the repository.

pub mod configuration;
pub mod fleet;
pub mod server;
pub mod site_check;
pub mod source;
