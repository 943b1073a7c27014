//! Logs, metrics and traces.

pub mod call_log_fields;
pub mod metrics;
pub(crate) mod requests;
pub(crate) mod xray;
