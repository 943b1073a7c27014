//! The local stack: everything Ringback needs, on one machine, with nothing installed globally.
//!
//! Reading order: [`run`] starts and stops it all; [`tools`], [`cloud`] and [`pbx`] bring and run the real
//! parts; [`stand_in`] plays the two services nobody can run at home; [`gateway`] is the one address in front;
//! [`playground`] is what the console can do here alone. [`faults`] lets things go wrong, for those who want to see
//! that. [`replication`] is what a global table does between two regions, and [`loss`] how one of them is lost.

pub mod call;
pub mod cloud;
pub mod credentials;
pub mod faults;
pub mod gateway;
pub mod loss;
pub mod pbx;
pub mod playground;
pub mod process;
pub mod progress;
pub mod replication;
pub mod run;
pub mod runtime_api;
pub mod settings;
pub mod stack;
pub mod stand_in;
pub mod tools;
