//! `GET /api/calls/{id}`: a call as it stands now, so that an app that woke late shows no ghost call.

use lambda_http::Request;
use ringback::auth::Tokens;
use ringback::call::Call;
use ringback::calls::{Calls, DynamoCalls};
use ringback::clock::Timestamp;
use ringback::http::{self, Answer, ApiError};
use ringback::names::CallId;
use ringback::start::Start;
use serde_json::{Value, json};

struct CallStatus {
    calls: DynamoCalls,
    tokens: Tokens,
}

impl CallStatus {
    async fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        let now = Timestamp::now();
        let header = http::header(&request, "authorization");
        let viewer = self.tokens.bearer(header, now).await?.viewer();
        let id = CallId::try_from(http::path_parameter(&request, "id")?.as_str())?;
        let call = self
            .calls
            .find(id)
            .await?
            .ok_or_else(ApiError::no_such_call)?;
        if !viewer.sees(call.participants()) {
            return Err(ApiError::not_yours());
        }
        Ok(Answer::ok(shown(&call, now)))
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
        "caller_number": call.caller.shown(),
        "caller_name": call.caller.name,
        "call_type": call.call_type,
        "created_at": call.created_at,
        "expires_at": call.rings_until,
        "ready_at": call.ready_at,
        "bridged_at": call.bridged_at,
        "ended_at": call.ended_at,
        "reason": call.why,
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
    };
    http::serve(|request| this.handle(request)).await
}
