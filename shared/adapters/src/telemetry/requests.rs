//! What is sent to other systems, seen as it goes out: what has to be sent again is counted, and told with its reason; each request
//! of the AWS SDK's is a part of the invocation's trace, where there is one.

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

use super::{metrics, subject};
use crate::telemetry::xray::{Of, Part};

/// A request to another system is sent again, after `before` has become of it.
pub(crate) fn again(system: &str, before: impl fmt::Display) {
    metrics::retried(system.to_owned());
    let call_id = subject::call().map(tracing::field::display);
    tracing::info!(call_id, error = %before, "{system} is asked again");
}

/// Sees what a client of the SDK sends.
#[derive(Debug)]
pub(crate) struct Sent;

/// The request that is under way.
#[derive(Debug)]
struct UnderWay(Option<Part>);

impl Storable for UnderWay {
    type Storer = StoreReplace<Self>;
}

/// Why the last attempt came to nothing.
#[derive(Debug)]
struct Before(String);

impl Storable for Before {
    type Storer = StoreReplace<Self>;
}

impl Intercept for Sent {
    fn name(&self) -> &'static str {
        "Sent"
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
            let before = bag.load::<Before>().map_or("", |Before(reason)| reason);
            again(request.service(), before);
        }
        let part = Part::begin(|| {
            let operation = Of::Aws(request.name().to_owned());
            (request.service().to_owned(), operation)
        });
        bag.interceptor_state().store_put(UnderWay(part));
        Ok(())
    }

    fn read_after_attempt(
        &self,
        context: &FinalizerInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let error = context.output_or_error().and_then(Result::err);
        if let Some(UnderWay(Some(part))) = bag.load::<UnderWay>() {
            // What a service says of the request, as that a condition does not hold, is an answer.
            part.end(error.is_some_and(|error| !error.is_operation_error()));
        }
        if let Some(error) = error {
            bag.interceptor_state().store_put(Before(reason(error)));
        }
        Ok(())
    }
}

/// An error and what it came of.
pub(crate) fn reason(error: &(dyn Error + 'static)) -> String {
    let all = successors(Some(error), |&error| error.source());
    let all: Vec<String> = all.map(ToString::to_string).collect();
    all.join(": ")
}
