//! What operators see of the deployed functions: metrics in the logs, and traces. The local stack must be running.

mod metrics;
mod traces;
