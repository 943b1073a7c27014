//! What operators see of the deployed functions: metrics in their logs, and traces. The local stack must be running, and
//! the functions built.

#[path = "../support/log_lines.rs"]
mod log_lines;
mod metrics;
#[path = "../support/observed.rs"]
#[expect(dead_code, reason = "shared with logs.rs, which reads the log")]
mod observed;
#[path = "../calls/scene.rs"]
#[allow(
    dead_code,
    clippy::unwrap_used,
    reason = "shared with calls/, which does more on its stage"
)]
mod scene;
#[path = "../support/timeline.rs"]
#[expect(dead_code, reason = "shared with requests.rs, which counts requests")]
mod timeline;
mod traces;
#[path = "../support/watched.rs"]
mod watched;
