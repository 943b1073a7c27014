//! A client of the WebSocket API at `/exotel-stream`.
//!
//! [`Client`] is one connection, for the tests and for the command `ringback-client`. [`console`] parses the lines that
//! a person types, and [`stack`] finds the running local stack.

mod backoff;
mod calls;
mod client;
mod session;
pub mod stack;
pub mod typed;

pub use backoff::Backoff;
pub use calls::HttpApi;
pub use client::{Client, Credential, Error};
pub use session::{Endpoint, Happened, Loss, Pace, Session};
