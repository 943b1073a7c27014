//! Ringback.
pub mod call;
pub mod calls;
pub mod clock;
pub mod names;
