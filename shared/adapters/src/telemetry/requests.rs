//! Observes requests to other systems: a repeated request is counted and logged with its reason, and each request of the AWS SDK
//! is a subsegment of the invocation's trace, if it has one.

use std::error::Error;
use std::fmt;
use std::iter::successors;

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use super::{call_log_fields, metrics};
use crate::telemetry::xray::{RemoteOperation, Subsegment};

/// Counts and logs that a request to another system is sent again. `failure` is the result of the attempt before.
pub(crate) fn log_retry(system: &str, failure: impl fmt::Display) {
    metrics::retried(system.to_owned());
    let call_id = call_log_fields::current_call().map(tracing::field::display);
    tracing::info!(call_id, error = %failure, "{system} request sent again");
}

/// An interceptor of the AWS SDK that observes each attempt of a request.
#[derive(Debug)]
pub(crate) struct RequestObserver;

/// The subsegment of the attempt in progress.
#[derive(Debug)]
struct OpenSubsegment(Option<Subsegment>);

impl Storable for OpenSubsegment {
    type Storer = StoreReplace<Self>;
}

/// Why the last attempt failed.
#[derive(Debug)]
struct LastFailure(String);

impl Storable for LastFailure {
    type Storer = StoreReplace<Self>;
}

impl Intercept for RequestObserver {
    fn name(&self) -> &'static str {
        "RequestObserver"
    }

    fn read_before_attempt(
        &self,
        _: &BeforeTransmitInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let Some(request) = bag.load::<Metadata>() else {
            return Ok(());
        };
        let attempts = bag
            .load::<RequestAttempts>()
            .map_or(1, |so_far| so_far.attempts());
        if attempts > 1 {
            let failure = bag.load::<LastFailure>();
            log_retry(
                request.service(),
                failure.map_or("", |LastFailure(reason)| reason),
            );
        }
        let subsegment = Subsegment::begin(|| {
            let operation = RemoteOperation::Aws(request.name().to_owned());
            (request.service().to_owned(), operation)
        });
        bag.interceptor_state()
            .store_put(OpenSubsegment(subsegment));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let error = context.output_or_error().and_then(Result::err);
        if let Some(OpenSubsegment(Some(subsegment))) = bag.load::<OpenSubsegment>() {
            // An operation error, such as a failed condition, is an answer and no fault of the service.
            subsegment.end(error.is_some_and(|error| !error.is_operation_error()));
        }
        if let Some(error) = error {
            let failure = LastFailure(error_chain(error));
            bag.interceptor_state().store_put(failure);
        }
        Ok(())
    }
}

/// An error and all its sources, in one line.
pub(crate) fn error_chain(error: &(dyn Error + 'static)) -> String {
    let all = successors(Some(error), |&error| error.source());
    let all: Vec<String> = all.map(ToString::to_string).collect();
    all.join(": ")
}
