//! The console, as a person has it: the page in a real Chromium, on a running stack (`make up`), with real SIP legs.

mod access;
mod board;
mod deployed;
mod page;
mod phone;
