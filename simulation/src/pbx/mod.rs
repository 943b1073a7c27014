//! The PBXs.

mod dialing;
mod legs;
mod reports;
mod waiting;

pub use dialing::{Originated, dial_caller, dial_phone};
pub use legs::{
    HungUpBy, LONGEST_WAIT, NORMAL, REJECTED, USER_BUSY, cancel_other_legs, end_leg, restart,
};
pub use waiting::caller_arrives;
