//! `POST /api/call-response`: a phone app accepts, declines or ends a call. `POST /api/answers/{token}`: an app that a push has
//! started says that it rings, or declines, without a login.

use std::sync::Arc;

use ringback::api::http::{self, ApiAnswer, ApiError, Request};
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
        if let Ok(token) = request.path_parameter("token") {
            let body = request.body()?;
            let answered = answer::handle(switchboard, signing, token.into(), body, invocation);
            return Ok(answered.await?.into_answer());
        }
        let header = request.header("authorization");
        let bearer = self.tokens.bearer(header, invocation.now);
        let (bearer, ()) = tokio::join!(bearer, self.signing.get_ready());
        let (bearer, body) = (bearer?, request.body()?);
        let accepted = call_response::handle(switchboard, signing, &bearer, body, invocation);
        Ok(accepted.await?.into_answer())
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let this = CallResponseHandler {
        switchboard: start.switchboard()?,
        tokens: start.tokens()?,
        signing: start.signing()?,
    };
    http::serve(|request, invocation| this.handle(request, invocation)).await
}
