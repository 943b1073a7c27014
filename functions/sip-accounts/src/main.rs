//! Runs every minute, and makes each PBX hold exactly the SIP accounts of the live devices: after a crash, after an account has
//! expired, after a PBX was unreachable, and after a PBX has lost its database.

use std::convert::Infallible;

use lambda_runtime::LambdaEvent;
use ringback::platform::invocation::InvocationContext;
use ringback::start::{Start, run};
use serde_json::{Value, json};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), lambda_runtime::Error> {
    let sip = Start::function()?.sip_provisioning()?;
    run(async |event: LambdaEvent<Value>| {
        let invocation = InvocationContext::begin(&event.context);
        sip.catch_up(invocation.now, invocation.deadline).await;
        Ok::<_, Infallible>(json!({}))
    })
    .await
}
