//! What the AWS SDK sends, seen as it goes out: what has to be sent again is counted, and each request is a part of the
//! invocation's trace, where there is one.

use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::interceptors::Intercept;
use aws_smithy_runtime_api::client::interceptors::context::{
    BeforeTransmitInterceptorContextRef, FinalizerInterceptorContextRef,
};
use aws_smithy_runtime_api::client::orchestrator::Metadata;
use aws_smithy_runtime_api::client::retries::RequestAttempts;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::config_bag::{ConfigBag, Storable, StoreReplace};

use crate::metrics;
use crate::xray::{Of, Part};

/// Sees what a client of the SDK sends.
#[derive(Debug)]
pub(crate) struct Sent;

/// The request that is under way.
#[derive(Debug)]
struct UnderWay(Option<Part>);

impl Storable for UnderWay {
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
            metrics::retried(request.service().to_owned());
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
        if let Some(UnderWay(Some(part))) = bag.load::<UnderWay>() {
            // What a service says of the request, as that a condition does not hold, is an answer.
            let answer = context.output_or_error();
            let failed = matches!(answer, Some(Err(error)) if !error.is_operation_error());
            part.end(failed);
        }
        Ok(())
    }
}
