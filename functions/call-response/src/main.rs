//! `POST /api/call-response`: a phone app accepts, declines or ends a call.

use std::sync::Arc;

use lambda_http::Request;
use ringback::api::call_response;
use ringback::api::http::{self, ApiAnswer, ApiError};
use ringback::auth::Tokens;
use ringback::auth::signing::Signing;
use ringback::platform::invocation::InvocationContext;
use ringback::start::{LiveSwitchboard, Start};

struct CallResponseHandler {
    switchboard: LiveSwitchboard,
    tokens: Tokens,
    signing: Arc<Signing>,
}

impl CallResponseHandler {
    async fn handle(
        &self,
        request: Request,
        invocation: InvocationContext,
    ) -> Result<ApiAnswer, ApiError> {
        let header = http::header(&request, "authorization");
        let bearer = self.tokens.bearer(header, invocation.now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let (bearer, body) = (bearer?, http::body(&request)?);
        let (switchboard, signing) = (&self.switchboard, &self.signing);
        let accepted = call_response::handle(switchboard, signing, &bearer, body, invocation);
        Ok(accepted.await?.into_answer())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_http::Error> {
    let start = Start::function().await;
    let this = CallResponseHandler {
        switchboard: start.switchboard()?,
        tokens: start.tokens()?,
        signing: start.signing()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
