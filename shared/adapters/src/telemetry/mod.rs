//! Logs, metrics and traces.

pub mod metrics;
pub(crate) mod requests;
pub mod subject;
pub(crate) mod xray;
