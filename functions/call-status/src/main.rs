//! `GET /api/calls/{id}`: the current state of a call. An app that wakes late asks for it before it rings, so that it does
//! not ring for a call that is over.

use ringback::platform::invocation::InvocationContext;
use std::sync::Arc;

use lambda_http::Request;
use ringback::api::http::{self, ApiAnswer, ApiError, ApiErrorCode};
use ringback::auth::signing::Signing;
use ringback::auth::{Tokens, Viewer};
use ringback::start::Start;
use ringback::store::calls::{
    CallStore, DynamoCallStore, ReplicationWaitError, find_when_replicated,
};
use ringback_core::call::Call;
use ringback_core::ids::{CallId, CallSid};
use ringback_core::timestamp::Timestamp;
use serde_json::{Value, json};

/// The length of a UUID with its dashes.
const UUID_LENGTH: usize = 36;

struct CallStatusHandler {
    calls: DynamoCallStore,
    tokens: Tokens,
    signing: Arc<Signing>,
}

impl CallStatusHandler {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let now = invocation.now;
        let header = http::header(&request, "authorization");
        let bearer = self.tokens.bearer(header, now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let viewer = bearer?.viewer();
        let id = http::path_parameter(&request, "id")?;
        let call = self.find(&id, &viewer, now).await?;
        let call = call.ok_or(ApiErrorCode::NoSuchCall)?;
        if !viewer.sees(call.participants()) {
            return Err(ApiErrorCode::NotYourCall.into());
        }
        Ok(ApiAnswer::ok(call_json(&call, now)))
    }

    /// Finds a call by its id; for an operator also by Exotel's CallSid: of several calls, the last one. The signature of an id is
    /// checked before the table is read, so that made-up ids cost no read.
    async fn find(
        &self,
        id: &str,
        viewer: &Viewer,
        now: Timestamp,
    ) -> Result<Option<Call>, ApiError> {
        // By its length alone: a CallSid may look like a UUID without dashes.
        let is_id = id.len() == UUID_LENGTH;
        match viewer {
            Viewer::Operator if !is_id => {
                let sid = CallSid::try_from(id)?;
                let mut last: Option<Call> = None;
                for id in self.calls.find_by_sid(&sid, None).await? {
                    let call = self.calls.find(id).await?;
                    last = last
                        .into_iter()
                        .chain(call)
                        .max_by_key(|call| call.created_at);
                }
                Ok(last)
            }
            Viewer::Operator => {
                let id = CallId::try_from(id)?;
                self.signing.check(id, now).await?;
                Ok(self.calls.find(id).await?)
            }
            Viewer::App(extension) => {
                let id = CallId::try_from(id)?;
                self.signing.check(id, now).await?;
                let look = || async { Ok::<_, ReplicationWaitError>(self.calls.find(id).await?) };
                Ok(find_when_replicated(&self.calls, Some(extension), now, look).await?)
            }
        }
    }
}

/// The answer's body. A field that is also in the push has the same name as there.
fn call_json(call: &Call, now: Timestamp) -> Value {
    json!({
        "call_id": call.call_id,
        "server_call_id": call.call_id,
        "status": call.status_at(now),
        "extension": call.extension,
        "to": call.number_called(),
        "caller_number": call.caller().shown(),
        "caller_name": call.caller().name,
        "call_type": call.call_type,
        "created_at": call.created_at,
        "expires_at": call.rings_until,
        "ready_at": call.ready_at,
        "bridged_at": call.bridged_at,
        "ended_at": call.ended_at(),
        "reason": call.end_reason(),
        "ring_receipts": ring_receipts(call),
        "stream": call.stream,
        "answered_by": call.answered_by.as_ref().and_then(|answered_by| answered_by.device.as_ref()),
        "history": call.history,
    })
}

/// When each device reported that it rings.
fn ring_receipts(call: &Call) -> Value {
    let receipts = call.ring_receipts.iter().map(|(device, receipt)| {
        let shown = json!({
            "at": receipt.at,
            "platform": receipt.platform,
            "time_to_ring_ms": receipt.time_to_ring().as_millis(),
        });
        (device.to_string(), shown)
    });
    receipts.collect()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await;
    let this = CallStatusHandler {
        calls: start.calls()?,
        tokens: start.tokens()?,
        signing: start.signing()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
