//! The console in a real Chromium on the running stack, with real SIP legs.

mod access;
mod board;
mod deployed;
mod numbers;
mod page;
mod phone;
