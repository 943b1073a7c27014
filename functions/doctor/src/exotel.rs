//! Exotel accepts the account. It is asked for a call that does not exist, which costs nothing.

use lambda_runtime::Error;
use ringback::doctor::{Fault, Finding};
use ringback::exotel::{Exotel, ExotelError};
use ringback::platform::secrets::ExotelAccount;
use ringback::start::Start;
use ringback_core::ids::CallSid;

pub(crate) async fn check(start: &Start) -> Result<Vec<Finding>, Error> {
    let account = start.secret::<ExotelAccount>("EXOTEL_SECRET_ARN")?;
    let exotel = Exotel::from_environment(&start.environment, account, start.country())?;
    let nobody = CallSid::try_from("ringback-doctor")?;
    let fault = match exotel.details(&nobody).await {
        Ok(_) | Err(ExotelError::NoSuchCall) => return Ok(vec![]),
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
