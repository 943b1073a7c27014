//! A real Asterisk with the configuration the repository ships.

pub mod configuration;
pub mod server;
pub mod source;
