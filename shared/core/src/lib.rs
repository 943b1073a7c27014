//! Ringback's rules. No I/O, no clock, no async runtime, no AWS: everything is a value, so each rule is tested in memory.
//!
//! 1. [`call`]: a call, what can happen to it and what follows.
//! 2. [`ids`] and [`phone_number`]: values from outside, checked once and trusted afterwards.
//! 3. [`timestamp`]: moments in time.

pub mod call;
pub mod ids;
pub mod phone_number;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod timestamp;
