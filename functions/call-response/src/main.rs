//! `POST /api/call-response`: a phone app accepts, declines or ends a call.

use ringback::platform::clock;
use std::sync::Arc;

use lambda_http::Request;
use ringback::api::call_action::CallResponse;
use ringback::api::http::{self, Answer, ApiError};
use ringback::auth::Tokens;
use ringback::auth::signing::Signing;
use ringback::platform::start::{LiveSwitchboard, Start};
use serde_json::json;

struct CallResponses {
    switchboard: LiveSwitchboard,
    tokens: Tokens,
    signing: Arc<Signing>,
}

impl CallResponses {
    async fn handle(&self, request: Request) -> Result<Answer, ApiError> {
        let now = clock::now();
        let header = http::header(&request, "authorization");
        let bearer = self.tokens.bearer(header, now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let bearer = bearer?;
        let response = CallResponse::parse(http::body(&request)?)?;
        let party = bearer.acting_for(&response.extension);
        let party = party.ok_or_else(ApiError::other_extension)?;
        self.signing.check(response.call_id, now).await?;
        let (id, event) = (response.call_id, response.event(party.clone()));
        let outcome = self
            .switchboard
            .handle(id, &event, now, http::until(&request))
            .await?;
        match outcome.rejected {
            None => Ok(Answer::ok(json!({ "status": outcome.call.status }))),
            Some(refusal) => Err(http::refused(refusal, &outcome.call, now)),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await?;
    let this = CallResponses {
        switchboard: start.switchboard()?,
        tokens: start.tokens()?,
        signing: start.signing()?,
    };
    http::serve(|request| this.handle(request)).await
}
