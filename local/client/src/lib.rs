//! A client of the WebSocket API at `/exotel-stream`.
//!
//! [`Client`] is one connection: tests send, receive and close with it. [`Session`] keeps one up as an app has to:
//! it pings, gets a fresh connection before the old one's time is up, and reconnects at the [`Pace`] that
//! [`Backoff`] sets. [`typed`] is what a person may type instead of JSON, [`stack`] where the local stack is.

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
