//! The callee's devices: their apps, which pushes wake, and their phones. And the calling apps.

mod reactions;
mod registration;
mod ringing;

pub use reactions::{app_hangs_up, respond};
pub use registration::{PhoneReply, contact, is_caller_registered, is_there, phone_rings};
pub use ringing::{cancel, count, number_of, ring, ring_clients, update_clients};
