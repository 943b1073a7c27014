//! Checks what only a function can see, for `ringback doctor`: the PBXs, FCM, SNS, Exotel, and the routes in the table. The command invokes
//! it directly. It has no route, and its answer contains no secret.
//!
//! Each invocation builds new clients, and so reads the current secrets. The command itself checks that secrets are
//! complete: a check that lacks one is left out here.

mod exotel;
mod fcm;
mod pbx;
mod routes;
mod sns;

use lambda_runtime::{Error, LambdaEvent};
use ringback::doctor::Examination;
use ringback::platform::secrets::SecretError;
use ringback::start::{Start, run};
use serde_json::Value;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let start = Start::function()?;
    run(|_: LambdaEvent<Value>| examine(&start)).await
}

async fn examine(start: &Start) -> Result<Value, Error> {
    let checks = tokio::try_join!(
        pbx::check(start),
        fcm::check(start),
        sns::check(start),
        exotel::check(start),
        routes::check(start),
    );
    let (pbx, fcm, sns, exotel, routes) = checks?;
    let findings = [pbx, fcm, sns, exotel, routes].concat();
    Ok(serde_json::to_value(Examination { findings })?)
}

/// Whether a check can use its secret.
fn is_usable<T>(secret: Result<T, SecretError>) -> Result<bool, SecretError> {
    match secret {
        Ok(_) => Ok(true),
        Err(SecretError::NoValue(_) | SecretError::Malformed(_)) => Ok(false),
        Err(unavailable @ SecretError::Unavailable(..)) => Err(unavailable),
    }
}
