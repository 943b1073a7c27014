//! Exotel accepts the account, and extensions have telephones to call from. The question about a call that does not exist costs nothing.

use lambda_runtime::Error;
use ringback::doctor::{Fault, Finding};
use ringback::exotel::{Exotel, ExotelError};
use ringback::platform::secrets::ExotelAccount;
use ringback::start::Start;
use ringback::store::directories::Directory;
use ringback_core::ids::CallSid;

pub(crate) async fn check(start: &Start) -> Result<Vec<Finding>, Error> {
    let account = start.secret::<ExotelAccount>("EXOTEL_SECRET_ARN")?;
    let exotel = Exotel::from_environment(&start.environment, account, start.country())?;
    let nobody = CallSid::try_from("ringback-doctor")?;
    let fault = match exotel.details(&nobody).await {
        Ok(_) | Err(ExotelError::NoSuchCall) => return check_telephones(start).await,
        // The command checks the secret. A deployment without calls to telephones has none.
        Err(ExotelError::NotConfigured(_)) => return Ok(vec![]),
        Err(ExotelError::Secret(error)) => {
            super::is_usable(Err::<(), _>(error))?;
            return Ok(vec![]);
        }
        Err(error) => match &error {
            ExotelError::Refused { .. } | ExotelError::NoBalance | ExotelError::Unauthorized => {
                Fault::ExotelRefused.at("Exotel").seen(error)
            }
            _ => Fault::ExotelUnreachable.at("Exotel").seen(error),
        },
    };
    Ok(vec![fault])
}

/// Exotel calls the telephone of the calling app first. With `any`, an app may name another number.
async fn check_telephones(start: &Start) -> Result<Vec<Finding>, Error> {
    if start.environment.optional("CALLER_ID_POLICY").as_deref() == Some("any") {
        return Ok(vec![]);
    }
    let telephones = start
        .directories()?
        .page(Directory::Extensions, None)
        .await?;
    let fault = Fault::NoTelephone.at("extensions");
    Ok(telephones
        .entries
        .is_empty()
        .then_some(fault)
        .into_iter()
        .collect())
}
