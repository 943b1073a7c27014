//! `GET /api/calls/{id}`: a call as it stands now, so that an app that woke late shows no ghost call.

use ringback::platform::clock;
use std::sync::Arc;

use lambda_http::Request;
use ringback::api::http::{self, Answer, ApiError};
use ringback::auth::signing::Signing;
use ringback::auth::{Tokens, Viewer};
use ringback::platform::start::Start;
use ringback::store::calls::{Calls, DynamoCallStore, find_once_there};
use ringback_core::call::Call;
use ringback_core::ids::{CallId, CallSid};
use ringback_core::timestamp::Timestamp;
use serde_json::{Value, json};

/// With its dashes.
const UUID_LENGTH: usize = 36;

struct CallStatus {
    calls: DynamoCallStore,
    tokens: Tokens,
    signing: Arc<Signing>,
}

impl CallStatus {
    async fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        let now = clock::now();
        let header = http::header(&request, "authorization");
        let bearer = self.tokens.bearer(header, now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let viewer = bearer?.viewer();
        let id = http::path_parameter(&request, "id")?;
        let call = self.call(&id, &viewer, now).await?;
        let call = call.ok_or_else(ApiError::no_such_call)?;
        if !viewer.sees(call.participants()) {
            return Err(ApiError::not_yours());
        }
        Ok(Answer::ok(shown(&call, now)))
    }

    /// The call of this id, or for an operator of this CallSid. Nothing is asked for a made-up id.
    async fn call(
        &self,
        id: &str,
        viewer: &Viewer,
        now: Timestamp,
    ) -> Result<Option<Call>, ApiError> {
        // A CallSid is shorter, and may look like a UUID without its dashes.
        let is_id = id.len() == UUID_LENGTH;
        match viewer {
            Viewer::Operator if !is_id => {
                let sid = CallSid::try_from(id)?;
                Ok(self.calls.find(CallId::of_call_sid(&sid)).await?)
            }
            Viewer::Operator => {
                let id = CallId::try_from(id)?;
                self.signing.check(id, now).await?;
                Ok(self.calls.find(id).await?)
            }
            Viewer::App(extension) => {
                let id = CallId::try_from(id)?;
                self.signing.check(id, now).await?;
                Ok(find_once_there(&self.calls, id, extension, now).await?)
            }
        }
    }
}

/// The call as its app sees it. The names are those of the push, where both say the same.
fn shown(call: &Call, now: Timestamp) -> Value {
    json!({
        "call_id": call.call_id,
        "server_call_id": call.call_id,
        "status": call.status_at(now),
        "extension": call.extension,
        "to": call.to,
        "caller_number": call.caller().shown(),
        "caller_name": call.caller().name,
        "call_type": call.call_type,
        "created_at": call.created_at,
        "expires_at": call.rings_until,
        "ready_at": call.ready_at,
        "bridged_at": call.bridged_at,
        "ended_at": call.ended_at(),
        "reason": call.end_reason(),
        "stream": call.stream,
        "answered_by": call.answered_by.as_ref().and_then(|answerer| answerer.device.as_ref()),
        "history": call.history,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await?;
    let this = CallStatus {
        calls: start.calls(),
        tokens: start.tokens()?,
        signing: start.signing()?,
    };
    http::serve(|request| this.handle(request)).await
}
