//! `POST /api/answers/{token}`: an app that was killed answers its push without a login.

use secrecy::SecretString;

use crate::api::call_response::AcceptedResponse;
use crate::api::error::ApiError;
use crate::api::json_fields::{object, text};
use crate::auth::answer_grant::AnswerGrant;
use crate::auth::signing::Signing;
use crate::platform::invocation::InvocationContext;
use crate::store::calls::CallStore;
use crate::switchboard::{Effects, EventOutcome, Switchboard, SwitchboardError};
use ringback_core::call::{CallStatus, Event, RejectReason};
use ringback_core::ids::BadName;
use ringback_core::timestamp::Timestamp;

/// Checks the token, without any request to the table, and hands the answer to the switchboard.
///
/// # Errors
/// When the token is not valid, the body is malformed, or the call no longer rings.
pub async fn handle<S, E>(
    switchboard: &Switchboard<S, E>,
    signing: &Signing,
    token: SecretString,
    body: &[u8],
    invocation: InvocationContext,
) -> Result<AcceptedResponse, ApiError>
where
    S: CallStore + Sync,
    E: Effects + Sync,
    ApiError: From<SwitchboardError<E::Error>>,
{
    let InvocationContext { now, deadline } = invocation;
    let grant = signing.check_answer(&token, now).await?;
    let answer = Answer::parse(body)?;
    let (call_id, event) = (grant.call_id, answer.event(&grant, now));
    let outcome = switchboard.handle(call_id, &event, now, deadline).await?;
    match answer.rejection(&outcome, now) {
        None => Ok(AcceptedResponse {
            call_id,
            status: outcome.call.status,
        }),
        Some(reason) => Err(ApiError::rejected(reason, &outcome.call, now)),
    }
}

/// What an app can say without a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// The device rings.
    Ringing,
    /// Do not take the call.
    Decline,
}

impl Answer {
    /// Reads `{action}` and ignores other fields.
    ///
    /// # Errors
    /// When the body is not a JSON object, or `action` is missing or unknown.
    pub fn parse(body: &[u8]) -> Result<Self, BadName> {
        match text(&object(body)?, "action")? {
            "ringing" => Ok(Self::Ringing),
            "decline" => Ok(Self::Decline),
            _ => Err(BadName {
                what: "action",
                rule: "must be ringing or decline",
            }),
        }
    }

    fn event(self, grant: &AnswerGrant, now: Timestamp) -> Event {
        let by = grant.party();
        match self {
            Self::Ringing => Event::DeviceRings {
                by,
                receipt: grant.receipt(now),
            },
            Self::Decline => Event::Declined { by },
        }
    }

    /// A report that a device rings is always saved. If the call no longer rings, the app gets 409, and stops.
    fn rejection(self, outcome: &EventOutcome, now: Timestamp) -> Option<RejectReason> {
        let status = outcome.call.status_at(now);
        let is_over = match self {
            Self::Ringing => status != CallStatus::WaitingForMobile,
            Self::Decline => status == CallStatus::TimedOut,
        };
        outcome
            .rejected
            .or_else(|| is_over.then_some(RejectReason::WrongStatus))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_error_names_the_field() {
        for (body, what) in [
            ("", "the body"),
            ("{}", "action"),
            (r#"{"action":"accept"}"#, "action"),
            (r#"{"action":7}"#, "action"),
        ] {
            assert_eq!(Answer::parse(body.as_bytes()).unwrap_err().what, what);
        }
        let read = |body: &str| Answer::parse(body.as_bytes()).unwrap();
        assert_eq!(read(r#"{"action":"ringing","at":1}"#), Answer::Ringing);
        assert_eq!(read(r#"{"action":"decline"}"#), Answer::Decline);
    }

    proptest! {
        #[test]
        fn no_body_makes_the_parser_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
            let _refused_or_read = Answer::parse(&body);
        }
    }
}
