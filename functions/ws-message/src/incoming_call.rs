//! `incoming_call`: an app starts a call.

use ringback::platform::clock;
use std::sync::Arc;

use ringback::api::http::ApiError;
use ringback::api::new_call::{Address, CallRequest};
use ringback::api::status_update::call_initiated;
use ringback::auth::signing::Signing;
use ringback::exotel::dialling::{CallerIdPolicy, DialRules, Forbidden};
use ringback::platform::start::LiveSwitchboard;
use ringback::store::number_routes::Routes;
use ringback::switchboard::{Destination, NewCallRequest, StartLimits, SwitchboardError};
use ringback::telemetry::metrics;
use ringback_core::call::{Call, CallType, EndReason};
use ringback_core::ids::{CallId, Extension};
use ringback_core::phone_number::PhoneNumber;
use ringback_core::timestamp::Timestamp;
use serde_json::Value;

/// What starting a call takes.
pub(crate) struct Starting {
    pub(crate) switchboard: LiveSwitchboard,
    pub(crate) signing: Arc<Signing>,
    pub(crate) routes: Routes,
    pub(crate) country: String,
    pub(crate) rules: DialRules,
    pub(crate) limits: StartLimits,
}

impl Starting {
    /// Starts the call that `app` asks for, or says how the call stands that it has asked for before.
    pub(crate) async fn start(
        &self,
        app: &Extension,
        request: CallRequest,
        until: Timestamp,
    ) -> Result<Value, ApiError> {
        let now = clock::now();
        let reference = request.reference.clone();
        let named = reference
            .as_ref()
            .map(|name| CallId::of_reference(app, name));
        let id = self.signing.sign(named.unwrap_or_else(CallId::fresh));
        let (id, whom) = futures::join!(id, self.whom(app, request));
        let wanted = NewCallRequest {
            whom: whom?,
            call_id: id?,
            by: app.clone(),
            within: self.limits,
        };
        let started = self.switchboard.start(&wanted, now, until).await;
        if let Err(SwitchboardError::TooMany { limit, .. }) = &started {
            refuse(app, limit.rule());
        }
        let call = started?.call;
        if call.is_to_number() {
            tracing::info!(call_id = %call.call_id, extension = %app, "call to a telephone number");
        }
        if !wanted.is(&call) {
            return Err(ApiError::reference_used().about_call(&call));
        }
        match failure(&call) {
            None => Ok(call_initiated(&call, reference.as_ref())),
            Some(error) => Err(error.about_call(&call)),
        }
    }

    async fn whom(&self, app: &Extension, request: CallRequest) -> Result<Destination, ApiError> {
        match request.recipient {
            Address::Telephone(_) if request.call_type == CallType::Video => {
                Err(ApiError::bad_request(
                    "no_video_to_a_telephone",
                    "a telephone shows no video; call it with callType voice",
                ))
            }
            Address::Telephone(to) => {
                let refused = |rule: Forbidden| {
                    refuse(app, rule.rule());
                    ApiError::from(rule)
                };
                self.rules.allow(&to).map_err(refused)?;
                let from = self.telephone_of(app, request.caller).await?;
                // Exotel dials it too, and first.
                self.rules.allow(&from).map_err(refused)?;
                Ok(Destination::Number { from, to })
            }
            Address::App(callee) if callee == *app => Err(ApiError::bad_request(
                "own_extension",
                "recipientId is the caller's own extension",
            )),
            Address::App(callee) => match request.caller {
                None => Ok(Destination::App(callee, request.call_type)),
                Some(Address::App(caller)) if caller == *app => {
                    Ok(Destination::App(callee, request.call_type))
                }
                Some(Address::App(_)) => Err(ApiError::other_extension()),
                Some(Address::Telephone(_)) => Err(ApiError::bad_request(
                    "bad_field",
                    "callerId must be the app's own extension in a call to an extension",
                )),
            },
        }
    }

    /// Exotel calls the caller's telephone first: the extension's own, unless the deployment allows others.
    async fn telephone_of(
        &self,
        app: &Extension,
        caller: Option<Address>,
    ) -> Result<PhoneNumber, ApiError> {
        let named = match caller {
            Some(Address::App(extension)) if extension != *app => {
                return Err(ApiError::other_extension());
            }
            Some(Address::Telephone(number)) => Some(number),
            Some(Address::App(_)) | None => None,
        };
        if let (Some(number), CallerIdPolicy::Any) = (&named, self.rules.caller_id()) {
            return Ok(number.clone());
        }
        let own = self.routes.number_of(app, &self.country).await?;
        if named.is_some() && named != own {
            refuse(app, Forbidden::CallerId.rule());
            return Err(Forbidden::CallerId.into());
        }
        own.ok_or_else(|| {
            ApiError::bad_request(
                "caller_has_no_telephone",
                "Exotel calls the caller's telephone first, and this extension has no number in the table; ask the operator to add it",
            )
        })
    }
}

/// Counts a call that a rule forbids, and logs whose app asked for it.
fn refuse(app: &Extension, rule: &'static str) {
    metrics::call_refused(rule);
    tracing::warn!(extension = %app, rule, "call refused");
}

/// Why the app that asked is told of an error, if it is.
fn failure(call: &Call) -> Option<ApiError> {
    let failed = |status, code, message| Some(ApiError::failed(status, code, message));
    match call.end_reason() {
        Some(EndReason::NoDevice) => {
            failed(404, "no_device", "nobody is registered at this extension")
        }
        Some(EndReason::PushFailed) => failed(
            502,
            "push_failed",
            "no device of this extension could be woken",
        ),
        Some(EndReason::CallerUnreachable) => failed(
            502,
            "caller_unreachable",
            "your own phone could not be called; register with SIP, then call again",
        ),
        Some(EndReason::ExotelRefused) => failed(
            502,
            "exotel_refused",
            "Exotel refused the call; check both numbers, and what the account may call",
        ),
        Some(EndReason::ExotelNoBalance) => failed(
            502,
            "exotel_no_balance",
            "the account at Exotel has no balance left",
        ),
        Some(EndReason::ExotelTooMany) => failed(
            503,
            "exotel_too_many",
            "too many calls within a minute; call again later",
        ),
        Some(EndReason::ExotelUnavailable) => failed(
            502,
            "exotel_unavailable",
            "Exotel could not be reached; call again",
        ),
        Some(EndReason::ExotelNotConfigured) => failed(
            502,
            "exotel_not_configured",
            "this deployment has no usable account at Exotel",
        ),
        // Exotel took the request and gave no answer: the call may be on its way.
        _ if call.may_have_been_placed() => failed(
            504,
            "exotel_silent",
            "Exotel did not answer in time and may still place the call; wait for its status before calling again",
        ),
        _ => None,
    }
}
