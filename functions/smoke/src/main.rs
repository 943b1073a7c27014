//! Lets a PBX call itself, for `ringback smoke`. It has no route: who may invoke it, IAM decides. The call leads to the extension
//! `ringback-smoke` or nowhere, so it rings no person and costs nothing.

use std::convert::Infallible;

use lambda_runtime::LambdaEvent;
use ringback::asterisk::AsteriskError;
use ringback::start::{Start, run};
use ringback_core::ids::CallSid;
use serde::Deserialize;
use serde_json::{Value, json};

/// What the command sends.
#[derive(Deserialize)]
struct SmokeCall {
    /// The name of the PBX in `ARI_URL`; by default the first one.
    pbx: Option<String>,
    /// By which the command recognizes the call.
    call_sid: CallSid,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let start = Start::function()?;
    let (asterisk, pbxs) = (start.asterisk()?, start.pbxs()?);
    run(async |event: LambdaEvent<SmokeCall>| {
        let SmokeCall { pbx, call_sid } = event.payload;
        let name = match pbxs.find(pbx.as_deref()) {
            Ok(name) => name,
            Err(unknown) => return Ok(failed("unknown_pbx", &unknown.to_string())),
        };
        let pbx = asterisk.pbxs().iter().find(|pbx| *pbx.name() == name);
        let result = match pbx {
            Some(pbx) => pbx.call_itself(&call_sid).await,
            None => Err(AsteriskError::NotListed(name.clone())),
        };
        Ok::<_, Infallible>(match result {
            Ok(()) => json!({ "success": true, "pbx": name }),
            Err(error @ AsteriskError::NoSuchEndpoint) => failed("no_endpoint", &error.to_string()),
            // The causes show whether the certificate is not trusted, or the PBX is down.
            Err(error) => failed("pbx_failed", &error.with_causes()),
        })
    })
    .await
}

fn failed(code: &str, error: &str) -> Value {
    json!({ "success": false, "code": code, "error": error })
}
