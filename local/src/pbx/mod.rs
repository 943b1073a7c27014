//! Real Asterisks with the configuration the repository ships.

pub mod configuration;
pub mod fleet;
pub mod server;
pub mod site_check;
pub mod source;
