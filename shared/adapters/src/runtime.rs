//! Runs a function in Lambda: logs, and the loop over invocations.

use std::fmt;

use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::platform::config::Environment;
use crate::telemetry::{call_log_fields, metrics, xray};

/// Libraries with `info` messages that do not help an operator.
const QUIET: [&str; 4] = ["aws", "aws_smithy_runtime", "hyper", "lambda_runtime"];

/// Starts JSON logs at `LOG_LEVEL`.
pub(crate) fn start_logging(environment: &Environment) {
    let lines = tracing_subscriber::fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false);
    let level = environment.optional("LOG_LEVEL");
    let _already_set = tracing_subscriber::registry()
        .with(lines)
        .with(log_filter(level.as_deref()))
        .try_init();
}

/// The filter for this level. An invalid level is `info`. The filter goes by target: `EnvFilter`, which also filters by span, would
/// bring a regular expression engine.
fn log_filter(level: Option<&str>) -> Targets {
    let level = level.and_then(|level| level.parse().ok());
    Targets::new()
        .with_default(level.unwrap_or(LevelFilter::INFO))
        .with_targets(QUIET.map(|target| (target, LevelFilter::WARN)))
}

/// Handles invocations until Lambda stops the process.
///
/// # Errors
/// When Lambda's runtime API fails.
pub async fn run<Payload, Handling, Failure>(
    handler: impl Fn(LambdaEvent<Payload>) -> Handling,
) -> Result<(), lambda_runtime::Error>
where
    Payload: DeserializeOwned,
    Handling: Future<Output = Result<Value, Failure>>,
    Failure: Into<Diagnostic> + fmt::Debug,
{
    let handle = |event: LambdaEvent<Payload>| {
        let trace = event.context.xray_trace_id.clone();
        // A handler's future is large. On the heap, the futures around it do not copy it.
        let handling = Box::pin(handler(event));
        async move {
            let traced = xray::trace_invocation(trace.as_deref(), handling);
            let answer = call_log_fields::scope(traced).await;
            metrics::flush();
            answer
        }
    };
    lambda_runtime::run(service_fn(handle)).await
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn libraries_are_quiet_and_an_invalid_level_is_info() {
        for level in [None, Some("info"), Some("loud")] {
            let filter = log_filter(level);
            assert!(filter.would_enable("ringback::calls", &Level::INFO));
            assert!(!filter.would_enable("ringback::calls", &Level::DEBUG));
        }
        let filter = log_filter(Some("trace"));
        assert!(filter.would_enable("ringback::calls", &Level::TRACE));
        assert!(!filter.would_enable("aws_sdk_sqs::config", &Level::INFO));
    }
}
