//! The client against a WebSocket server that does what the test says: it answers, drops, refuses, falls silent.

mod client;
mod command;
mod server;
mod session;
