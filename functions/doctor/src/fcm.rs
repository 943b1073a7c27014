//! FCM accepts the service account.

use lambda_runtime::Error;
use ringback::doctor::{Fault, Finding};
use ringback::platform::secrets::ServiceAccount;
use ringback::push::PushError;
use ringback::push::fcm::Fcm;
use ringback::start::Start;

pub(crate) async fn check(start: &Start) -> Result<Vec<Finding>, Error> {
    let account = start.secret::<ServiceAccount>("FCM_SECRET_ARN")?;
    if start.sns()?.serves_fcm() || !super::is_usable(account.value().await)? {
        return Ok(vec![]);
    }
    let fcm = Fcm::from_environment(&start.environment, account)?;
    Ok(match fcm.validate().await {
        Ok(()) => vec![],
        Err(PushError::Delayed { description, .. }) => {
            vec![Fault::FcmUnreachable.at("FCM").seen(description)]
        }
        Err(PushError::NotAccepted(description)) => {
            vec![Fault::FcmRefused.at("FCM").seen(description)]
        }
        Err(error @ PushError::AddressExpired) => vec![Fault::FcmRefused.at("FCM").seen(error)],
    })
}
