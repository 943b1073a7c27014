//! What a call costs in time, memory, requests and money, measured on the real functions.
//!
//! Reading order: [`functions`] finds and starts the functions, [`stand_ins`] answers their requests, [`fixture`] and
//! [`event_kind`] have the data and the events; [`cold`], [`warm`], [`instructions`], [`size`] (with [`crates`]), [`scale`] and
//! [`end_to_end`] measure; [`cost`] calculates; [`page`] keeps the results.

pub mod call_run;
pub mod cold;
pub mod cost;
pub mod crates;
pub mod critical_path;
pub mod end_to_end;
pub mod event_kind;
pub mod express;
pub mod figures;
pub mod fixture;
pub mod functions;
pub mod instructions;
pub mod machine;
pub mod page;
pub mod process;
pub mod scale;
mod server;
pub mod size;
pub mod stand_ins;
pub mod warm;
