//! What operators see of the deployed functions: metrics in their logs, and traces. The local stack must be running, and
//! the functions built.

mod metrics;
mod traces;
