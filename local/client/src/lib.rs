//! A client of the WebSocket API at `/exotel-stream`.
//!
//! [`Client`] is one connection, for the tests and for the command `ringback-client`. [`console`] parses the lines that
//! a person types, and [`stack`] finds the running local stack.

mod client;
pub mod console;
pub mod stack;

pub use client::{Client, Credential, Error};
