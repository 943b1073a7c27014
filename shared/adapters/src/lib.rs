//! Ringback on AWS: a caller hears ringing while a sleeping phone is woken, and is connected when the phone is ready.
//!
//! `ringback-core` holds the rules of a call. This crate carries them out; each folder hides one outside system. In reading order:
//!
//! 1. [`switchboard`]: applies the rules to an event, saves the change, and has the effects carried out.
//! 2. [`effect_runner`]: sends each effect to the outside system that carries it out.
//! 3. [`store`]: the DynamoDB table.
//! 4. [`asterisk`], [`exotel`], [`push`] (FCM and SNS), [`timers`] (SQS and EventBridge Scheduler), [`replay_queue`] (SQS): the outside
//!    systems. [`sip_provisioning`] gives devices their SIP accounts.
//! 5. [`api`]: requests of apps, Exotel and the PBX, and the answers to them. [`form_fields`] reads requests in several formats.
//! 6. [`auth`]: authentication of these requests.
//! 7. [`telemetry`]: logs, metrics and traces.
//! 8. [`platform`]: clock, configuration, secrets, HTTPS. It knows nothing about calls.
//! 9. [`doctor`] lists the faults that a deployment can have.
//! 10. [`start`] builds all of this for a function, and [`runtime`] runs the function in Lambda.

pub mod api;
pub mod asterisk;
pub mod auth;
pub mod doctor;
pub mod effect_runner;
pub mod exotel;
pub mod form_fields;
pub mod platform;
pub mod push;
pub mod replay_queue;
pub mod runtime;
pub mod sip_provisioning;
pub mod start;
pub mod store;
pub mod switchboard;
pub mod telemetry;
#[cfg(test)]
mod testing;
pub mod timers;
