//! The client against a WebSocket server that each test controls: it answers, drops, refuses, or stays silent.

mod client;
mod command;
mod server;
