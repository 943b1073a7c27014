//! Ringback on AWS: a caller hears ringing while a sleeping phone is woken, and is bridged when the phone is ready.
//!
//! `ringback-core` holds the rules. This crate carries them out; each folder hides one outside system. To read it in order:
//!
//! 1. [`switchboard`]: asks the rules what follows from an event, saves the change, has the effects carried out.
//! 2. [`effect_runner`]: sends each effect to the system that can carry it out.
//! 3. [`store`]: the DynamoDB table.
//! 4. [`asterisk`], [`exotel`], [`push`] (FCM and SNS), [`timers`] (SQS and EventBridge Scheduler): the outside systems.
//! 5. [`api`]: what apps, Exotel and the PBX send, and what they get back.
//! 6. [`auth`]: who may send it.
//! 7. [`telemetry`]: logs, metrics and traces.
//! 8. [`platform`]: how a function starts: clock, configuration, secrets, HTTPS.

pub mod api;
pub mod asterisk;
pub mod auth;
pub mod effect_runner;
pub mod exotel;
pub mod platform;
pub mod push;
pub mod store;
pub mod switchboard;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod timers;
