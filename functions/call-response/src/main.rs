//! `POST /api/call-response`: a phone app accepts, declines or ends a call. `POST /api/answers/{token}`: an app that a push has
//! started says that it rings, or declines, without a login.

use std::sync::Arc;

use lambda_http::Request;
use ringback::api::http::{self, ApiAnswer, ApiError};
use ringback::api::{answer, call_response};
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
        let (switchboard, signing) = (&self.switchboard, &self.signing);
        if let Ok(token) = http::path_parameter(&request, "token") {
            let body = http::body(&request)?;
            let answered = answer::handle(switchboard, signing, token.into(), body, invocation);
            return Ok(answered.await?.into_answer());
        }
        let header = http::header(&request, "authorization");
        let bearer = self.tokens.bearer(header, invocation.now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let (bearer, body) = (bearer?, http::body(&request)?);
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
