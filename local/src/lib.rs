//! The local stack: everything that Ringback needs, on one machine, without global installation.
//!
//! Reading order: [`run`] starts and stops the stack. [`tools`], [`cloud`] and [`pbx`] install and run the real parts,
//! and [`stand_in`] replaces the two external services, FCM and Exotel. [`gateway`] is the single address in front, and
//! [`demo`] is the console's part that exists only here. [`sample_call`] is `make call`. [`faults`] injects faults.
//! [`replication`] simulates a DynamoDB global table, and [`region_outage`] simulates the outage of a region.
//! [`events`] sends the example events to their functions.
//! [`release`] makes the release archive, in which the local stack works without Rust.

pub mod cloud;
pub mod credentials;
pub mod demo;
pub mod events;
pub mod faults;
pub mod gateway;
pub mod pbx;
pub mod process;
pub mod progress;
pub mod region_outage;
pub mod release;
pub mod replication;
pub mod run;
pub mod runtime_api;
pub mod sample_call;
pub mod settings;
pub mod stack;
pub mod stand_in;
pub mod tools;
