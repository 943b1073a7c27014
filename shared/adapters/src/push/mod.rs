//! Push notifications: ring the phones of an extension, and stop them ringing.
//!
//! [`PushSender`] sends a [`PushMessage`] to all devices, through FCM or SNS, depending on the address of each device.

pub mod answer_url;
pub mod fcm;
mod push_message;
mod push_sender;
mod push_services;
pub mod sns;

pub use push_message::{PushError, PushKind, PushMessage, RetryAfter};
pub use push_sender::{PushSender, RingResult};
pub use push_services::PushServices;
