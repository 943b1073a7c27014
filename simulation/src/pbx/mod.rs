//! The PBXs.

mod dialing;
mod legs;
mod reports;
mod waiting;

pub use dialing::{Originated, Progress, dial_caller, dial_phone, phone_progress};
pub use legs::{
    HungUpBy, LONGEST_WAIT, NORMAL, REJECTED, USER_BUSY, cancel_other_legs, end_leg, restart,
};
pub use waiting::caller_arrives;
